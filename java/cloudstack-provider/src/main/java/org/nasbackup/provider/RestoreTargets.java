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
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiPredicate;
import java.util.function.Function;

/** Which volume of a machine gets which volume of a backup. */
public final class RestoreTargets {
    private RestoreTargets() {}

    /**
     * By their uuids: CloudStack gives a machine's data disks other device numbers whenever it was restored. What is left goes
     * by device numbers, where it may: the images of a volume that the machine no longer has would destroy one that the backup
     * never held.
     *
     * @param backedUp the uuids of what the backup holds, by device number
     * @param volumes the machine's, by device number; as many
     * @param replaces may what the backup holds, of a uuid that the machine has not, go onto that volume?
     * @return the machine's, parallel to what the backup holds
     * @throws RepairRefused naming both, when it may not
     */
    public static <V> List<V> of(
            List<String> backedUp, List<V> volumes, Function<V, String> uuid, BiPredicate<String, V> replaces) {
        Map<String, V> left = new LinkedHashMap<>();
        volumes.forEach(volume -> left.put(uuid.apply(volume), volume));
        List<V> targets = new ArrayList<>();
        backedUp.forEach(each -> targets.add(left.remove(each)));
        Iterator<V> others = left.values().iterator();
        for (int i = 0; i < targets.size(); i++) {
            if (targets.get(i) == null) {
                V other = others.next();
                if (!replaces.test(backedUp.get(i), other)) {
                    throw new RepairRefused("it holds volume " + backedUp.get(i)
                            + ", which the machine no longer has, and does not hold volume " + uuid.apply(other)
                            + ", which would be overwritten with it");
                }
                targets.set(i, other);
            }
        }
        return targets;
    }
}
