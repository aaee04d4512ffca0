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

import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Results as the library makes them; their constructors are its own. */
public final class Results {
    private Results() {}

    public static TakeBackupResult taken(
            String kind, long size, String bitmapCreated, String bitmapRecreated, boolean fallback, String details) {
        Map<String, Object> fields = new HashMap<>();
        fields.put("pointId", "0123456789abcdef0123456789abcdef");
        fields.put("mac", "m1");
        fields.put("kind", kind);
        fields.put("size", size);
        fields.put("virtualSize", 2 * size);
        fields.put("volumes", Map.of("root-volume", "i-2-9-VM/T1/root.root-volume.qcow2"));
        fields.put("bitmapCreated", bitmapCreated);
        fields.put("parentName", bitmapCreated);
        fields.put("bitmapRecreated", bitmapRecreated);
        fields.put("incrementalFallback", fallback);
        fields.put("details", details);
        fields.put("engine", "push");
        fields.put("jobMillis", 5L);
        fields.put("syncMillis", 1L);
        fields.put("totalMillis", 7L);
        fields.put("disks", List.of());
        return new TakeBackupResult(new Reply(fields));
    }

    public static RebaseResult rebased(long size, String mac) {
        Map<String, Object> fields = new HashMap<>();
        fields.put("size", size);
        fields.put("bytesCloned", 0L);
        fields.put("bytesCopied", 0L);
        fields.put("mac", mac);
        fields.put("totalMillis", 3L);
        return new RebaseResult(new Reply(fields));
    }

    /** Of one file. */
    public static VerifyChainResult verified(String verdict, String file, String... reasons) {
        return new VerifyChainResult(new Reply(Map.of(
                "verdict",
                verdict,
                "files",
                List.of(
                        Map.of("file", "i/T1/root.r.qcow2", "verdict", "good", "reasons", List.of("2 leaked clusters")),
                        Map.of("file", file, "verdict", verdict, "reasons", List.of(reasons))))));
    }

    public static DeleteBackupResult deleted(long freedBytes) {
        return new DeleteBackupResult(new Reply(Map.of("freedBytes", freedBytes)));
    }

    public static BackupStatsResult stats(long totalBytes, long usedBytes) {
        return new BackupStatsResult(new Reply(Map.of("totalBytes", totalBytes, "usedBytes", usedBytes)));
    }

    public static NasBackupException failure(ErrorCode code, String line, boolean leftovers) {
        return failure(code, "a step", line, leftovers);
    }

    public static NasBackupException failure(ErrorCode code, String step, String line, boolean leftovers) {
        return new NasBackupException(code.name(), step, null, line, leftovers, null);
    }
}
