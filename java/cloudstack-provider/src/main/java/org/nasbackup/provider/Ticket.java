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

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** One's turn at a host: it waits in the host's line, or holds one of its slots. Written as a line of text. */
public final class Ticket {
    /** What it does now. */
    enum State {
        WAITS,
        /** It can't begin for another reason than the host, and keeps nobody from a slot. */
        ASIDE,
        HOLDS
    }

    private static final Pattern TEXT = Pattern.compile("(\\d{1,18}) (urgent )?(waits|aside|holds) (\\d{1,18}) (.*)");

    private final String id;
    private final long number;
    private final boolean urgent;
    private final State state;
    private final long beats;
    private final String work;

    private Ticket(String id, long number, boolean urgent, State state, long beats, String work) {
        this.id = id;
        this.number = number;
        this.urgent = urgent;
        this.state = state;
        this.beats = beats;
        this.work = work;
    }

    /**
     * At the end of a line.
     *
     * @param number the line's next
     * @param urgent before all that are not
     * @param work what it is for, for an operator
     */
    public static Ticket waiting(String id, long number, boolean urgent, String work) {
        return new Ticket(id, number, urgent, State.WAITS, 0, work);
    }

    /** @return null when it is none of ours */
    public static Ticket read(String id, String text) {
        Matcher read = TEXT.matcher(text);
        return read.matches()
                ? new Ticket(
                        id,
                        Long.parseLong(read.group(1)),
                        read.group(2) != null,
                        State.valueOf(read.group(3).toUpperCase(Locale.ROOT)),
                        Long.parseLong(read.group(4)),
                        read.group(5))
                : null;
    }

    /** What {@link #read} understands. */
    public String text() {
        return number + (urgent ? " urgent " : " ") + state.name().toLowerCase(Locale.ROOT) + " " + beats + " " + work;
    }

    private Ticket next(State then) {
        return new Ticket(id, number, urgent, then, beats + 1, work);
    }

    /** Its turn has come. */
    public Ticket holding() {
        return next(State.HOLDS);
    }

    /** Others go first until it waits again. */
    public Ticket aside() {
        return next(State.ASIDE);
    }

    /** Where it was in the line. */
    public Ticket waitingAgain() {
        return next(State.WAITS);
    }

    /** Its server lives. */
    public Ticket beaten() {
        return next(state);
    }

    public String id() {
        return id;
    }

    /** Who has the smaller one asked earlier. */
    long number() {
        return number;
    }

    boolean urgent() {
        return urgent;
    }

    boolean waits() {
        return state == State.WAITS;
    }

    boolean holds() {
        return state == State.HOLDS;
    }

    long beats() {
        return beats;
    }

    String work() {
        return work;
    }

    @Override
    public String toString() {
        return id + ": " + text();
    }
}
