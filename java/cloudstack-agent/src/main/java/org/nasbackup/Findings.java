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

import java.io.PrintStream;

/** The lines that Doctor prints, one for each thing that it checked. */
final class Findings {
    private final PrintStream out;
    private boolean good = true;

    Findings(PrintStream out) {
        this.out = out;
    }

    /** Whether nothing is missing and everything could be checked. */
    boolean good() {
        return good;
    }

    void good(String line) {
        out.println("ok       " + line);
    }

    /** Prints what is good to know and no fault. */
    void note(String line) {
        out.println("NOTE     " + line);
    }

    void missing(String line) {
        good = false;
        out.println("MISSING  " + line);
    }

    void notChecked(String line) {
        good = false;
        out.println("NOT CHECKED  " + line);
    }
}
