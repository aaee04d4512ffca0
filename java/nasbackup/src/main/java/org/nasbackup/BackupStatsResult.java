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

/** What {@link NasBackup#backupStats} answers. */
public final class BackupStatsResult {
    private final long totalBytes;
    private final long usedBytes;

    BackupStatsResult(Reply reply) {
        this.totalBytes = reply.number("totalBytes");
        this.usedBytes = reply.number("usedBytes");
    }

    /** Size of the file system, in bytes; 0 where it does not tell. */
    public long totalBytes() {
        return totalBytes;
    }

    /** Bytes in use. */
    public long usedBytes() {
        return usedBytes;
    }

    @Override
    public String toString() {
        return usedBytes + " of " + totalBytes + " bytes used";
    }
}
