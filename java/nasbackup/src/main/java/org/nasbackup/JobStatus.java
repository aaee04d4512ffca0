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

/** A running job. */
public final class JobStatus {
    private final String job;
    private final String operation;
    private final String vmName;
    private final String phase;
    private final long doneBytes;
    private final long totalBytes;
    private final long elapsedMillis;
    private final Long bytesPerSecond;
    private final Long remainingMillis;

    JobStatus(Reply reply) {
        this.job = reply.text("job");
        this.operation = reply.text("operation");
        this.vmName = reply.text("vmName");
        this.phase = reply.text("phase");
        this.doneBytes = reply.number("doneBytes");
        this.totalBytes = reply.number("totalBytes");
        this.elapsedMillis = reply.number("elapsedMillis");
        this.bytesPerSecond = reply.numberOrNull("bytesPerSecond");
        this.remainingMillis = reply.numberOrNull("remainingMillis");
    }

    /** The caller's id, or one made for it. */
    public String job() {
        return job;
    }

    /** The operation's name, e.g. {@code takeBackup}. */
    public String operation() {
        return operation;
    }

    /** The domain that it works on; null if none. */
    public String vmName() {
        return vmName;
    }

    /** What it is doing now. */
    public Phase phase() {
        return Phase.of(phase);
    }

    /** Bytes done. */
    public long doneBytes() {
        return doneBytes;
    }

    /** Bytes to do; 0 while unknown. */
    public long totalBytes() {
        return totalBytes;
    }

    /** Milliseconds since it started. */
    public long elapsedMillis() {
        return elapsedMillis;
    }

    /** Bytes a second in the last seconds of this phase; null while that is not known. */
    public Long bytesPerSecond() {
        return bytesPerSecond;
    }

    /** Milliseconds until all bytes are done, at that speed; null while that is not known. */
    public Long remainingMillis() {
        return remainingMillis;
    }

    @Override
    public String toString() {
        return operation + " " + vmName + " (" + job + "): " + phase + ", " + doneBytes + " of " + totalBytes
                + " bytes";
    }
}
