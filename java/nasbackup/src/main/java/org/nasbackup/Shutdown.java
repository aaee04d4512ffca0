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

import java.util.concurrent.TimeUnit;

/** Cancels the running jobs when the JVM shuts down, and waits while they clean up. */
final class Shutdown {
    private static final long PATIENCE_MILLIS = TimeUnit.SECONDS.toMillis(20);
    private static final long RETRY_MILLIS = 100;

    private static int running;
    private static boolean begun;

    private Shutdown() {}

    static void register() {
        try {
            Runtime.getRuntime().addShutdownHook(new Thread(Shutdown::cancelAll, "nasbackup-shutdown"));
        } catch (IllegalStateException e) {
            throw NasBackupException.of(ErrorCode.CANCELLED, "load the native library", "the JVM is shutting down", e);
        }
    }

    static synchronized void enter() {
        if (begun) {
            throw NasBackupException.of(ErrorCode.CANCELLED, "start a job", "the JVM is shutting down", null);
        }
        running++;
    }

    static synchronized void leave() {
        running--;
        Shutdown.class.notifyAll();
    }

    private static synchronized void cancelAll() {
        begun = true;
        long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(PATIENCE_MILLIS);
        while (running > 0 && System.nanoTime() < deadline) {
            // Repeated: a call that has begun may enter its job into the table only later.
            for (JobStatus job : Native.jobs()) {
                Native.cancel(job.job());
            }
            try {
                Shutdown.class.wait(RETRY_MILLIS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                return;
            }
        }
    }
}
