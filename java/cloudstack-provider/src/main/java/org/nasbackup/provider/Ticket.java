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

import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** One's turn at a host: it waits in the host's line, or holds one of its slots. Written as a line of text. */
public final class Ticket {
    private static final Pattern TEXT = Pattern.compile("(\\d{1,18}) (waits|holds) (\\d{1,18}) (.*)");

    private final String id;
    private final long number;
    private final boolean holds;
    private final long beats;
    private final String work;

    private Ticket(String id, long number, boolean holds, long beats, String work) {
        this.id = id;
        this.number = number;
        this.holds = holds;
        this.beats = beats;
        this.work = work;
    }

    /**
     * At the end of a line.
     *
     * @param number the line's next
     * @param work what it is for, for an operator
     */
    public static Ticket waiting(String id, long number, String work) {
        return new Ticket(id, number, false, 0, work);
    }

    /** @return null when it is none of ours */
    public static Ticket read(String id, String text) {
        Matcher read = TEXT.matcher(text);
        return read.matches()
                ? new Ticket(
                        id,
                        Long.parseLong(read.group(1)),
                        read.group(2).equals("holds"),
                        Long.parseLong(read.group(3)),
                        read.group(4))
                : null;
    }

    /** What {@link #read} understands. */
    public String text() {
        return number + (holds ? " holds " : " waits ") + beats + " " + work;
    }

    /** Its turn has come. */
    public Ticket holding() {
        return new Ticket(id, number, true, beats + 1, work);
    }

    /** Its server lives. */
    public Ticket beaten() {
        return new Ticket(id, number, holds, beats + 1, work);
    }

    public String id() {
        return id;
    }

    /** Who has the smaller one asked earlier. */
    long number() {
        return number;
    }

    boolean holds() {
        return holds;
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
