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

import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.configuration.Resource.ResourceType;
import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine.State;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Map;
import org.nasbackup.provider.database.Version;

/**
 * CloudStack's manager of backups as far as the provider notices it, of the version whose types are on the class path: what it
 * refuses by itself, by which methods it asks, what it writes and counts before and after, and which failures it hears of.
 */
final class Manager {
    /** The machine that is made of a backup. */
    static final long MADE = 11;

    private final Site site;

    Manager(Site site) {
        this.site = site;
    }

    /** By the method that this version has; the arguments that it does not know are the last. */
    @SuppressWarnings("unchecked")
    private <T> T ask(String name, Object... arguments) {
        Method method = Arrays.stream(BackupProvider.class.getMethods())
                .filter(each -> each.getName().equals(name))
                .findFirst()
                .orElseThrow();
        try {
            return (T) method.invoke(site.provider, Arrays.copyOf(arguments, method.getParameterCount()));
        } catch (IllegalAccessException e) {
            throw new IllegalStateException(e);
        } catch (InvocationTargetException e) {
            if (e.getCause() instanceof Error) {
                throw (Error) e.getCause();
            }
            throw (RuntimeException) e.getCause();
        }
    }

    /** @return null: its job fails */
    Backup take() {
        return take(null);
    }

    /**
     * What a schedule keeps too many of is deleted in the same job, which fails with it.
     *
     * @param schedule null: a person asked
     * @return null: its job fails
     */
    Backup take(Long schedule) {
        if (site.offering == null) {
            throw new CloudRuntimeException(
                    "Cannot create backup as the Instance doesn't have a Backup Offering assigned");
        }
        Pair<Boolean, Backup> result = ask("takeBackup", site.vm, false, false);
        if (!result.first()) {
            return null;
        }
        BackupVO row = site.tables.backups().findById(result.second().getId());
        row.setBackupScheduleId(schedule);
        site.tables.backups().update(row.getId(), row);
        site.tables.incrementResourceCount(row.getAccountId(), ResourceType.backup);
        site.tables.incrementResourceCount(
                row.getAccountId(), ResourceType.backup_storage, result.second().getSize());
        if (schedule != null) {
            deleteSurplus(schedule);
        }
        return result.second();
    }

    private void deleteSurplus(long schedule) {
        Integer kept = site.tables.maxBackups(schedule);
        if (kept == null || kept == 0) {
            return;
        }
        List<BackupVO> taken = site.tables.backups().listBySchedule(schedule);
        for (int i = 0; i < taken.size() - kept; i++) {
            delete(taken.get(i).getId(), false);
        }
    }

    /** The row is removed, and counted off with the size that it was read with; a later manager leaves that to the provider. */
    void delete(long id, boolean forced) {
        BackupVO read = site.tables.backups().findByIdIncludingRemoved(id);
        if (!this.<Boolean>ask("deleteBackup", read, forced)) {
            throw new CloudRuntimeException("Failed to delete the backup");
        }
        if (Version.LATER && this.<Boolean>ask("handlesChainDeleteResourceAccounting")) {
            endUsage(read);
            return;
        }
        site.tables.decrementResourceCount(read.getAccountId(), ResourceType.backup);
        site.tables.decrementResourceCount(
                read.getAccountId(), ResourceType.backup_storage, read.getSize() == null ? 0 : read.getSize());
        site.tables.backups().remove(id);
        endUsage(read);
    }

    private void endUsage(BackupVO deleted) {
        long under = deleted.getBackupOfferingId();
        if ((site.offering == null || site.offering != under)
                && site.tables
                        .backups()
                        .listByVmIdAndOffering(Site.ZONE, Site.VM, under)
                        .isEmpty()) {
            site.usageEnded.add(under);
        }
    }

    /** Exceptions are told to the log alone. */
    boolean removeOffering(boolean forced) {
        boolean result = false;
        try {
            result = ask("removeVMFromBackupOffering", site.vm);
            if (result || forced) {
                site.offering = null;
                site.tables.removeSchedules(Site.VM);
                result = true;
            }
        } catch (Exception e) {
            site.logged.add(e.getMessage());
        }
        return result;
    }

    /** Any row of the offering that the machine has, in whatever state, refuses it. */
    void expunge() {
        if (site.offering != null) {
            if (!site.tables
                    .backups()
                    .listByVmIdAndOffering(Site.ZONE, Site.VM, site.offering)
                    .isEmpty()) {
                throw new CloudRuntimeException(
                        "Please, remove the backup offering before proceeding to VM exclusion!");
            }
            removeOffering(true);
        }
        site.state = State.Expunging;
        when(site.vm.getRemoved()).thenReturn(new Date());
    }

