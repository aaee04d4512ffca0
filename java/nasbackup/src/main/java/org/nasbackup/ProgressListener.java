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

/**
 * Is told of a job's progress, on the thread that called for the job.
 *
 * <p>Whatever it throws cancels the job and becomes the cause of the {@link NasBackupException} of that call.
 */
@FunctionalInterface
public interface ProgressListener {
    /** Called at every step of the job and at least once a second while data travels; must not block for long. */
    void progress(JobStatus status);
}
