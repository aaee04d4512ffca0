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
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.ArgumentMatchers.anyLong;
import static org.mockito.Mockito.doAnswer;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.agent.api.Answer;
import com.cloud.host.Host;
import com.cloud.storage.DataStoreRole;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine.State;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import org.apache.cloudstack.engine.subsystem.api.storage.PrimaryDataStore;
import org.apache.cloudstack.engine.subsystem.api.storage.PrimaryDataStoreDriver;
import org.apache.cloudstack.engine.subsystem.api.storage.VolumeInfo;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/** Storage that shows each volume to the hosts that it was told of alone, modelled by what CloudStack's drivers do. */
@Tag("each-version")
@Tag("lab")
class ShownVolumesTest {
    private final List<String> done = new ArrayList<>();
    private Database database;
    private Site site;
    private Backup backup;
    private Supplier<Answer> answer = () -> new BackupAnswer(null, true, null);
    private String grants = "shown";

    @BeforeEach
    void build() throws Exception {
        database = new Database(MariaDb.shared().socket());
        site = Site.fresh(database);
        backup = site.tables.backups().findById(site.take().getId());
        site.state = State.Stopped;
        Agents agents = (hostId, command) -> {
            if (command instanceof VerifyBackupCommand) {
                BackupAnswer known = new BackupAnswer(command, true, null);
                known.setRestoresChains(true);
                return known;
            }
            done.add("restore "
                    + ((RestoreBackupCommand) command).getDisks().get(1).getVolumePath());
            return answer.get();
        };
        site.provider.agentManager = agents.manager();
        when(site.volumes.get(1).getId()).thenReturn(101L);
        when(site.volumes.get(1).getPoolId()).thenReturn(32L);
        pool(StoragePoolType.FiberChannel);
        PrimaryDataStore store = mock(PrimaryDataStore.class);
        when(store.getVolume(anyLong())).thenAnswer(call -> mock(VolumeInfo.class, "volume " + call.getArgument(0)));
        PrimaryDataStoreDriver driver = driver();
        when(store.getDriver()).thenReturn(driver);
        when(site.provider.dataStoreManager.getDataStore(32L, DataStoreRole.Primary))
                .thenReturn(store);
    }

    private PrimaryDataStoreDriver driver() {
        PrimaryDataStoreDriver driver = mock(PrimaryDataStoreDriver.class);
        when(driver.grantAccess(any(), any(), any())).thenAnswer(call -> {
            done.add("show " + call.getArgument(0) + " to "
                    + call.<Host>getArgument(1).getName());
            if (grants.equals("fails")) {
                throw new CloudRuntimeException("no SDC");
            }
            when(site.volumes.get(1).getPath()).thenReturn("d1 as shown");
            return grants.equals("shown");
        });
        doAnswer(call -> done.add("take back " + call.getArgument(0)))
                .when(driver)
                .revokeAccess(any(), any(), any());
        return driver;
    }

    private void pool(StoragePoolType type) {
        StoragePoolVO pool = mock(StoragePoolVO.class);
        when(pool.getId()).thenReturn(32L);
        when(pool.getUuid()).thenReturn("pool-2");
        when(pool.getPoolType()).thenReturn(type);
        when(site.provider.primaryDataStoreDao.findById(32L)).thenReturn(pool);
    }

    @AfterEach
    void close() throws SQLException {
        database.close();
    }

    /** FiberChannel's driver writes into the volume's path by what the host sees it, and StorPool needs none. */
    @ParameterizedTest
    @CsvSource({"FiberChannel,3", "PowerFlex,3", "StorPool,1", "NetworkFilesystem,1"})
    void a_host_is_shown_what_it_restores_and_only_as_long(StoragePoolType type, int steps) {
        pool(type);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isTrue();
        assertThat(done)
                .containsExactlyElementsOf(
                        steps == 1
                                ? List.of("restore d1")
                                : List.of("show volume 101 to kvm22", "restore d1 as shown", "take back volume 101"));
    }

    @Test
    void a_restore_that_failed_takes_back_what_was_shown() {
        answer = () -> new BackupAnswer(null, false, "IO: x");
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isFalse();
        assertThat(done).endsWith("take back volume 101");
    }

    @Test
    void a_host_that_may_be_writing_still_keeps_it() {
        answer = () -> null;
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .hasMessage("unable to restore - host kvm22 gave no answer");
        assertThat(done).endsWith("restore d1 as shown");
        assertThat(site.logged)
                .contains("Volume uuid-d1 stays visible to host kvm22: it gave no answer, and may be writing still");
    }

    /** One that runs where CloudStack takes it to be stopped. */
    @ParameterizedTest
    @ValueSource(strings = {"DOMAIN_STATE: open the output, disk 'd1': in use", "BUSY: open the output: it is held"})
    void a_guest_that_has_it_open_on_the_host_keeps_it(String refused) {
        answer = () -> new BackupAnswer(null, false, refused);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isFalse();
        assertThat(done).endsWith("restore d1 as shown");
        assertThat(site.logged)
                .contains("Volume uuid-d1 stays visible to host kvm22: a guest of it has one of them open");
    }

    @Test
    void a_machine_that_was_started_meanwhile_keeps_it() {
        answer = () -> {
            site.state = State.Running;
            return new BackupAnswer(null, true, null);
        };
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isTrue();
        assertThat(done).endsWith("restore d1 as shown");
    }

    @ParameterizedTest
    @CsvSource({"fails,no SDC", "refused,its storage refused"})
    void what_can_t_be_shown_is_not_restored(String grants, String why) {
        this.grants = grants;
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("volume uuid-d1 was not shown to host kvm22: " + why);
        assertThat(done).containsExactly("show volume 101 to kvm22", "take back volume 101");
        assertThat(site.activeCheckpoint()).isNotNull();
    }
}
