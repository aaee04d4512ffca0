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
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** What to do so that a restore point can go and all others stay whole. */
public final class ChainRepair {
    private ChainRepair() {}

    /**
     * The steps, in order. What is recorded with each makes the catalogue agree with the files again, so that after a
     * crash between any two the plan that is then computed is what is left of this one.
     *
     * @param points all restore points of the virtual machine
     * @param target one of them
     * @param forced a full may take the backups that stand on it along
     * @throws RepairRefused when it may not, or when the records contradict themselves
     */
    public static List<Step> computeChainRepair(List<Point> points, Point target, boolean forced) {
        if (target.chainId() == null) {
            return List.of(Step.delete(target, Map.of()));
        }
        Chain chain = new Chain(points, target.chainId());
        return target.full() ? deleteFull(chain, target, forced) : deleteIncremental(chain, target);
    }

    /** Whatever else is in the chain stands on its full in the end. */
    private static List<Step> deleteFull(Chain chain, Point target, boolean forced) {
        List<Point> others = chain.aboveLeavesFirst(target);
        if (!others.isEmpty() && !forced) {
            throw new RepairRefused("backup " + target.uuid() + " is the full backup that " + others.size()
                    + (others.size() == 1 ? " incremental backup stands" : " incremental backups stand")
                    + " on; delete the newest first, or force the deletion of all " + (others.size() + 1));
        }
        List<Step> steps = new ArrayList<>();
        others.forEach(point -> steps.add(Step.delete(point, Map.of())));
        steps.add(Step.delete(target, Map.of()));
        return steps;
    }

    private static List<Step> deleteIncremental(Chain chain, Point target) {
        List<Point> suspects = chain.suspectsOf(target);
        if (!suspects.isEmpty()) {
            throw new RepairRefused("backup " + suspects.get(0).uuid() + " may stand on backup " + target.uuid()
                    + ": its parent is not recorded; delete that one first");
        }
        List<Point> children = chain.childrenOf(target);
        Optional<Point> parent = chain.parentOf(target);
        if (!children.isEmpty() && parent.isEmpty()) {
            throw new RepairRefused("backup " + children.get(0).uuid() + " stands on backup " + target.uuid()
                    + ", whose own parent " + (target.parent() == null ? "" : target.parent() + " ")
                    + "is not in the catalogue; delete the newest first");
        }
        List<Step> steps = new ArrayList<>();
        for (Point child : children) {
            chain.put(child.onto(parent.orElseThrow()));
            steps.add(Step.rebase(child, parent.orElseThrow(), chain.straighten()));
        }
        chain.remove(target);
        steps.add(Step.delete(target, chain.straighten()));
        return steps;
    }
}
