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

import static org.assertj.core.api.Assertions.assertThat;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.ArgumentMatchers.anyLong;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.never;
import static org.mockito.Mockito.verify;
import static org.mockito.Mockito.when;

import com.cloud.storage.DataStoreRole;
import com.cloud.storage.ScopeType;
import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.VMTemplateStoragePoolVO;
import com.cloud.storage.VMTemplateVO;
import com.cloud.storage.VolumeVO;
import com.cloud.storage.dao.VMTemplateDao;
import com.cloud.storage.dao.VMTemplatePoolDao;
import com.cloud.vm.VirtualMachine;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.SnapshotDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.SnapshotDataStoreVO;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The chains that CloudStack makes of volumes, and what it says of them. */
class VolumeBackingTest {
    private static final long POOL = 31;
    private static final long OTHER_POOL = 32;
    private static final long TEMPLATE = 201;
    private static final long VOLUME = 7;

    private final PrimaryDataStoreDao pools = mock(PrimaryDataStoreDao.class);
    private final VMTemplateDao templates = mock(VMTemplateDao.class);
    private final VMTemplatePoolDao templatesOnPools = mock(VMTemplatePoolDao.class);
    private final SnapshotDataStoreDao snapshots = mock(SnapshotDataStoreDao.class);
    private final StoragePoolVO pool = mock(StoragePoolVO.class);
    private final VirtualMachine vm = mock(VirtualMachine.class);
    private final VolumeVO volume = mock(VolumeVO.class);

    @BeforeEach
    void a_volume_on_nfs() {
        when(pool.getId()).thenReturn(POOL);
        when(pool.getUuid()).thenReturn("u");
        when(pool.getPath()).thenReturn("/pool");
        when(pool.getScope()).thenReturn(ScopeType.CLUSTER);
        when(pool.getPoolType()).thenReturn(StoragePoolType.NetworkFilesystem);
        when(pools.findById(POOL)).thenReturn(pool);
        when(volume.getId()).thenReturn(VOLUME);
        when(volume.getPoolId()).thenReturn(POOL);
        when(volume.getTemplateId()).thenReturn(null);
        when(volume.getChainInfo()).thenReturn(null);
    }

    private Map<String, String> backing() {
        return new VolumeBacking(pools, templates, templatesOnPools, snapshots)
                .of(vm, List.of(volume))
                .get(0);
    }

    private void template(String installPath, ImageFormat format, boolean directDownload) {
        when(volume.getTemplateId()).thenReturn(TEMPLATE);
        VMTemplateStoragePoolVO onPool = mock(VMTemplateStoragePoolVO.class);
        when(onPool.getInstallPath()).thenReturn(installPath);
        when(templatesOnPools.findByPoolTemplate(POOL, TEMPLATE, null)).thenReturn(onPool);
        VMTemplateVO template = mock(VMTemplateVO.class);
        when(template.getFormat()).thenReturn(format);
        when(template.isDirectDownload()).thenReturn(directDownload);
        // users may have removed it: what stands on it stays
        when(templates.findByIdIncludingRemoved(TEMPLATE)).thenReturn(template);
    }

    private void snapshots(SnapshotDataStoreVO... all) {
        when(snapshots.listAllByVolumeAndDataStore(VOLUME, DataStoreRole.Primary))
                .thenReturn(Arrays.asList(all));
    }

    private static SnapshotDataStoreVO snapshot(long poolId, String installPath) {
        SnapshotDataStoreVO snapshot = mock(SnapshotDataStoreVO.class);
        when(snapshot.getDataStoreId()).thenReturn(poolId);
        when(snapshot.getInstallPath()).thenReturn(installPath);
        return snapshot;
    }

