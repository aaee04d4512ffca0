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
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Computes the steps after which a restore point is gone and all others are whole. */
public final class ChainRepair {
    /** What happens to the backups on a full one that is to be deleted. */
    public enum Others {
        /** They stay, and the deletion is refused. */
        REFUSED,
        /** They are deleted too. */
        DELETED,
        /** They take over what they need of the full one. */
        MERGED
    }

    private ChainRepair() {}

    /**
     * The steps, in order. What is recorded with each makes the catalogue agree with the files again, so that after a
     * crash between any two the plan that is then computed is what is left of this one.
     *
     * @param points all restore points of the virtual machine
     * @param target one of them
     * @param others what becomes of those that stand on it, if it is a full one
     * @throws RepairRefused when it can't go, or when the records contradict themselves
     */
    public static List<Step> computeChainRepair(List<Point> points, Point target, Others others) {
        if (target.chainId() == null) {
            return List.of(Step.delete(target, Map.of()));
        }
        Chain chain = new Chain(points, target.chainId());
        if (target.full() && others == Others.DELETED) {
            return deleteWithAllAbove(chain, target);
        }
        if (target.full() && others == Others.REFUSED) {
            refuseWhileSomethingStandsOn(chain, target);
        }
        return deleteAlone(chain, target);
    }

    /** All other points of a chain stand, in the end, on its full one. */
    private static List<Step> deleteWithAllAbove(Chain chain, Point target) {
        List<Step> steps = new ArrayList<>();
        chain.aboveLeavesFirst(target).forEach(point -> steps.add(Step.delete(point, Map.of())));
        steps.add(Step.delete(target, Map.of()));
        return steps;
    }

    private static void refuseWhileSomethingStandsOn(Chain chain, Point target) {
        int others = chain.aboveLeavesFirst(target).size();
        if (others > 0) {
            throw new RepairRefused("backup " + target.uuid() + " is the full backup that " + others
                    + (others == 1 ? " incremental backup stands" : " incremental backups stand")
                    + " on; delete the newest first, or force the deletion of all " + (others + 1));
        }
    }

    private static List<Step> deleteAlone(Chain chain, Point target) {
        List<Point> suspects = chain.suspectsOf(target);
        if (!suspects.isEmpty()) {
            throw new RepairRefused("backup " + suspects.get(0).uuid() + " may stand on backup " + target.uuid()
                    + ": its parent is not recorded; delete that one first");
        }
        List<Point> children = chain.childrenOf(target);
        Optional<Point> base = chain.baseOf(target);
        boolean alone = target.full() || Point.ALONE.equals(target.lastGoal());
        if (!children.isEmpty() && base.isEmpty() && !alone) {
            throw new RepairRefused("backup " + children.get(0).uuid() + " stands on backup " + target.uuid()
                    + ", whose own parent " + (target.parent() == null ? "" : target.parent() + " ")
                    + "is not in the catalogue; delete the newest first");
        }
        List<Step> steps = new ArrayList<>();
        for (Point child : leaving(target, children)) {
            steps.add(take(chain, child, chain.lowerOf(target, base, child), target));
        }
        chain.remove(target);
        steps.add(Step.delete(target, chain.straighten()));
        return steps;
    }

    /**
     * A child that becomes a full one takes the points on it along into a chain of their own: in a chain with two full ones a
     * position would not tell from which of them it counts.
     */
    private static Step take(Chain chain, Point child, Optional<Point> base, Point going) {
        if (base.isEmpty()) {
            return Step.makeFull(child, going, chain.split(child));
        }
        chain.put(child.onto(base.get()));
        return Step.rebase(child, base.get(), going, chain.straighten());
    }

    /**
     * The children in the order of their cost: a child need not take over what it has itself, so the largest comes first. Before
     * them come those of which a rebase onto the target was begun, since they may still stand on another child.
     */
    private static List<Point> leaving(Point target, List<Point> children) {
        List<Point> sorted = new ArrayList<>(children);
        sorted.sort(Comparator.comparing((Point child) -> !child.headedFor(target))
                .thenComparing(Point::size, Comparator.nullsLast(Comparator.reverseOrder())));
        return sorted;
    }
}
