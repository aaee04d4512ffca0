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

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** One command to a host, and what is recorded in one transaction once the command is done. */
public final class Step {
    /** What the host does. */
    public enum Kind {
        /** Puts all images of the point onto the new parent, or makes them full ones. */
        REBASE,
        /** Removes the point. */
        DELETE
    }

    private final Kind kind;
    private final Point point;
    private final Point newParent;
    private final Point going;
    private final Map<Long, Integer> positions;
    private final Map<Long, String> chains;

    private Step(
            Kind kind,
            Point point,
            Point newParent,
            Point going,
            Map<Long, Integer> positions,
            Map<Long, String> chains) {
        this.kind = kind;
        this.point = point;
        this.newParent = newParent;
        this.going = going;
        this.positions = Collections.unmodifiableMap(new LinkedHashMap<>(positions));
        this.chains = Collections.unmodifiableMap(new LinkedHashMap<>(chains));
    }

    static Step rebase(Point point, Point newParent, Point going, Map<Long, Integer> positions) {
        return new Step(Kind.REBASE, point, newParent, going, positions, Map.of());
    }

    /** @param chain the chain that the point begins: itself and the points on it */
    static Step makeFull(Point point, Point going, Chain chain) {
        Map<Long, Integer> positions = new LinkedHashMap<>();
        Map<Long, String> chains = new LinkedHashMap<>();
        for (Point member : chain.members()) {
            positions.put(member.id(), member.position());
            chains.put(member.id(), member.chainId());
        }
        return new Step(Kind.REBASE, point, null, going, positions, chains);
    }

    static Step delete(Point point, Map<Long, Integer> positions) {
        return new Step(Kind.DELETE, point, null, point, positions, Map.of());
    }

    public Kind kind() {
        return kind;
    }

    public Point point() {
        return point;
    }

    /** The new parent of a rebase; null: the point becomes a full one. */
    public Point newParent() {
        return newParent;
    }

    /** The point that a later step deletes, or this one. */
    public Point going() {
        return going;
    }

    /** The positions that are recorded with the step, by the points' ids. */
    public Map<Long, Integer> positions() {
        return positions;
    }

    /** The ids of chains that are recorded with the step, by the points' ids. */
    public Map<Long, String> chains() {
        return chains;
    }

    @Override
    public String toString() {
        if (kind == Kind.DELETE) {
            return "delete " + point;
        }
        return newParent == null ? "make " + point + " a full backup" : "rebase " + point + " onto " + newParent;
    }
}
