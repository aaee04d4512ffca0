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

/** Natives of the library's feature {@code test-hooks}. */
final class TestHooks {
    private TestHooks() {}

    /** Panics with this text. */
    static native void panic(String text);

    /** A job that reports so many times, as a backup would; returns how often. */
    static native long runJob(String job, int reports, ProgressListener listener);

    /** A result whose even disks have, and odd disks lack, what may be null. */
    static TakeBackupResult result(int disks) {
        return new TakeBackupResult(Reply.of(reply(disks)));
    }

    private static native String reply(int disks);

    /** Writes a log line on a thread that Java does not know. */
    static native void logOnNativeThread(String line);

    /** Throws an {@link ArithmeticException} and writes a log line before it returns. */
    static native void logWithPendingException(String line);

    /** Leaves a native thread running that has written a log line. */
    static native void keepNativeThread();

    /** Does what {@code -Xcheck:jni} warns of. */
    static native void provokeCheckJni();
}