    @ParameterizedTest
    @CsvSource({
        "NetworkFilesystem,CLUSTER,/mnt/u/t",
        "NetworkFilesystem,ZONE,/mnt/u/t",
        "Filesystem,HOST,/pool/t",
        "SharedMountPoint,CLUSTER,/pool/t",
    })
    void a_root_disk_stands_on_its_template_in_its_pool(StoragePoolType type, ScopeType scope, String path) {
        when(pool.getPoolType()).thenReturn(type);
        when(pool.getScope()).thenReturn(scope);
        template("t", ImageFormat.QCOW2, false);
        assertThat(backing()).isEqualTo(Map.of(path, "qcow2"));
    }

    @ParameterizedTest
    @CsvSource({"QCOW2,false,qcow2", "QCOW2,true,qcow2", "RAW,false,qcow2", "RAW,true,raw", ",false,qcow2"})
    void a_template_is_a_qcow2_unless_a_host_has_downloaded_a_raw_one(
            ImageFormat format, boolean directDownload, String told) {
        template("/mnt/u/t", format, directDownload);
        assertThat(backing()).isEqualTo(Map.of("/mnt/u/t", told));
    }

    @Test
    void a_template_that_the_database_no_longer_has_is_a_qcow2() {
        template("t", ImageFormat.QCOW2, false);
        when(templates.findByIdIncludingRemoved(TEMPLATE)).thenReturn(null);
        assertThat(backing()).isEqualTo(Map.of("/mnt/u/t", "qcow2"));
    }

    /** A data disk, a machine made from an ISO, a volume that was copied to a pool without its template, one half downloaded. */
    @Test
    void a_volume_without_a_template_in_its_pool_stands_on_nothing() {
        assertThat(backing()).isEmpty();
        template("boot.iso", ImageFormat.ISO, false);
        assertThat(backing()).isEmpty();
        template(null, ImageFormat.QCOW2, false);
        assertThat(backing()).isEmpty();
        when(templatesOnPools.findByPoolTemplate(anyLong(), anyLong(), any())).thenReturn(null);
        assertThat(backing()).isEmpty();
    }

    /** The volume's path is then that of the newest file; a snapshot that is reverted to has a further one on top. */
    @Test
    void snapshots_of_a_machine_s_disks_lie_between_a_volume_and_its_template() {
        template("t", ImageFormat.QCOW2, false);
        snapshots(
                snapshot(POOL, "first"),
                snapshot(POOL, "second"),
                snapshot(POOL, "/mnt/u/snapshots/s"),
                snapshot(POOL, null),
                snapshot(OTHER_POOL, "elsewhere"));
        assertThat(backing())
                .isEqualTo(Stream.of("t", "first", "second", "snapshots/s")
                        .collect(Collectors.toMap(file -> "/mnt/u/" + file, file -> "qcow2")));
    }

    /** CloudStack has no template of such a machine, but perhaps another's file under it. */
    @ParameterizedTest
    @ValueSource(strings = {"kvm-default-vm-import-dummy-template", "system-default-vm-import-dummy-template.iso"})
    void of_a_machine_that_was_brought_in_nothing_is_said(String name) {
        VMTemplateVO dummy = mock(VMTemplateVO.class);
        when(dummy.getName()).thenReturn(name);
        when(vm.getTemplateId()).thenReturn(2L);
        when(templates.findByIdIncludingRemoved(2L)).thenReturn(dummy);
        assertThat(backing()).isNull();
    }

    @Test
    void of_a_volume_with_a_chain_that_others_have_made_nothing_is_said() {
        template("t", ImageFormat.QCOW2, false);
        when(volume.getChainInfo()).thenReturn("a-delta");
        assertThat(backing()).isNull();
        when(volume.getChainInfo()).thenReturn("");
        assertThat(backing()).isNotEmpty();
    }

    @ParameterizedTest
    @EnumSource(
            value = StoragePoolType.class,
            mode = EnumSource.Mode.EXCLUDE,
            names = {"NetworkFilesystem", "Filesystem", "SharedMountPoint"})
    void of_a_pool_that_has_no_files_nothing_is_said(StoragePoolType type) {
        when(pool.getPoolType()).thenReturn(type);
        assertThat(backing()).isNull();
        verify(templatesOnPools, never()).findByPoolTemplate(anyLong(), anyLong(), any());
    }
}
