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

/** The outcome of a restore. Its amounts are in bytes. */
public final class Restored {
    private final long bytesRead;
    private final long bytesKept;
    private final String details;

    public Restored(long bytesRead, long bytesKept, String details) {
        this.bytesRead = bytesRead;
        this.bytesKept = bytesKept;
        this.details = details;
    }

    /** Bytes that were read from the NAS. */
    public long bytesRead() {
        return bytesRead;
    }

    /** Bytes that the volumes held already, and that were right. */
    public long bytesKept() {
        return bytesKept;
    }

    /** A line for each thing that an operator should know; may be null. */
    public String details() {
        return details;
    }
}
