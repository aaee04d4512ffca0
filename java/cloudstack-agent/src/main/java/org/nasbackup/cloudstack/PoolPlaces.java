// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package org.nasbackup.cloudstack;

import com.cloud.hypervisor.kvm.storage.KVMPhysicalDisk;
import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.Storage.ProvisioningType;
import com.cloud.storage.Storage.StoragePoolType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.Set;
import java.util.function.BiFunction;
import java.util.stream.Stream;
import org.apache.cloudstack.utils.qemu.QemuImg.PhysicalDiskFormat;
import org.apache.logging.log4j.LogManager;
import org.apache.logging.log4j.Logger;
import org.nasbackup.OutputFormat;

/** Opens volumes through the agent's storage pools. Compares the names of pool types: not every CloudStack has each type. */
public final class PoolPlaces implements Places {
    /** Pools whose volumes are files in a folder. */
    private static final Set<String> FOLDERS = Set.of("NetworkFilesystem", "Filesystem", "SharedMountPoint");
    /** Pools whose volumes are block devices, once the host is connected to them. */
    private static final Set<String> DEVICES =
            Set.of("CLVM", "CLVM_NG", "FiberChannel", "Linstor", "PowerFlex", "StorPool");

    /** Pools whose volumes are images in Ceph. */
    private static final String CEPH = "RBD";

    private static final Logger LOGGER = LogManager.getLogger(PoolPlaces.class);

    private final KVMStoragePoolManager pools;
    private final Guests guests;
    private final BiFunction<KVMStoragePool, String, String> rbd;

    /** @param guests the guests of this host: a device that one of them has is not taken away */
    public PoolPlaces(KVMStoragePoolManager pools, Guests guests) {
        this(pools, guests, KVMPhysicalDisk::RBDStringBuilder);
    }

    /** @param rbd gives QEMU's name for an image of a pool */
    PoolPlaces(KVMStoragePoolManager pools, Guests guests, BiFunction<KVMStoragePool, String, String> rbd) {
        this.pools = pools;
        this.guests = guests;
        this.rbd = rbd;
    }

    @Override
    public Place open(RestorePlan.Item item, boolean fresh) {
        StoragePoolType type = item.pool().getPoolType();
        String name = type == null ? "unknown" : type.name();
        if (!FOLDERS.contains(name) && !DEVICES.contains(name) && !CEPH.equals(name)) {
            throw refused(item, "how volumes of its pool's type, " + name + ", are written is not known");
        }
        KVMStoragePool pool = pools.getStoragePool(type, item.pool().getUuid());
        if (pool == null) {
            throw refused(item, "this host does not have its pool");
        }
        return FOLDERS.contains(name) ? inFolder(pool, item, fresh) : inPlace(pool, item, fresh);
    }

    /** Opens a file that the library makes or replaces. The file that is there may be damaged, and does not tell its format. */
    private static Place inFolder(KVMStoragePool pool, RestorePlan.Item item, boolean fresh) {
        Path folder = Path.of(pool.getLocalPath()).normalize();
        Path path = folder.resolve(item.volumePath()).normalize();
        if (!path.startsWith(folder) || path.equals(folder) || !reallyLiesIn(folder, path, item)) {
            throw refused(item, "it does not lie in the folder of its pool, " + folder);
        }
        if (fresh && Files.exists(path, LinkOption.NOFOLLOW_LINKS)) {
            throw refused(item, "it is there already, and is to be made");
        }
        Place place = new Place(
                Place.Kind.FILE,
                path.toString(),
                OutputFormat.QCOW2,
                "<source file='" + DiskXml.escaped(path.toString()) + "'/>");
        return fresh ? place.removedBy(() -> attempt(item, "is left", () -> Files.deleteIfExists(path))) : place;
    }

    /** The real path of the file or, if it is not there, of the folder that it is made in: links are followed. */
    private static boolean reallyLiesIn(Path folder, Path path, RestorePlan.Item item) {
        try {
            Path known = Files.exists(path, LinkOption.NOFOLLOW_LINKS) ? path : path.getParent();
            return known.toRealPath().startsWith(folder.toRealPath());
        } catch (IOException e) {
            throw refused(item, "where it lies can't be told: " + OneLine.of(e.toString()));
        }
    }

    /** Opens a volume that is overwritten in place, and that its pool makes if it is new. */
    private Place inPlace(KVMStoragePool pool, RestorePlan.Item item, boolean fresh) {
        if (fresh) {
            make(pool, item, pool.getDefaultFormat());
        }
        try {
            Place place =
                    CEPH.equals(item.pool().getPoolType().name()) ? inCeph(pool, item) : connected(pool, item, fresh);
            return fresh ? place.removedBy(() -> delete(pool, item)) : place;
        } catch (RuntimeException e) {
            if (fresh) {
                delete(pool, item);
            }
            throw e;
        }
    }

    /** Opens an image in Ceph. The host has no device of it: QEMU and the library each open the image themselves. */
    private Place inCeph(KVMStoragePool pool, RestorePlan.Item item) {
        KVMPhysicalDisk disk = pool.getPhysicalDisk(item.volumePath());
        if (disk == null) {
            throw refused(item, "its pool does not have it");
        }
        String image = pool.getSourceDir() + "/" + item.volumePath();
        return new Place(
                Place.Kind.NETWORK, rbd.apply(pool, image), format(item, disk.getFormat()), source(pool, image));
    }

