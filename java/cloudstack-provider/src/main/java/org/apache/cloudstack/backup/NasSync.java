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

import com.cloud.vm.VirtualMachine;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.nasbackup.provider.cloudstack.DaoCatalogue;

/** What a server does every few minutes, for one zone. */
final class NasSync {
    private final NasBackups backups;
    private final NasServer server;
    private final Set<Long> unheard;
    private final NasMerge merge;

    /** @param unheard hosts that did not answer: another command to one of them would wait as long */
    NasSync(NasBackups backups, Set<Long> unheard) {
        this.unheard = unheard;
        this.merge = backups.oneMerge();
        this.backups = backups;
        this.server = backups.server();
    }

    /** Removes hidden backups. CloudStack's own provider removes them only when the last backup on them is deleted. */
    void removeHidden(long zoneId) {
        if (!DaoCatalogue.knowsHidden()) {
            return;
        }
        Map<Long, List<Backup>> hidden = new LinkedHashMap<>();
        for (Long vmId : backups.catalogue().machinesWithHidden(zoneId)) {
            hidden.put(vmId, backups.catalogue().hidden(vmId));
        }
        hidden.entrySet().stream()
                .filter(machine -> !machine.getValue().isEmpty())
                .sorted(Comparator.comparing(
                        machine -> Collections.max(machine.getValue(), merge.order()), merge.order()))
                .forEach(machine -> removeHidden(machine.getKey(), machine.getValue()));
    }

    private void removeHidden(long vmId, List<Backup> hidden) {
        backups.ifFree(vmId, () -> {
            new NasDeletion(backups).removeHidden(vmId, unheard, merge);
            endUsage(vmId, hidden);
        });
    }

    /** Ends the billing. CloudStack does so only when an owner deletes the last backup of an offering that the machine has left. */
    private void endUsage(long vmId, List<Backup> hidden) {
        VirtualMachine vm = server.vmInstanceDao.findByIdIncludingRemoved(vmId);
        if (vm == null) {
            return;
        }
        hidden.stream()
                .map(Backup::getBackupOfferingId)
                .distinct()
                .filter(offering -> !offering.equals(vm.getBackupOfferingId()))
                .filter(offering -> server.backupDao
                        .listByVmIdAndOffering(vm.getDataCenterId(), vmId, offering)
                        .isEmpty())
                .forEach(offering -> endUsage(vm, offering));
    }

    /** Never throws: the backups are gone. */
    private void endUsage(VirtualMachine vm, long offering) {
        try {
            server.endUsage(vm, offering);
        } catch (RuntimeException | LinkageError e) {
            backups.logger()
                    .error(
                            "Unable to tell CloudStack to end the billing of {} under offering {}: {}",
                            vm.getInstanceName(),
                            offering,
                            e.toString());
        }
    }
}
