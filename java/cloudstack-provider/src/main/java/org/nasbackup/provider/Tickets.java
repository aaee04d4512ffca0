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

/** Where the tickets of all hosts are kept, for all management servers. Each method is done altogether or not at all. */
public interface Tickets {
    List<Ticket> of(long hostId);

    /** Takes the place of the one with the same id. */
    void put(long hostId, Ticket ticket);

    void remove(long hostId, String id);

    /** Nothing happens when it has changed: it lives. */
    void removeUnchanged(long hostId, Ticket ticket);
}
