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

/** What {@link NasBackup#doctor} has found of one thing that backups need. */
public final class Finding {
    /** How the thing is. */
    public enum State {
        /** As it should be. */
        OK,
        /** Not there, or not as it should be. */
        LACKS,
        /** There, with a fault that is known. */
        DEFECT,
        /** Not known. */
        UNTRIED
    }

    private final String what;
    private final State state;
    private final String found;
    private final String advice;
    private final boolean stops;

    Finding(Reply reply) {
        this.what = reply.text("what");
        this.state = Texts.constant(State.class, reply.text("state"));
        this.found = reply.text("found");
        this.advice = reply.text("advice");
        this.stops = reply.flag("stops");
    }

    /** The thing. */
    public String what() {
        return what;
    }

    public State state() {
        return state;
    }

    /** What was found, or why it could not be tried. */
    public String found() {
        return found;
    }

    /** What to do; null where nothing can be done. */
    public String advice() {
        return advice;
    }

    /** Backups fail while it is so; of what could not be tried: while it may be so. */
    public boolean stops() {
        return stops;
    }

    @Override
    public String toString() {
        return what + ": " + found + (advice == null ? "" : "; " + advice);
    }
}
