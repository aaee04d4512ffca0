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

import com.cloud.agent.AgentManager;
import com.cloud.host.Host;
import com.cloud.host.dao.HostDao;
import com.cloud.hypervisor.Hypervisor;
import com.cloud.resource.ResourceManager;
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.Storage;
import com.cloud.storage.Volume;
import com.cloud.storage.VolumeApiServiceImpl;
import com.cloud.storage.VolumeVO;
import com.cloud.storage.dao.DiskOfferingDao;
import com.cloud.storage.dao.VolumeDao;
import com.cloud.user.ResourceLimitService;
import com.cloud.utils.Pair;
import com.cloud.utils.component.AdapterBase;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import com.cloud.vm.dao.VMInstanceDao;
import com.cloud.vm.dao.VMInstanceDetailsDao;
import com.cloud.vm.snapshot.VMSnapshot;
import com.cloud.vm.snapshot.VMSnapshotVO;
import com.cloud.vm.snapshot.dao.VMSnapshotDao;
import com.cloud.vm.snapshot.dao.VMSnapshotDetailsDao;
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
import javax.inject.Inject;
import org.apache.cloudstack.backup.dao.BackupDao;
import org.apache.cloudstack.backup.dao.BackupDetailsDao;
import org.apache.cloudstack.backup.dao.BackupRepositoryDao;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStoreManager;
import org.apache.cloudstack.framework.config.ConfigKey;
import org.apache.cloudstack.framework.config.Configurable;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.BackupChoice;
import org.nasbackup.provider.ChainLink;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.ChainRepair;
import org.nasbackup.provider.Point;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.RepairExecutor;
import org.nasbackup.provider.RepairFailed;
import org.nasbackup.provider.RepairRefused;
import org.nasbackup.provider.cloudstack.AgentRepository;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.cloudstack.Fitness;
import org.nasbackup.provider.cloudstack.GlobalChainLocks;
import org.nasbackup.provider.cloudstack.HostChoice;
import org.nasbackup.provider.cloudstack.ServerClasses;
import org.nasbackup.provider.cloudstack.Transactions;
import org.nasbackup.provider.cloudstack.TypedAgent;
import org.nasbackup.provider.cloudstack.VolumePaths;

/**
 * Backs virtual machines up to a NAS, in chains of a full backup and incrementals that can be deleted anywhere. CloudStack
 * 4.22 and 4.23 ask for some of it by other methods: it has those of both, and no type of one alone in any declaration.
 */
public class NASBackupProvider extends AdapterBase implements BackupProvider, Configurable {
    /** What a host gets to clean up in, and to answer, once a backup has taken too long. */
    private static final int SECONDS_TO_ANSWER = 120;

    @Inject
    BackupDao backupDao;

    @Inject
    BackupDetailsDao backupDetailsDao;

    @Inject
    BackupRepositoryDao backupRepositoryDao;

    @Inject
    BackupManager backupManager;

    @Inject
    VMInstanceDao vmInstanceDao;

    @Inject
    VMInstanceDetailsDao vmInstanceDetailsDao;

    @Inject
    VMSnapshotDao vmSnapshotDao;

    @Inject
    VMSnapshotDetailsDao vmSnapshotDetailsDao;

    @Inject
    VolumeDao volumeDao;

    @Inject
    DiskOfferingDao diskOfferingDao;

    @Inject
    PrimaryDataStoreDao primaryDataStoreDao;

    @Inject
    DataStoreManager dataStoreManager;

    @Inject
    HostDao hostDao;

    @Inject
    ResourceManager resourceManager;

    @Inject
    ResourceLimitService resourceLimitService;

    @Inject
    AgentManager agentManager;

    private final Clock clock;
    private final ChainLocks locks;
    private final Transactions transactions;
    private final Fitness fitness = new Fitness(this::misfits, line -> logger.error(line));

    public NASBackupProvider() {
        this(Clock.systemDefaultZone(), new GlobalChainLocks(), Transactions.cloudStack());
    }

    NASBackupProvider(Clock clock, ChainLocks locks, Transactions transactions) {
        this.clock = clock;
        this.locks = locks;
        this.transactions = transactions;
    }

    @Override
    public String getName() {
        return "nas";
    }

    @Override
    public String getDescription() {
        return "NAS Backup Plugin";
    }

    @Override
    public String getConfigComponentName() {
        return "BackupService";
    }

