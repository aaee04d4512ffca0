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
 * Tells the files that volumes may stand on, so that a host need not trust the headers of images: with a forged header it would
 * back up other people's volumes in the same folder. It may tell more files than a volume stands on, for a copied volume
 * stands on none, but never fewer.
 */
public final class VolumeBacking {
    private static final String QCOW2 = "qcow2";
    private static final String RAW = "raw";

    /** Names of the dummy templates of imported machines, whose disks may stand on any file. */
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

    /** For each of the machine's volumes the formats by the files' paths on the host, or null if the files are not known. */
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

    /** Whether CloudStack has recorded a chain of files for the volume, such as another backup provider makes. */
    private static boolean hasChainOfItsOwn(VolumeVO volume) {
        return volume.getChainInfo() != null && !volume.getChainInfo().isEmpty();
    }

    /** The format of a template in a pool: qcow2, unless a host has downloaded it there itself. Null: no volume stands on it. */
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
