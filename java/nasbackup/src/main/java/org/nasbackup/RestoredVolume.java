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

/** One disk that was restored. */
public final class RestoredVolume {
    private final String file;
    private final String volume;
    private final String output;
    private final Verify verified;
    private final long bytesRead;
    private final long bytesKept;
    private final long bytesCloned;
    private final String kept;
    private final long millis;

    RestoredVolume(Reply reply) {
        this.file = reply.text("file");
        this.volume = reply.text("volume");
        this.output = reply.text("output");
        this.verified = Verify.of(reply.text("verified"));
        this.bytesRead = reply.number("bytesRead");
        this.bytesKept = reply.number("bytesKept");
        this.bytesCloned = reply.number("bytesCloned");
        this.kept = reply.text("kept");
        this.millis = reply.number("millis");
    }

    /** The file name of its image in the restore point. */
    public String file() {
        return file;
    }

    /** The volume, as the backup's result named it. */
    public String volume() {
        return volume;
    }

    /** The path of its output, as it was given. */
    public String output() {
        return output;
    }

    /** What the data were compared with. */
    public Verify verified() {
        return verified;
    }

    /** Bytes that were read from the NAS. */
    public long bytesRead() {
        return bytesRead;
    }

    /** Bytes that the volume held already and that were kept. */
    public long bytesKept() {
        return bytesKept;
    }

    /** Bytes that the output got by sharing blocks with the NAS. */
    public long bytesCloned() {
        return bytesCloned;
    }

    /** Path of what was replaced; null if nothing was, or it was not kept. */
    public String kept() {
        return kept;
    }

    /** Milliseconds until the output was whole and durable. */
    public long millis() {
        return millis;
    }

    @Override
    public String toString() {
        return volume + " in " + output + ", verified by " + verified;
    }
}
