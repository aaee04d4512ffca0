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

/** Asks a host whether what is on the NAS is the restore point that it once answered. */
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
     * @param pointId of the answer when it was made
     * @param mac that there is one, and only that, is asked: who answers has to have a key, for hosts write new ones without
     *     a word to the server. Null: nothing vouched for it then
     * @param backupRepoAddress null: nothing is looked at; who answers knows the question, and says whether it restores with
     *     our wrapper. A host that does not writes the whole question into its log, the password of a CIFS server among it
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

    /** Of the one volume that is wanted, as a restore names it; null: all of the point is. */
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

    /** The library has its own locks: a long one must not hold up what else the host is asked. */
    @Override
    public boolean executeInSequence() {
        return false;
    }
}
