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
import com.cloud.hypervisor.Hypervisor;
import com.cloud.storage.Volume;
import com.cloud.storage.VolumeApiServiceImpl;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import com.cloud.vm.snapshot.VMSnapshot;
import com.cloud.vm.snapshot.VMSnapshotVO;
import java.time.Clock;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Date;
import java.util.List;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;
import org.apache.logging.log4j.Logger;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.Outcome;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.cloudstack.HostChoice;
import org.nasbackup.provider.cloudstack.HostSlots;
import org.nasbackup.provider.cloudstack.Ownership;
import org.nasbackup.provider.cloudstack.Restorers;
import org.nasbackup.provider.cloudstack.Transactions;
import org.nasbackup.provider.cloudstack.TypedAgent;

/** The provider's work, in a class of its own: the server can make a provider even if CloudStack lacks what the work needs. */
final class NasBackups {
    private final NasServer server;
    private final Logger logger;
    private final Clock clock;
    private final ChainLocks locks;
    private final HostSlots slots;
    private final Transactions transactions;

    /** @param server what CloudStack gave the provider, and the settings */
    NasBackups(
            NasServer server,
            Logger logger,
            Clock clock,
            ChainLocks locks,
            HostSlots slots,
            Transactions transactions) {
        this.server = server;
        this.logger = logger;
        this.clock = clock;
        this.locks = locks;
        this.slots = slots;
        this.transactions = transactions;
    }

    NasServer server() {
        return server;
    }

    Logger logger() {
        return logger;
    }

    Date now() {
        return Date.from(clock.instant());
    }

    /**
     * Does the work while it holds one of the host's slots and the virtual machine's lock. A caller that has that lock must not call
     * this: it would wait for itself.
     *
     * @param vmId whose backups it is about
     * @param name of the work, a verb and its object, for the log
     */
    <T> T onHost(Host host, long vmId, String name, Supplier<T> work) {
        return slots.held(claim(host, queueWaitSeconds(host), false, name), vmId, work);
    }

    /** Does the same for a restore, which comes before backups and deletions: its virtual machine is down meanwhile. */
    <T> T restoreOnHost(Host host, long vmId, String name, Supplier<T> work) {
        return slots.held(claim(host, queueWaitSeconds(host), true, name), vmId, work);
    }

    /** Does the work if the host has a slot now: for a caller that has the virtual machine's lock, or that others wait for. */
    <T> T onHostNow(Host host, String name, Supplier<T> work) {
        return slots.held(claim(host, 0, false, name), work);
    }

    /** Takes the settings of the host's zone: a backup can be restored in another zone than it was taken in. */
    private HostSlots.Claim claim(Host host, int patienceSeconds, boolean urgent, String name) {
        return new HostSlots.Claim(host, server.slotsPerHost(host.getDataCenterId()), patienceSeconds, urgent, name);
    }

    private int queueWaitSeconds(Host host) {
        return server.queueWaitSeconds(host.getDataCenterId());
    }

    /** @return whether the work was done, since nobody else worked on the machine */
    boolean ifFree(long vmId, Runnable work) {
        return locks.ifFree(vmId, work);
    }

    /** The merge that one task may begin in one round. */
    NasMerge oneMerge() {
        return new NasMerge(server.mergesBegun, now().getTime());
    }

    Ownership ownership() {
        return new Ownership(server.backupOfferingDao, server.getName());
    }

    /** Tells users of a failure. */
    <T> T told(ActionEvents.Type type, long accountId, long vmId, UnaryOperator<String> failed, Supplier<T> work) {
        try {
            return work.get();
        } catch (RuntimeException | LinkageError e) {
            tell(type, false, failed.apply(e.getMessage() == null ? e.toString() : e.getMessage()), accountId, vmId);
            throw e;
        }
    }

    /**
     * Tells users how a restore ended.
     *
     * @param good makes the text about a restore that succeeded from what it returned
     */
    Pair<Boolean, String> toldRestore(
            ActionEvents.Type type,
            VirtualMachine vm,
            String what,
            Backup backup,
            UnaryOperator<String> good,
            Supplier<Pair<Boolean, String>> work) {
        String path = backup.getExternalId();
        UnaryOperator<String> failed = why -> Outcome.notRestored(what, path, why);
        Pair<Boolean, String> result = told(type, vm.getAccountId(), vm.getId(), failed, work);
        String text = result.first()
                ? Outcome.restored(what, path, good.apply(result.second()))
                : failed.apply(String.valueOf(result.second()));
        tell(type, result.first(), text, vm.getAccountId(), vm.getId());
        return result;
    }

    /** Never throws: the work that the event tells of is done. */
    void tell(ActionEvents.Type type, boolean good, String text, long accountId, long vmId) {
        try {
            server.addEvent(type, good, text, accountId, vmId);
        } catch (RuntimeException | LinkageError e) {
            logger.warn("CloudStack did not take an event: {}", OneLine.of(text), OneLine.of(e));
        }
    }

    DaoCatalogue catalogue() {
        return new DaoCatalogue(
                server.backupDao,
                ownership(),
                server.backupDetailsDao,
                server.vmInstanceDetailsDao,
                server.resourceLimitService,
                transactions);
    }

