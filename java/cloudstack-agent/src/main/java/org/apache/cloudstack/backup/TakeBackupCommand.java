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
import com.cloud.agent.api.LogLevel;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/** Asks a host for one restore point of one virtual machine. */
public class TakeBackupCommand extends Command {
    private String vmName;
    private String backupPath;
    private String backupRepoType;
    private String backupRepoAddress;

    @LogLevel(LogLevel.Log4jLevel.Off)
    private String mountOptions;

    private List<String> volumePaths;
    private List<PrimaryDataStoreTO> volumePools;
    private Boolean quiesce;
    private String mode;
    private String bitmapNew;
    private String bitmapParent;
    private String parentPath;
    private List<String> parentPaths;
    private Integer jobSeconds;
    private List<Map<String, String>> volumeBacking;

    public TakeBackupCommand(String vmName, String backupPath) {
        this.vmName = vmName;
        this.backupPath = backupPath;
    }

    public String getVmName() {
        return vmName;
    }

    public void setVmName(String vmName) {
        this.vmName = vmName;
    }

    public String getBackupPath() {
        return backupPath;
    }

    public void setBackupPath(String backupPath) {
        this.backupPath = backupPath;
    }

    public String getBackupRepoType() {
        return backupRepoType;
    }

    public void setBackupRepoType(String backupRepoType) {
        this.backupRepoType = backupRepoType;
    }

    public String getBackupRepoAddress() {
        return backupRepoAddress;
    }

    public void setBackupRepoAddress(String backupRepoAddress) {
        this.backupRepoAddress = backupRepoAddress;
    }

    public String getMountOptions() {
        return mountOptions;
    }

    public void setMountOptions(String mountOptions) {
        this.mountOptions = mountOptions;
    }

    public List<String> getVolumePaths() {
        return volumePaths;
    }

    public void setVolumePaths(List<String> volumePaths) {
        this.volumePaths = volumePaths;
    }

    public List<PrimaryDataStoreTO> getVolumePools() {
        return volumePools;
    }

    public void setVolumePools(List<PrimaryDataStoreTO> volumePools) {
        this.volumePools = volumePools;
    }

    public Boolean getQuiesce() {
        return quiesce;
    }

    public void setQuiesce(Boolean quiesce) {
        this.quiesce = quiesce;
    }

    public String getMode() {
        return mode;
    }

    public void setMode(String mode) {
        this.mode = mode;
    }

    public String getBitmapNew() {
        return bitmapNew;
    }

    public void setBitmapNew(String bitmapNew) {
        this.bitmapNew = bitmapNew;
    }

    public String getBitmapParent() {
        return bitmapParent;
    }

    public void setBitmapParent(String bitmapParent) {
        this.bitmapParent = bitmapParent;
    }

    public String getParentPath() {
        return parentPath;
    }

    public void setParentPath(String parentPath) {
        this.parentPath = parentPath;
    }

    public List<String> getParentPaths() {
        return parentPaths;
    }

    public void setParentPaths(List<String> parentPaths) {
        this.parentPaths = parentPaths;
    }

    /** Seconds after which the host gives up, while the server still waits for its answer; null: not told. */
    public Integer getJobSeconds() {
        return jobSeconds;
    }

    public void setJobSeconds(Integer jobSeconds) {
        this.jobSeconds = jobSeconds;
    }

    /**
     * For each of the volume paths the files that the volume may stand on: the format of each by its path, or null if the server
     * does not know them. Null: the server does not tell.
     */
    public List<Map<String, String>> getVolumeBacking() {
        return volumeBacking;
    }

    public void setVolumeBacking(List<Map<String, String>> volumeBacking) {
        this.volumeBacking = volumeBacking;
    }

    /** The library has its own locks, so a long command need not hold up the other commands of the host. */
    @Override
    public boolean executeInSequence() {
        return false;
    }
}
