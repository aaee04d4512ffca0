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
import static org.mockito.ArgumentMatchers.argThat;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.never;
import static org.mockito.Mockito.verify;
import static org.mockito.Mockito.when;

import com.cloud.agent.AgentManager;
import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.configuration.Resource.ResourceType;
import com.cloud.host.HostVO;
import com.cloud.host.dao.HostDao;
import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.VolumeApiServiceImpl;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine.State;
import com.cloud.vm.dao.VMInstanceDetailsDao;
import com.cloud.vm.snapshot.VMSnapshot;
import com.cloud.vm.snapshot.VMSnapshotDetailsVO;
import com.cloud.vm.snapshot.VMSnapshotVO;
import com.cloud.vm.snapshot.dao.VMSnapshotDao;
import com.google.gson.Gson;
import java.sql.SQLException;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.backup.dao.BackupDao;
import org.apache.cloudstack.backup.dao.BackupRepositoryDao;
import org.apache.cloudstack.framework.config.ConfigKey;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/** What the provider does beside backups and deletions. */
@Tag("each-version")
@Tag("lab")
class NASBackupProviderMethodsTest {
    private Database database;
    private Site site;
    private Backup backup;
    private Command asked;
    private Answer answer;

    @BeforeEach
    void build() throws Exception {
        database = new Database(MariaDb.shared().socket());
        site = Site.fresh(database);
        backup = site.tables.backups().findById(site.take().getId());
        Agents agents = (hostId, command) -> {
            if (command instanceof VerifyBackupCommand) {
                return new BackupAnswer(command, true, null);
            }
            asked = command;
            return answer;
        };
        site.provider.agentManager = agents.manager();
        site.state = State.Stopped;
    }

    @AfterEach
    void close() throws SQLException {
        database.close();
    }

    @Test
    void a_restore_names_the_files_by_path_and_where_they_go() {
        answer = new BackupAnswer(null, true, null);
        assertThat(site.provider.restoreBackupToVM(site.vm, backup, null, null).first())
                .isTrue();
        assertThat(asked.getWait()).isEqualTo(7200);
        assertThat(asked.executeInSequence()).isFalse();
        String json = new Gson().toJson(asked);
        assertThat(json)
                .contains("\"vmName\":\"web\"")
                .contains("\"backupPath\":\"" + backup.getExternalId() + "\"")
                .contains("\"backupRepoType\":\"nfs\",\"backupRepoAddress\":\"192.0.2.9:/b\"")
                .contains("\"backupVolumesUUIDs\":[\"r\",\"d1\",\"d2\"]")
                .contains("\"backupFiles\":[\"r\",\"d1\",\"d2\"]")
                .contains(
                        "{\"backupFile\":\"d1\",\"backedUpUuid\":\"uuid-d1\",\"volumeUuid\":\"uuid-d1\",\"path\":\"/mnt/pool-1/d1\",\"volumePath\":\"d1\"}")
                .contains("\"restoreVolumePaths\":[\"/mnt/pool-1/r\",\"/mnt/pool-1/d1\",\"/mnt/pool-1/d2\"]")
                .contains("\"vmExists\":true,\"vmState\":\"Stopped\",\"mountTimeout\":30");
    }

    @Test
    void a_restore_that_fails_says_why() {
        answer = new BackupAnswer(null, false, "IO: x");
        Pair<Boolean, String> result = site.provider.restoreBackupToVM(site.vm, backup, null, null);
        assertThat(result.first()).isFalse();
        assertThat(result.second()).isEqualTo("host kvm22: IO: x");
        assertThat(site.activeCheckpoint()).isNull();
        answer = null;
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to restore - host kvm22 gave no answer");
    }

    /** The manager counts it, and its job would fail where there is nothing to count. */
    @Test
    void a_backup_whose_size_its_host_does_not_tell_is_counted_as_of_none() {
        answer = new BackupAnswer(null, true, null);
        assertThat(site.manager.take().getSize()).isZero();
        assertThat(site.tables.count(ResourceType.backup)).isEqualTo(2);
    }

