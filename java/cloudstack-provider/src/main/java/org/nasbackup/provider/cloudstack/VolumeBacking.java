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
import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.VMTemplateStoragePoolVO;
import com.cloud.storage.VMTemplateVO;
import com.cloud.storage.VolumeVO;
import com.cloud.storage.dao.VMTemplateDao;
import com.cloud.storage.dao.VMTemplatePoolDao;
import com.cloud.vm.VirtualMachine;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.SnapshotDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.SnapshotDataStoreVO;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;

/**
 * What CloudStack knows of the files that volumes stand on, so that a host need not believe what a guest's QEMU has left in a
 * header: it would back up other people's volumes, which lie in the same folder. More may be told than a volume has, for where
 * it was copied it has none; never less.
 */
public final class VolumeBacking {
    private static final String QCOW2 = "qcow2";
    private static final String RAW = "raw";

    /** What machines have that were brought in from outside, with whatever their disks stand on. */
    private static final Set<String> NO_TEMPLATES =
            Set.of("kvm-default-vm-import-dummy-template", "system-default-vm-import-dummy-template.iso");

    private final PrimaryDataStoreDao pools;
    private final VMTemplateDao templates;
    private final VMTemplatePoolDao templatesOnPools;
    private final SnapshotDataStoreDao snapshots;

    public VolumeBacking(
            PrimaryDataStoreDao pools,
            VMTemplateDao templates,
            VMTemplatePoolDao templatesOnPools,
            SnapshotDataStoreDao snapshots) {
        this.pools = pools;
        this.templates = templates;
        this.templatesOnPools = templatesOnPools;
        this.snapshots = snapshots;
    }

    /** For each of the machine's volumes the format by the file's path on the host, or null where it is not known. */
    public List<Map<String, String>> of(VirtualMachine vm, List<VolumeVO> volumes) {
        VMTemplateVO template = templates.findByIdIncludingRemoved(vm.getTemplateId());
        boolean broughtIn = template != null && NO_TEMPLATES.contains(template.getName());
        return volumes.stream().map(volume -> broughtIn ? null : of(volume)).collect(Collectors.toList());
    }

    private Map<String, String> of(VolumeVO volume) {
        StoragePoolVO pool = pools.findById(volume.getPoolId());
        if (!VolumePaths.lockedWhileRead(pool.getPoolType()) || hasChainOfItsOwn(volume)) {
            return null;
        }
        Map<String, String> files = new TreeMap<>();
        VMTemplateStoragePoolVO template = volume.getTemplateId() == null
                ? null
                : templatesOnPools.findByPoolTemplate(pool.getId(), volume.getTemplateId(), null);
        String format = template == null ? null : format(templates.findByIdIncludingRemoved(volume.getTemplateId()));
        if (format != null) {
            add(files, pool, template.getInstallPath(), format);
        }
        // a snapshot of a machine's disks leaves the volume's file as it is, and gives the volume a new one on top of
        // it
        for (SnapshotDataStoreVO snapshot :
                snapshots.listAllByVolumeAndDataStore(volume.getId(), DataStoreRole.Primary)) {
            if (snapshot.getDataStoreId() == pool.getId()) {
                add(files, pool, snapshot.getInstallPath(), QCOW2);
            }
        }
        return files;
    }

    /** Another backup provider's, for one. */
    private static boolean hasChainOfItsOwn(VolumeVO volume) {
        return volume.getChainInfo() != null && !volume.getChainInfo().isEmpty();
    }

    /** Null: nothing stands on it. Pools of files hold templates as qcow2, but for what a host itself has downloaded there. */
    private static String format(VMTemplateVO template) {
        if (template == null || template.getFormat() == null) {
            return QCOW2;
        }
        if (template.getFormat() == ImageFormat.ISO) {
            return null;
        }
        return template.getFormat() == ImageFormat.RAW && template.isDirectDownload() ? RAW : QCOW2;
    }

    private static void add(Map<String, String> files, StoragePoolVO pool, String file, String format) {
        if (file == null || file.isEmpty()) {
            return;
        }
        String path = file.startsWith("/")
                ? file
                : VolumePaths.path(pool.getPoolType(), pool.getScope(), pool.getPath(), pool.getUuid(), file);
        files.put(path, format);
    }
}
