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

import com.cloud.hypervisor.kvm.storage.KVMPhysicalDisk;
import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import java.util.Locale;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/** Asks the agent's storage pools. */
public final class PoolVolumes implements Volumes {
    private static final String DRBD_PREFIX = "/dev/drbd/by-res/cs-";
    private static final String DRBD_SUFFIX = "/0";

    private final KVMStoragePoolManager pools;

    public PoolVolumes(KVMStoragePoolManager pools) {
        this.pools = pools;
    }

    @Override
    public String format(PrimaryDataStoreTO to, String path) {
        KVMPhysicalDisk disk = pool(to).getPhysicalDisk(volumeOf(path));
        if (disk == null) {
            throw new IllegalArgumentException("INVALID_ARGUMENT: look for volume '" + volumeOf(path) + "' of pool "
                    + to.getUuid() + ": this host does not have it");
        }
        return disk.getFormat().name().toLowerCase(Locale.ROOT);
    }

    @Override
    public String rbd(PrimaryDataStoreTO to, String path) {
        return KVMPhysicalDisk.RBDStringBuilder(pool(to), path);
    }

    private KVMStoragePool pool(PrimaryDataStoreTO to) {
        return pools.getStoragePool(to.getPoolType(), to.getUuid());
    }

    /** The volume's path as the pool knows it: without what the management server put around it. */
    static String volumeOf(String path) {
        if (path.startsWith(DRBD_PREFIX) && path.endsWith(DRBD_SUFFIX)) {
            return path.substring(DRBD_PREFIX.length(), path.length() - DRBD_SUFFIX.length());
        }
        return path.substring(path.lastIndexOf('/') + 1);
    }
}