    /** The source element of an image in Ceph; libvirt keeps the pool's key under the pool's uuid. */
    private static String source(KVMStoragePool pool, String image) {
        StringBuilder source = new StringBuilder("<source protocol='rbd' name='")
                .append(DiskXml.escaped(image))
                .append("'>");
        for (String host : pool.getSourceHost().split(",")) {
            source.append("<host name='")
                    .append(DiskXml.escaped(host.replace("[", "").replace("]", "")))
                    .append(pool.getSourcePort() == 0 ? "" : "' port='" + pool.getSourcePort())
                    .append("'/>");
        }
        source.append("</source>");
        String user = pool.getAuthUserName();
        if (user != null && !user.isBlank()) {
            source.append("<auth username='")
                    .append(DiskXml.escaped(user))
                    .append("'><secret type='ceph' uuid='")
                    .append(DiskXml.escaped(pool.getUuid()))
                    .append("'/></auth>");
        }
        return source.toString();
    }

    /** Opens a block device, and connects the host to it until it is written. */
    private Place connected(KVMStoragePool pool, RestorePlan.Item item, boolean fresh) {
        if (!pools.connectPhysicalDisk(item.pool().getPoolType(), item.pool().getUuid(), item.volumePath(), null)) {
            throw refused(item, "this host can't be connected to it");
        }
        String path = null;
        try {
            KVMPhysicalDisk disk = pool.getPhysicalDisk(item.volumePath());
            if (disk == null) {
                throw refused(item, "its pool does not have it");
            }
            path = disk.getPath();
            String known = path;
            String source = "<source dev='" + DiskXml.escaped(path) + "'/>";
            return new Place(Place.Kind.BLOCK, path, format(item, disk.getFormat()), source)
                    .disconnectedBy(() -> disconnect(pool, item, known, fresh));
        } catch (RuntimeException e) {
            disconnect(pool, item, path, fresh);
            throw e;
        }
    }

    private static void make(KVMStoragePool pool, RestorePlan.Item item, PhysicalDiskFormat format) {
        if (item.size() == null) {
            throw refused(item, "it is to be made, and its size is not told");
        }
        if (isThere(pool, item)) {
            throw refused(item, "it is there already, and is to be made");
        }
        KVMPhysicalDisk made;
        try {
            made = pool.createPhysicalDisk(item.volumePath(), format, ProvisioningType.THIN, item.size(), null);
        } catch (RuntimeException e) {
            // Linstor may have made the volume, and not have made it available here
            delete(pool, item);
            throw e;
        }
        if (made == null) {
            throw refused(item, "it is to be made, and hosts make no volumes in its pool");
        }
    }

    /** Whether the volume exists: a pool takes one that exists for the new one. Pools throw when they lack a volume. */
    private static boolean isThere(KVMStoragePool pool, RestorePlan.Item item) {
        try {
            return pool.getPhysicalDisk(item.volumePath()) != null;
        } catch (RuntimeException e) {
            return false;
        }
    }

    private static void delete(KVMStoragePool pool, RestorePlan.Item item) {
        attempt(item, "is left", () -> pool.deletePhysicalDisk(item.volumePath(), ImageFormat.RAW));
    }

    /**
     * Disconnects the host from a device that no guest has. A pool takes a device away even if a guest of this host has it: some
     * delete its paths before they see that it is open.
     *
     * @param path the device's; null: it is not known, and so not whether a guest has it
     * @param fresh whether the device was made for this restore, so that no guest can have it
     */
    private void disconnect(KVMStoragePool pool, RestorePlan.Item item, String path, boolean fresh) {
        attempt(item, "stays connected to this host", () -> {
            if (!fresh && (path == null || guests.have(path))) {
                throw new IllegalStateException(
                        path == null ? "its device is not known, and a guest may have it" : "a guest has it");
            }
            pool.disconnectPhysicalDisk(item.volumePath());
        });
    }

    private interface Effect {
        void run() throws Exception;
    }

    /** Runs a step that follows a restore; a failure of the step is logged, and changes nothing of what the restore answers. */
    private static void attempt(RestorePlan.Item item, String otherwise, Effect effect) {
        try {
            effect.run();
        } catch (Exception e) {
            LOGGER.warn(
                    "Volume {} of pool {}, opened for a restore, {}: {}",
                    OneLine.of(item.volumePath()),
                    OneLine.of(item.pool().getUuid()),
                    otherwise,
                    OneLine.of(e.toString()));
        }
    }

    private static OutputFormat format(RestorePlan.Item item, PhysicalDiskFormat format) {
        return Stream.of(OutputFormat.values())
                .filter(each -> each.name().equals(format.name()))
                .findFirst()
                .orElseThrow(() -> refused(item, "its format, " + format + ", is not written"));
    }

    private static IllegalArgumentException refused(RestorePlan.Item item, String why) {
        return new IllegalArgumentException("INVALID_ARGUMENT: open volume '" + item.volumePath() + "' of pool "
                + item.pool().getUuid() + ": " + why);
    }
}
