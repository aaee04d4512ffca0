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

import java.util.List;
import java.util.Map;

/** The records of the restore points. Each change is one transaction. */
public interface Catalogue {
    /** The points of a virtual machine that are not removed, whatever became of them. */
    List<Point> points(long vmId);

    /**
     * The images of a point stand on another one now.
     *
     * @param size the point's new size in bytes; null: not told
     * @param positions what other points' positions become, by their ids
     */
    void rebased(Point point, Point newParent, Long size, Map<Long, Integer> positions);

    /**
     * A point is gone.
     *
     * @param counted take it off the owner's count and bytes
     * @param positions what other points' positions become, by their ids
     */
    void deleted(Point point, boolean counted, Map<Long, Integer> positions);
}
