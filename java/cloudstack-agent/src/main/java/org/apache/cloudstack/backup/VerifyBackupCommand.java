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

/** Asks a host whether the restore point on the NAS is the one that a host answered when it was made. */
public class VerifyBackupCommand extends Command {
    private String backupPath;
    private String pointId;
    private String mac;
    private String backupFile;
    private String backupRepoType;
    private String backupRepoAddress;

    @LogLevel(LogLevel.Log4jLevel.Off)
    private String mountOptions;

    /**
     * @param pointId the id in the answer when the point was made
     * @param mac not null: the host that answers has to have a key. The MAC itself is not compared, for hosts write new ones
     *     without a word to the server. Null: no key vouched for the point when it was made
     * @param backupRepoAddress null: the host looks at nothing, and says whether it restores with our wrapper. A host that does
     *     not know the command writes the whole of it into its log, with the password of a CIFS server
     */
    public VerifyBackupCommand(
            String backupPath,
            String pointId,
            String mac,
            String backupRepoType,
            String backupRepoAddress,
            String mountOptions) {
        this.backupPath = backupPath;
        this.pointId = pointId;
        this.mac = mac;
        this.backupRepoType = backupRepoType;
        this.backupRepoAddress = backupRepoAddress;
        this.mountOptions = mountOptions;
    }

    public String getBackupPath() {
        return backupPath;
    }

    public String getPointId() {
        return pointId;
    }

    public String getMac() {
        return mac;
    }

    /** The file of the one volume that is to be restored, as a restore names it; null: all volumes of the point are. */
    public String getBackupFile() {
        return backupFile;
    }

    public void setBackupFile(String backupFile) {
        this.backupFile = backupFile;
    }

    public String getBackupRepoType() {
        return backupRepoType;
    }

    public String getBackupRepoAddress() {
        return backupRepoAddress;
    }

    public String getMountOptions() {
        return mountOptions == null ? "" : mountOptions;
    }

    /** The library has its own locks, so a long command need not hold up the other commands of the host. */
    @Override
    public boolean executeInSequence() {
        return false;
    }
}
