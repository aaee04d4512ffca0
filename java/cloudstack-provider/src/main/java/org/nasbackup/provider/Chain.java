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
import java.util.Collection;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;

/** The restore points that share one full backup: a line, or a tree after a restore. */
final class Chain {
    private static final Comparator<Point> BY_AGE =
            Comparator.comparingLong(Point::created).thenComparingLong(Point::id);

    private final Map<String, Point> members = new LinkedHashMap<>();

    Chain(Collection<Point> points, String id) {
        points.stream()
                .filter(point -> id.equals(point.chainId()))
                .sorted(BY_AGE)
                .forEach(point -> members.put(point.uuid(), point));
    }

    Collection<Point> members() {
        return List.copyOf(members.values());
    }

    void put(Point changed) {
        members.put(changed.uuid(), changed);
    }

    void remove(Point point) {
        members.remove(point.uuid());
    }

    /** The parent by the recorded uuid. A point without one stands on the only point of the position before its own. */
    Optional<Point> parentOf(Point point) {
        if (point.parent() != null) {
            return Optional.ofNullable(members.get(point.parent()));
        }
        if (point.position() == null || point.position() == 0) {
            return Optional.empty();
        }
        List<Point> before = members.values().stream()
                .filter(other -> Objects.equals(other.position(), point.position() - 1))
                .collect(Collectors.toList());
        return before.size() == 1 ? Optional.of(before.get(0)) : Optional.empty();
    }

    /** The points that may stand on this one: by their record, or because a rebase onto this one was begun. */
    List<Point> childrenOf(Point point) {
        return members.values().stream()
                .filter(other -> other.headedFor(point)
                        || parentOf(other).filter(point::equals).isPresent())
                .collect(Collectors.toList());
    }

    /**
     * A point that the images of this one certainly stand on: its parent or, if a rebase was begun that may be done or not, the new
     * parent of that rebase. Empty when this point stands alone, or when that is not known.
     */
    Optional<Point> baseOf(Point point) {
        String goal = point.lastGoal();
        if (Point.ALONE.equals(goal)) {
            return Optional.empty();
        }
        return goal != null && members.containsKey(goal) ? Optional.of(members.get(goal)) : parentOf(point);
    }

    /**
     * The point that a child of this one can certainly be put onto: the base of this point or the new parent of a rebase of the
     * child that was begun, whichever lies further down. Empty: none.
     */
    Optional<Point> lowerOf(Point point, Optional<Point> base, Point child) {
        String goal = child.lastGoal();
        if (base.isEmpty() || Point.ALONE.equals(goal)) {
            return Optional.empty();
        }
        boolean lower = goal != null
                && members.containsKey(goal)
                && distance(point, members.get(goal)) > distance(point, base.get());
        return lower ? Optional.of(members.get(goal)) : base;
    }

    /** Takes out a point that becomes a full one, with all points on it: they form a chain of their own. */
    Chain split(Point root) {
        Point full = root.onto(null);
        List<Point> leaving = new ArrayList<>(List.of(full));
        for (Point point : members()) {
            int above = distance(point, root);
            if (above > 0) {
                leaving.add(point.in(full.chainId()).at(above));
            }
        }
        leaving.forEach(this::remove);
        return new Chain(leaving, full.chainId());
    }

    /** How many points the point stands above the ancestor; 0: it does not stand on it. */
    private int distance(Point point, Point ancestor) {
        Optional<Point> below = parentOf(point);
        for (int i = 1; i <= members.size() && below.isPresent(); i++) {
            if (below.get().equals(ancestor)) {
                return i;
            }
            below = parentOf(below.get());
        }
        return 0;
    }

    /** The points that may stand on this one because they are newer and no record tells their parent. */
    List<Point> suspectsOf(Point point) {
        return members.values().stream()
                .filter(other -> other.parent() == null && !other.full())
                .filter(other -> parentOf(other).isEmpty())
                .filter(other -> BY_AGE.compare(other, point) > 0)
                .collect(Collectors.toList());
    }

    /** The points on this full one, or on none that is known: each before the one that it stands on, the newest first. */
    List<Point> aboveLeavesFirst(Point full) {
        List<Point> left = members.values().stream()
                .filter(point -> !point.full())
                .filter(point -> !root(point, full).full() || root(point, full).equals(full))
                .collect(Collectors.toList());
        List<Point> sorted = new ArrayList<>();
        while (!left.isEmpty()) {
            Set<Point> parents = left.stream()
                    .map(this::parentOf)
                    .flatMap(Optional::stream)
                    .collect(Collectors.toCollection(HashSet::new));
            Point next = left.stream()
                    .filter(point -> !parents.contains(point))
                    .max(BY_AGE)
                    .orElseThrow();
            left.remove(next);
            sorted.add(next);
        }
        return sorted;
    }

    private Point root(Point point, Point full) {
        Point root = point;
        for (int i = 0; i < members.size(); i++) {
            Optional<Point> parent = parentOf(root);
            if (parent.isEmpty()) {
                return root;
            }
            root = parent.get();
        }
        throw new RepairRefused(
                "the backups of chain " + full.chainId() + " are recorded as standing on each other in a circle");
    }

    /** Gives each point the position after its parent's; a point whose parent is not known keeps its own. */
    Map<Long, Integer> straighten() {
        Map<Long, Integer> changes = new LinkedHashMap<>();
        for (Point point : members()) {
            Integer position = depth(point, members.size());
            if (position != null && !position.equals(point.position())) {
                changes.put(point.id(), position);
            }
        }
        members.replaceAll(
                (uuid, point) -> changes.containsKey(point.id()) ? point.at(changes.get(point.id())) : point);
        return changes;
    }

    private Integer depth(Point point, int bound) {
        Optional<Point> parent = parentOf(point);
        if (parent.isEmpty() || bound == 0) {
            return point.position();
        }
        Integer above = depth(parent.get(), bound - 1);
        return above == null ? null : Integer.valueOf(above + 1);
    }
}
