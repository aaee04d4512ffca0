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

/** Results as the library makes them; their constructors are its own. */
public final class Results {
    private Results() {}

    public static TakeBackupResult taken(
            String kind, long size, String bitmapCreated, String bitmapRecreated, boolean fallback, String details) {
        return new TakeBackupResult(
                "0123456789abcdef0123456789abcdef",
                "m1",
                kind,
                size,
                2 * size,
                new String[] {"root-volume"},
                new String[] {"i-2-9-VM/T1/root.root-volume.qcow2"},
                bitmapCreated,
                bitmapCreated,
                bitmapRecreated,
                fallback,
                details,
                "push",
                5,
                1,
                7,
                new DiskResult[0]);
    }

    public static RebaseResult rebased(long size, String mac) {
        return new RebaseResult(size, 0, 0, mac, 3);
    }

    /** Of one file. */
    public static VerifyChainResult verified(String verdict, String file, String... reasons) {
        return new VerifyChainResult(verdict, new VerifiedFile[] {
            new VerifiedFile("i/T1/root.r.qcow2", "good", new String[] {"2 leaked clusters"}),
            new VerifiedFile(file, verdict, reasons)
        });
    }

    public static DeleteBackupResult deleted(long freedBytes) {
        return new DeleteBackupResult(freedBytes);
    }

    public static BackupStatsResult stats(long totalBytes, long usedBytes) {
        return new BackupStatsResult(totalBytes, usedBytes);
    }

    public static NasBackupException failure(ErrorCode code, String line, boolean leftovers) {
        return failure(code, "a step", line, leftovers);
    }

    public static NasBackupException failure(ErrorCode code, String step, String line, boolean leftovers) {
        return new NasBackupException(code.name(), step, null, line, leftovers, null);
    }
}
