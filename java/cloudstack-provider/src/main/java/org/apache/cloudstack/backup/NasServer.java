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

package org.apache.cloudstack.backup;

import com.cloud.agent.AgentManager;
import com.cloud.host.dao.HostDao;
import com.cloud.resource.ResourceManager;
import com.cloud.storage.dao.DiskOfferingDao;
import com.cloud.storage.dao.VMTemplateDao;
import com.cloud.storage.dao.VMTemplatePoolDao;
import com.cloud.storage.dao.VolumeDao;
import com.cloud.user.ResourceLimitService;
import com.cloud.utils.component.AdapterBase;
import com.cloud.vm.VirtualMachine;
import com.cloud.vm.dao.VMInstanceDao;
import com.cloud.vm.dao.VMInstanceDetailsDao;
import com.cloud.vm.snapshot.dao.VMSnapshotDao;
import com.cloud.vm.snapshot.dao.VMSnapshotDetailsDao;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import javax.inject.Inject;
import org.apache.cloudstack.backup.dao.BackupDao;
import org.apache.cloudstack.backup.dao.BackupDetailsDao;
import org.apache.cloudstack.backup.dao.BackupOfferingDao;
import org.apache.cloudstack.backup.dao.BackupRepositoryDao;
import org.apache.cloudstack.backup.dao.BackupScheduleDao;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStoreManager;
import org.apache.cloudstack.resourcedetail.dao.UserDetailsDao;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.SnapshotDataStoreDao;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.Restorers;
import org.nasbackup.provider.cloudstack.UsageEvents;

/** The parts of CloudStack that the provider uses, its settings, and what it remembers between calls. */
abstract class NasServer extends AdapterBase {
    @Inject
    BackupDao backupDao;

    @Inject
    BackupDetailsDao backupDetailsDao;

    @Inject
    BackupOfferingDao backupOfferingDao;

    @Inject
    BackupRepositoryDao backupRepositoryDao;

    @Inject
    BackupScheduleDao backupScheduleDao;

    @Inject
    BackupManager backupManager;

    @Inject
    VMInstanceDao vmInstanceDao;

    @Inject
    VMInstanceDetailsDao vmInstanceDetailsDao;

    @Inject
    VMSnapshotDao vmSnapshotDao;

    @Inject
    VMSnapshotDetailsDao vmSnapshotDetailsDao;

    @Inject
    VolumeDao volumeDao;

    @Inject
    DiskOfferingDao diskOfferingDao;

    @Inject
    PrimaryDataStoreDao primaryDataStoreDao;

    @Inject
    VMTemplateDao vmTemplateDao;

    @Inject
    VMTemplatePoolDao vmTemplatePoolDao;

    @Inject
    SnapshotDataStoreDao snapshotDataStoreDao;

    @Inject
    DataStoreManager dataStoreManager;

    @Inject
    HostDao hostDao;

    @Inject
    ResourceManager resourceManager;

    @Inject
    ResourceLimitService resourceLimitService;

    @Inject
    AgentManager agentManager;

    @Inject
    UserDetailsDao userDetailsDao;

    /** The reasons, logged last, why backups in a zone are full ones. */
    final LastSaid obstacles = new LastSaid();
    /** What each host said last about whether it restores with our wrapper. */
    final Restorers.Memory restorers = new Restorers.Memory();
    /** When the merge of each backup that is to be deleted was begun last. */
    final Map<Long, Long> mergesBegun = new ConcurrentHashMap<>();
    /** The number of slots that was logged as too many. */
    private final LastSaid tooManySlots = new LastSaid();

    Policy policy(long zoneId) {
        return new Policy(
                Boolean.TRUE.equals(NasBackupKeys.INCREMENTAL_ENABLED.valueIn(zoneId)),
                NasBackupKeys.FULL_EVERY.valueIn(zoneId));
    }

    void addEvent(ActionEvents.Type type, boolean good, String text, long accountId, long vmId) {
        ActionEvents.add(type, good, text, accountId, vmId);
    }

    void endUsage(VirtualMachine vm, long offeringId) {
        UsageEvents.lastDeleted(vm, offeringId);
    }

    /** Whether the backups on a full one that is deleted take over what they need of it. */
    boolean mergesFull(long zoneId) {
        return "merge".equals(NasBackupKeys.DELETE_FULL.valueIn(zoneId));
    }

    int waitSeconds(long zoneId) {
        return NasBackupKeys.WAIT.valueIn(zoneId);
    }

    int slotsPerHost(long zoneId) {
        return bounded(zoneId, NasBackupKeys.PARALLEL_PER_HOST.valueIn(zoneId));
    }

    int bounded(long zoneId, int slots) {
        boolean tooMany = slots > NasBackupKeys.MOST_PER_HOST;
        if (tooManySlots.changed(zoneId, tooMany ? String.valueOf(slots) : null) && tooMany) {
            logger.warn(
                    "nas.backup.parallel.per.host of zone {} is {}, and is taken for {}: an agent of five threads would be deaf",
                    zoneId,
                    slots,
                    NasBackupKeys.MOST_PER_HOST);
        }
        return Math.min(slots, NasBackupKeys.MOST_PER_HOST);
    }

    int queueWaitSeconds(long zoneId) {
        return NasBackupKeys.QUEUE_WAIT.valueIn(zoneId);
    }

    int mountTimeout() {
        return NasBackupKeys.RESTORE_MOUNT_TIMEOUT.value();
    }

    /** Whether the manager leaves all accounting to the provider. If not, it takes a deleted backup off the owner's count itself. */
    boolean handlesAllAccounting() {
        for (java.lang.reflect.Method method : BackupProvider.class.getMethods()) {
            if (method.getName().equals("handlesChainDeleteResourceAccounting")) {
                return true;
            }
        }
        return false;
    }
}
