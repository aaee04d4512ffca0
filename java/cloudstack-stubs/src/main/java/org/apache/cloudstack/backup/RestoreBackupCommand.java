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

import com.cloud.agent.api.Command;
import com.cloud.vm.VirtualMachine;
import java.util.List;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/** What goes over the wire needs its fields here. */
public class RestoreBackupCommand extends Command {
    private String vmName;
    private String backupPath;
    private String backupRepoType;
    private String backupRepoAddress;
    private List<String> backupVolumesUUIDs;
    private List<PrimaryDataStoreTO> restoreVolumePools;
    private List<String> restoreVolumePaths;
    private List<Long> restoreVolumeSizes;
    private List<String> backupFiles;
    private String diskType;
    private Boolean vmExists;
    private String restoreVolumeUUID;
    private VirtualMachine.State vmState;
    private Integer mountTimeout;

    protected RestoreBackupCommand() {}

    public void setVmName(String vmName) {
        this.vmName = vmName;
    }

    public void setBackupPath(String backupPath) {
        this.backupPath = backupPath;
    }

    public void setBackupRepoType(String backupRepoType) {
        this.backupRepoType = backupRepoType;
    }

    public void setBackupRepoAddress(String backupRepoAddress) {
        this.backupRepoAddress = backupRepoAddress;
    }

    public void setMountOptions(String mountOptions) {}

    public void setBackupVolumesUUIDs(List<String> backupVolumesUUIDs) {
        this.backupVolumesUUIDs = backupVolumesUUIDs;
    }

    public void setRestoreVolumePools(List<PrimaryDataStoreTO> restoreVolumePools) {
        this.restoreVolumePools = restoreVolumePools;
    }

    public void setRestoreVolumePaths(List<String> restoreVolumePaths) {
        this.restoreVolumePaths = restoreVolumePaths;
    }

    public void setRestoreVolumeSizes(List<Long> restoreVolumeSizes) {
        this.restoreVolumeSizes = restoreVolumeSizes;
    }

    public void setBackupFiles(List<String> backupFiles) {
        this.backupFiles = backupFiles;
    }

    public void setDiskType(String diskType) {
        this.diskType = diskType;
    }

    public void setVmExists(Boolean vmExists) {
        this.vmExists = vmExists;
    }

    public void setRestoreVolumeUUID(String restoreVolumeUUID) {
        this.restoreVolumeUUID = restoreVolumeUUID;
    }

    public void setVmState(VirtualMachine.State vmState) {
        this.vmState = vmState;
    }

    public void setMountTimeout(Integer mountTimeout) {
        this.mountTimeout = mountTimeout;
    }

    @Override
    public boolean executeInSequence() {
        return true;
    }
}
