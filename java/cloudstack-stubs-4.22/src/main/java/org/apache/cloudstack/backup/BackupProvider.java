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
import java.util.List;

/** 4.22's. */
public interface BackupProvider {
    String getName();

    String getDescription();

    List<BackupOffering> listBackupOfferings(Long zoneId);

    boolean isValidProviderOffering(Long zoneId, String uuid);

    boolean assignVMToBackupOffering(VirtualMachine vm, BackupOffering backupOffering);

    boolean removeVMFromBackupOffering(VirtualMachine vm);

    boolean willDeleteBackupsOnOfferingRemoval();

    boolean deleteBackup(Backup backup, boolean forced);

    void syncBackupMetrics(Long zoneId);

    List<Backup.RestorePoint> listRestorePoints(VirtualMachine vm);

    Backup createNewBackupEntryForRestorePoint(Backup.RestorePoint restorePoint, VirtualMachine vm);

    boolean supportsInstanceFromBackup();

    Pair<Long, Long> getBackupStorageStats(Long zoneId);

    void syncBackupStorageStats(Long zoneId);

    Boolean crossZoneInstanceCreationEnabled(BackupOffering backupOffering);

    Pair<Boolean, Backup> takeBackup(VirtualMachine vm, Boolean quiesceVM);

    boolean restoreVMFromBackup(VirtualMachine vm, Backup backup);

    Pair<Boolean, String> restoreBackupToVM(VirtualMachine vm, Backup backup, String hostIp, String dataStoreUuid);

    Pair<Boolean, String> restoreBackedUpVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState);
}
