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
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.apache.logging.log4j.Logger;
import org.nasbackup.provider.AgentFailure;
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
import org.nasbackup.provider.cloudstack.HostSlots;
import org.nasbackup.provider.cloudstack.TypedAgent;

/** Deletes a backup, after it has repaired the chain. */
final class NasDeletion {
    private final NasBackups backups;
    private final NasServer server;
    private final Logger logger;

    NasDeletion(NasBackups backups) {
        this.backups = backups;
        this.server = backups.server();
        this.logger = backups.logger();
    }

    /** @return true, also for a backup that a schedule no longer keeps and that can't be deleted now: it is deleted later */
    boolean delete(Backup backup, boolean forced) {
        backups.ownership().check(backup);
        boolean surplus = false;
        try {
            surplus = !forced && isSurplus(backup);
            ChainRepair.Others others = others(backup, forced, surplus);
            // A deletion that is refused need not wait for a host.
            backups.ifFree(backup.getVmId(), () -> steps(backup, others));
            Host host = hostsFor(backup).get(0);
            backups.onHost(host, backup.getVmId(), "delete backup " + backup.getUuid(), () -> {
                carryOut(backup, steps(backup, others), host);
                removeHiddenToo(backup.getVmId(), host);
                return null;
            });
        } catch (RuntimeException e) {
            // Whether it is surplus could perhaps not be told before, and can be told now.
            failed(backup, surplus || !forced && isSurplus(backup), e);
        }
        if (!server.handlesAllAccounting()) {
            backups.catalogue().countForManager(backup);
        }
        return true;
    }

    /** Whether this is the oldest backup of a schedule that has more backups than it keeps, whoever asks. */
    private boolean isSurplus(Backup backup) {
        Long id = backup.getBackupScheduleId();
        BackupSchedule schedule = id == null ? null : server.backupScheduleDao.findById(id);
        if (schedule == null || schedule.getMaxBackups() <= 0) {
            return false;
        }
        List<BackupVO> kept = server.backupDao.listBySchedule(id);
        return kept.size() > schedule.getMaxBackups()
                && kept.stream().anyMatch(each -> each.getId() == backup.getId())
                && kept.stream().noneMatch(each -> each.getDate().before(backup.getDate()));
    }

    private ChainRepair.Others others(Backup backup, boolean forced, boolean surplus) {
        if (forced) {
            return ChainRepair.Others.DELETED;
        }
        return surplus || server.mergesFull(backup.getZoneId()) || DaoCatalogue.deletedBefore(backup)
                ? ChainRepair.Others.MERGED
                : ChainRepair.Others.REFUSED;
    }

    /** Records a failure. The schedule has taken its backup: its job must not fail because another backup was not deleted. */
    private void failed(Backup backup, boolean surplus, RuntimeException failure) {
        if (surplus) {
            logger.warn(
                    "Backup {} is more than its schedule keeps, and is not deleted yet: {}. It is tried again every few"
                            + " minutes",
                    backup.getUuid(),
                    failure.getMessage());
            backups.catalogue().promiseDeletion(backup.getId());
            String text = Outcome.notDeleted(backup.getExternalId(), failure.getMessage() + "; it is tried again");
            backups.tell(ActionEvents.Type.DELETE, false, text, backup.getAccountId(), backup.getVmId());
            return;
        }
        logger.warn("Backup {} was not deleted: {}", backup.getUuid(), failure.getMessage());
        if (failure instanceof RepairRefused || failure instanceof RepairFailed) {
            throw new CloudRuntimeException(failure.getMessage(), failure);
        }
        throw failure;
    }

    /**
     * Does a deletion that was told to the manager as done. The caller has the machine's lock.
     *
     * @param unheard hosts that did not answer, and are not asked again
     * @return whether it was done; it waits for the next round if another backup has merged in this one
     */
    boolean finish(Backup promised, Set<Long> unheard, NasMerge merge) {
        List<Step> steps = steps(promised, ChainRepair.Others.MERGED);
        if (merges(steps) && !merge.begin(promised)) {
            return false;
        }
        onAnyHostNow(promised, "delete backup " + promised.getUuid(), unheard, host -> {
            try {
                carryOut(promised, steps, host);
                return null;
            } catch (RepairFailed e) {
                if (unknown(e.getCause())) {
                    unheard.add(host.getId());
                }
                throw e;
            }
        });
        server.mergesBegun.remove(promised.getId());
        return true;
    }

    /** Does the work on the first host that has a slot now: every host reaches the NAS. */
    private <T> T onAnyHostNow(Backup backup, String name, Set<Long> unheard, Function<Host, T> work) {
        List<Host> hosts = hostsFor(backup).stream()
                .filter(host -> !unheard.contains(host.getId()))
                .collect(Collectors.toList());
        CloudRuntimeException none = new CloudRuntimeException("no KVM host of the zone that is up answers");
        for (Host host : hosts) {
            try {
                return backups.onHostNow(host, name, () -> work.apply(host));
            } catch (HostSlots.NoTurn e) {
                none = e;
            }
        }
        throw none;
    }

