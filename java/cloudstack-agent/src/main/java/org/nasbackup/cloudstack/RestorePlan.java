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

import com.cloud.storage.Storage.StoragePoolType;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/**
 * Which image of a restore point goes onto which volume. Our provider says so in its command. CloudStack's provider sends lists in
 * the order of device numbers, which restores change: there a volume gets the image that has its name, and nothing is guessed.
 */
public final class RestorePlan {
    private static final String REFUSED = "INVALID_ARGUMENT: check the request: ";

    /** An image, and the volume that it is restored to. */
    public static final class Item {
        private final String volume;
        private final String serial;
        private final boolean root;
        private final String uuid;
        private final PrimaryDataStoreTO pool;
        private final String path;
        private final String volumePath;
        private final Long size;

        private Item(
                String volume,
                String serial,
                boolean root,
                String uuid,
                PrimaryDataStoreTO pool,
                String path,
                String volumePath,
                Long size) {
            this.volume = volume;
            this.serial = serial;
            this.root = root;
            this.uuid = uuid;
            this.pool = pool;
            this.path = path;
            this.volumePath = volumePath;
            this.size = size;
        }

        /** The name of the volume that was backed up. */
        public String volume() {
            return volume;
        }

        /** The serial of the disk that was backed up, by which it is found when no disk has the name; null: it is not known. */
        public String serial() {
            return serial;
        }

        /** The name of the image; null: the library finds it by the volume. */
        public String file() {
            return root ? "root." + volume + ".qcow2" : null;
        }

        /** The uuid of the volume that is written; null: it is not known. */
        public String uuid() {
            return uuid;
        }

        public PrimaryDataStoreTO pool() {
            return pool;
        }

        /** The path by which, for the management server, this host sees the volume. */
        public String path() {
            return path;
        }

        /** The path by which the pool knows the volume. */
        public String volumePath() {
            return volumePath;
        }

        /** The size that the volume gets, in bytes; null: the image's. */
        public Long size() {
            return size;
        }
    }

    private final List<Item> items;
    private final boolean fresh;

    private RestorePlan(List<Item> items, boolean fresh) {
        this.items = items;
        this.fresh = fresh;
        items.forEach(item -> check(item.pool != null, "the pool of '" + item.path + "' is not named"));
        distinct(items.stream().map(Item::volume).collect(Collectors.toList()), "image");
        distinct(items.stream().map(Item::path).collect(Collectors.toList()), "volume");
    }

    /** @throws IllegalArgumentException when the command does not tell which image goes onto which volume */
    public static RestorePlan of(RestoreBackupCommand command) {
        boolean fresh = command.isVmExists() == null;
        if (command.getDisks() != null) {
            check(!command.getDisks().isEmpty(), "no volume is named");
            check(command.getDisks().stream().noneMatch(Objects::isNull), "a volume among 'disks' is null");
            return new RestorePlan(
                    command.getDisks().stream().map(RestorePlan::item).collect(Collectors.toList()), fresh);
        }
        List<Item> volumes = volumes(command);
        List<String> images = images(command, fresh);
        check(
                !volumes.isEmpty() && images.size() == volumes.size(),
                images.size() + " images are named, and " + volumes.size() + " volumes");
        return new RestorePlan(
                fresh ? List.of(with(volumes.get(0), images.get(0), false)) : paired(images, volumes), fresh);
    }

    /** Whether the volumes have to be made. */
    public boolean fresh() {
        return fresh;
    }

    public List<Item> items() {
        return items;
    }

    private static Item item(RestoreBackupCommand.Disk disk) {
        return new Item(
                disk.getBackupFile(),
                disk.getBackedUpUuid() == null ? null : DiskXml.serial(disk.getBackedUpUuid()),
                false,
                disk.getVolumeUuid(),
                disk.getPool(),
                disk.getPath(),
                disk.getVolumePath(),
                disk.getSize());
    }

    private static Item with(Item volume, String image, boolean root) {
        return new Item(image, null, root, volume.uuid, volume.pool, volume.path, volume.volumePath, volume.size);
    }

