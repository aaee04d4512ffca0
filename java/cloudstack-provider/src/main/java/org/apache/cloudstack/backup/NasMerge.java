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

package org.apache.cloudstack.backup;

import java.util.Comparator;
import java.util.Map;

/**
 * The one merge that each part of a round of the server's periodic task may begin: it can take long, also where it fails for want
 * of room, and the task has other zones to see to. A backup whose merge failed lets the others go first in the rounds that come.
 */
final class NasMerge {
    private final Map<Long, Long> begun;
    private final long now;
    private boolean left = true;

    /**
     * @param begun when the merge of each backup was begun last, kept from round to round
     * @param now in milliseconds
     */
    NasMerge(Map<Long, Long> begun, long now) {
        this.begun = begun;
        this.now = now;
    }

    /** Whose merge was begun the longest time ago, or never. */
    Comparator<Backup> order() {
        return Comparator.comparing(backup -> begun.getOrDefault(backup.getId(), Long.MIN_VALUE));
    }

    /** @return may the backup merge in this round? Then no other one may, whatever becomes of it */
    boolean begin(Backup backup) {
        if (!left) {
            return false;
        }
        left = false;
        begun.put(backup.getId(), now);
        return true;
    }
}
