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

/** A turn at a host: it waits in the host's line, or holds one of the host's slots. Kept as a line of text. */
public final class Ticket {
    /** What the turn does now. */
    enum State {
        WAITS,
        /** The turn can't begin for another reason than the host, and lets others have the slot. */
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
     * A ticket at the end of a line.
     *
     * @param number the line's next number
     * @param urgent whether it comes before all tickets that are not urgent
     * @param work the name of the work, for an operator
     */
    public static Ticket waiting(String id, long number, boolean urgent, String work) {
        return new Ticket(id, number, urgent, State.WAITS, 0, work);
    }

    /** @return null for a text that is no ticket of ours */
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

    /** The ticket as a line that {@link #read} understands. */
    public String text() {
        return number + (urgent ? " urgent " : " ") + state.name().toLowerCase(Locale.ROOT) + " " + beats + " " + work;
    }

    private Ticket next(State then) {
        return new Ticket(id, number, urgent, then, beats + 1, work);
    }

    /** This ticket once its turn has come. */
    public Ticket holding() {
        return next(State.HOLDS);
    }

    /** This ticket while it lets others go first. */
    public Ticket aside() {
        return next(State.ASIDE);
    }

    /** This ticket as it waits again, in its old place. */
    public Ticket waitingAgain() {
        return next(State.WAITS);
    }

    /** This ticket with another beat, which says that its server lives. */
    public Ticket beaten() {
        return next(state);
    }

    public String id() {
        return id;
    }

    /** The place in the line: a smaller number asked earlier. */
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