    private BackupVO backedUp(long id) {
        BackupVO backup = site.tables.backups().findById(id);
        if (backup == null || backup.getStatus() != Backup.Status.BackedUp) {
            throw new CloudRuntimeException("Backup should be in BackedUp state");
        }
        return backup;
    }

    /** It catches exceptions, and no errors. */
    void restore(long id) {
        BackupVO backup = backedUp(id);
        if (site.state != State.Stopped && site.state != State.Destroyed) {
            throw new CloudRuntimeException("Existing Instance should be stopped before being restored from Backup");
        }
        if (site.volumes.size() != backup.getBackedUpVolumes().size()) {
            throw new CloudRuntimeException("the Backup has different number of disks to the Instance");
        }
        site.state = State.Restoring;
        try {
            if (!this.<Boolean>ask("restoreVMFromBackup", site.vm, backup, false, null)) {
                throw new CloudRuntimeException("Error restoring Instance from Backup");
            }
        } catch (Exception e) {
            site.state = State.Stopped;
            throw new CloudRuntimeException("Error restoring Instance from Backup [" + backup.getUuid() + "].", e);
        }
        site.state = State.Stopped;
    }

    /** A new machine, which gets the settings of the one that was backed up, has its contents restored. */
    VMInstanceVO create(long id) {
        BackupVO backup = backedUp(id);
        VMInstanceVO made = machine();
        String settings = site.tables.backupDetails().listDetailsKeyPairs(id).get("vmSettings");
        Site.settings(settings).forEach((name, value) -> site.tables.vmDetails().addDetail(MADE, name, value, true));
        List<VolumeVO> volumes = new ArrayList<>();
        for (VolumeVO volume : site.volumes) {
            volumes.add(site.newVolume(volume.getDeviceId(), "made-" + volume.getUuid(), "made-" + volume.getPath()));
        }
        when(site.provider.volumeDao.findByInstance(MADE)).thenReturn(volumes);
        Pair<Boolean, String> result;
        try {
            result = ask("restoreBackupToVM", made, backup, null, null, false);
        } catch (Exception e) {
            throw new CloudRuntimeException("Error while creating Instance from backup " + backup.getUuid(), e);
        }
        if (!result.first()) {
            throw new CloudRuntimeException("Failed to create Instance from backup due to: " + result.second());
        }
        return made;
    }

    private VMInstanceVO machine() {
        VMInstanceVO made = mock(VMInstanceVO.class);
        when(made.getId()).thenReturn(MADE);
        when(made.getInstanceName()).thenReturn("i-2-11-VM");
        when(made.getName()).thenReturn("made");
        when(made.getState()).thenReturn(State.Restoring);
        when(made.getLastHostId()).thenReturn(22L);
        when(made.getDataCenterId()).thenReturn(Site.ZONE);
        when(made.getHypervisorType()).thenReturn(HypervisorType.KVM);
        when(site.provider.vmInstanceDao.findByIdIncludingRemoved(MADE)).thenReturn(made);
        return made;
    }

    /**
     * Tries address and name of the host with uuid and name of the pool, until one is good. An exception is told to nobody: the
     * user reads what the last call without one said.
     *
     * @return the new volume's uuid
     */
    String restoreVolume(long id, int volume, VMInstanceVO receiver, String[] host, String[] pool) {
        BackupVO backup = backedUp(id);
        if (receiver.getBackupOfferingId() != null) {
            throw new CloudRuntimeException("The selected Instance is attached to a backup offering");
        }
        if (Version.LATER && receiver.getState() != State.Stopped) {
            throw new CloudRuntimeException("VM needs to be powered off to restore the volume");
        }
        Backup.VolumeInfo info = backup.getBackedUpVolumes().get(volume);
        Pair<Boolean, String> result = new Pair<>(false, "");
        for (String hostData : host) {
            for (String poolData : pool) {
                try {
                    result = ask(
                            "restoreBackedUpVolume",
                            backup,
                            info,
                            hostData,
                            poolData,
                            new Pair<>(receiver.getName(), receiver.getState()),
                            receiver,
                            false);
                    if (result.first()) {
                        return result.second();
                    }
                } catch (Exception e) {
                    site.logged.add("debug: " + e.getMessage());
                }
            }
        }
        throw new CloudRuntimeException("Error restoring Volume due to: [" + result.second() + "].");
    }

    /** As every five minutes; an exception ends it for the zones that come after. */
    void sync() {
        ask("syncBackupStorageStats", Site.ZONE);
        ask("syncBackupMetrics", Site.ZONE);
    }

    /** What the manager adds to the details of a backup. */
    static Map<String, String> details(Site site) {
        return Map.of(
                "template",
                "t-1",
                "vmSettings",
                Site.json(site.tables.vmDetails().listDetailsKeyPairs(Site.VM)));
    }
}
