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

import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import java.util.Locale;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/** Asks the agent's storage pools. */
public final class PoolDiskFormats implements DiskFormats {
    private static final String DRBD_PREFIX = "/dev/drbd/by-res/cs-";
    private static final String DRBD_SUFFIX = "/0";

    private final KVMStoragePoolManager pools;

    public PoolDiskFormats(KVMStoragePoolManager pools) {
        this.pools = pools;
    }

    @Override
    public String of(PrimaryDataStoreTO to, String path) {
        KVMStoragePool pool = pools.getStoragePool(to.getPoolType(), to.getUuid());
        return pool.getPhysicalDisk(volumeOf(path)).getFormat().name().toLowerCase(Locale.ROOT);
    }

    /** The volume's path as the pool knows it: without what the management server put around it. */
    static String volumeOf(String path) {
        if (path.startsWith(DRBD_PREFIX) && path.endsWith(DRBD_SUFFIX)) {
            return path.substring(DRBD_PREFIX.length(), path.length() - DRBD_SUFFIX.length());
        }
        return path.substring(path.lastIndexOf('/') + 1);
    }
}
