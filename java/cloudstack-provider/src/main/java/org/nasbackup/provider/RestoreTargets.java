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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;

/** Which volume of a machine gets which volume of a backup. */
public final class RestoreTargets {
    private RestoreTargets() {}

    /**
     * By their uuids: CloudStack gives a machine's data disks other device numbers whenever it was restored. What is left, all
     * of it where the machine was made from the backup, goes by device numbers.
     *
     * @param backedUp the uuids of what the backup holds, by device number
     * @param volumes the machine's, by device number; as many
     * @return the machine's, parallel to what the backup holds
     */
    public static <V> List<V> of(List<String> backedUp, List<V> volumes, Function<V, String> uuid) {
        Map<String, V> left = new LinkedHashMap<>();
        volumes.forEach(volume -> left.put(uuid.apply(volume), volume));
        List<V> targets = new ArrayList<>();
        backedUp.forEach(each -> targets.add(left.remove(each)));
        List<V> others = new ArrayList<>(left.values());
        targets.replaceAll(target -> target == null ? others.remove(0) : target);
        return targets;
    }
}
