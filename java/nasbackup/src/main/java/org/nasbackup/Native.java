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

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** The natives of {@code libnasbackup.so} and what it calls. {@link NativeLibrary#load} comes first. */
final class Native {
    private static final System.Logger.Level[] LEVELS = {
        System.Logger.Level.OFF,
        System.Logger.Level.ERROR,
        System.Logger.Level.WARNING,
        System.Logger.Level.INFO,
        System.Logger.Level.DEBUG,
        System.Logger.Level.TRACE
    };
    private static final Map<String, System.Logger> LOGGERS = new ConcurrentHashMap<>();

    private Native() {}

    static native void init(String version, Configuration configuration);

    static native void check(String version, Configuration configuration);

    static native String version();

    static native boolean knowsNosymfollow();

    static native TakeBackupResult takeBackup(TakeBackupRequest request, ProgressListener listener);

    static native RebaseResult rebaseBackup(RebaseBackupRequest request, ProgressListener listener);

    static native RebaseResult rebasePoint(RebasePointRequest request, ProgressListener listener);

    static native VerifyChainResult verifyChain(VerifyChainRequest request, ProgressListener listener);

    static native VerifyChainResult verifyData(VerifyChainRequest request, ProgressListener listener);

    static native FlattenResult flatten(FlattenRequest request, ProgressListener listener);

    static native RestorePointResult restorePoint(RestorePointRequest request, ProgressListener listener);

    static native DeleteBackupResult deleteBackup(DeleteBackupRequest request);

    static native SignPointsResult signPoints(SignPointsRequest request, ProgressListener listener);

    static native BackupStatsResult backupStats(BackupStatsRequest request);

    static native JobStatus[] jobs();

    static native boolean cancel(String job);

    /** Called by the library with each of its log lines; {@code level} counts from 1, error, to 5, trace. */
    static void log(int level, String logger, String line) {
        LOGGERS.computeIfAbsent(logger, System::getLogger).log(LEVELS[level], line);
    }
}
