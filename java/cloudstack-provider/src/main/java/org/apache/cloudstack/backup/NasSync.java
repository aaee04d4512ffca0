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

import com.cloud.utils.exception.CloudRuntimeException;
import org.apache.logging.log4j.Logger;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.RepairFailed;
import org.nasbackup.provider.RepairRefused;
import org.nasbackup.provider.cloudstack.DaoCatalogue;

/** What a server does every few minutes, for one zone. */
final class NasSync {
    private final NasBackups backups;
    private final NASBackupProvider server;
    private final Logger logger;
    /** A merge can take long, and the server's task has other zones to see to: one each time. */
    private boolean merging = true;

    NasSync(NasBackups backups) {
        this.backups = backups;
        this.server = backups.server();
        this.logger = backups.logger();
    }

    /** CloudStack's own provider sweeps the backups that it hides when the last one on them is deleted, and at no other time. */
    void removeHidden(long zoneId) {
        if (!DaoCatalogue.knowsHidden()) {
            return;
        }
        for (Long vmId : server.backupDao.listVmIdsWithBackupsInZone(zoneId)) {
            if (!backups.catalogue().hidden(vmId).isEmpty()) {
                backups.ifFree(vmId, () -> removeHiddenOf(vmId));
            }
        }
    }

    private void removeHiddenOf(long vmId) {
        NasDeletion deletion = new NasDeletion(backups);
        for (Backup hidden : backups.catalogue().hidden(vmId)) {
            try {
                merging &= !deletion.removeHidden(hidden, merging);
            } catch (RepairRefused e) {
                logger.debug("Hidden backup {} stays: {}", hidden.getUuid(), e.getMessage());
            } catch (RepairFailed | CloudRuntimeException e) {
                logger.warn(
                        "Hidden backup {}, {}, was not removed, and is tried again: {}",
                        hidden.getUuid(),
                        hidden.getExternalId(),
                        e.getMessage());
                if (unknown(e.getCause())) {
                    // Its host may be at it still: whatever else there is can wait as well.
                    merging = false;
                    return;
                }
            }
        }
    }

    private static boolean unknown(Throwable cause) {
        return cause instanceof AgentFailure && ((AgentFailure) cause).kind() == AgentFailure.Kind.UNKNOWN;
    }
}
