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
import com.cloud.storage.Volume;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import com.cloud.vm.snapshot.VMSnapshot;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.UUID;
import java.util.stream.Collectors;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.apache.logging.log4j.Logger;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.cloudstack.Requests;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.BackupChoice;
import org.nasbackup.provider.ChainLink;
import org.nasbackup.provider.Outcome;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.cloudstack.TypedAgent;
import org.nasbackup.provider.cloudstack.VolumeBacking;
import org.nasbackup.provider.cloudstack.VolumePaths;

/** Takes a backup: makes its row, asks a host, and records the host's answer and the chain. */
final class NasTake {
    private final NasBackups backups;
    private final NasServer server;
    private final Logger logger;

    NasTake(NasBackups backups) {
        this.backups = backups;
        this.server = backups.server();
        this.logger = backups.logger();
    }

    /** Looks at the machine anew when its turn has come: one that has moved meanwhile waits for its new host. */
    Pair<Boolean, Backup> take(VirtualMachine vm, Boolean quiesceVM) {
        Host host = hostFor(vm);
        Optional<Pair<Boolean, Backup>> taken =
                backups.onHost(host, vm.getId(), "back up " + vm.getInstanceName(), () -> {
                    VirtualMachine now = reread(vm);
                    return hostFor(now).getId() == host.getId()
                            ? Optional.of(take(now, quiesceVM, host, repositoryOf(now)))
                            : Optional.empty();
                });
        return taken.orElseGet(() -> take(reread(vm), quiesceVM));
    }

    private VirtualMachine reread(VirtualMachine vm) {
        return server.vmInstanceDao.findByIdIncludingRemoved(vm.getId());
    }

    private BackupRepository repositoryOf(VirtualMachine vm) {
        return backups.repository(vm.getBackupOfferingId(), "virtual machine " + vm.getInstanceName());
    }

    /** The host that can back up the machine now. */
    private Host hostFor(VirtualMachine vm) {
        Host host = backups.hosts().forBackup(vm);
        repositoryOf(vm);
        if (!server.vmSnapshotDao
                .findByVmAndByType(vm.getId(), VMSnapshot.Type.DiskAndMemory)
                .isEmpty()) {
            throw new CloudRuntimeException("virtual machine " + vm.getInstanceName()
                    + " can't be backed up while it has a snapshot of disk and memory");
        }
        return host;
    }

    private Pair<Boolean, Backup> take(VirtualMachine vm, Boolean quiesceVM, Host host, BackupRepository repository) {
        DaoCatalogue catalogue = backups.catalogue();
        catalogue.endInterrupted(vm.getId());
        List<VolumeVO> volumes = backups.volumesOf(vm);
        BackupChoice choice = BackupChoice.choose(
                backups.policy(vm.getDataCenterId(), host),
                catalogue.points(vm.getId()),
                catalogue.activeCheckpoint(vm.getId()),
                volumes.stream().map(Volume::getUuid).collect(Collectors.toList()));
        Date start = backups.now();
        TakeBackupCommand command = takeCommand(vm, quiesceVM, repository, choice, volumes, start);
        logger.info(
                "Backing up {} to {}: mode {}, {}",
                vm.getInstanceName(),
                command.getBackupPath(),
                choice.mode(),
                choice.reason());
        boolean stopped = vm.getState() == VirtualMachine.State.Stopped;
        long id = insert(vm, volumes, command, choice, start);
        try {
            BackupAnswer answer = new TypedAgent(server.agentManager, host).ask(command, BackupAnswer.class);
            checkUntouched(vm, stopped, host, volumes);
            return new Pair<>(true, complete(catalogue, id, vm, volumes, choice, answer));
        } catch (AgentFailure e) {
            return fail(catalogue, id, vm, e);
        } catch (RuntimeException | LinkageError e) {
            // logged here: ending the row may fail for the same reason, and only that failure would be told
            logger.error("Backup {} of {} was not recorded: {}", id, vm.getInstanceName(), e.getMessage());
            catalogue.failed(id);
            throw e;
        }
    }

    /** Refuses a stopped machine that another host may have started: its image would mix moments. A host notices its own guests. */
    private void checkUntouched(VirtualMachine vm, boolean stopped, Host host, List<VolumeVO> volumes) {
        if (!stopped) {
            return;
        }
        Optional<StoragePoolVO> open = volumes.stream()
                .map(volume -> server.primaryDataStoreDao.findById(volume.getPoolId()))
                .filter(pool -> !VolumePaths.lockedWhileRead(pool.getPoolType()))
                .findFirst();
        if (open.isEmpty()) {
            return;
        }
        VirtualMachine now = reread(vm);
        if (now.getState() != VirtualMachine.State.Stopped || !Objects.equals(now.getLastHostId(), host.getId())) {
            throw new CloudRuntimeException("virtual machine " + vm.getInstanceName() + " was stopped on host "
                    + OneLine.of(host.getName())
                    + " when its backup began, and was started meanwhile: its disks in storage pool "
                    + open.get().getUuid() + " may have changed while they were read");
        }
    }

