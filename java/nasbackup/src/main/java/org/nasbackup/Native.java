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

import java.util.List;
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

    static native void init(String version, String configuration);

    static native void check(String version, String configuration);

    static native String version();

    /** Runs an operation of the C ABI, of the same name, request and reply. */
    static native String call(String operation, String request, ProgressListener listener);

    static native boolean cancel(String job);

    static List<JobStatus> jobs() {
        return Reply.listOf(call("jobs", "{}", null), JobStatus::new);
    }

    /** Called by the library while a job runs, on the thread that called it. */
    static void progress(ProgressListener listener, String status) {
        listener.progress(new JobStatus(Reply.of(status)));
    }

    /** Called by the library with each of its log lines; {@code level} counts from 1, error, to 5, trace. */
    static void log(int level, String logger, String line) {
        LOGGERS.computeIfAbsent(logger, System::getLogger).log(LEVELS[level], line);
    }
}
