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

/** Asks the agent's storage pools. Their types go by name: not all versions of CloudStack have each of them. */
public final class PoolPlaces implements Places {
    /** Whose volumes are files in a folder. */
    private static final Set<String> FOLDERS = Set.of("NetworkFilesystem", "Filesystem", "SharedMountPoint");
    /** Whose volumes are block devices, once the host is connected to them. */
    private static final Set<String> DEVICES =
            Set.of("CLVM", "CLVM_NG", "FiberChannel", "Linstor", "PowerFlex", "StorPool");

    /** Whose volumes are images in Ceph. */
    private static final String CEPH = "RBD";

    private static final Logger LOGGER = LogManager.getLogger(PoolPlaces.class);

    private final KVMStoragePoolManager pools;
    private final Guests guests;
    private final BiFunction<KVMStoragePool, String, String> rbd;

    /** @param guests of this host, under whom no device goes */
    public PoolPlaces(KVMStoragePoolManager pools, Guests guests) {
        this(pools, guests, KVMPhysicalDisk::RBDStringBuilder);
    }

    /** @param rbd QEMU's name for an image of a pool */
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

    /** A file that the library makes or replaces; what lies there may be damaged, and does not tell its format. */
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

    /** Links on the way are followed: of what lies there, or else of the folder that it is to lie in. */
    private static boolean reallyLiesIn(Path folder, Path path, RestorePlan.Item item) {
        try {
            Path known = Files.exists(path, LinkOption.NOFOLLOW_LINKS) ? path : path.getParent();
            return known.toRealPath().startsWith(folder.toRealPath());
        } catch (IOException e) {
            throw refused(item, "where it lies can't be told: " + OneLine.of(e.toString()));
        }
    }

    /** What is written as it is, and made by its pool. */
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

    /** An image in Ceph, of which the host has nothing: QEMU opens it, and so does the library. */
    private Place inCeph(KVMStoragePool pool, RestorePlan.Item item) {
        KVMPhysicalDisk disk = pool.getPhysicalDisk(item.volumePath());
        if (disk == null) {
            throw refused(item, "its pool does not have it");
        }
        String image = pool.getSourceDir() + "/" + item.volumePath();
        return new Place(
                Place.Kind.NETWORK, rbd.apply(pool, image), format(item, disk.getFormat()), source(pool, image));
    }

    /** What libvirt is told of an image in Ceph: it has the pool's key under the pool's uuid. */
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

    /** A block device to which the host is connected as long as it is written. */
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
            // Linstor's may have been made, and not be available here
            delete(pool, item);
            throw e;
        }
        if (made == null) {
            throw refused(item, "it is to be made, and hosts make no volumes in its pool");
        }
    }

    /** Pools take one that is there for the new one, and throw when they have none. */
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
     * Pools take a device away though a guest of this host has it: some delete its paths before they see that it is open.
     *
     * @param path of the device; null: it is not known, nor is who has it
     * @param fresh was it made to be written, so that nobody else can have it?
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

    /** After a restore, whatever came of it. */
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
