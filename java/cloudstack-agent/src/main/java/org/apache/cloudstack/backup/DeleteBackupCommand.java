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

/** Asks a host to remove a restore point. */
public class DeleteBackupCommand extends Command {
    private String backupPath;
    private String backupRepoType;
    private String backupRepoAddress;

    @LogLevel(LogLevel.Log4jLevel.Off)
    private String mountOptions;

    public DeleteBackupCommand(
            String backupPath, String backupRepoType, String backupRepoAddress, String mountOptions) {
        this.backupPath = backupPath;
        this.backupRepoType = backupRepoType;
        this.backupRepoAddress = backupRepoAddress;
        this.mountOptions = mountOptions;
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
        return mountOptions == null ? "" : mountOptions;
    }

    public void setMountOptions(String mountOptions) {
        this.mountOptions = mountOptions;
    }

    /** The library has its own locks, so a long command need not hold up the other commands of the host. */
    @Override
    public boolean executeInSequence() {
        return false;
    }
}
