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

package org.nasbackup.provider;

import java.util.function.Supplier;

/** Locks that all management servers share. */
public interface ChainLocks {
    /**
     * Runs the work if nobody else works on the chains of that virtual machine now, and while nobody else does.
     *
     * @return whether it ran
     */
    boolean ifFree(long vmId, Runnable work);

    /** Runs the work, which takes a moment, while nobody else changes who works on that host and who waits for it. */
    <T> T lockedLine(long hostId, Supplier<T> work);
}
