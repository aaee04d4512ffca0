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
 * The one merge that each part of a round of the server's periodic task may begin: a merge can take long, even one that fails for
 * lack of room, and the task has other zones to see to. A backup whose merge failed lets the others go first in later rounds.
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

    /** Puts the backup first whose merge was begun the longest time ago, or never. */
    Comparator<Backup> order() {
        return Comparator.comparing(backup -> begun.getOrDefault(backup.getId(), Long.MIN_VALUE));
    }

    /** @return whether the backup may merge in this round; then no other one may, even if this merge fails */
    boolean begin(Backup backup) {
        if (!left) {
            return false;
        }
        left = false;
        begun.put(backup.getId(), now);
        return true;
    }
}
