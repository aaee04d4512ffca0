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
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Tells which tickets of a host belong to dead servers. The clocks of two servers need not agree: a ticket is dead when this
 * server has seen its beats stand still for a lease, by its own clock. A look long after the one before counts only in part:
 * then this server or the database stood still, and servers that live need time to beat again.
 */
public final class Heartbeats {
    private static final class Seen {
        private final long beats;
        private final long still;

        Seen(long beats, long still) {
            this.beats = beats;
            this.still = still;
        }
    }

    private static final int LOOKS = 4;

    private final long lease;
    private Map<String, Seen> seen = new HashMap<>();
    private long looked;

    /** @param lease in nanoseconds */
    public Heartbeats(long lease) {
        this.lease = lease;
    }

    /**
     * @param tickets all of the host
     * @param now nanoseconds of a clock that only goes forward
     */
    public synchronized List<Ticket> dead(List<Ticket> tickets, long now) {
        long passed = Math.min(now - looked, lease / LOOKS);
        looked = now;
        Map<String, Seen> next = new HashMap<>();
        List<Ticket> dead = new ArrayList<>();
        for (Ticket ticket : tickets) {
            Seen before = seen.get(ticket.id());
            boolean stands = before != null && before.beats == ticket.beats();
            Seen is = new Seen(ticket.beats(), stands ? before.still + passed : 0);
            next.put(ticket.id(), is);
            if (is.still >= lease) {
                dead.add(ticket);
            }
        }
        seen = next;
        return dead;
    }
}
