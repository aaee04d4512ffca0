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

import com.cloud.utils.exception.CloudRuntimeException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.Backup;
import org.apache.cloudstack.backup.BackupOffering;
import org.apache.cloudstack.backup.dao.BackupOfferingDao;

/**
 * Tells which provider a backup belongs to, by its offering, even a removed one. A machine can have backups of several providers,
 * and a manager asks the provider of the zone to delete the backups of all of them.
 */
public final class Ownership {
    private final BackupOfferingDao offerings;
    private final String provider;

    public Ownership(BackupOfferingDao offerings, String provider) {
        this.offerings = offerings;
        this.provider = provider;
    }

    /** The backups of this provider. A backup without an offering, such as an export, is not this provider's. */
    public List<Backup> ours(List<Backup> backups) {
        Map<Long, Boolean> known = new HashMap<>();
        return backups.stream()
                .filter(backup -> known.computeIfAbsent(
                        backup.getBackupOfferingId(), id -> isOurs(offerings.findByIdIncludingRemoved(id))))
                .collect(Collectors.toList());
    }

    private boolean isOurs(BackupOffering offering) {
        return offering != null && provider.equalsIgnoreCase(offering.getProvider());
    }

    /** @throws CloudRuntimeException that names the backup's provider, if it is another one */
    public void check(Backup backup) {
        BackupOffering offering = offerings.findByIdIncludingRemoved(backup.getBackupOfferingId());
        if (offering == null) {
            throw new CloudRuntimeException("backup " + backup.getUuid() + " is not known to be one of provider "
                    + provider + ": there is no backup offering " + backup.getBackupOfferingId());
        }
        if (!isOurs(offering)) {
            throw new CloudRuntimeException("backup " + backup.getUuid() + " is one of provider "
                    + offering.getProvider() + ", and provider " + provider
                    + " leaves it alone; ask again when backup.framework.provider.plugin of the zone is "
                    + offering.getProvider());
        }
    }
}
