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

package org.nasbackup.provider.cloudstack;

import com.cloud.host.Host;
import com.cloud.storage.DataStoreRole;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.exception.CloudRuntimeException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStore;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStoreManager;
import org.apache.cloudstack.engine.subsystem.api.storage.PrimaryDataStore;
import org.apache.cloudstack.engine.subsystem.api.storage.PrimaryDataStoreDriver;
import org.apache.cloudstack.engine.subsystem.api.storage.VolumeInfo;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.apache.logging.log4j.Logger;
import org.nasbackup.cloudstack.OneLine;

/**
 * Volumes in storage that shows a volume only to hosts that were granted access. CloudStack grants it when a machine starts, and
 * takes it back when the machine stops.
 */
public final class VolumeAccess {
    private static final Set<String> TYPES = Set.of("FiberChannel", "PowerFlex");

    private final Host host;
    private final Logger logger;
    private final List<Volume> granted = new ArrayList<>();

    private VolumeAccess(Host host, Logger logger) {
        this.host = host;
        this.logger = logger;
    }

    /** A volume as its storage knows it. */
    private static final class Volume {
        private final VolumeVO row;
        private final VolumeInfo info;
        private final DataStore store;
        private final PrimaryDataStoreDriver driver;

        Volume(VolumeVO row, PrimaryDataStore store) {
            this.row = row;
            this.info = store.getVolume(row.getId());
            this.store = store;
            this.driver = (PrimaryDataStoreDriver) store.getDriver();
        }
    }

    /**
     * Grants the host access to the volumes in such storage, which may then record them anew.
     *
     * @throws CloudRuntimeException if access to one can't be granted; then none is
     */
    public static VolumeAccess grant(
            List<VolumeVO> volumes, Host host, PrimaryDataStoreDao pools, DataStoreManager stores, Logger logger) {
        VolumeAccess access = new VolumeAccess(host, logger);
        for (VolumeVO row : volumes) {
            StoragePoolVO pool = pools.findById(row.getPoolId());
            if (TYPES.contains(pool.getPoolType().name())) {
                access.grant(
                        new Volume(row, (PrimaryDataStore) stores.getDataStore(pool.getId(), DataStoreRole.Primary)));
            }
        }
        return access;
    }

    private void grant(Volume volume) {
        // a grant that fails may have been made: CloudStack takes such a grant back too
        granted.add(volume);
        try {
            if (!volume.driver.grantAccess(volume.info, host, volume.store)) {
                throw new CloudRuntimeException("its storage refused");
            }
        } catch (RuntimeException e) {
            revoke();
            throw new CloudRuntimeException(
                    "volume " + volume.row.getUuid() + " was not shown to host " + OneLine.of(host.getName()) + ": "
                            + OneLine.of(String.valueOf(e.getMessage())),
                    e);
        }
    }

    /** Whether access to any volume was granted. */
    public boolean any() {
        return !granted.isEmpty();
    }

    /** Takes back what was granted. */
    public void revoke() {
        for (Volume volume : granted) {
            try {
                volume.driver.revokeAccess(volume.info, host, volume.store);
            } catch (RuntimeException e) {
                logger.warn(
                        "Volume {} stays visible to host {}: {}",
                        volume.row.getUuid(),
                        OneLine.of(host.getName()),
                        OneLine.of(e.toString()));
            }
        }
    }

    /** Leaves the access to a host that may still use the volumes. */
    public void leave(String why) {
        granted.forEach(volume -> logger.warn(
                "Volume {} stays visible to host {}: {}", volume.row.getUuid(), OneLine.of(host.getName()), why));
    }
}
