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

import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;

/** The kind of the next backup of a virtual machine, and its parent. */
public final class BackupChoice {
    private final String mode;
    private final Point parent;
    private final List<String> parentFiles;
    private final String reason;

    private BackupChoice(String mode, Point parent, List<String> parentFiles, String reason) {
        this.mode = mode;
        this.parent = parent;
        this.parentFiles = parentFiles;
        this.reason = reason;
    }

    /**
     * @param points all points of the machine
     * @param activeCheckpoint the bitmap that its disks have since the last backup; null: none is known
     * @param volumes the uuids of its volumes, by device number
     */
    public static BackupChoice choose(
            Policy policy, List<Point> points, String activeCheckpoint, List<String> volumes) {
        if (!policy.incrementals()) {
            return new BackupChoice(null, null, null, policy.noIncrementals());
        }
        if (policy.everyOneFull()) {
            return full("every backup is to be a full one");
        }
        if (activeCheckpoint == null) {
            return full("no checkpoint is active");
        }
        Optional<Point> newest = points.stream()
                .filter(Point::good)
                .max(Comparator.comparingLong(Point::created).thenComparingLong(Point::id));
        if (newest.isEmpty() || !activeCheckpoint.equals(newest.get().bitmap())) {
            return full("the newest backup does not own checkpoint " + activeCheckpoint);
        }
        Point parent = newest.get();
        if (parent.chainId() == null || parent.position() == null) {
            return full("backup " + parent.uuid() + " is in no chain");
        }
        if (!policy.allows(parent.position() + 2)) {
            return full("the chain has its " + (parent.position() + 1) + " backups");
        }
        List<String> files =
                volumes.stream().map(parent::fileOf).flatMap(Optional::stream).collect(Collectors.toList());
        if (files.isEmpty()) {
            return full("backup " + parent.uuid() + " has none of the virtual machine's volumes");
        }
        return new BackupChoice("incremental", parent, files, "backup " + parent.uuid() + " is its parent");
    }

    private static BackupChoice full(String reason) {
        return new BackupChoice("full", null, null, reason);
    }

    /** The mode in a command: {@code full} or {@code incremental}; null: a full one that begins no chain. */
    public String mode() {
        return mode;
    }

    /** The parent of an incremental; else null. */
    public Point parent() {
        return parent;
    }

    /** The parent's files of those volumes that it has, by device number; null unless it is incremental. */
    public List<String> parentFiles() {
        return parentFiles;
    }

    /** The reason for this choice. */
    public String reason() {
        return reason;
    }

    public boolean incremental() {
        return parent != null;
    }
}