    private TakeBackupCommand takeCommand(
            VirtualMachine vm,
            Boolean quiesceVM,
            BackupRepository repository,
            BackupChoice choice,
            List<VolumeVO> volumes,
            Date start) {
        String timestamp = new SimpleDateFormat("yyyy.MM.dd.HH.mm.ss").format(start);
        TakeBackupCommand command = new TakeBackupCommand(vm.getInstanceName(), vm.getInstanceName() + "/" + timestamp);
        command.setBackupRepoType(repository.getType());
        command.setBackupRepoAddress(repository.getAddress());
        command.setMountOptions(repository.getMountOptions());
        command.setQuiesce(quiesceVM);
        int wait = server.waitSeconds(vm.getDataCenterId());
        command.setWait(wait);
        // null: the server waits as long as it does for any command
        command.setJobSeconds(wait <= 0 ? null : Integer.valueOf(Requests.jobSeconds(wait)));
        command.setMode(choice.mode());
        if (choice.mode() != null) {
            command.setBitmapNew("backup-" + start.getTime() / 1000);
        }
        if (choice.incremental()) {
            command.setBitmapParent(choice.parent().bitmap());
            command.setParentPath(choice.parentFiles().get(0));
            command.setParentPaths(choice.parentFiles());
        }
        if (vm.getState() == VirtualMachine.State.Stopped) {
            VolumePaths paths = VolumePaths.of(volumes, server.primaryDataStoreDao, server.dataStoreManager);
            command.setVolumePaths(paths.paths());
            command.setVolumePools(paths.pools());
            command.setVolumeBacking(new VolumeBacking(
                            server.primaryDataStoreDao,
                            server.vmTemplateDao,
                            server.vmTemplatePoolDao,
                            server.snapshotDataStoreDao)
                    .of(vm, volumes));
        }
        return command;
    }

    private long insert(
            VirtualMachine vm, List<VolumeVO> volumes, TakeBackupCommand command, BackupChoice choice, Date start) {
        BackupVO row = new BackupVO();
        row.setVmId(vm.getId());
        row.setExternalId(command.getBackupPath());
        row.setType(choice.incremental() ? "INCREMENTAL" : "FULL");
        row.setDate(start);
        row.setProtectedSize(volumes.stream()
                .filter(volume -> volume.getState() == Volume.State.Ready)
                .mapToLong(Volume::getSize)
                .sum());
        row.setStatus(Backup.Status.BackingUp);
        row.setBackupOfferingId(vm.getBackupOfferingId());
        row.setAccountId(vm.getAccountId());
        row.setDomainId(vm.getDomainId());
        row.setZoneId(vm.getDataCenterId());
        row.setName(server.backupManager.getBackupNameFromVM(vm));
        row.setDetails(server.backupManager.getBackupDetailsFromVM(vm));
        return server.backupDao.persist(row).getId();
    }

    private Backup complete(
            DaoCatalogue catalogue,
            long id,
            VirtualMachine vm,
            List<VolumeVO> volumes,
            BackupChoice choice,
            BackupAnswer answer) {
        ChainLink link = ChainLink.of(choice, answer, UUID.randomUUID().toString());
        if (answer.getIncrementalFallback()) {
            logger.warn("Backup {} of {} is a full one{}", id, vm.getInstanceName(), details(answer));
        }
        if (choice.mode() != null && link == null) {
            logger.info(
                    "Backup {} of {} is a full one that nothing can stand on: its host confirmed no bitmap{}",
                    id,
                    vm.getInstanceName(),
                    details(answer));
        }
        if (answer.getBitmapRecreated() != null) {
            logger.info(
                    "Backup {} of {}: its host had lost checkpoint {}, and made it again from the disks' bitmaps,"
                            + " or compared the disks with the parent's fingerprints{}",
                    id,
                    vm.getInstanceName(),
                    answer.getBitmapRecreated(),
                    details(answer));
        }
        Backup backup = catalogue.completed(
                id,
                backups.now(),
                answer,
                server.backupManager.createVolumeInfoFromVolumes(new ArrayList<>(volumes)),
                choice.mode() != null,
                link);
        String text = Outcome.taken(backup.getExternalId(), choice, link, answer);
        backups.tell(ActionEvents.Type.TAKE, true, text, vm.getAccountId(), vm.getId());
        return backup;
    }

    /** The details that the host told, for the end of a line. */
    private static String details(BackupAnswer answer) {
        String text = answer.getDetails() == null ? "" : answer.getDetails().strip();
        return text.isEmpty() ? "" : ": " + text;
    }

    private Pair<Boolean, Backup> fail(DaoCatalogue catalogue, long id, VirtualMachine vm, AgentFailure failure) {
        if (failure.kind() == AgentFailure.Kind.NO_PLACE) {
            catalogue.neverBegan(id);
            throw failure;
        }
        logger.error("Backup {} of {} failed: {}", id, vm.getInstanceName(), failure.getMessage());
        if (failure.leftovers()) {
            catalogue.failed(id);
        } else {
            catalogue.failedClean(id);
        }
        if (failure.kind() == AgentFailure.Kind.UNKNOWN) {
            throw new CloudRuntimeException(
                    "unable to back up " + vm.getInstanceName() + " - " + failure.getMessage(), failure);
        }
        String text = Outcome.notTaken(vm.getInstanceName(), failure.getMessage());
        backups.tell(ActionEvents.Type.TAKE, false, text, vm.getAccountId(), vm.getId());
        return new Pair<>(false, null);
    }
}