    /** Never throws: the server would not come up. */
    @Override
    public ConfigKey<?>[] getConfigKeys() {
        return fitness.wrong().isEmpty() ? NasBackupKeys.all() : new ConfigKey<?>[0];
    }

    /** Never throws: the server would not come up. What is wrong is said here once, and by each operation. */
    @Override
    public boolean start() {
        fitness.wrong();
        return true;
    }

    /** Empty: the provider can work here. */
    List<String> misfits() {
        List<String> misfits = new ArrayList<>(ServerClasses.owed(NASBackupProvider.class, BackupProvider.class));
        misfits.addAll(ServerClasses.hidden());
        NasBackupKeys.all();
        return misfits;
    }

    Policy policy(long zoneId) {
        return new Policy(
                Boolean.TRUE.equals(NasBackupKeys.INCREMENTAL_ENABLED.valueIn(zoneId)),
                NasBackupKeys.FULL_EVERY.valueIn(zoneId));
    }

    int waitSeconds(long zoneId) {
        return NasBackupKeys.WAIT.valueIn(zoneId);
    }

    int mountTimeout() {
        return NasBackupKeys.RESTORE_MOUNT_TIMEOUT.value();
    }

    private DaoCatalogue catalogue() {
        return new DaoCatalogue(backupDao, backupDetailsDao, vmInstanceDetailsDao, resourceLimitService, transactions);
    }

    private HostChoice hosts() {
        return new HostChoice(hostDao, volumeDao, primaryDataStoreDao, resourceManager);
    }

    private BackupRepository repository(Long offeringId, String what) {
        BackupRepository repository =
                offeringId == null ? null : backupRepositoryDao.findByBackupOfferingId(offeringId);
        if (repository == null) {
            throw new CloudRuntimeException("there is no backup repository for " + what);
        }
        return repository;
    }

    /** 4.22's. */
    public Pair<Boolean, Backup> takeBackup(VirtualMachine vm, Boolean quiesceVM) {
        return fitness.guarded(() -> take(vm, quiesceVM));
    }

    /** 4.23's: what isolates a backup is not for this provider. */
    public Pair<Boolean, Backup> takeBackup(VirtualMachine vm, Boolean quiesceVM, boolean isolated) {
        return takeBackup(vm, quiesceVM);
    }

