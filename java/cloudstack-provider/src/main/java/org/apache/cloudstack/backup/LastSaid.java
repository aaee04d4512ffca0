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

import java.util.HashMap;
import java.util.Map;
import java.util.Objects;

/** The text that was logged last for each zone, so that a log says it once. */
final class LastSaid {
    private final Map<Long, String> said = new HashMap<>();

    /** @param text null: there is nothing to log, as at the start */
    synchronized boolean changed(long zoneId, String text) {
        return !Objects.equals(said.put(zoneId, text), text);
    }
}
