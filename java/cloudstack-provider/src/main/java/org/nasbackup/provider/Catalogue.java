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

/** The records of the restore points. Each change is one transaction. */
public interface Catalogue {
    /** The points of a virtual machine that are, or may be, on the NAS, failed ones too. */
    List<Point> points(long vmId);

    /** Records that a rebase is about to be asked of a host. */
    void begun(Step rebase);

    /** Records that the images of a point stand on another point now, or alone. */
    void rebased(Step rebase, Rebased told);

    /** Records that a point is gone, and takes it off the owner's count and bytes. */
    void deleted(Step delete);
}
