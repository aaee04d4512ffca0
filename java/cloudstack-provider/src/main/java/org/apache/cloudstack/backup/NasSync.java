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

import org.nasbackup.provider.cloudstack.DaoCatalogue;

/** What a server does every few minutes, for one zone. */
final class NasSync {
    private final NasBackups backups;
    private final NASBackupProvider server;
    /** A merge can take long, and the server's task has other zones to see to: one each time. */
    private boolean merging = true;

    NasSync(NasBackups backups) {
        this.backups = backups;
        this.server = backups.server();
    }

    /** CloudStack's own provider sweeps the backups that it hides when the last one on them is deleted, and at no other time. */
    void removeHidden(long zoneId) {
        if (!DaoCatalogue.knowsHidden()) {
            return;
        }
        for (Long vmId : server.backupDao.listVmIdsWithBackupsInZone(zoneId)) {
            if (!backups.catalogue().hidden(vmId).isEmpty()) {
                backups.ifFree(vmId, () -> merging = new NasDeletion(backups).removeHidden(vmId, merging));
            }
        }
    }
}
