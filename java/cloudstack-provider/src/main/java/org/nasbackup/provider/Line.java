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

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Collectors;

/**
 * The tickets of one host: those that hold a slot, and those that wait. They wait in the order in which they asked, the urgent ones
 * before the others.
 */
public final class Line {
    private static final Comparator<Ticket> ORDER = Comparator.comparing(Ticket::urgent, Comparator.reverseOrder())
            .thenComparingLong(Ticket::number)
            .thenComparing(Ticket::id);

    private final List<Ticket> tickets;

    public Line(List<Ticket> tickets) {
        this.tickets = tickets.stream().sorted(ORDER).collect(Collectors.toList());
    }

    /** This line with the ticket in it, even if somebody has removed it. */
    public Line with(Ticket ticket) {
        List<Ticket> all = new ArrayList<>(tickets);
        all.removeIf(each -> each.id().equals(ticket.id()));
        all.add(ticket);
        return new Line(all);
    }

    /** The number for the next ticket. */
    public long next() {
        return tickets.stream().mapToLong(Ticket::number).max().orElse(0) + 1;
    }

    /** Whether the ticket holds a slot, or gets one if each ticket before it gets one. */
    public boolean mayBegin(Ticket ticket, int slots) {
        return ticket.holds() || holding().size() + before(ticket).size() < slots;
    }

    /** Why the ticket waits, without names: its owner may not know of other owners. */
    public String reason(Ticket ticket, int slots) {
        return holding().size() + " of " + slots + " slots of its host are taken, "
                + before(ticket).size() + " wait before it";
    }

    /** The work that holds slots, for an operator. */
    public String holders() {
        return holding().stream().map(Ticket::work).collect(Collectors.joining(", "));
    }

    private List<Ticket> holding() {
        return tickets.stream().filter(Ticket::holds).collect(Collectors.toList());
    }

    private List<Ticket> before(Ticket ticket) {
        return tickets.stream()
                .filter(each -> each.waits() && ORDER.compare(each, ticket) < 0)
                .collect(Collectors.toList());
    }
}
