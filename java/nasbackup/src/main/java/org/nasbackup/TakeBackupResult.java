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

package org.nasbackup;

import java.util.List;
import java.util.Map;

/** What {@link NasBackup#takeBackup} answers. */
public final class TakeBackupResult {
    private final String pointId;
    private final String mac;
    private final Kind kind;
    private final long size;
    private final long virtualSize;
    private final Map<String, String> volumes;
    private final String bitmapCreated;
    private final String parentName;
    private final String bitmapRecreated;
    private final boolean incrementalFallback;
    private final String details;
    private final Engine engine;
    private final long jobMillis;
    private final long syncMillis;
    private final long totalMillis;
    private final List<DiskResult> disks;

    TakeBackupResult(Reply reply) {
        this.pointId = reply.text("pointId");
        this.mac = reply.text("mac");
        this.kind = Kind.of(reply.text("kind"));
        this.size = reply.number("size");
        this.virtualSize = reply.number("virtualSize");
        this.volumes = reply.textsByName("volumes");
        this.bitmapCreated = reply.text("bitmapCreated");
        this.parentName = reply.text("parentName");
        this.bitmapRecreated = reply.text("bitmapRecreated");
        this.incrementalFallback = reply.flag("incrementalFallback");
        this.details = reply.text("details");
        this.engine = Engine.of(reply.text("engine"));
        this.jobMillis = reply.number("jobMillis");
        this.syncMillis = reply.number("syncMillis");
        this.totalMillis = reply.number("totalMillis");
        this.disks = reply.list("disks", DiskResult::new);
    }

    /**
     * The point's random id. A caller that keeps it can name it in a request; the request is refused if another point, older or of
     * another machine, has taken this point's place.
     */
    public String pointId() {
        return pointId;
    }

    /** The MAC that vouches for the point's manifest, 64 hexadecimal digits; null where no {@link Configuration#keyFile} is set. */
    public String mac() {
        return mac;
    }

    /** Incremental if any disk is. */
    public Kind kind() {
        return kind;
    }

    /** Sum of the published disk files' lengths, in bytes. */
    public long size() {
        return size;
    }

    /** Sum of the disks' virtual sizes, in bytes. */
    public long virtualSize() {
        return virtualSize;
    }

    /** The file of each volume, relative to the repository's root. */
    public Map<String, String> volumes() {
        return volumes;
    }

    /** The new bitmap; null unless at least one disk carries it. */
    public String bitmapCreated() {
        return bitmapCreated;
    }

    /**
     * The {@code bitmapParent} by which a later request names this point as its parent: the name of the new bitmap or, if no disk
     * carries that bitmap and all disks have fingerprints, the name that was asked for. Null: the point can be no parent.
     */
    public String parentName() {
        return parentName;
    }

    /**
     * The parent's bitmap, if libvirt had lost its checkpoint: the library has made the checkpoint again, or compared the disks
     * instead, as {@link #details} then says. Else null.
     */
    public String bitmapRecreated() {
        return bitmapRecreated;
    }

    /** Whether a full was made although an incremental was asked for. */
    public boolean incrementalFallback() {
        return incrementalFallback;
    }

    /** A line for each thing that was not ordinary; never null. */
    public String details() {
        return details;
    }

    /** The engine that moved the data. */
    public Engine engine() {
        return engine;
    }

    /** Milliseconds from the begin of the hypervisor's job until the last target was closed. */
    public long jobMillis() {
        return jobMillis;
    }

    /** Milliseconds until the files and folders of the point were durable and it was published. */
    public long syncMillis() {
        return syncMillis;
    }

    /** Milliseconds of the whole call. */
    public long totalMillis() {
        return totalMillis;
    }

    /** The disks, in the order of the domain or the request. */
    public List<DiskResult> disks() {
        return disks;
    }

    @Override
    public String toString() {
        return kind + " backup, " + size + " bytes in " + disks.size() + " files, " + totalMillis + " ms";
    }
}