    private Pair<Boolean, Backup> take(VirtualMachine vm, Boolean quiesceVM) {
        Host host = hosts().forBackup(vm);
        BackupRepository repository = repository(vm.getBackupOfferingId(), "virtual machine " + vm.getInstanceName());
        if (!vmSnapshotDao
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
                policy(vm.getDataCenterId()),
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
            BackupAnswer answer = new TypedAgent(agentManager, host).ask(command, BackupAnswer.class);
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
        List<VolumeVO> volumes = new ArrayList<>(volumeDao.findByInstance(vm.getId()));
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
        int wait = waitSeconds(vm.getDataCenterId());
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
            VolumePaths paths = VolumePaths.of(volumes, primaryDataStoreDao, dataStoreManager);
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
        row.setName(backupManager.getBackupNameFromVM(vm));
        row.setDetails(backupManager.getBackupDetailsFromVM(vm));
        return backupDao.persist(row).getId();
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
                backupManager.createVolumeInfoFromVolumes(new ArrayList<>(volumes)),
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

    @Override
    public boolean deleteBackup(Backup backup, boolean forced) {
        return fitness.guarded(() -> delete(backup, forced));
    }

    private boolean delete(Backup backup, boolean forced) {
        BackupRepository repository = repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        VirtualMachine vm = vmInstanceDao.findByIdIncludingRemoved(backup.getVmId());
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
        AgentRepository remote =
                new AgentRepository(new TypedAgent(agentManager, host), repository, waitSeconds(backup.getZoneId()));
        Predicate<Point> counted = point -> handlesAllAccounting() || point.id() != backup.getId();
        new RepairExecutor(catalogue, remote, counted).execute(ChainRepair.computeChainRepair(points, target, forced));
        if (!handlesAllAccounting()) {
            catalogue.settle(backup);
        }
        return true;
    }

    /** Later managers ask, and then leave all accounting to the provider. */
    public boolean handlesChainDeleteResourceAccounting() {
        return true;
    }

    /** A manager that does not know the question takes the backup that it asked to delete off the owner's count itself. */
    boolean handlesAllAccounting() {
        for (java.lang.reflect.Method method : BackupProvider.class.getMethods()) {
            if (method.getName().equals("handlesChainDeleteResourceAccounting")) {
                return true;
            }
        }
        return false;
    }

    /** 4.22's. */
    public boolean restoreVMFromBackup(VirtualMachine vm, Backup backup) {
        return restoreLocked(vm, backup).first();
    }

    /** 4.23's: there is no quick way for this provider, and so no host that it would need. */
    public boolean restoreVMFromBackup(VirtualMachine vm, Backup backup, boolean quickRestore, Long hostId) {
        return restoreVMFromBackup(vm, backup);
    }

    /** 4.22's. */
    public Pair<Boolean, String> restoreBackupToVM(
            VirtualMachine vm, Backup backup, String hostIp, String dataStoreUuid) {
        return restoreLocked(vm, backup);
    }

    /** 4.23's. */
    public Pair<Boolean, String> restoreBackupToVM(
            VirtualMachine vm, Backup backup, String hostIp, String dataStoreUuid, boolean quickRestore) {
        return restoreBackupToVM(vm, backup, hostIp, dataStoreUuid);
    }

    /** What it reads is not deleted meanwhile. */
    private Pair<Boolean, String> restoreLocked(VirtualMachine vm, Backup backup) {
        return fitness.guarded(() -> locks.locked(backup.getVmId(), () -> restore(vm, backup)));
    }

    private Pair<Boolean, String> restore(VirtualMachine vm, Backup backup) {
        BackupRepository repository = repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        List<Backup.VolumeInfo> backedUp = DaoCatalogue.backedUpVolumes(backup);
        if (backedUp.isEmpty()) {
            throw new CloudRuntimeException("unable to restore backup " + backup.getUuid()
                    + " - its record does not say which volumes it holds");
        }
        VolumePaths paths = VolumePaths.of(volumesOf(vm), primaryDataStoreDao, dataStoreManager);
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

    /** 4.22's: the machine that gets the volume is known by a name alone. */
    public Pair<Boolean, String> restoreBackedUpVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState) {
        return fitness.guarded(() -> restoreVolume(
                backup,
                backupVolumeInfo,
                hostIp,
                dataStoreUuid,
                vmNameAndState,
                receiver(vmNameAndState.first(), backup)));
    }

    /** 4.23's. */
    public Pair<Boolean, String> restoreBackedUpVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState,
            VirtualMachine vm,
            boolean quickRestore) {
        return fitness.guarded(
                () -> restoreVolume(backup, backupVolumeInfo, hostIp, dataStoreUuid, vmNameAndState, vm.getId()));
    }

    private Pair<Boolean, String> restoreVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState,
            long receiver) {
        BackupRepository repository = repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        StoragePoolVO pool = primaryDataStoreDao.findByUuid(dataStoreUuid);
        Host host = hostDao.findByIp(hostIp);
        DiskOfferingVO offering = diskOfferingDao.findByUuid(backupVolumeInfo.getDiskOfferingId());
        if (pool == null || host == null || offering == null) {
            throw new CloudRuntimeException("unable to restore volume " + backupVolumeInfo.getUuid() + " - "
                    + (pool == null
                            ? "no storage pool has uuid " + dataStoreUuid
                            : host == null
                                    ? "no host has address " + hostIp
                                    : "no disk offering has uuid " + backupVolumeInfo.getDiskOfferingId()));
        }
        String uuid = UUID.randomUUID().toString();
        VolumePaths paths = VolumePaths.of(pool, uuid, dataStoreManager);
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
            volumeDao.persist(restoredVolume(backup, backupVolumeInfo, uuid, pool, offering));
            // It has a disk now that the checkpoint knows nothing of.
            catalogue().clearActiveCheckpoint(receiver);
        }
        return result;
    }

    /** Managers may tell the name that its owner gave it: then it is taken for the backup's own, at the cost of a full. */
    private long receiver(String name, Backup backup) {
        VirtualMachine vm = vmInstanceDao.findVMByInstanceName(name);
        return vm == null ? backup.getVmId() : vm.getId();
    }

    private RestoreBackupCommand restoreCommand(Backup backup, BackupRepository repository) {
        RestoreBackupCommand command = new RestoreBackupCommand();
        command.setBackupPath(backup.getExternalId());
        command.setBackupRepoType(repository.getType());
        command.setBackupRepoAddress(repository.getAddress());
        command.setMountOptions(repository.getMountOptions());
        command.setMountTimeout(mountTimeout());
        command.setWait(waitSeconds(backup.getZoneId()));
        return command;
    }

    private Pair<Boolean, String> ask(Host host, RestoreBackupCommand command) {
        try {
            BackupAnswer answer = new TypedAgent(agentManager, host).ask(command, BackupAnswer.class);
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
        VolumeVO original = volumeDao.findByUuid(from.getUuid());
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

    @Override
    public boolean assignVMToBackupOffering(VirtualMachine vm, BackupOffering backupOffering) {
        return fitness.guarded(() -> canBeBackedUp(vm));
    }

    private boolean canBeBackedUp(VirtualMachine vm) {
        if (!Hypervisor.HypervisorType.KVM.equals(vm.getHypervisorType())) {
            return false;
        }
        for (VMSnapshotVO snapshot : vmSnapshotDao.findByVmAndByType(vm.getId(), VMSnapshot.Type.Disk)) {
            boolean fileBased = vmSnapshotDetailsDao.listDetails(snapshot.getId()).stream()
                    .anyMatch(detail -> VolumeApiServiceImpl.KVM_FILE_BASED_STORAGE_SNAPSHOT.equals(detail.getName()));
            if (fileBased) {
                logger.warn("{} has file-based snapshots of its disks, and can't be backed up", vm.getInstanceName());
                return false;
            }
        }
        return true;
    }

    @Override
    public boolean removeVMFromBackupOffering(VirtualMachine vm) {
        return fitness.guarded(() -> {
            catalogue().clearActiveCheckpoint(vm.getId());
            return true;
        });
    }

    @Override
    public boolean willDeleteBackupsOnOfferingRemoval() {
        return false;
    }

    @Override
    public List<BackupOffering> listBackupOfferings(Long zoneId) {
        return fitness.guarded(() -> backupRepositoryDao.listByZoneAndProvider(zoneId, getName()).stream()
                .map(repository -> new NasBackupOffering(repository.getName(), repository.getUuid()))
                .collect(Collectors.toList()));
    }

    @Override
    public boolean isValidProviderOffering(Long zoneId, String uuid) {
        return true;
    }

    @Override
    public Boolean crossZoneInstanceCreationEnabled(BackupOffering backupOffering) {
        return fitness.guarded(() ->
                Boolean.TRUE.equals(repository(backupOffering.getId(), "backup offering " + backupOffering.getName())
                        .crossZoneInstanceCreationEnabled()));
    }

    @Override
    public Pair<Long, Long> getBackupStorageStats(Long zoneId) {
        return fitness.guarded(() -> storageStats(zoneId));
    }

    private Pair<Long, Long> storageStats(Long zoneId) {
        long total = 0;
        long used = 0;
        for (BackupRepository repository : backupRepositoryDao.listByZoneAndProvider(zoneId, getName())) {
            total += repository.getCapacityBytes() == null ? 0 : repository.getCapacityBytes();
            used += repository.getUsedBytes() == null ? 0 : repository.getUsedBytes();
        }
        return new Pair<>(used, total);
    }

    @Override
    public void syncBackupStorageStats(Long zoneId) {
        fitness.guarded(() -> {
            syncStorageStats(zoneId);
            return null;
        });
    }

    private void syncStorageStats(Long zoneId) {
        List<BackupRepository> repositories = backupRepositoryDao.listByZoneAndProvider(zoneId, getName());
        if (repositories.isEmpty()) {
            return;
        }
        TypedAgent agent = new TypedAgent(agentManager, hosts().inZone(zoneId));
        for (BackupRepository repository : repositories) {
            GetBackupStorageStatsCommand command = new GetBackupStorageStatsCommand(
                    repository.getType(), repository.getAddress(), repository.getMountOptions());
            try {
                BackupStorageStatsAnswer answer = agent.ask(command, BackupStorageStatsAnswer.class);
                backupRepositoryDao.updateCapacity(repository, answer.getTotalSize(), answer.getUsedSize());
            } catch (AgentFailure e) {
                logger.warn("The size of backup repository {} is not known: {}", repository.getName(), e.getMessage());
            }
        }
    }

    @Override
    public void syncBackupMetrics(Long zoneId) {}

    @Override
    public List<Backup.RestorePoint> listRestorePoints(VirtualMachine vm) {
        return null;
    }

    @Override
    public Backup createNewBackupEntryForRestorePoint(Backup.RestorePoint restorePoint, VirtualMachine vm) {
        return null;
    }

    @Override
    public boolean supportsInstanceFromBackup() {
        return true;
    }

    /** Since 4.23. */
    public boolean supportsMemoryVmSnapshot() {
        return false;
    }
}
