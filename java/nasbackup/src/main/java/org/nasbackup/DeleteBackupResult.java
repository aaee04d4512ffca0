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

/** What {@link NasBackup#deleteBackup} answers. */
public final class DeleteBackupResult {
    private final long freedBytes;

    DeleteBackupResult(Reply reply) {
        this.freedBytes = reply.number("freedBytes");
    }

    /** Bytes that the removed files had occupied; 0 when the point was gone already. */
    public long freedBytes() {
        return freedBytes;
    }

    @Override
    public String toString() {
        return freedBytes + " bytes freed";
    }
}