    private static boolean merges(List<Step> steps) {
        return steps.stream().anyMatch(step -> step.kind() == Step.Kind.REBASE);
    }

    /** @param steps empty: the backup was gone already */
    private void carryOut(Backup backup, List<Step> steps, Host host) {
        if (steps.isEmpty()) {
            return;
        }
        new RepairExecutor(backups.catalogue(), remote(backup, host)).execute(steps);
        String text = Outcome.deleted(backup.getExternalId(), steps);
        backups.tell(ActionEvents.Type.DELETE, true, text, backup.getAccountId(), backup.getVmId());
    }

    /** The steps of the deletion; none when the backup is gone. */
    private List<Step> steps(Backup backup, ChainRepair.Others others) {
        List<Point> points = backups.catalogue().points(backup.getVmId());
        return points.stream()
                .filter(point -> point.id() == backup.getId())
                .findFirst()
                .map(target -> ChainRepair.computeChainRepair(points, target, others))
                .orElse(List.of());
    }

    private List<Host> hostsFor(Backup backup) {
        VirtualMachine vm = server.vmInstanceDao.findByIdIncludingRemoved(backup.getVmId());
        return backups.hosts().forRepository(vm, backup.getZoneId());
    }

    private AgentRepository remote(Backup backup, Host host) {
        BackupRepository repository = backups.repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        return new AgentRepository(
                new TypedAgent(server.agentManager, host), repository, server.waitSeconds(backup.getZoneId()));
    }

    /**
     * Removes the backups that owners have deleted and that CloudStack's own provider kept for backups on them, the newest first.
     * The caller has the machine's lock. Never throws: a backup that can't be removed now is removed later.
     *
     * @param unheard hosts that did not answer, and are not asked again
     */
    void removeHidden(long vmId, Set<Long> unheard, NasMerge merge) {
        List<Backup> hidden = backups.catalogue().hidden(vmId);
        if (hidden.isEmpty()) {
            return;
        }
        hidden.sort(merge.order());
        try {
            onAnyHostNow(
                    hidden.get(0),
                    "remove hidden backup " + hidden.get(0).getUuid() + " and others of its machine",
                    unheard,
                    host -> {
                        removeHidden(hidden, host, unheard, merge::begin);
                        return null;
                    });
        } catch (CloudRuntimeException e) {
            logger.info("Unable to remove the hidden backups of virtual machine {} now: {}", vmId, e.getMessage());
        }
    }

    /** Runs before the manager looks for backups that the offering has left. Never throws: what the manager asked for is done. */
    private void removeHiddenToo(long vmId, Host host) {
        if (!DaoCatalogue.knowsHidden()) {
            return;
        }
        try {
            removeHidden(backups.catalogue().hidden(vmId), host, new HashSet<>(), backup -> false);
        } catch (RuntimeException e) {
            logger.warn("Unable to remove the hidden backups of virtual machine {} now: {}", vmId, e.getMessage());
        }
    }

    /**
     * The caller holds a slot of the host.
     *
     * @param mayMerge whether backups that still stand on this one may take over what they need of it
     */
    private void removeHidden(List<Backup> all, Host host, Set<Long> unheard, Predicate<Backup> mayMerge) {
        for (Backup hidden : all) {
            try {
                removeHidden(hidden, host, mayMerge);
            } catch (RepairRefused e) {
                logger.debug("Hidden backup {} stays: {}", hidden.getUuid(), e.getMessage());
            } catch (RuntimeException e) {
                logger.warn(
                        "Hidden backup {}, {}, was not removed, and is tried again: {}",
                        hidden.getUuid(),
                        hidden.getExternalId(),
                        e.getMessage());
                if (unknown(e.getCause())) {
                    // The host may be at it still: the machine's other backups wait as well.
                    unheard.add(host.getId());
                    return;
                }
            }
        }
    }

    static boolean unknown(Throwable cause) {
        return cause instanceof AgentFailure && ((AgentFailure) cause).kind() == AgentFailure.Kind.UNKNOWN;
    }

    private void removeHidden(Backup hidden, Host host, Predicate<Backup> mayMerge) {
        List<Step> steps = steps(hidden, ChainRepair.Others.MERGED);
        if (steps.isEmpty() || merges(steps) && !mayMerge.test(hidden)) {
            return;
        }
        new RepairExecutor(backups.catalogue(), remote(hidden, host)).execute(steps);
        server.mergesBegun.remove(hidden.getId());
        logger.info("Removed hidden backup {}, {}", hidden.getUuid(), hidden.getExternalId());
    }
}
