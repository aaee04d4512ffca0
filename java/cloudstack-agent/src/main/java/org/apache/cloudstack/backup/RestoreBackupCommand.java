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
import com.cloud.vm.VirtualMachine;
import java.util.List;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/**
 * Asks a host to restore a machine or one volume of it. Ours reads which file goes onto which volume. CloudStack's own pair by
 * place in lists, other ones in each version: this has all of them, so that the one provider can fill what any host reads.
 */
public class RestoreBackupCommand extends Command {
    /** A volume, and the file in the backup that it gets. */
    public static final class Disk {
        private String backupFile;
        private String backedUpUuid;
        private String volumeUuid;
        private PrimaryDataStoreTO pool;
        private String path;
        private String volumePath;
        private Long size;

        /**
         * @param backupFile what the file is named by, between its type and its suffix
         * @param backedUpUuid of the volume that was backed up: its disk's serial tells it where the file is named by something else
         * @param path of the volume as the management server takes the host to see it
         * @param volumePath as its pool knows it
         * @param size that the volume is to have, in bytes; null: the image's
         */
        public Disk(
                String backupFile,
                String backedUpUuid,
                String volumeUuid,
                PrimaryDataStoreTO pool,
                String path,
                String volumePath,
                Long size) {
            this.backupFile = backupFile;
            this.backedUpUuid = backedUpUuid;
            this.volumeUuid = volumeUuid;
            this.pool = pool;
            this.path = path;
            this.volumePath = volumePath;
            this.size = size;
        }

        public String getBackupFile() {
            return backupFile;
        }

        public String getBackedUpUuid() {
            return backedUpUuid;
        }

        public String getVolumeUuid() {
            return volumeUuid;
        }

        public PrimaryDataStoreTO getPool() {
            return pool;
        }

        public String getPath() {
            return path;
        }

        public String getVolumePath() {
            return volumePath;
        }

        public Long getSize() {
            return size;
        }
    }

    private List<Disk> disks;
    private String pointId;
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

    @LogLevel(LogLevel.Log4jLevel.Off)
    private String mountOptions;

    protected RestoreBackupCommand() {}

    /** @param disks the root volume first: CloudStack's own hosts take the first file for its image, and no other */
    public static RestoreBackupCommand ofMachine(List<Disk> disks) {
        RestoreBackupCommand command = new RestoreBackupCommand();
        command.setDisks(disks);
        // of a machine that was removed, too: 4.22.0 would take the names of its volumes for those of the files
        command.vmExists = true;
        return command;
    }

    /**
     * Of one volume, to a new one.
     *
     * @param diskType of the volume that was backed up
     */
    public static RestoreBackupCommand ofVolume(Disk disk, String diskType) {
        RestoreBackupCommand command = new RestoreBackupCommand();
        command.setDisks(List.of(disk));
        command.restoreVolumeUUID = disk.getBackupFile();
        command.diskType = diskType;
        return command;
    }

    /** 4.22.0 names files by the uuids of volumes, and is given what they are named by; later versions only log the uuids. */
    private void setDisks(List<Disk> disks) {
        this.disks = disks;
        backupFiles = each(disks, Disk::getBackupFile);
        backupVolumesUUIDs = backupFiles;
        restoreVolumePools = each(disks, Disk::getPool);
        restoreVolumePaths = each(disks, Disk::getPath);
        restoreVolumeSizes = each(disks, Disk::getSize);
    }

    private static <T> List<T> each(List<Disk> disks, Function<Disk, T> field) {
        return disks.stream().map(field).collect(Collectors.toList());
    }

    /** Null: the management server is CloudStack's own, and does not say which file goes where. */
    public List<Disk> getDisks() {
        return disks;
    }

    /** By which the restore point is told from any other under its name; null: it is not known. */
    public String getPointId() {
        return pointId;
    }

    public void setPointId(String pointId) {
        this.pointId = pointId;
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

    /** Of the volumes in the backup; 4.22.0 names their files by them. */
    public List<String> getBackupVolumesUUIDs() {
        return backupVolumesUUIDs;
    }

    public void setBackupVolumesUUIDs(List<String> backupVolumesUUIDs) {
        this.backupVolumesUUIDs = backupVolumesUUIDs;
    }

    public List<PrimaryDataStoreTO> getRestoreVolumePools() {
        return restoreVolumePools;
    }

    public void setRestoreVolumePools(List<PrimaryDataStoreTO> restoreVolumePools) {
        this.restoreVolumePools = restoreVolumePools;
    }

    public List<String> getRestoreVolumePaths() {
        return restoreVolumePaths;
    }

    public void setRestoreVolumePaths(List<String> restoreVolumePaths) {
        this.restoreVolumePaths = restoreVolumePaths;
    }

    /** In bytes; since 4.22.1. */
    public List<Long> getRestoreVolumeSizes() {
        return restoreVolumeSizes;
    }

    public void setRestoreVolumeSizes(List<Long> restoreVolumeSizes) {
        this.restoreVolumeSizes = restoreVolumeSizes;
    }

    /** What 4.22.1 and later name the volumes' files by. */
    public List<String> getBackupFiles() {
        return backupFiles;
    }

    public void setBackupFiles(List<String> backupFiles) {
        this.backupFiles = backupFiles;
    }

    public String getDiskType() {
        return diskType;
    }

    public void setDiskType(String diskType) {
        this.diskType = diskType;
    }

    /** Null: one volume is restored, and no machine. */
    public Boolean isVmExists() {
        return vmExists;
    }

    public void setVmExists(Boolean vmExists) {
        this.vmExists = vmExists;
    }

    /** Of the one volume; 4.22.0's alone. */
    public String getRestoreVolumeUUID() {
        return restoreVolumeUUID;
    }

    public void setRestoreVolumeUUID(String restoreVolumeUUID) {
        this.restoreVolumeUUID = restoreVolumeUUID;
    }

    public VirtualMachine.State getVmState() {
        return vmState;
    }

    public void setVmState(VirtualMachine.State vmState) {
        this.vmState = vmState;
    }

    /** In seconds. */
    public Integer getMountTimeout() {
        return mountTimeout;
    }

    public void setMountTimeout(Integer mountTimeout) {
        this.mountTimeout = mountTimeout;
    }

    public String getMountOptions() {
        return mountOptions;
    }

    public void setMountOptions(String mountOptions) {
        this.mountOptions = mountOptions;
    }

    /** Otherwise the server would hold back what is in sequence, such as plugging a NIC of any guest of the host, for hours. */
    @Override
    public boolean executeInSequence() {
        return false;
    }
}
