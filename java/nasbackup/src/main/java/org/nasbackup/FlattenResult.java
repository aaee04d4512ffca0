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

/** What {@link NasBackup#flatten} answers. */
public final class FlattenResult {
    private final long bytesCloned;
    private final long bytesCopied;
    private final long totalMillis;

    FlattenResult(Reply reply) {
        this.bytesCloned = reply.number("bytesCloned");
        this.bytesCopied = reply.number("bytesCopied");
        this.totalMillis = reply.number("totalMillis");
    }

    /** Bytes that the output got by sharing blocks. */
    public long bytesCloned() {
        return bytesCloned;
    }

    /** Bytes that were copied; zeroes that no image holds do not count. */
    public long bytesCopied() {
        return bytesCopied;
    }

    /** Milliseconds of the whole call. */
    public long totalMillis() {
        return totalMillis;
    }

    @Override
    public String toString() {
        return bytesCloned + " bytes cloned, " + bytesCopied + " copied, " + totalMillis + " ms";
    }
}
