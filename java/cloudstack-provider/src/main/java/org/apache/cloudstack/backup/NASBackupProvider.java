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

import com.cloud.utils.Pair;
import com.cloud.vm.VirtualMachine;
import java.io.IOException;
import java.time.Clock;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.cloudstack.framework.config.ConfigKey;
import org.apache.cloudstack.framework.config.Configurable;
import org.nasbackup.cloudstack.CloudStackVersion;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.Outcome;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.DetailTickets;
import org.nasbackup.provider.cloudstack.Fitness;
import org.nasbackup.provider.cloudstack.GlobalChainLocks;
import org.nasbackup.provider.cloudstack.HostSlots;
import org.nasbackup.provider.cloudstack.ServerClasses;
import org.nasbackup.provider.cloudstack.Transactions;

/**
 * Backs virtual machines up to a NAS, in chains of a full backup and incrementals, each of which can be deleted. CloudStack 4.22
 * and 4.23 call different methods: this class has the methods of both, and declares no type that one of them lacks. A server may
 * end if it can't make a provider: so this class needs only what it declares, and {@link NasBackups} needs the rest.
 */
public class NASBackupProvider extends NasServer implements BackupProvider, Configurable {
    private final Clock clock;
    private final ChainLocks locks;
    private final Transactions transactions;
    private HostSlots slots;
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

    /** Never throws: the server would not start. {@link #misfits} says why there are no keys. */
    @Override
    public ConfigKey<?>[] getConfigKeys() {
        try {
            return NasBackupKeys.all();
        } catch (RuntimeException | LinkageError e) {
            return new ConfigKey<?>[0];
        }
    }

    /** Never throws: the server would not start. What is wrong is logged here once, and told by each operation. */
    @Override
    public boolean start() {
        fitness.wrong();
        return true;
    }

    /** What of the server does not fit the provider; empty: the provider can work here. */
    List<String> misfits() {
        logger.info("nasbackup finds {}", CloudStackVersion.describe(BackupProvider.class));
        List<String> misfits = new ArrayList<>(ServerClasses.owed(NASBackupProvider.class, BackupProvider.class));
        misfits.addAll(ServerClasses.hidden());
        try {
            misfits.addAll(ServerClasses.unlinked());
        } catch (IOException | RuntimeException e) {
            logger.warn("whether nasbackup links to this CloudStack could not be looked at: {}", e.toString());
        }
        NasBackupKeys.all(); // throws where they can't be made
        return misfits;
    }

    NasBackups backups() {
        return new NasBackups(this, logger, clock, locks, slots(), transactions);
    }

    /** One object for all work: work that ends wakes the work that waits. */
    synchronized HostSlots slots() {
        if (slots == null) {
            slots = new HostSlots(
                    new DetailTickets(userDetailsDao, transactions),
                    locks,
                    logger,
                    HostSlots.Pace.ORDINARY,
                    System::nanoTime);
        }
        return slots;
    }

    /** 4.22's. */
    public Pair<Boolean, Backup> takeBackup(VirtualMachine vm, Boolean quiesceVM) {
        return fitness.guarded(() -> {
            NasBackups backups = backups();
            return backups.told(
                    ActionEvents.Type.TAKE,
                    vm.getAccountId(),
                    vm.getId(),
                    why -> Outcome.notTaken(vm.getInstanceName(), why),
                    () -> new NasTake(backups).take(vm, quiesceVM));
        });
    }

    /** 4.23's. This provider knows no isolated backups. */
    public Pair<Boolean, Backup> takeBackup(VirtualMachine vm, Boolean quiesceVM, boolean isolated) {
        return takeBackup(vm, quiesceVM);
    }

    @Override
    public boolean deleteBackup(Backup backup, boolean forced) {
        return fitness.guarded(() -> {
            NasBackups backups = backups();
            return backups.told(
                    ActionEvents.Type.DELETE,
                    backup.getAccountId(),
                    backup.getVmId(),
                    why -> Outcome.notDeleted(backup.getExternalId(), why),
                    () -> new NasDeletion(backups).delete(backup, forced));
        });
    }

    /** Managers that call this leave all accounting to the provider. */
    public boolean handlesChainDeleteResourceAccounting() {
        return true;
    }