    /** The names of the images. 4.22.0 sends the volumes' uuids alone, which as a rule are the names of the images too. */
    private static List<String> images(RestoreBackupCommand command, boolean fresh) {
        List<String> named = command.getBackupFiles();
        if (named == null || named.isEmpty()) {
            named = fresh && command.getRestoreVolumeUUID() != null
                    ? List.of(command.getRestoreVolumeUUID())
                    : command.getBackupVolumesUUIDs();
        }
        check(named != null, "no image is named");
        return named.stream().map(RestorePlan::name).collect(Collectors.toList());
    }

    private static List<Item> volumes(RestoreBackupCommand command) {
        List<String> paths = command.getRestoreVolumePaths();
        List<PrimaryDataStoreTO> pools = command.getRestoreVolumePools();
        List<Long> sizes = command.getRestoreVolumeSizes();
        check(paths != null && pools != null && paths.size() == pools.size(), "the pools of the volumes are not named");
        List<Item> volumes = new ArrayList<>();
        for (int i = 0; i < paths.size(); i++) {
            String volumePath = volumePath(paths.get(i), pools.get(i));
            Long size = sizes == null || i >= sizes.size() ? null : sizes.get(i);
            // the name of a new volume is its uuid
            String uuid = command.isVmExists() == null ? volumePath : null;
            volumes.add(new Item(null, null, false, uuid, pools.get(i), paths.get(i), volumePath, size));
        }
        return volumes;
    }

    /**
     * Pairs images and volumes by name; the first image and the first volume are the root's. If no name matches, the machine was made
     * from the backup, and the one image that is left is for the one volume that is left. If a name matches, a volume that is
     * left was never backed up.
     */
    private static List<Item> paired(List<String> images, List<Item> volumes) {
        distinct(images, "image");
        distinct(volumes.stream().map(Item::path).collect(Collectors.toList()), "volume");
        List<String> imagesLeft = new ArrayList<>(images);
        Map<Item, Item> paired = new LinkedHashMap<>();
        for (Item volume : volumes) {
            String name = name(volume.volumePath);
            paired.put(volume, imagesLeft.remove(name) ? with(volume, name, false) : null);
        }
        boolean known = imagesLeft.size() < images.size();
        if (imagesLeft.contains(images.get(0)) && paired.get(volumes.get(0)) == null) {
            paired.put(volumes.get(0), with(volumes.get(0), images.get(0), true));
            imagesLeft.remove(images.get(0));
        }
        List<Item> left =
                volumes.stream().filter(volume -> paired.get(volume) == null).collect(Collectors.toList());
        check(
                left.isEmpty() || left.size() == 1 && !known,
                "it can't be told which of the images " + String.join(", ", imagesLeft)
                        + " is for which of the volumes "
                        + left.stream().map(Item::path).collect(Collectors.joining(", "))
                        + ": the management server is CloudStack's own, and goes by their order; restore them one by one, or put"
                        + " nasbackup's provider in force there");
        left.forEach(volume -> paired.put(volume, with(volume, imagesLeft.get(0), false)));
        return List.copyOf(paired.values());
    }

    /** The path without what the management server put around it. */
    private static String volumePath(String path, PrimaryDataStoreTO pool) {
        String mount = pool == null ? null : "/mnt/" + pool.getUuid() + "/";
        boolean linstor = pool != null && pool.getPoolType() == StoragePoolType.Linstor;
        return !linstor && mount != null && path.startsWith(mount)
                ? path.substring(mount.length())
                : PoolVolumes.volumeOf(path);
    }

    private static String name(String path) {
        return path.substring(path.lastIndexOf('/') + 1);
    }

    private static void distinct(List<String> names, String what) {
        Set<String> seen = new HashSet<>();
        names.forEach(name -> check(name != null && seen.add(name), what + " " + name + " is named twice"));
    }

    private static void check(boolean good, String wrong) {
        if (!good) {
            throw new IllegalArgumentException(REFUSED + wrong);
        }
    }
}
