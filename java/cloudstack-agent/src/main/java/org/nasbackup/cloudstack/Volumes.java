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

import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/** Knows of volumes what the management server does not say. Paths are those of {@code volumePaths}. */
public interface Volumes {
    /** The format of a volume, in QEMU's spelling. */
    String format(PrimaryDataStoreTO pool, String path);

    /** QEMU's name for a volume on RBD, with what Ceph asks of its users. */
    String rbd(PrimaryDataStoreTO pool, String path);
}
