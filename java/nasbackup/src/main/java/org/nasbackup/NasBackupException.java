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

/** A failure. Its message is one line that is enough for an operator: code, step, disk and cause. */
public final class NasBackupException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final ErrorCode code;
    private final String step;
    private final String disk;
    private final boolean leftovers;

    /** Called by the native library too; its version check needs this signature in every version. */
    NasBackupException(String code, String step, String disk, String message, boolean leftovers, Throwable cause) {
        super(message, cause);
        this.code = ErrorCode.valueOf(code);
        this.step = step;
        this.disk = disk;
        this.leftovers = leftovers;
    }

    static NasBackupException of(ErrorCode code, String step, String reason, Throwable cause) {
        String line = (code + ": " + step + ": " + reason).replaceAll("\\s*\\R\\s*", "; ");
        return new NasBackupException(code.name(), step, null, line, false, cause);
    }

    static NasBackupException invalid(String field, String reason) {
        return of(ErrorCode.INVALID_ARGUMENT, "check the request", field + ": " + reason, null);
    }

    /** What a caller branches on. */
    public ErrorCode code() {
        return code;
    }

    /** What was being done, as a verb phrase. */
    public String step() {
        return step;
    }

    /** Target name or path of the disk that it concerned; null if none. */
    public String disk() {
        return disk;
    }

    /** Something that the call made could not be cleaned away. */
    public boolean leftovers() {
        return leftovers;
    }
}