    HostChoice hosts() {
        return new HostChoice(
                server.hostDao,
                server.volumeDao,
                server.primaryDataStoreDao,
                server.resourceManager,
                new Restorers(server.agentManager, server.restorers, System::nanoTime));
    }

    /** The zone's policy, without incrementals if a host of the zone would spoil their restores; a change is logged. */
    Policy policy(long zoneId, Host taking) {
        Policy policy = server.policy(zoneId);
        if (!policy.incrementals()) {
            return policy;
        }
        String obstacle = hosts().obstacleToIncrementals(zoneId, taking);
        if (server.obstacles.changed(zoneId, obstacle)) {
            if (obstacle == null) {
                logger.info("Backups in zone {} are incremental again: all its hosts can restore them", zoneId);
            } else {
                logger.warn("Backups in zone {} are full ones, though incrementals are enabled: {}", zoneId, obstacle);
            }
        }
        return obstacle == null ? policy : policy.withoutIncrementals(obstacle);
    }

    BackupRepository repository(Long offeringId, String what) {
        BackupRepository repository =
                offeringId == null ? null : server.backupRepositoryDao.findByBackupOfferingId(offeringId);
        if (repository == null) {
            throw new CloudRuntimeException("there is no backup repository for " + what + offeringNamed(offeringId));
        }
        return repository;
    }

    /** The offering's name; its repository can be removed before the backups in it. */
    private String offeringNamed(Long offeringId) {
        BackupOffering offering =
                offeringId == null ? null : server.backupOfferingDao.findByIdIncludingRemoved(offeringId);
        return offering == null
                ? ""
                : ": that of backup offering " + offering.getName() + ", " + offering.getExternalId() + ", was removed";
    }

    /** The volumes in the order of their device numbers. */
    List<VolumeVO> volumesOf(VirtualMachine vm) {
        List<VolumeVO> volumes = new ArrayList<>(server.volumeDao.findByInstance(vm.getId()));
        volumes.sort(Comparator.comparing(Volume::getDeviceId, Comparator.nullsLast(Comparator.naturalOrder())));
        return volumes;
    }

    /** A machine that was made from a backup may have got, with the settings, the checkpoint of the machine that was backed up. */
    boolean assign(VirtualMachine vm) {
        if (!canBeBackedUp(vm)) {
            return false;
        }
        clearActiveCheckpoint(vm);
        return true;
    }

    private boolean canBeBackedUp(VirtualMachine vm) {
        if (!Hypervisor.HypervisorType.KVM.equals(vm.getHypervisorType())) {
            return false;
        }
        for (VMSnapshotVO snapshot : server.vmSnapshotDao.findByVmAndByType(vm.getId(), VMSnapshot.Type.Disk)) {
            boolean fileBased = server.vmSnapshotDetailsDao.listDetails(snapshot.getId()).stream()
                    .anyMatch(detail -> VolumeApiServiceImpl.KVM_FILE_BASED_STORAGE_SNAPSHOT.equals(detail.getName()));
            if (fileBased) {
                logger.warn("{} has file-based snapshots of its disks, and can't be backed up", vm.getInstanceName());
                return false;
            }
        }
        return true;
    }

    Pair<Long, Long> storageStats(Long zoneId) {
        long total = 0;
        long used = 0;
        for (BackupRepository repository : server.backupRepositoryDao.listByZoneAndProvider(zoneId, server.getName())) {
            total += repository.getCapacityBytes() == null ? 0 : repository.getCapacityBytes();
            used += repository.getUsedBytes() == null ? 0 : repository.getUsedBytes();
        }
        return new Pair<>(used, total);
    }

    void syncStorageStats(Long zoneId) {
        List<BackupRepository> repositories =
                server.backupRepositoryDao.listByZoneAndProvider(zoneId, server.getName());
        if (repositories.isEmpty()) {
            return;
        }
        TypedAgent agent = new TypedAgent(server.agentManager, hosts().inZone(zoneId));
        for (BackupRepository repository : repositories) {
            GetBackupStorageStatsCommand command = new GetBackupStorageStatsCommand(
                    repository.getType(), repository.getAddress(), repository.getMountOptions());
            try {
                BackupStorageStatsAnswer answer = agent.ask(command, BackupStorageStatsAnswer.class);
                server.backupRepositoryDao.updateCapacity(repository, answer.getTotalSize(), answer.getUsedSize());
            } catch (AgentFailure e) {
                logger.warn("The size of backup repository {} is not known: {}", repository.getName(), e.getMessage());
            }
        }
    }

    void clearActiveCheckpoint(VirtualMachine vm) {
        catalogue().clearActiveCheckpoint(vm.getId());
    }

    List<BackupOffering> offerings(Long zoneId) {
        return server.backupRepositoryDao.listByZoneAndProvider(zoneId, server.getName()).stream()
                .map(repository -> new NasBackupOffering(repository.getName(), repository.getUuid()))
                .collect(Collectors.toList());
    }

    boolean crossZone(BackupOffering offering) {
        return Boolean.TRUE.equals(repository(offering.getId(), "backup offering " + offering.getName())
                .crossZoneInstanceCreationEnabled());
    }
}
