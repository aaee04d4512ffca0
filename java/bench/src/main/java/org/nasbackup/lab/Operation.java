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

package org.nasbackup.lab;

import org.nasbackup.lab.Samples.Sample;

/** What the rivals are measured at. */
interface Operation {
    String name();

    /** Prepares one run; not timed. */
    void before(Rival rival);

    /** The run. The sample is told what the rival says of it. */
    void run(Rival rival, Sample sample);

    /** Throws unless what the run left is right; not timed. {@link #before} was {@link #beforeCheck}. */
    void check(Rival rival);

    /** As {@link #before} a run that is checked. */
    default void beforeCheck(Rival rival) {
        before(rival);
    }

    /** Whether a run finds nothing in the page cache. */
    default boolean dropsCaches() {
        return true;
    }

    /**
     * How often the library on a mounted repository and the bare calls are compared, for each run of the others: more where
     * a disk's spread is wider than what lies between them.
     */
    default int comparedWithFloor() {
        return 1;
    }

    /** Clears away what the run left. */
    default void after(Rival rival) {}
}
