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
     * The point's random id. Whoever remembers it, and asks for it in a request, is told when another point, an older one, or
     * one of another machine has taken this one's place.
     */
    public String pointId() {
        return pointId;
    }

    /** What vouches for the point's manifest, 64 hexadecimal digits; null where no {@link Configuration#keyFile} is set. */
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
     * The name by which a later request can call this point its parent, with {@code bitmapParent}: the new bitmap's, or, if no
     * disk carries one and all have fingerprints, the one that was asked for. Null: it can be no parent.
     */
    public String parentName() {
        return parentName;
    }

    /**
     * The parent's bitmap when its checkpoint was lost: made again from it, or the disks compared instead, as {@link #details}
     * then says. Else null.
     */
    public String bitmapRecreated() {
        return bitmapRecreated;
    }

    /** An incremental was asked for and a full was made. */
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

    /** Milliseconds of the hypervisor's job, from begin to the last target's close. */
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
