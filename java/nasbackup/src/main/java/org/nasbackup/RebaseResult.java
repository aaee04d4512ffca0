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

/** What {@link NasBackup#rebaseBackup} and {@link NasBackup#rebasePoint} answer. */
public final class RebaseResult {
    private final long size;
    private final long bytesCloned;
    private final long bytesCopied;
    private final String mac;
    private final long totalMillis;

    RebaseResult(Reply reply) {
        this.size = reply.number("size");
        this.bytesCloned = reply.number("bytesCloned");
        this.bytesCopied = reply.number("bytesCopied");
        this.mac = reply.text("mac");
        this.totalMillis = reply.number("totalMillis");
    }

    /** Length of the rebased file, or of all files of the rebased point, in bytes. */
    public long size() {
        return size;
    }

    /** Bytes that the image took in by sharing blocks with the old parent. */
    public long bytesCloned() {
        return bytesCloned;
    }

    /** Bytes that the image took in by copying. */
    public long bytesCopied() {
        return bytesCopied;
    }

    /**
     * The MAC that vouches for the point's manifest from now on, 64 hexadecimal digits; null where no {@link Configuration#keyFile} is
     * set, or when the point has no manifest. The point's id stays what it was.
     */
    public String mac() {
        return mac;
    }

    /** Milliseconds of the whole call. */
    public long totalMillis() {
        return totalMillis;
    }

    @Override
    public String toString() {
        return size + " bytes, " + bytesCloned + " cloned, " + bytesCopied + " copied, " + totalMillis + " ms";
    }
}
