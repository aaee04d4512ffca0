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
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.Storage;
import com.cloud.storage.Volume;
import com.cloud.storage.VolumeApiServiceImpl;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import com.cloud.vm.snapshot.VMSnapshot;
import com.cloud.vm.snapshot.VMSnapshotVO;
import java.text.SimpleDateFormat;
import java.time.Clock;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Date;
import java.util.List;
import java.util.Locale;
import java.util.UUID;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.apache.logging.log4j.Logger;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.BackupChoice;
import org.nasbackup.provider.ChainLink;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.ChainRepair;
import org.nasbackup.provider.Point;
import org.nasbackup.provider.RepairExecutor;
import org.nasbackup.provider.RepairFailed;
import org.nasbackup.provider.RepairRefused;
import org.nasbackup.provider.cloudstack.AgentRepository;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.cloudstack.HostChoice;
import org.nasbackup.provider.cloudstack.Transactions;
import org.nasbackup.provider.cloudstack.TypedAgent;
import org.nasbackup.provider.cloudstack.VolumePaths;

/** What the provider does; apart, so that the server can have a provider whatever these need of CloudStack. */
final class NasBackups {
    /** What a host gets to clean up in, and to answer, once a backup has taken too long. */
    private static final int SECONDS_TO_ANSWER = 120;

    private final NASBackupProvider server;
    private final Logger logger;
    private final Clock clock;
    private final ChainLocks locks;
    private final Transactions transactions;

    /** @param server what CloudStack gave it, and its settings */
    NasBackups(NASBackupProvider server, Logger logger, Clock clock, ChainLocks locks, Transactions transactions) {
        this.server = server;
        this.logger = logger;
        this.clock = clock;
        this.locks = locks;
        this.transactions = transactions;
    }

    private DaoCatalogue catalogue() {
        return new DaoCatalogue(
                server.backupDao,
                server.backupDetailsDao,
                server.vmInstanceDetailsDao,
                server.resourceLimitService,
                transactions);
    }

    private HostChoice hosts() {
        return new HostChoice(server.hostDao, server.volumeDao, server.primaryDataStoreDao, server.resourceManager);
    }

    private BackupRepository repository(Long offeringId, String what) {
        BackupRepository repository =
                offeringId == null ? null : server.backupRepositoryDao.findByBackupOfferingId(offeringId);
        if (repository == null) {
            throw new CloudRuntimeException("there is no backup repository for " + what);
        }
        return repository;
    }

    Pair<Boolean, Backup> take(VirtualMachine vm, Boolean quiesceVM) {
        Host host = hosts().forBackup(vm);
        BackupRepository repository = repository(vm.getBackupOfferingId(), "virtual machine " + vm.getInstanceName());
        if (!server.vmSnapshotDao
                .findByVmAndByType(vm.getId(), VMSnapshot.Type.DiskAndMemory)
                .isEmpty()) {
            throw new CloudRuntimeException("virtual machine " + vm.getInstanceName()
                    + " can't be backed up while it has a snapshot of disk and memory");
        }
        return locks.locked(vm.getId(), () -> take(vm, quiesceVM, host, repository));
    }

    private Pair<Boolean, Backup> take(VirtualMachine vm, Boolean quiesceVM, Host host, BackupRepository repository) {
        DaoCatalogue catalogue = catalogue();
        catalogue.endInterrupted(vm.getId());
        List<VolumeVO> volumes = volumesOf(vm);
        BackupChoice choice = BackupChoice.choose(
                server.policy(vm.getDataCenterId()),
                catalogue.points(vm.getId()),
                catalogue.activeCheckpoint(vm.getId()),
                volumes.stream().map(Volume::getUuid).collect(Collectors.toList()));
        Date start = Date.from(clock.instant());
        TakeBackupCommand command = takeCommand(vm, quiesceVM, repository, choice, volumes, start);
        logger.info(
                "Backing up {} to {}: mode {}, {}",
                vm.getInstanceName(),
                command.getBackupPath(),
                choice.mode(),
                choice.reason());
        long id = insert(vm, volumes, command, choice, start);
        try {
            BackupAnswer answer = new TypedAgent(server.agentManager, host).ask(command, BackupAnswer.class);
            return new Pair<>(true, complete(catalogue, id, vm, volumes, choice, answer));
        } catch (AgentFailure e) {
            return fail(catalogue, id, vm, e);
        } catch (RuntimeException | LinkageError e) {
            // said here: the row's end may fail for the same reason, and would be heard of alone
            logger.error("Backup {} of {} was not recorded: {}", id, vm.getInstanceName(), e.getMessage());
            catalogue.failed(id);
            throw e;
        }
    }

