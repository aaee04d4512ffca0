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

package org.nasbackup.provider.cloudstack;

import com.cloud.storage.DataStoreRole;
import com.cloud.storage.ScopeType;
import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.Volume;
import com.cloud.utils.exception.CloudRuntimeException;
import java.util.ArrayList;
import java.util.List;
import org.apache.cloudstack.backup.Backup;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStore;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStoreManager;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;

/** The paths and pools by which a host sees volumes. */
public final class VolumePaths {
    private final List<String> paths = new ArrayList<>();
    private final List<PrimaryDataStoreTO> pools = new ArrayList<>();

    private VolumePaths() {}

    public static VolumePaths of(List<? extends Volume> volumes, PrimaryDataStoreDao pools, DataStoreManager stores) {
        VolumePaths result = new VolumePaths();
        for (Volume volume : volumes) {
            StoragePoolVO pool = volume.getPoolId() == null ? null : pools.findById(volume.getPoolId());
            if (pool == null) {
                throw new CloudRuntimeException("volume " + volume.getUuid() + " is in no storage pool");
            }
            if (volume.getPath() == null) {
                throw new CloudRuntimeException("volume " + volume.getUuid() + " was not made yet");
            }
            result.add(pool, volume.getPath(), stores);
        }
        return result;
    }

    public static VolumePaths of(StoragePoolVO pool, String volumePath, DataStoreManager stores) {
        VolumePaths result = new VolumePaths();
        result.add(pool, volumePath, stores);
        return result;
    }

    private void add(StoragePoolVO pool, String volumePath, DataStoreManager stores) {
        paths.add(path(pool.getPoolType(), pool.getScope(), pool.getPath(), pool.getUuid(), volumePath));
        DataStore store = stores.getDataStore(pool.getId(), DataStoreRole.Primary);
        pools.add(store == null ? null : (PrimaryDataStoreTO) store.getTO());
    }

    static String path(StoragePoolType type, ScopeType scope, String poolPath, String poolUuid, String volumePath) {
        if (type == StoragePoolType.Linstor) {
            return "/dev/drbd/by-res/cs-" + volumePath + "/0";
        }
        if (scope == ScopeType.HOST || type == StoragePoolType.SharedMountPoint || type == StoragePoolType.RBD) {
            return poolPath + "/" + volumePath;
        }
        return "/mnt/" + poolUuid + "/" + volumePath;
    }

    /** Whether CloudStack's own wrapper can restore to such a pool: for other pools it copies to a folder that is no pool's. */
    static boolean inStockReach(StoragePoolType type) {
        return lockedWhileRead(type) || type == StoragePoolType.RBD || type == StoragePoolType.Linstor;
    }

    /** Whether no guest on any host can open a volume for writing while it is read: of what hosts share QEMU locks only files. */
    public static boolean lockedWhileRead(StoragePoolType type) {
        return type == StoragePoolType.NetworkFilesystem
                || type == StoragePoolType.Filesystem
                || type == StoragePoolType.SharedMountPoint;
    }

    /** The format that a host writes to a new volume: images into files, the raw disk onto everything else. */
    public static ImageFormat format(StoragePoolType type) {
        return lockedWhileRead(type) ? ImageFormat.QCOW2 : ImageFormat.RAW;
    }

    /**
     * What a host restores to a volume.
     *
     * @param index of the volume
     * @param from the volume that was backed up, as its record has it
     * @param size the size that the volume gets, in bytes; null: the image's
     */
    public RestoreBackupCommand.Disk disk(
            int index, Backup.VolumeInfo from, String uuid, String volumePath, Long size) {
        return new RestoreBackupCommand.Disk(
                fileName(from.getPath()), from.getUuid(), uuid, pools.get(index), paths.get(index), volumePath, size);
    }

    /** The part of a backup's file name that names the volume: the last component of the volume's path. */
    static String fileName(String volumePath) {
        return volumePath.substring(volumePath.lastIndexOf('/') + 1);
    }

    public List<String> paths() {
        return paths;
    }

    /** The pools, in the order of the paths; an element may be null. */
    public List<PrimaryDataStoreTO> pools() {
        return pools;
    }
}
