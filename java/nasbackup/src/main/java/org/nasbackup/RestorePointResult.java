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

/** What {@link NasBackup#restorePoint} answers. */
public final class RestorePointResult {
    private final long bytesRead;
    private final long bytesKept;
    private final long bytesCloned;
    private final List<RestoredVolume> volumes;
    private final List<RestoredState> state;
    private final long totalMillis;
    private final String details;

    RestorePointResult(Reply reply) {
        this.bytesRead = reply.number("bytesRead");
        this.bytesKept = reply.number("bytesKept");
        this.bytesCloned = reply.number("bytesCloned");
        this.volumes = reply.list("volumes", RestoredVolume::new);
        this.state = reply.list("state", RestoredState::new);
        this.totalMillis = reply.number("totalMillis");
        this.details = reply.text("details");
    }

    /** Bytes of the disks that were read from the NAS. */
    public long bytesRead() {
        return bytesRead;
    }

    /** Bytes that the volumes held already and that were kept. */
    public long bytesKept() {
        return bytesKept;
    }

    /** Bytes that the outputs got by sharing blocks with the NAS. */
    public long bytesCloned() {
        return bytesCloned;
    }

    /** The disks, in the order of the request. */
    public List<RestoredVolume> volumes() {
        return volumes;
    }

    /** UEFI variables and the state of a TPM, as far as they were asked for. */
    public List<RestoredState> state() {
        return state;
    }

    /** Milliseconds of the whole call. */
    public long totalMillis() {
        return totalMillis;
    }

    /** A line for each thing that an operator should know; never null. */
    public String details() {
        return details;
    }

    @Override
    public String toString() {
        return volumes + ", " + bytesRead + " bytes read, " + bytesKept + " kept, " + bytesCloned + " cloned, "
                + totalMillis + " ms";
    }
}