    /** The server of 4.23 asks by other methods; what the hosts are asked for is the same. */
    @Test
    void both_versions_methods_do_the_same() {
        answer = new BackupAnswer(null, true, null);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isTrue();
        String asked = new Gson().toJson(this.asked);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup, true, 22L))
                .isTrue();
        assertThat(new Gson().toJson(this.asked)).isEqualTo(asked);
        assertThat(site.provider
                        .restoreBackupToVM(site.vm, backup, null, null, false)
                        .first())
                .isTrue();
        assertThat(new Gson().toJson(this.asked)).isEqualTo(asked);
        assertThat(site.provider.takeBackup(site.vm, true, true).second().getStatus())
                .isEqualTo(Backup.Status.BackedUp);
        assertThat(((TakeBackupCommand) this.asked).getQuiesce()).isTrue();
    }

    @Test
    void a_later_server_names_the_machine_that_gets_a_volume() {
        placesForVolumes();
        answer = new BackupAnswer(null, true, "new-uuid");
        site.tables.vmDetails().addDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, "backup-1", false);
        VMInstanceVO other = mock(VMInstanceVO.class);
        when(other.getId()).thenReturn(11L);
        Backup.VolumeInfo volume = backup.getBackedUpVolumes().get(1);
        Pair<String, State> named = new Pair<>("web", State.Stopped);
        assertThat(site.provider
                        .restoreBackedUpVolume(backup, volume, "192.0.2.21", "pool-1", named, other, false)
                        .second())
                .isEqualTo("new-uuid");
        assertThat(site.tables.vmDetails().findDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID))
                .isNull();
        assertThat(site.activeCheckpoint()).isNotNull();
    }

    /** Rows of the first version know no devices; their volumes are in the devices' order. */
    @Test
    void a_backup_of_an_earlier_version_is_restored() {
        site.tables.describeVolumes(
                backup.getId(),
                "[{\"uuid\":\"uuid-r\",\"type\":\"ROOT\",\"size\":8,\"path\":\"r\"},"
                        + "{\"uuid\":\"uuid-d1\",\"type\":\"DATADISK\",\"size\":8,\"path\":\"d1\"},"
                        + "{\"uuid\":\"uuid-d2\",\"type\":\"DATADISK\",\"size\":8,\"path\":\"d2\"}]");
        answer = new BackupAnswer(null, true, null);
        Backup earlier = site.tables.backups().findById(backup.getId());
        assertThat(site.provider.restoreVMFromBackup(site.vm, earlier)).isTrue();
        assertThat(new Gson().toJson(asked)).contains("\"backupFiles\":[\"r\",\"d1\",\"d2\"]");
    }

    @Test
    void a_volume_that_has_grown_stays_as_large() {
        when(site.volumes.get(1).getSize()).thenReturn(1024L);
        answer = new BackupAnswer(null, true, null);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isTrue();
        assertThat(((RestoreBackupCommand) asked).getDisks())
                .extracting(RestoreBackupCommand.Disk::getSize)
                .containsExactly(null, 1024L, null);
        when(site.volumes.get(1).getSize()).thenReturn(7L);
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .hasMessageContaining("volume uuid-d1 of the machine has 7 bytes");
    }

    @Test
    void what_a_backup_holds_in_plain_text_goes_onto_no_encrypted_volume() {
        when(site.volumes.get(1).getPassphraseId()).thenReturn(7L);
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("volume uuid-d1 is encrypted");
        assertThat(asked).isNull();
    }

    /** CloudStack gives data disks the next free numbers, one by one, whenever it has restored a machine. */
    @Test
    void a_second_restore_writes_each_volume_to_its_own_although_the_first_renumbered_them() {
        when(site.volumes.get(1).getDeviceId()).thenReturn(3L);
        answer = new BackupAnswer(null, true, null);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isTrue();
        assertThat(new Gson().toJson(asked))
                .contains("\"backupFiles\":[\"r\",\"d1\",\"d2\"]")
                .contains("\"restoreVolumePaths\":[\"/mnt/pool-1/r\",\"/mnt/pool-1/d1\",\"/mnt/pool-1/d2\"]");
    }

    @Test
    void a_volume_that_the_machine_no_longer_has_is_left_out_and_told() {
        answer = new BackupAnswer(null, true, null);
        site.volumes.remove(2);
        assertThat(site.provider.restoreVMFromBackup(site.vm, backup)).isTrue();
        assertThat(((RestoreBackupCommand) asked).getRestoreVolumePaths())
                .containsExactly("/mnt/pool-1/r", "/mnt/pool-1/d1");
        assertThat(site.events)
                .last()
                .asString()
                .endsWith("; the instance no longer has volume uuid-d2 of it: not restored");
    }

    /** It would be attached with other content than the rest. */
    @Test
    void a_volume_that_cloudstack_attaches_after_a_restore_is_not_left_out() {
        site.volumes.remove(2);
        List<Backup.VolumeInfo> recorded = backup.getBackedUpVolumes();
        when(site.vm.getBackupVolumeList()).thenReturn(recorded);
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to restore backup " + backup.getUuid()
                        + " to i-2-10-VM - the machine no longer has volume uuid-d2,"
                        + " which CloudStack would attach to it afterwards though it was not restored");
        assertThat(asked).isNull();
        assertThat(site.activeCheckpoint()).isNotNull();
    }

    @Test
    void a_record_that_can_t_be_read_leaves_those_beside_it_alone_and_can_be_deleted() throws Exception {
        Site site = Site.fresh(database);
        Backup first = site.take();
        site.tables.describeVolumes(first.getId(), "[{\"uuid\":");
        assertThat(site.take().getType()).isEqualTo("FULL");
        site.delete(first, false);
        site.agrees();
    }

    /** The manager adds it to what the owner uses, and would fail a backup that was taken. */
    @Test
    void a_size_that_no_host_tells_is_none() {
        site.state = State.Running;
        answer = new BackupAnswer(null, true, null);
        assertThat(site.provider.takeBackup(site.vm, false).second().getSize()).isZero();
    }

    /** A host that is given no files restores none, and says that it was done. */
    @Test
    void a_backup_that_does_not_say_what_it_holds_is_not_restored() {
        answer = new BackupAnswer(null, true, null);
        for (String volumes : new String[] {null, "[]", "null", "[null]", "[{\"uuid\":"}) {
            site.tables.describeVolumes(backup.getId(), volumes);
            Backup unknown = site.tables.backups().findById(backup.getId());
            assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, unknown))
                    .isInstanceOf(CloudRuntimeException.class)
                    .hasMessageContaining(backup.getUuid());
        }
        assertThat(asked).isNull();
        assertThat(site.activeCheckpoint()).isNotNull();
    }

    private Pair<Boolean, String> restoreVolume(String hostIp, String vmName) {
        Backup.VolumeInfo volume = backup.getBackedUpVolumes().get(1);
        return site.provider.restoreBackedUpVolume(backup, volume, hostIp, "pool-1", new Pair<>(vmName, State.Running));
    }

    private void placesForVolumes() {
        site.state = State.Running;
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(site.provider.primaryDataStoreDao.findByUuid("pool-1")).thenReturn(pool);
        HostVO host = site.hosts.findById(21L);
        when(site.hosts.findByIp("192.0.2.21")).thenReturn(host);
        DiskOfferingVO offering = mock(DiskOfferingVO.class);
        when(site.provider.diskOfferingDao.findByUuid(any())).thenReturn(offering);
    }

    @Test
    void one_volume_is_restored_to_a_new_one() {
        placesForVolumes();
        answer = new BackupAnswer(null, true, "new-uuid");
        assertThat(restoreVolume("192.0.2.21", "i-2-10-VM").second()).isEqualTo("new-uuid");
        assertThat(new Gson().toJson(asked))
                .doesNotContain("vmExists")
                .contains("\"vmName\":\"i-2-10-VM\"")
                .contains("\"diskType\":\"datadisk\"")
                .contains("\"restoreVolumeUUID\":\"d1\"")
                .contains("\"backupFiles\":[\"d1\"]")
                .contains("\"restoreVolumeSizes\":[8]")
                .containsPattern("\"restoreVolumePaths\":\\[\"/mnt/pool-1/[0-9a-f-]{36}\"\\]");
        verify(site.provider.volumeDao).persist(any());
        assertThat(site.activeCheckpoint()).isNull();
    }

    /** Guests get a volume as it is recorded. */
    @ParameterizedTest
    @CsvSource({"NetworkFilesystem,QCOW2", "Filesystem,QCOW2", "SharedMountPoint,QCOW2", "RBD,RAW", "Linstor,RAW"})
    void a_new_volume_is_recorded_with_the_format_that_the_host_wrote(StoragePoolType type, ImageFormat format) {
        placesForVolumes();
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(pool.getPoolType()).thenReturn(type);
        answer = new BackupAnswer(null, true, "new-uuid");
        Pair<Boolean, String> restored = restoreVolume("192.0.2.21", "i-2-10-VM");
        assertThat(restored.first()).as(restored.second()).isTrue();
        verify(site.provider.volumeDao).persist(argThat(volume -> volume.getFormat() == format));
    }

    @Test
    void a_volume_that_is_not_restored_leaves_the_machine_as_it_was() {
        placesForVolumes();
        answer = new BackupAnswer(null, false, "IO: x");
        assertThat(restoreVolume("192.0.2.21", "i-2-10-VM").first()).isFalse();
        assertThatThrownBy(() -> restoreVolume("192.0.2.99", "i-2-10-VM"))
                .hasMessageContaining("no host has address 192.0.2.99");
        verify(site.provider.volumeDao, never()).persist(any());
        assertThat(site.activeCheckpoint()).isNotNull();
    }

    @ParameterizedTest
    @CsvSource({
        "Running,23,is not there any more",
        "Stopped,,is Stopped now",
        "Running,21,",
    })
    void a_volume_goes_to_a_machine_that_is_as_it_was_when_the_volume_was_asked_for(
            State state, Long host, String refused) {
        placesForVolumes();
        answer = new BackupAnswer(null, true, "new-uuid");
        database.whileItWaits(() -> {
            site.state = state;
            when(site.vm.getHostId()).thenReturn(host);
        });
        Pair<Boolean, String> result = restoreVolume("192.0.2.21", "i-2-10-VM");
        assertThat(result.first()).isEqualTo(refused == null);
        assertThat(result.second()).endsWith(refused == null ? "new-uuid" : refused);
        assertThat(asked == null).isEqualTo(refused != null);
    }

    /** Its guest would not get it, and CloudStack would say that it has. */
    @ParameterizedTest
    @EnumSource(names = {"Starting", "Stopping", "Migrating"})
    void a_volume_goes_to_no_machine_that_is_on_its_way(State state) {
        placesForVolumes();
        Backup.VolumeInfo volume = backup.getBackedUpVolumes().get(1);
        Pair<Boolean, String> result = site.provider.restoreBackedUpVolume(
                backup, volume, "192.0.2.21", "pool-1", new Pair<>("i-2-10-VM", state));
        assertThat(result.first()).isFalse();
        assertThat(result.second()).contains("virtual machine i-2-10-VM is " + state);
        assertThat(asked).isNull();
    }

    @Test
    void a_volume_of_a_backup_that_was_deleted_meanwhile_is_not_asked_for() {
        placesForVolumes();
        answer = new BackupAnswer(null, true, null);
        database.whileItWaits(() -> site.tables.backups().remove(backup.getId()));
        assertThat(restoreVolume("192.0.2.21", "i-2-10-VM").second()).endsWith("it was deleted meanwhile");
        assertThat(asked).isNull();
    }

    /** Only instance names can be looked up. */
    @Test
    void a_volume_for_a_machine_that_is_named_as_its_owner_does_is_taken_for_one_of_the_backup_s() {
        placesForVolumes();
        answer = new BackupAnswer(null, true, "new-uuid");
        assertThat(restoreVolume("192.0.2.21", "web").first()).isTrue();
        assertThat(site.activeCheckpoint()).isNull();
    }

    @Test
    void a_volume_for_another_machine_leaves_the_backup_s_own_alone() {
        placesForVolumes();
        VMInstanceVO other = mock(VMInstanceVO.class);
        when(other.getId()).thenReturn(11L);
        when(other.getState()).thenReturn(State.Running);
        when(other.getHostId()).thenReturn(21L);
        when(site.provider.vmInstanceDao.findVMByInstanceName("i-2-11-VM")).thenReturn(other);
        site.tables.vmDetails().addDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, "backup-1", false);
        answer = new BackupAnswer(null, true, "new-uuid");
        assertThat(restoreVolume("192.0.2.21", "i-2-11-VM").first()).isTrue();
        assertThat(site.tables.vmDetails().findDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID))
                .isNull();
        assertThat(site.activeCheckpoint()).isNotNull();
    }

    private Map<String, ThrowingCallable> operations() {
        NASBackupProvider provider = site.provider;
        Backup.VolumeInfo volume = backup.getBackedUpVolumes().get(1);
        BackupOffering offering = mock(BackupOffering.class);
        return Map.of(
                "take", () -> provider.takeBackup(site.vm, false),
                "delete", () -> provider.deleteBackup(backup, false),
                "restore", () -> provider.restoreVMFromBackup(site.vm, backup),
                "restore to a new one", () -> provider.restoreBackupToVM(site.vm, backup, null, null),
                "restore a volume", () -> provider.restoreBackedUpVolume(backup, volume, "", "", new Pair<>("", null)),
                "assign", () -> provider.assignVMToBackupOffering(site.vm, offering),
                "remove", () -> provider.removeVMFromBackupOffering(site.vm),
                "offerings", () -> provider.listBackupOfferings(1L),
                "cross zone", () -> provider.crossZoneInstanceCreationEnabled(offering));
    }

    /** Its server catches exceptions alone: a machine would stay in between for ever. */
    @Test
    void what_this_version_of_cloudstack_lacks_is_a_failure_like_any_other() {
        org.mockito.stubbing.Answer<Object> lacking = call -> {
            throw new NoSuchMethodError("no " + call.getMethod().getName());
        };
        site.provider.hostDao = mock(HostDao.class, lacking);
        site.provider.backupRepositoryDao = mock(BackupRepositoryDao.class, lacking);
        site.provider.vmSnapshotDao = mock(VMSnapshotDao.class, lacking);
        site.provider.vmInstanceDetailsDao = mock(VMInstanceDetailsDao.class, lacking);
        operations().forEach((name, operation) -> assertThatThrownBy(operation)
                .as(name)
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageStartingWith(
                        "nasbackup does not fit this management server - java.lang.NoSuchMethodError: no ")
                .hasCauseInstanceOf(NoSuchMethodError.class));
    }

    /** A provider that fails when it is made or started takes the whole server with it. */
    @Test
    void what_does_not_fit_is_logged_once_and_told_by_each_operation() {
        Site unfit = new Site(site.tables);
        unfit.misfits = List.of("a", "b");
        unfit.logged.clear();
        assertThat(unfit.provider.start()).isTrue();
        assertThat(unfit.provider.getConfigKeys()).isNotEmpty();
        site = unfit;
        operations().forEach((name, operation) -> assertThatThrownBy(operation)
                .as(name)
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("nasbackup does not fit this management server - a; b"));
        assertThat(unfit.logged)
                .containsExactly(
                        "nasbackup does not fit this management server - a",
                        "nasbackup does not fit this management server - b");
    }

    /** The server's task would leave out the zones that come after. */
    @Test
    void what_a_server_does_periodically_never_throws() {
        site.logged.clear();
        when(site.provider.resourceManager.findOneRandomRunningHostByHypervisor(HypervisorType.KVM, 1L))
                .thenReturn(null);
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.logged)
                .containsExactly(
                        "The sizes of the backup repositories of zone 1 are not known: no KVM host of the zone is up");
        site.provider.backupRepositoryDao = mock(BackupRepositoryDao.class, call -> {
            throw new NoSuchMethodError("no " + call.getMethod().getName());
        });
        site.provider.backupDao = mock(BackupDao.class, call -> {
            throw new IllegalStateException("the database is gone");
        });
        site.provider.syncBackupStorageStats(1L);
        site.provider.syncBackupMetrics(1L);
        Site unfit = new Site(site.tables);
        unfit.misfits = List.of("a");
        unfit.provider.start();
        unfit.logged.clear();
        unfit.provider.syncBackupStorageStats(1L);
        assertThat(unfit.logged).isEmpty();
    }

    @Test
    void the_provider_fits_what_it_is_compiled_against() {
        site.misfits = null;
        assertThat(site.provider.misfits()).isEmpty();
        NASBackupProvider own = new NASBackupProvider();
        assertThat(own.start()).isTrue();
        assertThat(own.getConfigKeys()).isNotEmpty();
    }

    @Test
    void a_backup_that_meets_such_a_lack_half_way_leaves_no_row_that_waits_for_it() {
        AgentManager lacking = mock(AgentManager.class, call -> {
            throw new NoSuchMethodError("no send");
        });
        site.provider.agentManager = lacking;
        assertThatThrownBy(site::take).isInstanceOf(CloudRuntimeException.class);
        assertThat(site.rows()).extracting(Backup::getStatus).contains(Backup.Status.Error);
    }

    @Test
    void users_see_what_became_of_backups_deletions_and_restores() throws Exception {
        Site site = Site.fresh(database);
        Backup full = site.tables.backups().findById(site.take().getId());
        Backup incremental = site.take();
        Backup newest = site.take();
        site.host.fails(ModelHost.Fault.REFUSED);
        assertThat(site.take()).isNull();
        site.host.fails(ModelHost.Fault.NO_ANSWER);
        assertThatThrownBy(site::take).isInstanceOf(CloudRuntimeException.class);
        site.state = State.Starting;
        assertThatThrownBy(site::take).isInstanceOf(CloudRuntimeException.class);
        site.state = State.Stopped;
        site.delete(incremental, false);
        assertThatThrownBy(() -> site.delete(full, false)).isInstanceOf(CloudRuntimeException.class);
        site.provider.restoreVMFromBackup(site.vm, full);
        site.host.fails(ModelHost.Fault.NONE, ModelHost.Fault.REFUSED);
        site.provider.restoreBackupToVM(site.vm, full, null, null);
        assertThat(site.events)
                .satisfiesExactly(
                        event -> assertThat(event)
                                .startsWith("TAKE: Backup " + full.getExternalId() + ": full of ")
                                .endsWith(" bytes, since no checkpoint is active"),
                        event -> assertThat(event)
                                .startsWith("TAKE: Backup " + incremental.getExternalId() + ": incremental of ")
                                .endsWith(" bytes on " + full.getExternalId()),
                        event -> assertThat(event).startsWith("TAKE: Backup " + newest.getExternalId()),
                        event -> assertThat(event)
                                .startsWith("failed TAKE: Instance i-2-10-VM was not backed up: host kvm21: "),
                        event -> assertThat(event)
                                .startsWith("failed TAKE: Instance i-2-10-VM was not backed up: unable to back up"),
                        event -> assertThat(event).contains("is in state Starting"),
                        event -> assertThat(event)
                                .isEqualTo("DELETE: Backup " + incremental.getExternalId()
                                        + " was deleted, after 1 that stood on it took over what they need"),
                        event -> assertThat(event)
                                .startsWith(
                                        "failed DELETE: Backup " + full.getExternalId() + " was not deleted: backup "),
                        event -> assertThat(event)
                                .isEqualTo(
                                        "RESTORE: Instance i-2-10-VM was restored from backup " + full.getExternalId()),
                        event -> assertThat(event)
                                .startsWith("failed CREATE: Instance i-2-10-VM was not restored from backup "
                                        + full.getExternalId() + ": host kvm22: "));
    }

    @Test
    void an_event_that_can_t_be_added_fails_nothing() throws Exception {
        Site site = Site.fresh(database);
        for (Runnable fault : List.<Runnable>of(
                () -> {
                    throw new IllegalStateException("no event bus");
                },
                () -> {
                    throw new NoSuchMethodError("no onCompletedActionEvent");
                })) {
            site.eventFault = fault;
            site.logged.clear();
            site.delete(site.take(), false);
            site.agrees();
            assertThat(site.logged)
                    .filteredOn(line -> line.startsWith("CloudStack did not take an event: "))
                    .hasSize(2);
        }
    }

    /** Its users see the last of several answers, and never what is thrown. */
    @Test
    void a_volume_s_restore_that_is_refused_is_an_answer() throws Exception {
        placesForVolumes();
        when(site.repositories.findByBackupOfferingId(5L)).thenReturn(null);
        assertThat(restoreVolume("192.0.2.21", "i-2-10-VM"))
                .satisfies(result -> assertThat(result.first()).isFalse())
                .satisfies(
                        result -> assertThat(result.second()).startsWith("there is no backup repository for backup "));
        assertThat(site.events.get(site.events.size() - 1))
                .startsWith("failed RESTORE_VOLUME: Volume uuid-d1 was not restored from backup ");
    }

    @Test
    void sizes_of_repositories_are_asked_for_and_kept_when_they_are_not_told() {
        BackupStorageStatsAnswer stats = new BackupStorageStatsAnswer(null, true, null);
        stats.setTotalSize(100L);
        stats.setUsedSize(40L);
        answer = stats;
        site.provider.syncBackupStorageStats(1L);
        BackupRepository repository =
                site.repositories.listByZoneAndProvider(1L, "nas").get(0);
        verify(site.repositories).updateCapacity(repository, 100L, 40L);
        for (Answer other : new Answer[] {
            null, new Answer(null, false, "x"), new BackupStorageStatsAnswer(null, false, "MOUNT_FAILED: x")
        }) {
            answer = other;
            site.provider.syncBackupStorageStats(1L);
        }
        verify(site.repositories, never()).updateCapacity(repository, 0L, 0L);
        when(repository.getCapacityBytes()).thenReturn(100L);
        when(repository.getUsedBytes()).thenReturn(40L);
        assertThat(site.provider.getBackupStorageStats(1L).first()).isEqualTo(40L);
        assertThat(site.provider.getBackupStorageStats(1L).second()).isEqualTo(100L);
    }

    /** Hosts with CloudStack's own script say false to whatever they tell. */
    @Test
    void sizes_that_a_host_of_an_earlier_version_tells_are_taken() {
        BackupStorageStatsAnswer stats = new BackupStorageStatsAnswer(null, false, "/mnt/x 100 40");
        stats.setTotalSize(100L);
        stats.setUsedSize(40L);
        answer = stats;
        BackupRepository repository =
                site.repositories.listByZoneAndProvider(1L, "nas").get(0);
        site.provider.syncBackupStorageStats(1L);
        verify(site.repositories).updateCapacity(repository, 100L, 40L);
    }

    @Test
    void offerings_are_the_repositories() {
        BackupRepository repository =
                site.repositories.listByZoneAndProvider(1L, "nas").get(0);
        when(repository.getUuid()).thenReturn("repo-1");
        assertThat(site.provider.listBackupOfferings(1L)).singleElement().satisfies(offering -> {
            assertThat(offering.getExternalId()).isEqualTo("repo-1");
            assertThat(offering.getName()).isEqualTo("the NAS");
        });
        BackupOffering offering = mock(BackupOffering.class);
        when(offering.getId()).thenReturn(5L);
        assertThat(site.provider.crossZoneInstanceCreationEnabled(offering)).isFalse();
        assertThat(site.provider.isValidProviderOffering(1L, "any")).isTrue();
        assertThat(site.provider.removeVMFromBackupOffering(site.vm)).isTrue();
        assertThat(site.activeCheckpoint()).isNull();
    }

    @Test
    void machines_that_can_t_be_backed_up_are_not_assigned() {
        assertThat(site.provider.assignVMToBackupOffering(site.vm, null)).isTrue();
        VMSnapshotVO snapshot = mock(VMSnapshotVO.class);
        when(site.provider.vmSnapshotDao.findByVmAndByType(Site.VM, VMSnapshot.Type.Disk))
                .thenReturn(List.of(snapshot));
        VMSnapshotDetailsVO detail = mock(VMSnapshotDetailsVO.class);
        when(detail.getName()).thenReturn(VolumeApiServiceImpl.KVM_FILE_BASED_STORAGE_SNAPSHOT);
        when(site.provider.vmSnapshotDetailsDao.listDetails(0)).thenReturn(List.of(detail));
        assertThat(site.provider.assignVMToBackupOffering(site.vm, null)).isFalse();
        when(site.vm.getHypervisorType()).thenReturn(new HypervisorType("VMware"));
        assertThat(site.provider.assignVMToBackupOffering(site.vm, null)).isFalse();
        when(site.provider.vmSnapshotDao.findByVmAndByType(Site.VM, VMSnapshot.Type.DiskAndMemory))
                .thenReturn(List.of(snapshot));
        assertThatThrownBy(site::take).hasMessageContaining("snapshot of disk and memory");
    }

    @Test
    void a_machine_in_between_is_not_backed_up() {
        for (State state : new State[] {State.Starting, State.Migrating, State.Error}) {
            site.state = state;
            assertThatThrownBy(site::take).hasMessageContaining("is in state " + state);
        }
    }

    @Test
    void names_that_the_framework_knows() {
        assertThat(site.provider.getName()).isEqualTo("nas");
        assertThat(site.provider.getConfigComponentName()).isEqualTo("BackupService");
        assertThat(site.provider.getConfigKeys())
                .extracting(ConfigKey::key)
                .containsExactly(
                        "nas.backup.restore.mount.timeout",
                        "nas.backup.full.every",
                        "nas.backup.delete.full",
                        "nas.backup.incremental.enabled",
                        "nas.backup.wait",
                        "nas.backup.parallel.per.host",
                        "nas.backup.queue.wait");
        assertThat(site.provider.supportsMemoryVmSnapshot()).isFalse();
        assertThat(site.provider.supportsInstanceFromBackup()).isTrue();
        assertThat(site.provider.willDeleteBackupsOnOfferingRemoval()).isFalse();
    }
}
