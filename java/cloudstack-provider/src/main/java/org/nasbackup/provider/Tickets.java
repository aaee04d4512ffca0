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

import java.util.List;

/** Keeps the tickets of all hosts, for all management servers. Each method is done altogether or not at all. */
public interface Tickets {
    List<Ticket> of(long hostId);

    /** Adds the ticket, or replaces the one with its id. */
    void put(long hostId, Ticket ticket);

    void remove(long hostId, String id);

    /** Removes the ticket unless it has changed: then its server lives. */
    void removeUnchanged(long hostId, Ticket ticket);
}
