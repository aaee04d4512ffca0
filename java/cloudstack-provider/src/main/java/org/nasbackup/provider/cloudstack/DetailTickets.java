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

package org.nasbackup.provider.cloudstack;

import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Collectors;
import org.apache.cloudstack.resourcedetail.ResourceDetailsDao;
import org.nasbackup.provider.Ticket;
import org.nasbackup.provider.Tickets;

/**
 * Keeps tickets as details of the system's user. Details of hosts, virtual machines or backups would be nearer, but CloudStack
 * rewrites all of these from what it has read before (a host's when its agent connects), and copies them. Nobody logs in as that
 * user, lists it or changes it.
 */
public final class DetailTickets implements Tickets {
    private static final long SYSTEM_USER = 1;
    private static final String PREFIX = "nas.backup.slot.";

    private final ResourceDetailsDao<?> users;
    private final Transactions transactions;

    /** @param users the details of users */
    public DetailTickets(ResourceDetailsDao<?> users, Transactions transactions) {
        this.users = users;
        this.transactions = transactions;
    }

    private static String prefix(long hostId) {
        return PREFIX + hostId + ".";
    }

    @Override
    public List<Ticket> of(long hostId) {
        String prefix = prefix(hostId);
        return users.listDetailsKeyPairs(SYSTEM_USER).entrySet().stream()
                .filter(detail -> detail.getKey().startsWith(prefix))
                .map(detail -> read(prefix, detail))
                .filter(Objects::nonNull)
                .collect(Collectors.toList());
    }

    private static Ticket read(String prefix, Map.Entry<String, String> detail) {
        return Ticket.read(detail.getKey().substring(prefix.length()), detail.getValue());
    }

    /** In a transaction: a detail is replaced by removing it first, and nobody may look in between. */
    @Override
    public void put(long hostId, Ticket ticket) {
        transactions.run(() -> users.addDetail(SYSTEM_USER, prefix(hostId) + ticket.id(), ticket.text(), false));
    }

    @Override
    public void remove(long hostId, String id) {
        users.removeDetail(SYSTEM_USER, prefix(hostId) + id);
    }

    @Override
    public void removeUnchanged(long hostId, Ticket ticket) {
        users.removeDetail(SYSTEM_USER, prefix(hostId) + ticket.id(), ticket.text());
    }
}
