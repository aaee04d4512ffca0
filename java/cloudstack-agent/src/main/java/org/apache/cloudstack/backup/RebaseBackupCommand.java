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

/**
 * Asks a host to put an image, or all images of a restore point, onto another parent. A command for a point has no
 * {@code targetPath}, so that a host with CloudStack's own script refuses it: when that script fails at a rebase, it
 * removes all that the repository holds.
 */
public class RebaseBackupCommand extends Command {
    private String targetPath;
    private String newBackingPath;
    private String backupPath;
    private String newParentPath;
    private String goingPath;
    private String backupRepoType;
    private String backupRepoAddress;

    @LogLevel(LogLevel.Log4jLevel.Off)
    private String mountOptions;

    public RebaseBackupCommand(
            String targetPath,
            String newBackingPath,
            String backupRepoType,
            String backupRepoAddress,
            String mountOptions) {
        this.targetPath = targetPath;
        this.newBackingPath = newBackingPath;
        this.backupRepoType = backupRepoType;
        this.backupRepoAddress = backupRepoAddress;
        this.mountOptions = mountOptions;
    }

    /**
     * Rebases all images of a restore point.
     *
     * @param backupPath the point, {@code <instance>/<timestamp>}
     * @param newParentPath the point to put it onto; null: it becomes a full one
     * @param goingPath a point that is deleted next: if this one stands on it, its images may become those of this one; or null
     */
    public static RebaseBackupCommand ofPoint(
            String backupPath,
            String newParentPath,
            String goingPath,
            String backupRepoType,
            String backupRepoAddress,
            String mountOptions) {
        RebaseBackupCommand command =
                new RebaseBackupCommand(null, null, backupRepoType, backupRepoAddress, mountOptions);
        command.backupPath = backupPath;
        command.newParentPath = newParentPath;
        command.goingPath = goingPath;
        return command;
    }

    /** The image to rebase; null when the command is for a point. */
    public String getTargetPath() {
        return targetPath;
    }

    public String getNewBackingPath() {
        return newBackingPath;
    }

    /** The point to rebase; null when the command is for one image. */
    public String getBackupPath() {
        return backupPath;
    }

    public String getNewParentPath() {
        return newParentPath;
    }

    /** A point that is deleted next; null: none, as far as is known. */
    public String getGoingPath() {
        return goingPath;
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
