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

import com.cloud.event.UsageEventUtils;
import com.cloud.vm.VirtualMachine;
import org.apache.cloudstack.backup.Backup;

/** Writes the events by which CloudStack bills. */
public final class UsageEvents {
    private static final String LAST_DELETED = "BACKUP.OFFERING.BACKUPS.DEL";

    private UsageEvents() {}

    /** Ends the billing of an offering that the machine has left and of which the last backup is gone. */
    public static void lastDeleted(VirtualMachine vm, long offeringId) {
        UsageEventUtils.publishUsageEvent(
                LAST_DELETED,
                vm.getAccountId(),
                vm.getDataCenterId(),
                vm.getId(),
                "Backup-" + vm.getHostName() + "-" + vm.getUuid(),
                offeringId,
                null,
                null,
                Backup.class.getSimpleName(),
                vm.getUuid());
    }
}