    /** 4.22's. */
    public boolean restoreVMFromBackup(VirtualMachine vm, Backup backup) {
        return restore(ActionEvents.Type.RESTORE, vm, backup).first();
    }

    /** 4.23's. This provider has no quick restore, and so needs no host for one. */
    public boolean restoreVMFromBackup(VirtualMachine vm, Backup backup, boolean quickRestore, Long hostId) {
        return restoreVMFromBackup(vm, backup);
    }

    /** 4.22's. */
    public Pair<Boolean, String> restoreBackupToVM(
            VirtualMachine vm, Backup backup, String hostIp, String dataStoreUuid) {
        return restore(ActionEvents.Type.CREATE, vm, backup);
    }

    private Pair<Boolean, String> restore(ActionEvents.Type type, VirtualMachine vm, Backup backup) {
        return fitness.guarded(() -> {
            NasBackups backups = backups();
            return backups.toldRestore(
                    type, vm, "Instance " + vm.getInstanceName(), backup, told -> told, () -> new NasRestore(backups)
                            .restore(vm, backup));
        });
    }

    /** 4.23's. */
    public Pair<Boolean, String> restoreBackupToVM(
            VirtualMachine vm, Backup backup, String hostIp, String dataStoreUuid, boolean quickRestore) {
        return restoreBackupToVM(vm, backup, hostIp, dataStoreUuid);
    }

    /** 4.22's, which tells no more than the name of the machine that gets the volume. */
    public Pair<Boolean, String> restoreBackedUpVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState) {
        return fitness.guarded(() -> {
            NasRestore restore = new NasRestore(backups());
            VirtualMachine receiver = restore.receiver(vmNameAndState.first(), backup);
            return restore.restoreVolume(backup, backupVolumeInfo, hostIp, dataStoreUuid, vmNameAndState, receiver);
        });
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
        return fitness.guarded(() -> new NasRestore(backups())
                .restoreVolume(backup, backupVolumeInfo, hostIp, dataStoreUuid, vmNameAndState, vm));
    }

    @Override
    public boolean assignVMToBackupOffering(VirtualMachine vm, BackupOffering backupOffering) {
        return fitness.guarded(() -> backups().assign(vm));
    }

    @Override
    public boolean removeVMFromBackupOffering(VirtualMachine vm) {
        return fitness.guarded(() -> {
            backups().clearActiveCheckpoint(vm);
            return true;
        });
    }

    @Override
    public boolean willDeleteBackupsOnOfferingRemoval() {
        return false;
    }

    @Override
    public List<BackupOffering> listBackupOfferings(Long zoneId) {
        return fitness.guarded(() -> backups().offerings(zoneId));
    }

    @Override
    public boolean isValidProviderOffering(Long zoneId, String uuid) {
        return true;
    }

    @Override
    public Boolean crossZoneInstanceCreationEnabled(BackupOffering backupOffering) {
        return fitness.guarded(() -> backups().crossZone(backupOffering));
    }

    @Override
    public Pair<Long, Long> getBackupStorageStats(Long zoneId) {
        return fitness.guarded(() -> backups().storageStats(zoneId));
    }

    /** The first method that a server's periodic task calls for each zone; it calls others only where machines have offerings. */
    @Override
    public void syncBackupStorageStats(Long zoneId) {
        periodically("The sizes of the backup repositories of zone " + zoneId + " are not known", () -> backups()
                .syncStorageStats(zoneId));
        Set<Long> unheard = new HashSet<>();
        periodically("The hidden backups of zone " + zoneId + " were not removed", () -> new NasSync(backups(), unheard)
                .removeHidden(zoneId));
        periodically(
                "The deletions of zone " + zoneId + " that were put off were not done",
                () -> new NasPending(backups(), unheard).finish(zoneId));
    }

    @Override
    public void syncBackupMetrics(Long zoneId) {}

    /** Never throws: the task would end, and leave out the zones that follow. */
    private void periodically(String what, Runnable work) {
        if (!fitness.wrong().isEmpty()) {
            return;
        }
        try {
            fitness.guarded(() -> {
                work.run();
                return null;
            });
        } catch (RuntimeException e) {
            logger.warn("{}: {}", what, e.getMessage());
        }
    }

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
