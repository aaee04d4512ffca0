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

package org.nasbackup.cloudstack;

import org.nasbackup.Repository;

/** An image, or all images of a restore point, and the parent that they get. */
public final class RebaseOrder {
    private final Repository repository;
    private final String target;
    private final String newBacking;
    private final String going;
    private final boolean wholePoint;

    private RebaseOrder(Repository repository, String target, String newBacking, String going, boolean wholePoint) {
        this.repository = repository;
        this.target = target;
        this.newBacking = newBacking;
        this.going = going;
        this.wholePoint = wholePoint;
    }

    static RebaseOrder ofImage(Repository repository, String target, String newBacking) {
        return new RebaseOrder(repository, target, newBacking, null, false);
    }

    static RebaseOrder ofPoint(Repository repository, String target, String newBacking, String going) {
        return new RebaseOrder(repository, target, newBacking, going, true);
    }

    public Repository repository() {
        return repository;
    }

    /** {@code <instance>/<timestamp>} or a file in there. */
    public String target() {
        return target;
    }

    /** A point if the target is a point, else a file; null: the target becomes a full one. */
    public String newBacking() {
        return newBacking;
    }

    /** A point that is deleted next; null: none, as far as is known. */
    public String going() {
        return going;
    }

    /** Whether the target names a restore point, and not one file of it. */
    public boolean wholePoint() {
        return wholePoint;
    }
}
