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

/** The end of the process, at an effect of its choice. */
public final class Crash extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** Counts the effects of a run, and ends it before one of them. */
    public static final class Meter {
        private int effects;
        private int last = Integer.MAX_VALUE;

        public void crashBefore(int effect) {
            effects = 0;
            last = effect;
        }

        public void never() {
            crashBefore(Integer.MAX_VALUE);
        }

        public int effects() {
            return effects;
        }

        public void effect() {
            if (effects == last) {
                throw new Crash();
            }
            effects++;
        }
    }
}
