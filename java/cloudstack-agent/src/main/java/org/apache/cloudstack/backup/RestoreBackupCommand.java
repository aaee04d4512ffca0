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
 * Asks a host to restore a machine or one volume of it. A host of ours reads which file goes onto which volume. CloudStack's own
 * hosts pair by the places in lists, which differ in each version: this command has all these lists, for any host.
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
         * @param backupFile the part of the file's name between its type and its suffix
         * @param backedUpUuid the uuid of the volume that was backed up: the disk's serial is made of it, and tells the disk when the
         *     file has another name
         * @param path the path by which, for the management server, the host sees the volume
         * @param volumePath the path by which the pool knows the volume
         * @param size the size that the volume gets, in bytes; null: the image's
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
        // also for a machine that was removed: 4.22.0 would take the names of its volumes for the names of the files
        command.vmExists = true;
        return command;
    }

    /**
     * Restores one volume to a new one.
     *
     * @param diskType the type of the volume that was backed up
     */
    public static RestoreBackupCommand ofVolume(Disk disk, String diskType) {
        RestoreBackupCommand command = new RestoreBackupCommand();
        command.setDisks(List.of(disk));
        command.restoreVolumeUUID = disk.getBackupFile();
        command.diskType = diskType;
        return command;
    }

    /** 4.22.0 takes the uuids of volumes for the names of files, and so gets those names; later versions only log the uuids. */
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

    /** The files and their volumes; null: the provider is CloudStack's own, and does not say which file goes onto which volume. */
    public List<Disk> getDisks() {
        return disks;
    }

    /** The id that the restore point has to have; null: it is not known. */
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

    /** The uuids of the volumes in the backup; 4.22.0 takes them for the names of the files. */
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

    /** The sizes of the volumes in bytes; since 4.22.1. */
    public List<Long> getRestoreVolumeSizes() {
        return restoreVolumeSizes;
    }

    public void setRestoreVolumeSizes(List<Long> restoreVolumeSizes) {
        this.restoreVolumeSizes = restoreVolumeSizes;
    }

    /** The names of the volumes' files, for 4.22.1 and later. */
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

    /** Whether the machine exists; null: one volume is restored, and no machine. */
    public Boolean isVmExists() {
        return vmExists;
    }

    public void setVmExists(Boolean vmExists) {
        this.vmExists = vmExists;
    }

    /** The uuid of the one volume, for 4.22.0 alone. */
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

    /** The wait in seconds. */
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

    /** A restore takes hours, and the server would hold back other commands in sequence, such as plugging a NIC of another guest. */
    @Override
    public boolean executeInSequence() {
        return false;
    }
}
