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

import java.util.UUID;

/**
 * Cancels the job that it is given to: from any thread, before the job starts or while it runs. The handle stays
 * cancelled: a job that gets it later is refused with {@link ErrorCode#CANCELLED}.
 */
public final class CancelHandle {
    private final String job;
    private volatile boolean cancelled;
    private volatile boolean started;

    /** A handle for a job with an id of its own. */
    public CancelHandle() {
        this(UUID.randomUUID().toString());
    }

    /** A handle for a job whose id the caller chooses. */
    public CancelHandle(String job) {
        if (job == null) {
            throw NasBackupException.invalid("job", "is missing");
        }
        this.job = job;
    }

    /** The id of the job. */
    public String job() {
        return job;
    }

    /** Asks the job to stop. Its call ends with {@link ErrorCode#CANCELLED} unless the job had ended already. */
    public void cancel() {
        cancelled = true;
        if (started) {
            Native.cancel(job);
        }
    }

    /** The id for a job whose request says {@code requested}, which may be null. */
    String idFor(String requested) {
        if (requested != null && !requested.equals(job)) {
            throw NasBackupException.invalid("job", "'" + requested + "' is not that of the cancel handle");
        }
        return job;
    }

    /**
     * Says that the library is loaded. Either this method sees that the job was cancelled before, or {@link #cancel} sees that
     * the job has started.
     */
    void start() {
        started = true;
        if (cancelled) {
            throw NasBackupException.of(
                    ErrorCode.CANCELLED, "start job '" + job + "'", "the caller cancelled the job", null);
        }
    }

    /**
     * The listener that the job gets. A cancel can fall between {@link #start} and the job's entry into the table of
     * running jobs, where no job of this id is found; then this listener cancels the job at its first report.
     */
    ProgressListener before(ProgressListener listener) {
        return status -> {
            if (cancelled) {
                Native.cancel(job);
            }
            if (listener != null) {
                listener.progress(status);
            }
        };
    }
}
