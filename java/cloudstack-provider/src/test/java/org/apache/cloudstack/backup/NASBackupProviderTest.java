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
import static org.mockito.AdditionalAnswers.delegatesTo;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.ArgumentMatchers.anyLong;
import static org.mockito.Mockito.doReturn;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.agent.api.Command;
import com.cloud.configuration.Resource.ResourceType;
import com.cloud.host.HostVO;
import com.cloud.host.Status;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine.State;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.cloudstack.backup.ModelHost.Fault;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.Ticket;
import org.nasbackup.provider.cloudstack.DetailTickets;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;
import org.nasbackup.provider.database.Tables;

/** The provider over a real database and a model of hosts and files. */
@Tag("each-version")
@Tag("lab")
class NASBackupProviderTest {
    private static MariaDb server;
    private static Database database;

    private Site site;

    @BeforeAll
    static void start() throws Exception {
        server = MariaDb.shared();
        database = new Database(server.socket());
    }

    @AfterAll
    static void stop() throws Exception {
        database.close();
    }

    @BeforeEach
    void build() {
        site = Site.fresh(database);
    }

    private List<Backup> take(int count) {
        List<Backup> taken = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            taken.add(site.take());
            site.agrees();
        }
        return taken;
    }

    private TakeBackupCommand lastTake() {
        return (TakeBackupCommand) site.host.asked.get(site.host.asked.size() - 1);
    }

    @Test
    void a_chain_is_made_and_deleted_anywhere() {
        List<Backup> taken = take(6);
        assertThat(taken).extracting(site::position).containsExactly(0, 1, 2, 3, 4, 5);
        site.delete(taken.get(2), false);
        site.agrees();
        site.delete(taken.get(3), false);
        site.agrees();
        site.delete(taken.get(5), false);
        site.agrees();
        assertThatThrownBy(() -> site.delete(taken.get(0), false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("2 incremental backups stand on")
                .hasMessageContaining("all 3");
        site.agrees();
        site.delete(taken.get(0), true);
        site.agrees();
        assertThat(site.nas.paths()).isEmpty();
    }

    @Test
    void backups_are_full_while_a_host_of_the_zone_can_t_restore_incrementals_and_the_log_says_so_once() {
        take(2);
        String line =
                "Backups in zone 1 are full ones, though incrementals are enabled: host kvm23 has CloudStack 4.22.1.0;"
                        + " hosts restore incremental backups since 4.23, earlier ones with nasbackup's wrapper";
        site.logged.clear();
        site.host.restoresChains = false;
        site.hostVersions.put(23L, "4.22.1.0");
        assertThat(take(3)).extracting(Backup::getType).containsOnly("FULL");
        assertThat(lastTake().getMode()).isNull();
        assertThat(site.logged).containsOnlyOnce(line);
        site.hostVersions.clear();
        assertThat(take(2)).extracting(site::position).containsExactly(0, 1);
        assertThat(site.logged)
                .containsOnlyOnce("Backups in zone 1 are incremental again: all its hosts can restore them");
        site.policy = new Policy(false, 10);
        site.hostVersions.put(23L, "4.22.1.0");
        take(1);
        assertThat(site.logged).containsOnlyOnce(line);
    }

    @Test
    void an_incremental_is_not_restored_through_a_host_that_would_spoil_the_disks() {
        List<Backup> taken = take(2);
        site.state = State.Stopped;
        site.host.restoresChains = false;
        site.hostVersions.putAll(Map.of(21L, "4.22.0.0", 22L, "4.22.0.0"));
        Backup full = site.tables.backups().findById(taken.get(0).getId());
        Backup incremental = site.tables.backups().findById(taken.get(1).getId());
        site.provider.restoreVMFromBackup(site.vm, full);
        site.provider.restoreVMFromBackup(site.vm, incremental);
        assertThat(site.host.hosts.subList(2, 6)).containsExactly(22L, 22L, 23L, 23L);
        site.take();
        site.take();
        String checkpoint = site.activeCheckpoint();
        site.hostVersions.put(23L, "unknown");
        int asked = site.host.asked.size();
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, incremental))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage(
                        "the backup is incremental, and no host that reaches the volumes of virtual machine i-2-10-VM"
                                + " restores it right: host kvm21 has CloudStack 4.22.0.0, and 2 more like it;"
                                + " hosts restore incremental backups since 4.23, earlier ones with nasbackup's wrapper");
        assertThat(site.host.asked).hasSize(asked);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
    }

    /** They say so when they are asked; of one that does not answer nobody knows. */
    @Test
    void hosts_of_4_22_that_restore_with_our_wrapper_have_incrementals_too() {
        site.hostVersions.putAll(Map.of(21L, "4.22.0.0", 22L, "4.22.1.0", 23L, "4.22.1.0"));
        List<Backup> taken = take(3);
        assertThat(taken).extracting(site::position).containsExactly(0, 1, 2);
        site.state = State.Stopped;
        int asked = site.host.asked.size();
        assertThat(site.provider.restoreVMFromBackup(
                        site.vm, site.tables.backups().findById(taken.get(2).getId())))
                .isTrue();
        assertThat(site.host.asked).hasSize(asked + 2).last().isInstanceOf(RestoreBackupCommand.class);
        site.host.restoresChains = false;
        Backup incremental = site.tables.backups().findById(taken.get(1).getId());
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, incremental))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("host kvm21 has CloudStack 4.22.0.0, and 2 more like it");
    }

    @Test
    void a_command_names_the_parent_s_files_by_their_paths_for_all_volumes() {
        Backup full = site.take();
        TakeBackupCommand first = lastTake();
        assertThat(first.getMode()).isEqualTo("full");
        assertThat(first.getBitmapNew()).matches("backup-\\d+");
        assertThat(first.getBitmapParent()).isNull();
        assertThat(first.getVolumePaths()).isNull();
        assertThat(first.getWait()).isEqualTo(7200);
        assertThat(first.executeInSequence()).isFalse();
        site.take();
        TakeBackupCommand second = lastTake();
        assertThat(second.getMode()).isEqualTo("incremental");
        assertThat(second.getBitmapParent()).isEqualTo(first.getBitmapNew());
        String folder = full.getExternalId();
        assertThat(second.getParentPaths())
                .containsExactly(
                        folder + "/root.r.qcow2", folder + "/datadisk.d1.qcow2", folder + "/datadisk.d2.qcow2");
        assertThat(second.getParentPath()).isEqualTo(folder + "/root.r.qcow2");
    }

    /** Else its refusal, and what it leaves, would come when nobody waits for it any more. */
    @ParameterizedTest
    @CsvSource({"7200,7080", "300,180", "240,120", "200,100", "11,6", "1,1", "0,"})
    void the_host_s_limit_ends_before_the_server_s(int wait, Integer job) {
        site.waitSeconds = wait;
        site.take();
        assertThat(lastTake().getWait()).isEqualTo(wait);
        assertThat(lastTake().getJobSeconds()).isEqualTo(job);
    }

    @Test
    void a_new_volume_does_not_shift_the_others_parents() {
        Backup full = site.take();
        site.volumes.clear();
        site.volume(0, "uuid-r", "r");
        site.volume(1, "uuid-new", "n");
        site.volume(2, "uuid-d2", "d2");
        site.host.files = List.of("root.r.qcow2", "datadisk.n.qcow2", "datadisk.d2.qcow2");
        Backup second = site.take();
        assertThat(lastTake().getParentPaths())
                .containsExactly(full.getExternalId() + "/root.r.qcow2", full.getExternalId() + "/datadisk.d2.qcow2");
        site.agrees();
        Backup third = site.take();
        site.delete(second, false);
        site.agrees();
        assertThat(site.position(third)).isEqualTo(1);
    }

    @Test
    void the_details_that_the_manager_gave_stay_beside_the_chain_s() {
        take(1);
        Backup second = site.take();
        assertThat(site.tables.backupDetails().listDetailsKeyPairs(second.getId()))
                .containsEntry("template", "t-1")
                .containsEntry(NASBackupChainKeys.TYPE, "incremental")
                .containsEntry(NASBackupChainKeys.CHAIN_POSITION, "1")
                .containsKeys(
                        NASBackupChainKeys.CHAIN_ID,
                        NASBackupChainKeys.PARENT_BACKUP_ID,
                        NASBackupChainKeys.BITMAP_NAME)
                .doesNotContainKey(NASBackupChainKeys.BITMAP_RECREATED);
    }

    private String pointId(Backup backup) {
        return site.detail(backup, NASBackupChainKeys.POINT_ID);
    }

    private String mac(Backup backup) {
        return site.detail(backup, NASBackupChainKeys.MAC);
    }

    @Test
    void what_tells_a_point_from_another_is_recorded_with_it_and_with_each_rebase() {
        Backup unsigned = site.take();
        site.host.signs = true;
        List<Backup> taken = new ArrayList<>(List.of(unsigned, site.take(), site.take(), site.take()));
        assertThat(taken)
                .extracting(this::pointId)
                .containsExactlyElementsOf(taken.stream()
                        .map(each -> "point " + each.getExternalId())
                        .collect(Collectors.toList()));
        assertThat(taken).extracting(this::mac).containsExactly(null, "mac 1", "mac 2", "mac 3");
        site.host.fails(Fault.NONE, Fault.UNREACHABLE);
        assertThatThrownBy(() -> site.delete(taken.get(2), false)).isInstanceOf(CloudRuntimeException.class);
        assertThat(mac(taken.get(3))).as("with the new parent").isEqualTo("mac 4");
        site.delete(taken.get(2), false);
        assertThat(mac(taken.get(1))).isEqualTo("mac 1");
        assertThat(pointId(taken.get(3)))
                .as("it is the same one")
                .isEqualTo("point " + taken.get(3).getExternalId());
        site.agrees();
    }

    @Test
    void a_rebase_that_is_told_of_without_a_mac_leaves_the_recorded_one() {
        site.host.signs = true;
        List<Backup> taken = take(3);
        site.host.signs = false;
        site.delete(taken.get(1), false);
        assertThat(mac(taken.get(2))).isEqualTo("mac 3");
    }

    @Test
    void a_point_outside_chains_has_an_id_too_and_one_of_cloudstack_s_own_hosts_has_none() {
        site.policy = new Policy(false, 10);
        assertThat(pointId(site.take())).startsWith("point ");
        site.host.software = ModelHost.Software.STOCK_4_23;
        assertThat(pointId(site.take())).isNull();
    }

    @Test
    void a_restart_of_the_guest_is_recorded_and_the_chain_goes_on() {
        Backup full = site.take();
        site.host.restarted = true;
        Backup second = site.take();
        assertThat(site.detail(second, NASBackupChainKeys.BITMAP_RECREATED))
                .isEqualTo(site.detail(full, NASBackupChainKeys.BITMAP_NAME));
        assertThat(site.position(second)).isEqualTo(1);
        assertThat(site.logged).anyMatch(line -> line.endsWith("or compared the disks with the parent's fingerprints"));
    }

    /** It is no restart of the guest, and nothing was made again from a bitmap. */
    @Test
    void disks_that_were_compared_for_want_of_a_bitmap_are_told_of_with_the_reason() {
        Backup full = site.take();
        site.host.compared =
                "the disks were compared with the parent point's fingerprints: bitmap of vda is inconsistent";
        Backup second = site.take();
        assertThat(site.detail(second, NASBackupChainKeys.BITMAP_RECREATED))
                .isEqualTo(site.detail(full, NASBackupChainKeys.BITMAP_NAME));
        assertThat(site.position(second)).isEqualTo(1);
        assertThat(site.logged)
                .noneMatch(line -> line.contains("restart"))
                .anyMatch(line -> line.endsWith("bitmap of vda is inconsistent"));
    }

    /** Its words, and names that it read on the NAS, come to a log and to terminals. */
    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"REFUSED", "OTHER_ANSWER"})
    void whatever_a_host_says_is_one_line_that_only_shows(Fault fault) {
        String forged = "IO: folder 'T1\r\nERROR the NAS is gone\u001b[2J\u202e\u009b'";
        String shown = "IO: folder 'T1; ERROR the NAS is gone\\u{1b}[2J\\u{202e}\\u{9b}'";
        site.host.refusal = forged;
        site.host.other = forged;
        List<Backup> taken = take(3);
        site.host.compared = forged;
        site.take();
        List<String> thrown = new ArrayList<>();
        site.host.fails(fault, fault);
        assertThatThrownBy(() -> site.delete(taken.get(1), false)).satisfies(e -> thrown.add(e.getMessage()));
        try {
            site.take();
        } catch (CloudRuntimeException e) {
            thrown.add(e.getMessage());
        }
        assertThat(thrown).first().asString().contains(shown);
        for (List<String> told : List.of(site.logged, site.events)) {
            assertThat(told).filteredOn(line -> line.contains(shown)).hasSizeGreaterThanOrEqualTo(3);
        }
        assertThat(Stream.of(thrown, site.logged, site.events).flatMap(List::stream))
                .noneMatch(line -> line.matches("(?s).*[\\p{Cc}\\p{Cf}].*"));
    }

    @Test
    void a_fallback_begins_a_new_chain() {
        Backup full = site.take();
        site.host.bitmap = "lost";
        Backup second = site.take();
        assertThat(site.position(second)).isZero();
        assertThat(site.detail(second, NASBackupChainKeys.PARENT_BACKUP_ID)).isNull();
        assertThat(site.detail(second, NASBackupChainKeys.CHAIN_ID))
                .isNotEqualTo(site.detail(full, NASBackupChainKeys.CHAIN_ID));
        assertThat(((BackupVO) second).getType()).isEqualTo("FULL");
        site.agrees();
        site.delete(full, false);
        site.agrees();
    }

    @Test
    void the_key_bounds_a_chain() {
        site.policy = new Policy(true, 3);
        assertThat(take(7)).extracting(site::position).containsExactly(0, 1, 2, 0, 1, 2, 0);
    }

    @Test
    void switched_off_every_backup_is_full_and_stands_alone() {
        site.policy = new Policy(false, 10);
        Backup alone = site.take();
        assertThat(lastTake().getMode()).isNull();
        assertThat(lastTake().getBitmapNew()).isNull();
        assertThat(site.position(alone)).isNull();
        site.agrees();
        site.policy = new Policy(true, 10);
        assertThat(take(2)).extracting(site::position).containsExactly(0, 1);
    }

    @Test
    void a_stopped_guest_goes_on_with_its_chain_and_has_its_disks_named() {
        List<Backup> taken = take(2);
        site.state = State.Stopped;
        Backup stopped = site.take();
        assertThat(site.position(stopped)).isEqualTo(2);
        assertThat(lastTake().getMode()).isEqualTo("incremental");
        assertThat(lastTake().getBitmapParent()).isEqualTo(site.detail(taken.get(1), NASBackupChainKeys.BITMAP_NAME));
        assertThat(lastTake().getParentPaths()).hasSize(3);
        assertThat(lastTake().getVolumePaths()).containsExactly("/mnt/pool-1/r", "/mnt/pool-1/d1", "/mnt/pool-1/d2");
        assertThat(site.host.hosts.get(2)).isEqualTo(22L);
        site.state = State.Running;
        assertThat(site.position(site.take())).isEqualTo(3);
    }

    /** Its host need not believe what the headers of the files name. */
    @Test
    void a_stopped_guest_s_host_is_told_what_each_volume_stands_on() {
        site.template("t");
        site.take();
        assertThat(lastTake().getVolumeBacking()).isNull();
        site.state = State.Stopped;
        site.take();
        assertThat(lastTake().getVolumeBacking()).containsExactly(Map.of("/mnt/pool-1/t", "qcow2"), Map.of(), Map.of());
    }

    @Test
    void after_the_owner_of_the_checkpoint_went_the_next_is_full() {
        List<Backup> taken = take(3);
        assertThat(site.activeCheckpoint()).isEqualTo(site.detail(taken.get(2), NASBackupChainKeys.BITMAP_NAME));
        site.delete(taken.get(2), false);
        assertThat(site.activeCheckpoint()).isNull();
        assertThat(site.position(site.take())).isZero();
        site.delete(taken.get(0), true);
        assertThat(site.activeCheckpoint()).isNotNull();
        site.agrees();
    }

    @Test
    void after_a_restore_the_next_is_full() {
        List<Backup> taken = take(3);
        site.state = State.Stopped;
        assertThat(site.provider.restoreVMFromBackup(
                        site.vm, site.tables.backups().findById(taken.get(1).getId())))
                .isTrue();
        assertThat(site.activeCheckpoint()).isNull();
        site.state = State.Running;
        assertThat(site.position(site.take())).isZero();
    }

    /** Whoever asked has read the machine before the turn came. */
    @Test
    void a_machine_that_ran_elsewhere_since_it_was_read_is_restored_by_the_host_that_it_ran_on_last() {
        Backup full = site.take();
        site.state = State.Stopped;
        VMInstanceVO now = mock(VMInstanceVO.class, delegatesTo(site.vm));
        doReturn(23L).when(now).getLastHostId();
        AtomicInteger turns = new AtomicInteger();
        when(site.provider.vmInstanceDao.findByIdIncludingRemoved(Site.VM)).thenAnswer(call -> {
            assertThat(turns.incrementAndGet()).as("turns").isLessThan(9);
            return now;
        });
        assertThat(site.provider.restoreVMFromBackup(
                        site.vm, site.tables.backups().findById(full.getId())))
                .isTrue();
        assertThat(site.host.hosts).endsWith(23L).doesNotContain(22L);
    }

    @ParameterizedTest
    @CsvSource({
        "NO_ANSWER,Error,gave no answer",
        "OTHER_ANSWER,Error,gave Answer java.lang.NullPointerException",
        "UNREACHABLE,Error,can't be reached: gone",
        "TIMEOUT,Error,did not answer in time",
        "TIMEOUT_BUT_DONE,Error,did not answer in time",
    })
    void a_backup_of_unknown_end_is_left_for_an_operator_to_delete(Fault fault, Backup.Status status, String reason) {
        take(1);
        site.host.fails(fault);
        assertThatThrownBy(site::take)
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("host kvm21")
                .hasMessageContaining(reason);
        Backup failed = site.rows().get(1);
        assertThat(failed.getStatus()).isEqualTo(status);
        assertThat(site.position(failed)).isNull();
        site.tables.recount();
        site.delete(failed, false);
        site.agrees();
        site.take();
        site.agrees();
    }

    @Test
    void a_refused_backup_leaves_a_row_only_when_it_left_files() {
        take(1);
        site.host.fails(Fault.REFUSED, Fault.REFUSED_WITH_LEFTOVERS);
        assertThat(site.take()).isNull();
        site.agrees();
        assertThat(site.take()).isNull();
        assertThat(site.rows())
                .extracting(Backup::getStatus)
                .containsExactly(Backup.Status.BackedUp, Backup.Status.Error);
        assertThat(site.position(site.take())).isEqualTo(1);
    }

    @Test
    void a_row_that_a_dead_server_left_is_ended_by_the_next_backup() {
        take(1);
        BackupVO row = new BackupVO();
        row.setVmId(Site.VM);
        row.setExternalId("i-2-10-VM/2031.01.01.00.00.00");
        row.setType("FULL");
        row.setDate(new java.util.Date());
        row.setStatus(Backup.Status.BackingUp);
        row.setBackupOfferingId(5);
        row.setAccountId(2);
        row.setZoneId(1);
        row.setName("web");
        long id = site.tables.backups().persist(row).getId();
        site.take();
        assertThat(site.tables.backups().findById(id).getStatus()).isEqualTo(Backup.Status.Error);
    }

    @ParameterizedTest
    @EnumSource(value = Fault.class, mode = EnumSource.Mode.EXCLUDE, names = "NONE")
    void a_repair_that_stops_at_the_rebase_is_finished_by_the_next_call(Fault fault) {
        repairWith(fault);
    }

    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            mode = EnumSource.Mode.EXCLUDE,
            names = {"NONE", "REFUSED_HALF_WAY"})
    void a_repair_that_stops_at_the_delete_is_finished_by_the_next_call(Fault fault) {
        repairWith(Fault.NONE, fault);
    }

    private void repairWith(Fault... faults) {
        List<Backup> taken = take(5);
        site.host.fails(faults);
        assertThatThrownBy(() -> site.delete(taken.get(2), false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("host kvm21")
                .hasMessageContaining("left to do: ");
        for (Backup row : site.rows()) {
            boolean goes = row.getId() == taken.get(2).getId();
            if (site.nas.has(row.getExternalId()) && (site.nas.isWhole(row.getExternalId()) || !goes)) {
                assertThat(site.nas.read(row.getExternalId())).isEqualTo(site.contents.get(row.getExternalId()));
            }
        }
        assertThat(site.rows()).hasSize(5);
        site.delete(taken.get(2), false);
        site.agrees();
        assertThat(List.of(taken.get(3), taken.get(4)))
                .extracting(site::position)
                .containsExactly(2, 3);
    }

    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"NO_ANSWER", "TIMEOUT_BUT_DONE", "REFUSED"})
    void a_forced_delete_that_stops_says_what_is_left_and_goes_on(Fault fault) {
        List<Backup> taken = take(4);
        site.host.fails(Fault.NONE, Fault.NONE, fault);
        assertThatThrownBy(() -> site.delete(taken.get(0), true))
                .hasMessageContaining("left to do: delete " + taken.get(1).getExternalId() + ", delete "
                        + taken.get(0).getExternalId());
        assertThat(site.rows()).hasSize(2);
        site.delete(taken.get(0), true);
        site.agrees();
        assertThat(site.tables.count(ResourceType.backup)).isZero();
    }

    @Test
    void each_removed_backup_is_taken_off_the_count_once() {
        List<Backup> taken = take(5);
        site.delete(taken.get(2), false);
        site.agrees();
        BackupVO restoring = site.tables.backups().findById(taken.get(3).getId());
        restoring.setStatus(Backup.Status.Restoring);
        site.tables.backups().update(restoring.getId(), restoring);
        site.delete(taken.get(0), true);
        site.agrees();
    }

    /** Not when it failed, but when the server counts anew, as it does every few minutes. */
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void a_failed_backup_is_counted_and_taken_off_the_count(boolean forced) {
        take(2);
        site.host.fails(Fault.TIMEOUT_BUT_DONE);
        assertThatThrownBy(site::take).isInstanceOf(CloudRuntimeException.class);
        Backup failed = site.rows().get(2);
        assertThat(failed.getStatus()).isEqualTo(Backup.Status.Error);
        site.tables.recount();
        assertThat(site.tables.count(ResourceType.backup)).isEqualTo(3);
        site.delete(failed, forced);
        site.agrees();
        site.tables.recount();
        site.agrees();
    }

    @Test
    void a_transaction_that_is_not_committed_leaves_nothing_half_recorded() {
        List<Backup> taken = take(5);
        database.beforeCommit(() -> {
            throw new IllegalStateException("the database is gone");
        });
        try {
            assertThatThrownBy(() -> site.delete(taken.get(2), false)).hasMessage("the database is gone");
        } finally {
            database.beforeCommit(() -> {});
        }
        assertThat(taken).extracting(site::position).containsExactly(0, 1, 2, 3, 4);
        site.delete(taken.get(2), false);
        site.agrees();
    }

    @Test
    void two_points_on_one_parent_both_survive_it() {
        List<Backup> taken = take(2);
        // What a restore with an older server could leave: the bitmap of an older point is the active one again.
        Backup third = site.take();
        site.tables.backupDetails().removeDetail(third.getId(), NASBackupChainKeys.PARENT_BACKUP_ID);
        site.tables
                .backupDetails()
                .addDetail(
                        third.getId(),
                        NASBackupChainKeys.PARENT_BACKUP_ID,
                        taken.get(1).getUuid(),
                        false);
        String other = "i-2-10-VM/2031.01.03.00.00.00";
        site.nas.take(other, taken.get(1).getExternalId(), site.host.files, 99);
        Backup fourth = branch(other, taken.get(1));
        site.agrees();
        site.delete(taken.get(1), false);
        site.agrees();
        assertThat(List.of(third, fourth)).extracting(site::position).containsExactly(1, 1);
        site.delete(third, false);
        site.agrees();
    }

    private Backup branch(String path, Backup parent) {
        BackupVO row = new BackupVO();
        row.setVmId(Site.VM);
        row.setExternalId(path);
        row.setType("INCREMENTAL");
        row.setDate(new java.util.Date(parent.getDate().getTime() + 600_000));
        row.setSize(site.nas.size(path));
        row.setStatus(Backup.Status.BackedUp);
        row.setBackupOfferingId(5);
        row.setAccountId(2);
        row.setZoneId(1);
        row.setName("web");
        row.setDetails(Map.of(
                "template",
                "t-1",
                NASBackupChainKeys.CHAIN_ID,
                site.detail(parent, NASBackupChainKeys.CHAIN_ID),
                NASBackupChainKeys.CHAIN_POSITION,
                "2",
                NASBackupChainKeys.PARENT_BACKUP_ID,
                parent.getUuid()));
        Backup stored = site.tables.backups().persist(row);
        site.contents.put(path, site.nas.read(path));
        site.tables.incrementResourceCount(2, ResourceType.backup);
        site.tables.incrementResourceCount(2, ResourceType.backup_storage, stored.getSize());
        return stored;
    }

    @Test
    void a_backup_whose_row_is_gone_is_deleted_already() {
        List<Backup> taken = take(2);
        site.delete(taken.get(1), false);
        int asked = site.host.asked.size();
        site.delete(taken.get(1), false);
        assertThat(site.host.asked).hasSize(asked);
        site.agrees();
    }

    /** A manager of 4.22 takes it off the count as often as it is told that it is deleted. */
    @Test
    void two_deletions_of_one_backup_at_once_take_it_off_the_count_once() {
        List<Backup> taken = take(3);
        database.whileItWaits(() -> site.delete(taken.get(1), false));
        site.delete(taken.get(1), false);
        assertThat(site.rows()).hasSize(2);
        site.agrees();
    }

    private Map<String, Map<String, String>> records() {
        Map<String, Map<String, String>> records = new TreeMap<>();
        for (Backup row : site.rows()) {
            Map<String, String> record =
                    new TreeMap<>(site.tables.backupDetails().listDetailsKeyPairs(row.getId()));
            // That it was tried is noted before it is.
            record.remove(NASBackupChainKeys.REBASE_BEGUN);
            record.put("size", String.valueOf(row.getSize()));
            records.put(row.getExternalId(), record);
        }
        return records;
    }

    private void refused(Backup target, String reason) {
        Map<String, Map<String, String>> before = records();
        assertThatThrownBy(() -> site.delete(target, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("host kvm21: " + reason)
                .hasMessageContaining("left to do: ");
        assertThat(records()).isEqualTo(before);
    }

    @Test
    void an_image_without_a_row_keeps_what_it_stands_on() {
        List<Backup> taken = take(3);
        String orphan = "i-2-10-VM/2031.01.05.00.00.00";
        site.nas.take(orphan, taken.get(2).getExternalId(), site.host.files, 5);
        refused(taken.get(2), "HAS_CHILDREN: " + orphan);
        // Not so what lies below: the orphan reads it through the point that stays.
        Map<String, Map<Integer, String>> content = site.nas.read(orphan);
        site.delete(taken.get(1), false);
        assertThat(site.nas.read(orphan)).isEqualTo(content);
        site.nas.lose(orphan);
        site.delete(taken.get(2), false);
        site.agrees();
    }

    @Test
    void the_newest_goes_though_its_folder_is_gone() {
        List<Backup> taken = take(3);
        site.nas.lose(taken.get(2).getExternalId());
        site.delete(taken.get(2), false);
        site.agrees();
    }

    @Test
    void one_in_the_middle_whose_folder_is_gone_goes_after_those_that_can_t_be_read_without_it() {
        List<Backup> taken = take(4);
        site.nas.lose(taken.get(1).getExternalId());
        refused(taken.get(1), "NOT_FOUND: ");
        for (int i = 3; i > 0; i--) {
            site.delete(taken.get(i), false);
        }
        site.agrees();
    }

    @Test
    void one_whose_child_s_folder_is_gone_goes_after_the_child() {
        List<Backup> taken = take(3);
        site.nas.lose(taken.get(2).getExternalId());
        refused(taken.get(1), "NOT_FOUND: ");
        site.delete(taken.get(2), false);
        site.delete(taken.get(1), false);
        site.agrees();
    }

    @Test
    void the_host_that_runs_the_guest_repairs_its_chain() {
        List<Backup> taken = take(1);
        site.delete(taken.get(0), false);
        assertThat(site.host.hosts).containsExactly(21L, 21L);
        Backup again = site.take();
        site.host(21, Status.Down);
        site.delete(again, false);
        assertThat(site.host.hosts.get(3)).isEqualTo(22L);
        site.host(21, Status.Up);
        Backup third = site.take();
        site.host(21, Status.Down);
        site.host(22, Status.Down);
        site.delete(third, false);
        assertThat(site.host.hosts.get(5)).isEqualTo(23L);
    }

    @Test
    void one_backup_or_deletion_or_restore_at_a_time() throws Exception {
        List<Backup> taken = take(1);
        Backup described = site.tables.backups().findById(taken.get(0).getId());
        site.queueWaitSeconds = 0;
        try (Database other = new Database(server.socket())) {
            other.locked(Site.VM, () -> {
                String why = "another backup, deletion or restore of the same virtual machine is under way";
                assertThatThrownBy(site::take).hasMessageEndingWith(why);
                assertThatThrownBy(() -> site.delete(taken.get(0), false)).hasMessageEndingWith(why);
                assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, described))
                        .hasMessageEndingWith(why);
            });
        }
        site.agrees();
    }

    @ParameterizedTest
    @CsvSource({"5,1 2 3 4", "7,1 2 4 5"})
    void deletions_and_a_backup_at_once_leave_a_valid_chain(int length, String targets) throws Exception {
        List<Backup> taken = take(length);
        List<Consumer<Site>> work = new ArrayList<>();
        for (String target : targets.split(" ")) {
            work.add(server -> server.delete(taken.get(Integer.parseInt(target)), false));
        }
        work.add(Site::takeCounted);
        site.host.gate =
                () -> site.nas.paths().forEach(path -> site.contents.computeIfAbsent(path, p -> site.nas.read(p)));
        new ManyServers(server.socket(), this::server).atOnce(work);
        site.agrees();
        assertThat(site.rows()).hasSize(length + 1 - 4);
        site.now = site.now.plusSeconds(60);
        site.take();
        site.agrees();
    }

    /** Another server, before the same host. */
    private Site server(Tables tables) {
        Site other = new Site(tables);
        other.now = site.now;
        other.provider.agentManager = site.host.manager();
        return other;
    }

    @Test
    void a_rebase_is_of_the_whole_point() {
        List<Backup> taken = take(3);
        site.delete(taken.get(1), false);
        List<Command> last = site.host.asked.subList(3, 5);
        RebaseBackupCommand rebase = (RebaseBackupCommand) last.get(0);
        assertThat(rebase.getBackupPath()).isEqualTo(taken.get(2).getExternalId());
        assertThat(rebase.getNewParentPath()).isEqualTo(taken.get(0).getExternalId());
        // A host with CloudStack's own script must not get as far as to start it.
        assertThat(rebase.getTargetPath()).isNull();
        assertThat(rebase.getNewBackingPath()).isNull();
        assertThat(((DeleteBackupCommand) last.get(1)).getBackupPath())
                .isEqualTo(taken.get(1).getExternalId());
        assertThat(last).allMatch(command -> command.getWait() == 7200);
    }

    @Test
    void a_full_one_that_somebody_deletes_merges_where_the_key_says_so() {
        site.mergesFull = true;
        List<Backup> taken = take(4);
        site.delete(taken.get(0), false);
        site.agrees();
        BackupVO second = site.tables.backups().findById(taken.get(1).getId());
        assertThat(second.getType()).isEqualTo("FULL");
        assertThat(site.detail(second, NASBackupChainKeys.TYPE)).isEqualTo("full");
        assertThat(site.detail(second, NASBackupChainKeys.PARENT_BACKUP_ID)).isNull();
        assertThat(site.position(site.take())).isEqualTo(3);
        site.agrees();
        site.delete(second, true);
        assertThat(site.rows()).isEmpty();
        site.agrees();
    }

    /** What the manager's job of each day does; it fails when a deletion does. */
    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
    void a_schedule_goes_on_for_50_days(int maxBackups) {
        site.policy = new Policy(true, 0);
        long schedule = site.tables.schedule(Site.VM, maxBackups);
        for (int day = 1; day <= 50; day++) {
            Backup taken = site.takeScheduled(schedule);
            assertThat(site.position(taken)).isEqualTo(Math.min(day, maxBackups) - 1);
            assertThat(site.rows()).hasSize(Math.min(day, maxBackups));
            site.agrees();
        }
        assertThat(site.host.asked.stream()
                        .filter(TakeBackupCommand.class::isInstance)
                        .map(command -> ((TakeBackupCommand) command).getMode()))
                .filteredOn("full"::equals)
                .hasSize(1);
    }

    @Test
    void only_the_oldest_of_a_schedule_that_has_too_many_merges() {
        long schedule = site.tables.schedule(Site.VM, 5);
        for (int day = 0; day < 5; day++) {
            site.takeScheduled(schedule);
        }
        Backup oldest = site.rows().get(0);
        refusedBySomethingOnIt(oldest);
        site.tables.keep(schedule, 4);
        site.delete(site.rows().get(1), false);
        refusedBySomethingOnIt(oldest);
        site.tables.keep(schedule, 3);
        site.delete(oldest, false);
        site.agrees();
    }

    private void refusedBySomethingOnIt(Backup full) {
        assertThatThrownBy(() -> site.delete(full, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("is the full backup that");
    }

    /** The schedule's backup was taken, whatever becomes of the deletion of another one. */
    @ParameterizedTest
    @CsvSource({
        "UNREACHABLE,",
        "REFUSED,",
        "REFUSED_HALF_WAY,",
        "TIMEOUT_BUT_DONE,",
        "NONE,UNREACHABLE",
        "NONE,TIMEOUT_BUT_DONE",
        "NONE,REFUSED",
    })
    void a_schedule_s_deletion_that_can_t_be_done_is_done_later(Fault first, Fault second) {
        long schedule = site.tables.schedule(Site.VM, 3);
        for (int day = 0; day < 3; day++) {
            site.takeScheduled(schedule);
        }
        Backup oldest = site.rows().get(0);
        site.host.fails(second == null ? new Fault[] {Fault.NONE, first} : new Fault[] {Fault.NONE, first, second});
        site.takeScheduled(schedule);
        assertThat(site.rows()).hasSize(3).doesNotContain(oldest);
        assertThat(site.tables.count(ResourceType.backup)).isEqualTo(3);
        assertThat(site.logged).last().asString().contains(oldest.getUuid(), "host kvm21", "tried again");
        // It is a member of its chain still: another one can go, and the next can be taken.
        site.delete(site.rows().get(1), false);
        site.take();
        assertThat(site.tables.count(ResourceType.backup)).isEqualTo(3);
        site.provider.syncBackupStorageStats(1L);
        site.agrees();
        assertThat(site.nas.paths()).doesNotContain(oldest.getExternalId());
        int asked = site.host.asked.size();
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.host.asked.stream().skip(asked)).noneMatch(DeleteBackupCommand.class::isInstance);
    }

    @Test
    void deletions_of_days_that_were_put_off_are_done_one_after_the_other() {
        long schedule = site.tables.schedule(Site.VM, 2);
        site.takeScheduled(schedule);
        site.takeScheduled(schedule);
        for (int day = 0; day < 4; day++) {
            site.host.fails(Fault.NONE, Fault.UNREACHABLE);
            site.takeScheduled(schedule);
        }
        assertThat(site.rows()).hasSize(2);
        assertThat(site.nas.paths()).hasSize(6);
        int asked = site.host.asked.size();
        site.host.fails(Fault.NONE, Fault.TIMEOUT);
        site.manager.sync();
        assertThat(site.host.asked).as("sizes, and one that is not heard of").hasSize(asked + 2);
        for (int sync = 0; sync < 4; sync++) {
            site.provider.syncBackupStorageStats(1L);
        }
        site.agrees();
    }

    /** A NAS that is full refuses each of them, after as long as a copy of what there was room for takes. */
    @Test
    void a_round_tries_one_merge_of_deletions_that_were_put_off_and_the_next_round_another_one() {
        long schedule = site.tables.schedule(Site.VM, 2);
        site.takeScheduled(schedule);
        site.takeScheduled(schedule);
        for (int day = 0; day < 2; day++) {
            site.host.fails(Fault.NONE, Fault.UNREACHABLE);
            site.takeScheduled(schedule);
        }
        int before = site.host.rebased().size();
        for (int round = 0; round < 2; round++) {
            site.host.fails(Fault.NONE, Fault.REFUSED);
            site.provider.syncBackupStorageStats(1L);
            site.now = site.now.plusSeconds(300);
        }
        List<String> tried = site.host.rebased();
        assertThat(tried.subList(before, tried.size()))
                .as("%s", site.logged)
                .hasSize(2)
                .doesNotHaveDuplicates();
        site.provider.syncBackupStorageStats(1L);
        site.provider.syncBackupStorageStats(1L);
        site.agrees();
    }

    /** All hosts of the zone reach the NAS; its own may be busy for as long as there are backups. */
    @Test
    void a_deletion_that_was_put_off_is_done_by_any_host_that_has_a_slot() {
        List<Backup> taken = threeWithOneTooMany();
        site.host.fails(Fault.UNREACHABLE);
        site.delete(taken.get(0), false);
        site.slotsPerHost = 2;
        DetailTickets tickets = new DetailTickets(site.tables.userDetails(), site.tables.database());
        for (long host = 21; host <= 23; host++) {
            tickets.put(host, Ticket.waiting("a", 1, false, "back up a").holding());
            tickets.put(host, Ticket.waiting("b", 2, false, "back up b").holding());
        }
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.nas.paths()).hasSize(3);
        tickets.remove(23, "a");
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.nas.paths()).hasSize(2);
        assertThat(site.host.hosts).last().isEqualTo(23L);
        site.agrees();
    }

    @Test
    void a_host_that_is_not_heard_of_is_asked_once_in_a_round() {
        List<Backup> taken = threeWithOneTooMany();
        site.host.fails(Fault.UNREACHABLE);
        site.delete(taken.get(0), false);
        Set<Long> unheard = new TreeSet<>();
        site.host.fails(Fault.TIMEOUT);
        NasBackups backups = site.provider.backups();
        new NasPending(backups, unheard).finish(Site.ZONE);
        assertThat(unheard).containsExactly(21L);
        int asked = site.host.hosts.size();
        new NasPending(backups, unheard).finish(Site.ZONE);
        assertThat(site.host.hosts.subList(asked, site.host.hosts.size()))
                .isNotEmpty()
                .doesNotContain(21L);
        site.agrees();
    }

    @Test
    void a_deletion_that_another_server_finished_is_not_told_as_done_here() {
        List<Backup> taken = threeWithOneTooMany();
        site.host.fails(Fault.UNREACHABLE);
        site.delete(taken.get(0), false);
        Site other = server(site.tables);
        database.whileItWaits(() -> other.provider.syncBackupStorageStats(1L));
        site.provider.syncBackupStorageStats(1L);
        assertThat(other.logged)
                .filteredOn(line -> line.contains("is deleted now"))
                .hasSize(1);
        assertThat(site.logged)
                .noneMatch(line -> line.contains("is deleted now"))
                .anyMatch(line -> line.contains("was deleted by others"));
    }

    @Test
    void neither_a_lock_nor_the_lack_of_a_host_refuses_what_a_schedule_no_longer_keeps() throws Exception {
        long schedule = site.tables.schedule(Site.VM, 3);
        List<Backup> taken = new ArrayList<>();
        for (int day = 0; day < 3; day++) {
            taken.add(site.takeScheduled(schedule));
        }
        site.tables.keep(schedule, 1);
        try (Database other = new Database(server.socket())) {
            other.locked(Site.VM, () -> {
                site.queueWaitSeconds = 0;
                site.delete(taken.get(0), false);
                site.queueWaitSeconds = 7200;
            });
        }
        HostVO host = site.hosts.findById(23L);
        when(site.provider.resourceManager.findOneRandomRunningHostByHypervisor(any(), anyLong()))
                .thenReturn(null);
        for (long id = 21; id <= 23; id++) {
            site.host(id, Status.Down);
        }
        site.delete(taken.get(1), false);
        assertThat(site.rows()).hasSize(1);
        when(site.provider.resourceManager.findOneRandomRunningHostByHypervisor(any(), anyLong()))
                .thenReturn(host);
        site.manager.sync();
        site.manager.sync();
        site.agrees();
    }

    @Test
    void one_that_is_being_backed_up_waits_for_the_next_time() throws Exception {
        long schedule = site.tables.schedule(Site.VM, 1);
        site.takeScheduled(schedule);
        site.host.fails(Fault.NONE, Fault.UNREACHABLE);
        site.takeScheduled(schedule);
        try (Database other = new Database(server.socket())) {
            other.locked(Site.VM, () -> {
                site.provider.syncBackupStorageStats(1L);
            });
        }
        assertThat(site.nas.paths()).hasSize(2);
        site.provider.syncBackupStorageStats(1L);
        site.agrees();
    }

    @Test
    void where_its_repository_was_removed_a_deletion_that_was_put_off_is_told_of_once() {
        long schedule = site.tables.schedule(Site.VM, 1);
        site.takeScheduled(schedule);
        site.host.fails(Fault.NONE, Fault.UNREACHABLE);
        Backup oldest = site.rows().get(0);
        site.takeScheduled(schedule);
        when(site.repositories.findByBackupOfferingId(5L)).thenReturn(null);
        site.logged.clear();
        site.provider.syncBackupStorageStats(1L);
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.logged)
                .filteredOn(line -> line.contains(oldest.getExternalId()))
                .hasSize(1);
    }

    /** The manager has not taken it off its lists then, nor off the count, and counts anew later. */
    @Test
    void a_server_that_dies_once_a_deletion_was_put_off_leaves_it_to_the_next_one() {
        List<Backup> taken = threeWithOneTooMany();
        site.host.fails(Fault.UNREACHABLE);
        Backup read = site.tables.backups().findById(taken.get(0).getId());
        assertThat(site.provider.deleteBackup(read, false)).isTrue();
        site.tables.recount();
        assertThat(site.rows()).hasSize(2);
        site.delete(taken.get(1), false);
        site.provider.syncBackupStorageStats(1L);
        site.agrees();
        assertThat(site.rows()).hasSize(1);
    }

    private List<Backup> threeWithOneTooMany() {
        long schedule = site.tables.schedule(Site.VM, 3);
        List<Backup> taken = new ArrayList<>();
        for (int day = 0; day < 3; day++) {
            taken.add(site.takeScheduled(schedule));
        }
        site.tables.keep(schedule, 2);
        return taken;
    }

    /** Somebody else can be at its chain between that it is found and that its machine is free. */
    @Test
    void a_deletion_that_was_put_off_and_has_grown_since_counts_for_nothing() {
        List<Backup> taken = threeWithOneTooMany();
        site.host.fails(Fault.UNREACHABLE);
        site.delete(taken.get(0), false);
        BackupRepository repository = site.repositories.findByBackupOfferingId(Site.OFFERING);
        when(site.repositories.findByBackupOfferingId(Site.OFFERING)).thenAnswer(call -> {
            database.write(
                    "update backups set size = size + 7 where id = ?",
                    taken.get(0).getId());
            return repository;
        });
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.nas.paths()).hasSize(2);
        site.agrees();
    }

    @Test
    void a_database_that_fails_for_a_moment_does_not_fail_the_job_of_a_backup_that_was_taken() {
        long schedule = site.tables.schedule(Site.VM, 1);
        site.takeScheduled(schedule);
        BackupScheduleVO row = site.provider.backupScheduleDao.findById(schedule);
        when(site.provider.backupScheduleDao.findById(schedule))
                .thenThrow(new CloudRuntimeException("the database is gone"))
                .thenReturn(row);
        site.takeScheduled(schedule);
        assertThat(site.rows()).hasSize(1);
        site.provider.syncBackupStorageStats(1L);
        site.agrees();
    }
}