    private List<VolumeVO> volumesOf(VirtualMachine vm) {
        List<VolumeVO> volumes = new ArrayList<>(server.volumeDao.findByInstance(vm.getId()));
        volumes.sort(Comparator.comparing(Volume::getDeviceId, Comparator.nullsLast(Comparator.naturalOrder())));
        return volumes;
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
        command.setJobSeconds(jobSeconds(wait));
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
        }
        return command;
    }

    /** At least half of what the server waits; null: it waits as long as it does for any command. */
    private static Integer jobSeconds(int wait) {
        return wait <= 0 ? null : Integer.valueOf(Math.max(wait - SECONDS_TO_ANSWER, (wait + 1) / 2));
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
        if (answer.getBitmapRecreated() != null) {
            logger.info(
                    "Backup {} of {}: its host had lost checkpoint {}, and made it again from the disks' bitmaps,"
                            + " or compared the disks with the parent's fingerprints{}",
                    id,
                    vm.getInstanceName(),
                    answer.getBitmapRecreated(),
                    details(answer));
        }
        return catalogue.completed(
                id,
                Date.from(clock.instant()),
                answer.getSize(),
                server.backupManager.createVolumeInfoFromVolumes(new ArrayList<>(volumes)),
                choice.mode() != null,
                link);
    }

    /** What the host found worth telling, to end a line with. */
    private static String details(BackupAnswer answer) {
        String text = answer.getDetails() == null ? "" : answer.getDetails().strip();
        return text.isEmpty() ? "" : ": " + text.replaceAll("\\s*\\R\\s*", "; ");
    }

    private Pair<Boolean, Backup> fail(DaoCatalogue catalogue, long id, VirtualMachine vm, AgentFailure failure) {
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
        return new Pair<>(false, null);
    }

    boolean delete(Backup backup, boolean forced) {
        BackupRepository repository = repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        VirtualMachine vm = server.vmInstanceDao.findByIdIncludingRemoved(backup.getVmId());
        Host host = hosts().forRepository(vm, backup.getZoneId());
        return locks.locked(backup.getVmId(), () -> {
            try {
                return delete(backup, forced, host, repository);
            } catch (RepairRefused | RepairFailed e) {
                logger.warn("Backup {} was not deleted: {}", backup.getUuid(), e.getMessage());
                throw new CloudRuntimeException(e.getMessage(), e);
            }
        });
    }

    private boolean delete(Backup backup, boolean forced, Host host, BackupRepository repository) {
        DaoCatalogue catalogue = catalogue();
        List<Point> points = catalogue.points(backup.getVmId());
        Point target = points.stream()
                .filter(point -> point.id() == backup.getId())
                .findFirst()
                .orElse(null);
        if (target == null) {
            return true;
        }
        AgentRepository remote = new AgentRepository(
                new TypedAgent(server.agentManager, host), repository, server.waitSeconds(backup.getZoneId()));
        Predicate<Point> counted = point -> server.handlesAllAccounting() || point.id() != backup.getId();
        new RepairExecutor(catalogue, remote, counted).execute(ChainRepair.computeChainRepair(points, target, forced));
        if (!server.handlesAllAccounting()) {
            catalogue.settle(backup);
        }
        return true;
    }

    /** What it reads is not deleted meanwhile. */
    Pair<Boolean, String> restore(VirtualMachine vm, Backup backup) {
        return locks.locked(backup.getVmId(), () -> restoreLocked(vm, backup));
    }

    private Pair<Boolean, String> restoreLocked(VirtualMachine vm, Backup backup) {
        BackupRepository repository = repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        List<Backup.VolumeInfo> backedUp = DaoCatalogue.backedUpVolumes(backup);
        if (backedUp.isEmpty()) {
            throw new CloudRuntimeException("unable to restore backup " + backup.getUuid()
                    + " - its record does not say which volumes it holds");
        }
        VolumePaths paths = VolumePaths.of(volumesOf(vm), server.primaryDataStoreDao, server.dataStoreManager);
        RestoreBackupCommand command = restoreCommand(backup, repository);
        command.setVmName(vm.getName());
        command.setBackupVolumesUUIDs(
                backedUp.stream().map(Backup.VolumeInfo::getUuid).collect(Collectors.toList()));
        command.setBackupFiles(backedUp.stream().map(Backup.VolumeInfo::getPath).collect(Collectors.toList()));
        command.setRestoreVolumePaths(paths.paths());
        command.setRestoreVolumePools(paths.pools());
        command.setVmExists(vm.getRemoved() == null);
        command.setVmState(vm.getState());
        Host host = hosts().forRepository(vm, backup.getZoneId());
        // From the first byte on the disks are no longer what the bitmap counts from.
        catalogue().clearActiveCheckpoint(vm.getId());
        return ask(host, command);
    }

    Pair<Boolean, String> restoreVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState,
            long receiver) {
        BackupRepository repository = repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        StoragePoolVO pool = server.primaryDataStoreDao.findByUuid(dataStoreUuid);
        Host host = server.hostDao.findByIp(hostIp);
        DiskOfferingVO offering = server.diskOfferingDao.findByUuid(backupVolumeInfo.getDiskOfferingId());
        if (pool == null || host == null || offering == null) {
            throw new CloudRuntimeException("unable to restore volume " + backupVolumeInfo.getUuid() + " - "
                    + (pool == null
                            ? "no storage pool has uuid " + dataStoreUuid
                            : host == null
                                    ? "no host has address " + hostIp
                                    : "no disk offering has uuid " + backupVolumeInfo.getDiskOfferingId()));
        }
        String uuid = UUID.randomUUID().toString();
        VolumePaths paths = VolumePaths.of(pool, uuid, server.dataStoreManager);
        RestoreBackupCommand command = restoreCommand(backup, repository);
        command.setVmName(vmNameAndState.first());
        command.setVmState(vmNameAndState.second());
        command.setVmExists(null);
        command.setDiskType(backupVolumeInfo.getType().name().toLowerCase(Locale.ROOT));
        command.setRestoreVolumeUUID(backupVolumeInfo.getUuid());
        command.setBackupVolumesUUIDs(List.of(backupVolumeInfo.getUuid()));
        command.setBackupFiles(List.of(backupVolumeInfo.getPath()));
        command.setRestoreVolumeSizes(List.of(backupVolumeInfo.getSize()));
        command.setRestoreVolumePaths(paths.paths());
        command.setRestoreVolumePools(paths.pools());
        Pair<Boolean, String> result = locks.locked(backup.getVmId(), () -> ask(host, command));
        if (result.first()) {
            server.volumeDao.persist(restoredVolume(backup, backupVolumeInfo, uuid, pool, offering));
            // It has a disk now that the checkpoint knows nothing of.
            catalogue().clearActiveCheckpoint(receiver);
        }
        return result;
    }

    /** Managers may tell the name that its owner gave it: then it is taken for the backup's own, at the cost of a full. */
    long receiver(String name, Backup backup) {
        VirtualMachine vm = server.vmInstanceDao.findVMByInstanceName(name);
        return vm == null ? backup.getVmId() : vm.getId();
    }

    private RestoreBackupCommand restoreCommand(Backup backup, BackupRepository repository) {
        RestoreBackupCommand command = new RestoreBackupCommand();
        command.setBackupPath(backup.getExternalId());
        command.setBackupRepoType(repository.getType());
        command.setBackupRepoAddress(repository.getAddress());
        command.setMountOptions(repository.getMountOptions());
        command.setMountTimeout(server.mountTimeout());
        command.setWait(server.waitSeconds(backup.getZoneId()));
        return command;
    }

    private Pair<Boolean, String> ask(Host host, RestoreBackupCommand command) {
        try {
            BackupAnswer answer = new TypedAgent(server.agentManager, host).ask(command, BackupAnswer.class);
            return new Pair<>(true, answer.getDetails());
        } catch (AgentFailure e) {
            if (e.kind() == AgentFailure.Kind.UNKNOWN) {
                throw new CloudRuntimeException("unable to restore - " + e.getMessage(), e);
            }
            return new Pair<>(false, e.getMessage());
        }
    }

    private VolumeVO restoredVolume(
            Backup backup, Backup.VolumeInfo from, String uuid, StoragePoolVO pool, DiskOfferingVO offering) {
        VolumeVO original = server.volumeDao.findByUuid(from.getUuid());
        VolumeVO volume = new VolumeVO(
                Volume.Type.DATADISK,
                "RestoredVol-" + (original == null ? from.getUuid() : original.getName()),
                backup.getZoneId(),
                backup.getDomainId(),
                backup.getAccountId(),
                offering.getId(),
                offering.getProvisioningType(),
                from.getSize(),
                null,
                null,
                null);
        volume.setUuid(uuid);
        volume.setPath(uuid);
        volume.setPoolId(pool.getId());
        volume.setPoolType(pool.getPoolType());
        volume.setFormat(
                pool.getPoolType() == Storage.StoragePoolType.RBD
                        ? Storage.ImageFormat.RAW
                        : Storage.ImageFormat.QCOW2);
        volume.setState(Volume.State.Copying);
        volume.setUpdated(Date.from(clock.instant()));
        volume.setDisplayVolume(true);
        return volume;
    }

    boolean canBeBackedUp(VirtualMachine vm) {
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
