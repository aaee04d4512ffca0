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

import static org.assertj.core.api.Assertions.assertThat;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.host.HostVO;
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine.State;
import java.sql.SQLException;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/**
 * Hosts with CloudStack's own wrappers pair files and volumes by place, and name the files by other fields in each version. The
 * site's volumes have paths other than their uuids, as those that were moved or restored have.
 */
@Tag("lab")
class StockPairingTest {
    private static final String[] ALL = {
        "root.r.qcow2 > /mnt/pool-1/r", "datadisk.d1.qcow2 > /mnt/pool-1/d1", "datadisk.d2.qcow2 > /mnt/pool-1/d2"
    };

    private Database database;
    private Site site;
    private Backup backup;

    @BeforeEach
    void build() throws Exception {
        database = new Database(MariaDb.shared().socket());
        site = Site.fresh(database);
        backup = site.tables.backups().findById(site.take().getId());
        site.state = State.Stopped;
    }

    @AfterEach
    void close() throws SQLException {
        database.close();
    }

    private List<String> restored(StockPairing host) {
        return host.restores((RestoreBackupCommand) site.host.asked.get(site.host.asked.size() - 1));
    }

    /** As CloudStack numbers them: each data volume gets the next free number behind those that are attached. */
    private void renumber() {
        long next = site.volumes.stream().mapToLong(VolumeVO::getDeviceId).max().orElseThrow() + 1;
        VolumeVO first = site.volumes.remove(1);
        when(first.getDeviceId()).thenReturn(next);
        site.volumes.add(first);
    }

    @ParameterizedTest
    @EnumSource
    void each_volume_gets_its_own_however_often_the_machine_was_restored_and_renumbered(StockPairing host) {
        for (int i = 0; i < 3; i++) {
            site.provider.restoreVMFromBackup(site.vm, backup);
            assertThat(restored(host)).containsExactly(ALL);
            renumber();
        }
    }

    @ParameterizedTest
    @EnumSource
    void of_a_machine_that_was_removed_files_are_named_as_they_were_in_the_backup(StockPairing host) {
        when(site.vm.getRemoved()).thenReturn(new Date());
        when(site.volumes.get(0).getUuid()).thenReturn("uuid-r2");
        when(site.volumes.get(0).getPath()).thenReturn("r2");
        site.provider.restoreVMFromBackup(site.vm, backup);
        assertThat(restored(host)).containsExactly("root.r.qcow2 > /mnt/pool-1/r2", ALL[1], ALL[2]);
    }

    @ParameterizedTest
    @EnumSource
    void a_volume_that_the_backup_does_not_hold_is_left_alone_and_told(StockPairing host) {
        site.volumes.add(1, site.newVolume(1, "uuid-new", "new"));
        when(site.volumes.get(2).getDeviceId()).thenReturn(3L);
        site.provider.restoreVMFromBackup(site.vm, backup);
        assertThat(restored(host)).containsExactly(ALL);
        assertThat(site.events)
                .last()
                .isEqualTo("RESTORE: Instance i-2-10-VM was restored from backup " + backup.getExternalId()
                        + "; it holds no volume uuid-new: left as it was");
    }

    @ParameterizedTest
    @EnumSource
    void a_volume_that_the_machine_no_longer_has_shifts_no_other(StockPairing host) {
        site.volumes.remove(1);
        site.provider.restoreVMFromBackup(site.vm, backup);
        assertThat(restored(host)).containsExactly(ALL[0], ALL[2]);
    }

    @ParameterizedTest
    @EnumSource
    void a_machine_that_was_made_gets_each_volume_at_its_number(StockPairing host) {
        VMInstanceVO made = mock(VMInstanceVO.class);
        when(made.getId()).thenReturn(11L);
        when(made.getInstanceName()).thenReturn("i-2-11-VM");
        when(made.getLastHostId()).thenReturn(22L);
        when(made.getDataCenterId()).thenReturn(Site.ZONE);
        when(site.provider.vmInstanceDao.findByIdIncludingRemoved(11L)).thenReturn(made);
        List<VolumeVO> volumes = Arrays.asList(
                site.newVolume(2, "uuid-c", "c"), site.newVolume(0, "uuid-a", "a"), site.newVolume(1, "uuid-b", "b"));
        when(site.provider.volumeDao.findByInstance(11L)).thenReturn(volumes);
        site.provider.restoreBackupToVM(made, backup, null, null);
        assertThat(restored(host))
                .containsExactly(
                        "root.r.qcow2 > /mnt/pool-1/a",
                        "datadisk.d1.qcow2 > /mnt/pool-1/b",
                        "datadisk.d2.qcow2 > /mnt/pool-1/c");
    }

    @ParameterizedTest
    @EnumSource
    void one_volume_is_named_as_it_was_in_the_backup(StockPairing host) {
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(site.provider.primaryDataStoreDao.findByUuid("pool-1")).thenReturn(pool);
        HostVO named = site.hosts.findById(21L);
        when(site.hosts.findByIp("192.0.2.21")).thenReturn(named);
        DiskOfferingVO offering = mock(DiskOfferingVO.class);
        when(site.provider.diskOfferingDao.findByUuid(any())).thenReturn(offering);
        site.provider.restoreBackedUpVolume(
                backup,
                backup.getBackedUpVolumes().get(1),
                "192.0.2.21",
                "pool-1",
                new Pair<>("i-2-10-VM", State.Stopped));
        assertThat(restored(host))
                .singleElement()
                .asString()
                .matches("datadisk\\.d1\\.qcow2 > /mnt/pool-1/[0-9a-f-]{36}");
    }
}
