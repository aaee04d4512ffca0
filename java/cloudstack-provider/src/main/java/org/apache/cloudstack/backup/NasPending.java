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

import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.logging.log4j.Logger;

/** Deletions that were told to the manager as done, because its schedule's job must not fail for them. */
final class NasPending {
    private final NasBackups backups;
    private final Logger logger;
    private final NasMerge merge;
    /** Hosts that did not answer: another command to one of them would wait as long. */
    private final Set<Long> unheard;
    /** Machines whose host did not answer, and may work on them still. */
    private final Set<Long> unknown = new HashSet<>();

    NasPending(NasBackups backups, Set<Long> unheard) {
        this.unheard = unheard;
        this.merge = backups.oneMerge();
        this.backups = backups;
        this.logger = backups.logger();
    }

    void finish(long zoneId) {
        List<Backup> pending = backups.catalogue().pendingDeletions(zoneId);
        pending.sort(merge.order());
        for (Backup backup : pending) {
            if (!unknown.contains(backup.getVmId()) && !isLost(backup)) {
                finish(backup);
            }
        }
    }

    private void finish(Backup backup) {
        try {
            backups.ifFree(backup.getVmId(), () -> {
                if (!backups.catalogue().pends(backup)) {
                    logger.info("Backup {}, {}, was deleted by others", backup.getUuid(), backup.getExternalId());
                    return;
                }
                if (new NasDeletion(backups).finish(backup, unheard, merge)) {
                    logger.info("Backup {}, {}, is deleted now", backup.getUuid(), backup.getExternalId());
                }
            });
        } catch (RuntimeException e) {
            if (NasDeletion.unknown(e.getCause())) {
                unknown.add(backup.getVmId());
            }
            logger.warn(
                    "Backup {}, {}, is not deleted yet, and is tried again: {}",
                    backup.getUuid(),
                    backup.getExternalId(),
                    e.getMessage());
        }
    }

    /** Whether the repository is gone: CloudStack lets an operator remove one in which it sees no backups any more. */
    private boolean isLost(Backup backup) {
        if (backups.server().backupRepositoryDao.findByBackupOfferingId(backup.getBackupOfferingId()) != null) {
            return false;
        }
        logger.error(
                "Folder {} of backup {} stays on its NAS: the backup repository was removed before",
                backup.getExternalId(),
                backup.getUuid());
        backups.catalogue().forgetDeletion(backup);
        return true;
    }
}
