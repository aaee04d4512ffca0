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

import com.cloud.host.Host;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import java.util.List;
import java.util.Optional;
import java.util.function.Predicate;
import org.apache.logging.log4j.Logger;
import org.nasbackup.provider.ChainRepair;
import org.nasbackup.provider.Outcome;
import org.nasbackup.provider.Point;
import org.nasbackup.provider.RepairExecutor;
import org.nasbackup.provider.RepairFailed;
import org.nasbackup.provider.RepairRefused;
import org.nasbackup.provider.Step;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.AgentRepository;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.cloudstack.TypedAgent;

/** Deletes a backup, and repairs its chain before. */
final class NasDeletion {
    private final NasBackups backups;
    private final NASBackupProvider server;
    private final Logger logger;

    NasDeletion(NasBackups backups) {
        this.backups = backups;
        this.server = backups.server();
        this.logger = backups.logger();
    }

    boolean delete(Backup backup, boolean forced) {
        backups.ownership().check(backup);
        AgentRepository remote = remote(backup);
        return backups.locked(backup.getVmId(), () -> {
            try {
                return delete(backup, forced, remote);
            } catch (RepairRefused | RepairFailed e) {
                logger.warn("Backup {} was not deleted: {}", backup.getUuid(), e.getMessage());
                throw new CloudRuntimeException(e.getMessage(), e);
            }
        });
    }

    private AgentRepository remote(Backup backup) {
        BackupRepository repository = backups.repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        VirtualMachine vm = server.vmInstanceDao.findByIdIncludingRemoved(backup.getVmId());
        Host host = backups.hosts().forRepository(vm, backup.getZoneId());
        return new AgentRepository(
                new TypedAgent(server.agentManager, host), repository, server.waitSeconds(backup.getZoneId()));
    }

    private boolean delete(Backup backup, boolean forced, AgentRepository remote) {
        DaoCatalogue catalogue = backups.catalogue();
        List<Point> points = catalogue.points(backup.getVmId());
        Point target = points.stream()
                .filter(point -> point.id() == backup.getId())
                .findFirst()
                .orElse(null);
        if (target == null) {
            return true;
        }
        Predicate<Point> counted = point -> server.handlesAllAccounting() || point.id() != backup.getId();
        List<Step> steps = ChainRepair.computeChainRepair(points, target, forced);
        new RepairExecutor(catalogue, remote, counted).execute(steps);
        if (!server.handlesAllAccounting()) {
            catalogue.settle(backup);
        }
        String text = Outcome.deleted(target.path(), steps);
        backups.tell(ActionEvents.Type.DELETE, true, text, backup.getAccountId(), backup.getVmId());
        return true;
    }

    /**
     * Its owner has deleted it; CloudStack's own provider kept it for those that stood on it. Under the machine's lock.
     *
     * @param merging may those that still do take over what they need of it?
     * @return whether they did
     */
    boolean removeHidden(Backup hidden, boolean merging) {
        DaoCatalogue catalogue = backups.catalogue();
        List<Point> points = catalogue.points(hidden.getVmId());
        Optional<Point> target =
                points.stream().filter(point -> point.id() == hidden.getId()).findFirst();
        List<Step> steps = target.map(point -> ChainRepair.computeChainRepair(points, point, false))
                .orElse(List.of());
        boolean merges = steps.stream().anyMatch(step -> step.kind() == Step.Kind.REBASE);
        if (steps.isEmpty() || merges && !merging) {
            return false;
        }
        new RepairExecutor(catalogue, remote(hidden), point -> true).execute(steps);
        logger.info("Removed hidden backup {}, {}", hidden.getUuid(), hidden.getExternalId());
        return merges;
    }
}
