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

package org.nasbackup.provider;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.function.BiPredicate;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.stream.Collectors;

/**
 * Pairs the volumes of a backup with those of a machine, never by their places in lists: CloudStack gives a machine's data
 * volumes other device numbers at each restore, and the image of one volume would destroy another.
 */
public final class RestorePairs {
    /** A volume, as the backup's record has it or as the machine has it now. */
    public static final class Disk {
        private final String uuid;
        private final boolean root;
        private final Long device;
        private final Long size;

        /**
         * @param device the device number; null: it is not known
         * @param size in bytes; null: it is not known
         */
        public Disk(String uuid, boolean root, Long device, Long size) {
            this.uuid = uuid;
            this.root = root;
            this.device = device;
            this.size = size;
        }

        public String uuid() {
            return uuid;
        }
    }

    /** A volume of the backup, and the machine's volume that gets it. */
    public static final class Pair {
        private final Disk from;
        private final Disk to;

        private Pair(Disk from, Disk to) {
            this.from = from;
            this.to = to;
        }

        public Disk from() {
            return from;
        }

        public Disk to() {
            return to;
        }
    }

    private final List<Disk> recorded;
    private final List<Disk> recordedLeft;
    private final List<Disk> presentLeft;
    private final List<Pair> pairs = new ArrayList<>();

    private RestorePairs(List<Disk> recorded, List<Disk> present) {
        this.recorded = recorded;
        this.recordedLeft = new ArrayList<>(recorded);
        this.presentLeft = new ArrayList<>(present);
        Set<String> uuids = new HashSet<>();
        for (Disk each : recorded) {
            if (!uuids.add(each.uuid)) {
                throw new RepairRefused("its record names volume " + each.uuid + " twice");
            }
        }
    }

    /**
     * Pairs the volumes of the machine that was backed up, by uuids. Since a reinstallation its root volume may be another one. A data
     * volume that the machine no longer has is left out, and its image goes onto no other volume.
     *
     * @throws RepairRefused if the root volume or all volumes have no counterpart, or if one has none that is large enough
     */
    public static RestorePairs ofSameMachine(List<Disk> recorded, List<Disk> present) {
        RestorePairs pairs = new RestorePairs(recorded, present);
        pairs.pairBy((from, to) -> from.uuid.equals(to.uuid));
        pairs.pairTheOne(disk -> disk.root);
        if (pairs.pairs.isEmpty() || pairs.recordedLeft.stream().anyMatch(disk -> disk.root)) {
            throw new RepairRefused("it holds " + volumes(pairs.recordedLeft) + ", which the machine no longer has");
        }
        return pairs.inOrder();
    }

    /**
     * Pairs the volumes of a machine that was made from the backup, or of another machine, by the device numbers of the backup.
     *
     * @throws RepairRefused also if the device numbers differ and there is more than one data volume
     */
    public static RestorePairs ofOtherMachine(List<Disk> recorded, List<Disk> present) {
        RestorePairs pairs = new RestorePairs(recorded, present);
        pairs.pairTheOne(disk -> disk.root);
        if (numbers(pairs.presentLeft).containsAll(numbers(pairs.recordedLeft)) && distinct(pairs.recordedLeft)) {
            pairs.pairBy((from, to) -> !from.root && !to.root && from.device.equals(to.device));
        } else {
            pairs.pairTheOne(disk -> !disk.root);
        }
        if (!pairs.recordedLeft.isEmpty()) {
            throw new RepairRefused(
                    "it can't be told which volume of the machine is to get " + which(pairs.recordedLeft)
                            + ": those of the machine that are left have " + numbered(pairs.presentLeft)
                            + "; give its volumes the device numbers of the backup");
        }
        return pairs.inOrder();
    }

    private void pairBy(BiPredicate<Disk, Disk> same) {
        for (Disk from : new ArrayList<>(recordedLeft)) {
            List<Disk> to =
                    presentLeft.stream().filter(each -> same.test(from, each)).collect(Collectors.toList());
            if (to.size() == 1) {
                pair(from, to.get(0));
            }
        }
    }

    /** Pairs the volumes of this kind if backup and machine have one each left. */
    private void pairTheOne(Predicate<Disk> such) {
        List<Disk> from = recordedLeft.stream().filter(such).collect(Collectors.toList());
        List<Disk> to = presentLeft.stream().filter(such).collect(Collectors.toList());
        if (from.size() == 1 && to.size() == 1) {
            pair(from.get(0), to.get(0));
        }
    }

    private void pair(Disk from, Disk to) {
        if (from.size != null && to.size != null && to.size < from.size) {
            throw new RepairRefused("volume " + to.uuid + " of the machine has " + to.size + " bytes, and volume "
                    + from.uuid + " of the backup, which it is to get, " + from.size
                    + ": make it as large first");
        }
        pairs.add(new Pair(from, to));
        recordedLeft.remove(from);
        presentLeft.remove(to);
    }

    /** The pairs with the root volume first: CloudStack's own hosts take the first image for the root's. */
    private RestorePairs inOrder() {
        pairs.sort((a, b) -> a.from.root == b.from.root
                ? Integer.compare(recorded.indexOf(a.from), recorded.indexOf(b.from))
                : Boolean.compare(b.from.root, a.from.root));
        return this;
    }

    public List<Pair> pairs() {
        return pairs;
    }

    /** The volumes of the backup that the machine no longer has. */
    public List<String> leftOut() {
        return recordedLeft.stream().map(Disk::uuid).collect(Collectors.toList());
    }

    /** The volumes of the machine that the backup does not hold. */
    public List<String> leftAlone() {
        return presentLeft.stream().map(Disk::uuid).collect(Collectors.toList());
    }

    private static Set<Long> numbers(List<Disk> disks) {
        return disks.stream()
                .filter(disk -> !disk.root)
                .map(disk -> disk.device)
                .collect(Collectors.toSet());
    }

    private static boolean distinct(List<Disk> disks) {
        return disks.stream().allMatch(disk -> disk.device != null)
                && disks.stream().map(disk -> disk.device).distinct().count() == disks.size();
    }

    private static String volumes(List<Disk> disks) {
        return (disks.size() == 1 ? "volume " : "volumes ") + join(disks, Disk::uuid);
    }

    private static String which(List<Disk> disks) {
        return volumes(disks) + " of " + numbered(disks);
    }

    private static String numbered(List<Disk> disks) {
        return disks.isEmpty()
                ? "no device numbers"
                : "device numbers " + join(disks, disk -> disk.device == null ? "not told" : disk.device.toString());
    }

    private static String join(List<Disk> disks, Function<Disk, String> text) {
        return disks.stream().map(text).map(Objects::toString).collect(Collectors.joining(", "));
    }
}
