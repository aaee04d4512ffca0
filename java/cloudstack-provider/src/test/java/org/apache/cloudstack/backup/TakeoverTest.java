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
import static org.junit.jupiter.api.Assumptions.assumeTrue;
import static org.mockito.AdditionalAnswers.delegatesTo;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.Mockito.doAnswer;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.configuration.Resource.ResourceType;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine.State;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.ModelHost.Fault;
import org.apache.cloudstack.backup.ModelHost.Software;
import org.apache.cloudstack.backup.dao.BackupDao;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/** What CloudStack's own provider, other providers and other versions have left. */
@Tag("each-version")
@Tag("lab")
class TakeoverTest {
    private static final String HIDDEN = "Hidden";

    private Database database;
    private Site site;

    @BeforeEach
    void build() throws Exception {
        database = new Database(MariaDb.shared().socket());
        site = Site.fresh(database);
    }

    @AfterEach
    void close() throws SQLException {
        database.close();
    }

    /** A line of backups as CloudStack's own provider of 4.23 records it, and its script makes it. */
    private List<Backup> stock(int length) {
        List<Backup> taken = new ArrayList<>();
        for (int i = 0; i < length; i++) {
            site.now = site.now.plusSeconds(60);
            Backup parent = i == 0 ? null : taken.get(i - 1);
            String path = "i-2-10-VM/2030.01.01.00.00." + (10 + i);
            site.nas.take(path, parent == null ? null : parent.getExternalId(), site.host.files, 29 * i + 3);
            site.contents.put(path, site.nas.read(path));
            Map<String, String> keys = new HashMap<>(Map.of("template", "t-1"));
            keys.put(NASBackupChainKeys.CHAIN_ID, "stock");
            keys.put(NASBackupChainKeys.CHAIN_POSITION, String.valueOf(i));
            keys.put(NASBackupChainKeys.BITMAP_NAME, "backup-" + i);
            if (parent != null) {
                keys.put(NASBackupChainKeys.PARENT_BACKUP_ID, parent.getUuid());
            }
            taken.add(counted(
                    row(path, parent == null ? "FULL" : "INCREMENTAL", Site.OFFERING, Backup.Status.BackedUp, keys)));
        }
        site.host.bitmap = "backup-" + (length - 1);
        site.tables.vmDetails().addDetail(Site.VM, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, site.host.bitmap, false);
        site.agrees();
        return taken;
    }

    private Backup row(String path, String type, long offering, Backup.Status status, Map<String, String> details) {
        BackupVO row = new BackupVO();
        row.setVmId(Site.VM);
        row.setExternalId(path);
        row.setType(type);
        row.setDate(Date.from(site.now));
        row.setSize(site.nas.has(path) ? site.nas.size(path) : 1);
        row.setStatus(status);
        row.setBackupOfferingId(offering);
        row.setName("web");
        row.setAccountId(2);
        row.setZoneId(1);
        row.setDetails(details);
        BackupVO stored = site.tables.backups().persist(row);
        site.tables.describeVolumes(stored.getId(), org.nasbackup.provider.database.Backups.describe(site.volumes));
        return site.tables.backups().findById(stored.getId());
    }

    private Backup counted(Backup backup) {
        site.tables.incrementResourceCount(2, ResourceType.backup);
        site.tables.incrementResourceCount(2, ResourceType.backup_storage, backup.getSize());
        return backup;
    }

    private void hide(List<Backup> taken, String positions) {
        for (String position : positions.split(" ")) {
            site.tables
                    .backups()
                    .setStatus(taken.get(Integer.parseInt(position)).getId(), HIDDEN);
        }
    }

    private List<Integer> left(List<Backup> taken) {
        return taken.stream()
                .filter(backup -> !site.tables.backups().removed(backup.getId()))
                .map(taken::indexOf)
                .collect(Collectors.toList());
    }

    private static List<Integer> numbers(String text) {
        return text == null
                ? List.of()
                : Arrays.stream(text.split(" ")).map(Integer::valueOf).collect(Collectors.toList());
    }

    /** Nothing else does: CloudStack's own provider sweeps when the last backup on them is deleted, or never. */
    @ParameterizedTest
    @CsvSource({
        "4,1,0 1 2 3",
        "2 3 4,1,0 1",
        "0 1 2 3 4,1,",
        "2,1,0 1 3 4",
        "0,1,1 2 3 4",
        "0 2 4,2,1 3",
        "1 2 4,1,0 1 3",
        "1 2 4,2,0 3",
    })
    void hidden_backups_are_removed_and_taken_off_the_count(String hidden, int syncs, String left) {
        assumeTrue(DaoCatalogue.knowsHidden());
        List<Backup> taken = stock(5);
        hide(taken, hidden);
        for (int i = 0; i < syncs; i++) {
            site.provider.syncBackupStorageStats(1L);
        }
        assertThat(left(taken)).isEqualTo(numbers(left));
        if (numbers(hidden).stream().noneMatch(left(taken)::contains)) {
            site.agrees();
        }
    }

    @Test
    void a_hidden_backup_that_can_t_be_removed_now_is_told_of_and_goes_the_next_time() {
        assumeTrue(DaoCatalogue.knowsHidden());
        List<Backup> taken = stock(3);
        hide(taken, "1 2");
        site.host.fails(
                Fault.NONE,
                Fault.UNREACHABLE,
                Fault.NONE,
                Fault.TIMEOUT_BUT_DONE,
                Fault.NONE,
                Fault.NONE,
                Fault.REFUSED);
        site.provider.syncBackupStorageStats(1L);
        site.provider.syncBackupStorageStats(1L);
        assertThat(left(taken)).containsExactly(0, 1, 2);
        assertThat(site.nas.has(taken.get(2).getExternalId())).isFalse();
        assertThat(site.logged)
                .anyMatch(
                        line -> line.startsWith("Hidden backup " + taken.get(2).getUuid() + ", "
                                + taken.get(2).getExternalId() + ", was not removed, and is tried again: "));
        site.provider.syncBackupStorageStats(1L);
        assertThat(left(taken)).containsExactly(0, 1);
        site.provider.syncBackupStorageStats(1L);
        assertThat(left(taken)).containsExactly(0);
        site.agrees();
    }

    /** A NAS that is full refuses each of them, after as long as a copy of what there was room for takes. */
    @Test
    void a_round_tries_one_merge_of_hidden_backups_and_the_next_round_another_one() {
        assumeTrue(DaoCatalogue.knowsHidden());
        List<Backup> taken = stock(5);
        hide(taken, "1 3");
        site.host.fails(Fault.NONE, Fault.REFUSED, Fault.REFUSED, Fault.REFUSED);
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.host.rebased()).containsExactly(taken.get(4).getExternalId());
        site.now = site.now.plusSeconds(300);
        site.provider.syncBackupStorageStats(1L);
        assertThat(site.host.rebased())
                .containsExactly(taken.get(4).getExternalId(), taken.get(2).getExternalId());
        site.now = site.now.plusSeconds(300);
        site.provider.syncBackupStorageStats(1L);
        site.now = site.now.plusSeconds(300);
        site.provider.syncBackupStorageStats(1L);
        site.provider.syncBackupStorageStats(1L);
        assertThat(left(taken)).containsExactly(0, 2, 4);
        site.agrees();
    }

    @Test
    void hidden_backups_of_a_machine_that_is_at_work_wait_for_the_next_time() throws Exception {
        assumeTrue(DaoCatalogue.knowsHidden());
        List<Backup> taken = stock(2);
        hide(taken, "1");
        try (Database other = new Database(MariaDb.shared().socket())) {
            other.locked(Site.VM, () -> {
                site.provider.syncBackupStorageStats(1L);
            });
        }
        assertThat(left(taken)).containsExactly(0, 1);
        site.provider.syncBackupStorageStats(1L);
        assertThat(left(taken)).containsExactly(0);
        site.agrees();
    }

    /** Also where this version of CloudStack does not know that status, and reads none. */
    @Test
    void a_hidden_backup_is_deleted_when_somebody_asks() {
        List<Backup> taken = stock(4);
        hide(taken, "1 3");
        site.delete(taken.get(3), false);
        assertThat(left(taken)).containsExactly(0, 1, 2);
        site.delete(taken.get(1), false);
        assertThat(left(taken)).containsExactly(0, 2);
        assertThat(site.position(taken.get(2))).isEqualTo(1);
        site.agrees();
    }

    @Test
    void a_hidden_full_backup_that_others_stand_on_is_merged_when_somebody_asks() {
        List<Backup> taken = stock(3);
        hide(taken, "0");
        site.delete(taken.get(0), false);
        assertThat(left(taken)).containsExactly(1, 2);
        assertThat(taken.subList(1, 3)).extracting(site::position).containsExactly(0, 1);
        site.agrees();
    }

    /** With the last that was not hidden they go at once: CloudStack closes the usage of an offering that nothing is left of. */
    @Test
    void what_is_hidden_goes_with_the_last_backup_that_stands_on_it() {
        assumeTrue(DaoCatalogue.knowsHidden());
        List<Backup> taken = stock(3);
        hide(taken, "0 1");
        site.delete(taken.get(2), false);
        assertThat(left(taken)).isEmpty();
        site.agrees();
        List<Backup> again = stock(2);
        hide(again, "0");
        site.host.fails(Fault.NONE, Fault.REFUSED);
        site.delete(again.get(1), false);
        assertThat(left(again)).containsExactly(0);
        site.provider.syncBackupStorageStats(1L);
        assertThat(left(again)).isEmpty();
        site.agrees();
    }

    /** Else it would be billed for ever. */
    @Test
    void billing_of_an_offering_that_was_left_ends_once_with_its_last_hidden_backup() {
        assumeTrue(DaoCatalogue.knowsHidden());
        hide(stock(2), "0 1");
        site.manager.sync();
        assertThat(site.rows()).isEmpty();
        assertThat(site.usageEnded).as("the machine has it").isEmpty();
        List<Backup> taken = stock(2);
        hide(taken, "0");
        site.manager.removeOffering(false);
        site.host.fails(Fault.NONE, Fault.REFUSED, Fault.NONE, Fault.REFUSED);
        site.delete(taken.get(1), false);
        site.manager.sync();
        assertThat(site.usageEnded).as("one is left").isEmpty();
        site.manager.sync();
        site.manager.sync();
        assertThat(site.usageEnded).containsExactly(Site.OFFERING);
        site.agrees();
        List<Backup> together = stock(2);
        hide(together, "0");
        site.delete(together.get(1), false);
        site.manager.sync();
        assertThat(site.usageEnded).as("by the manager").hasSize(2);
        site.agrees();
    }

    @Test
    void backups_are_gone_whatever_becomes_of_the_end_of_their_billing() {
        assumeTrue(DaoCatalogue.knowsHidden());
        hide(stock(2), "0 1");
        site.manager.removeOffering(false);
        site.eventFault = () -> {
            throw new NoSuchMethodError("publishUsageEvent");
        };
        site.manager.sync();
        assertThat(site.logged).last().asString().contains("i-2-10-VM", "publishUsageEvent");
        site.agrees();
    }

    @Test
    void a_deletion_is_done_whatever_becomes_of_the_hidden_ones() {
        List<Backup> taken = stock(2);
        hide(taken, "0");
        BackupDao dao = site.provider.backupDao;
        site.provider.backupDao = mock(BackupDao.class, delegatesTo(dao));
        doAnswer(call -> {
                    if (site.tables.backups().removed(taken.get(1).getId())) {
                        throw new CloudRuntimeException("the database is gone");
                    }
                    return dao.listByVmId(null, Site.VM);
                })
                .when(site.provider.backupDao)
                .listByVmId(any(), any());
        site.delete(taken.get(1), false);
        assertThat(left(taken)).containsExactly(0);
        site.provider.backupDao = dao;
        site.delete(taken.get(0), false);
        site.agrees();
    }

    @Test
    void a_chain_with_hidden_backups_is_deleted_with_them() {
        List<Backup> taken = stock(4);
        hide(taken, "1 2");
        site.delete(taken.get(0), true);
        assertThat(left(taken)).isEmpty();
        site.agrees();
    }

    @Test
    void a_hidden_backup_is_no_parent() {
        List<Backup> taken = stock(2);
        hide(taken, "1");
        assertThat(site.position(site.take())).isZero();
        assertThat(site.host.asked).last().satisfies(asked -> assertThat(((TakeBackupCommand) asked).getMode())
                .isEqualTo("full"));
        assertThat(site.tables.backups().status(taken.get(1).getId())).isEqualTo(HIDDEN);
    }

    /** A rebase writes its record anew: what is hidden stays so, whether or not this version knows the status. */
    @Test
    void a_hidden_backup_takes_over_what_it_needs_and_stays_hidden() {
        List<Backup> taken = stock(4);
        hide(taken, "2");
        site.delete(taken.get(1), false);
        assertThat(left(taken)).containsExactly(0, 2, 3);
        assertThat(site.tables.backups().status(taken.get(2).getId())).isEqualTo(HIDDEN);
        site.tables.backups().setStatus(taken.get(2).getId(), Backup.Status.BackedUp.name());
        site.agrees();
    }

    @Test
    void a_chain_of_cloudstack_s_own_provider_is_restored_and_deleted_anywhere() {
        List<Backup> taken = stock(5);
        site.state = State.Stopped;
        assertThat(site.provider.restoreVMFromBackup(site.vm, taken.get(3))).isTrue();
        assertThat(((RestoreBackupCommand) site.host.asked.get(0)).getBackupPath())
                .isEqualTo(taken.get(3).getExternalId());
        assertThat(site.activeCheckpoint()).isNull();
        site.delete(taken.get(2), false);
        site.agrees();
        site.delete(taken.get(4), false);
        site.agrees();
        site.delete(taken.get(0), true);
        site.agrees();
        assertThat(left(taken)).isEmpty();
    }

    /** Its point has no manifest: a host of ours makes a full, and says so. */
    @Test
    void a_chain_of_cloudstack_s_own_provider_is_left_behind_by_a_host_of_ours() {
        stock(2);
        site.host.bitmap = "not ours to trust";
        Backup next = site.take();
        assertThat(((TakeBackupCommand) site.host.asked.get(0)).getMode()).isEqualTo("incremental");
        assertThat(site.position(next)).isZero();
        assertThat(site.detail(next, NASBackupChainKeys.CHAIN_ID)).isNotEqualTo("stock");
        assertThat(site.position(site.take())).isEqualTo(1);
        site.agrees();
    }

    /** One of 4.22 does not know incrementals: it makes a full whatever it is asked for, and says nothing of it. */
    @Test
    void a_full_that_a_host_makes_unasked_stands_outside_chains() {
        site.take();
        site.take();
        site.host.software = Software.STOCK_4_22;
        Backup full = site.take();
        assertThat(((TakeBackupCommand) site.host.asked.get(2)).getMode()).isEqualTo("incremental");
        assertThat(((BackupVO) full).getType()).isEqualTo("FULL");
        assertThat(site.tables.backupDetails().listDetailsKeyPairs(full.getId()))
                .containsOnlyKeys("template", "vmSettings");
        assertThat(site.activeCheckpoint()).isNull();
        assertThat(site.logged).anyMatch(line -> line.contains("that nothing can stand on"));
        site.agrees();
        site.host.software = Software.OURS;
        assertThat(site.position(site.take())).isZero();
        site.delete(full, false);
        site.agrees();
    }

    @Test
    void a_host_of_cloudstack_s_own_goes_on_with_our_chain() {
        site.take();
        site.host.software = Software.STOCK_4_23;
        assertThat(site.position(site.take())).isEqualTo(1);
        site.host.bitmap = "lost";
        assertThat(site.position(site.take())).isZero();
        site.agrees();
    }

    private Map<String, Backup> foreign() {
        site.offering(6, "veeam");
        site.now = site.now.plusSeconds(60);
        return Map.of(
                "is one of provider veeam, and provider nas leaves it alone",
                row("veeam", "FULL", 6, Backup.Status.BackedUp, null),
                "there is no backup offering 0",
                row("export", "FULL", 0, Backup.Status.BackingUp, null));
    }

    @Test
    void backups_of_other_providers_are_none_of_ours() {
        site.take();
        Map<String, Backup> foreign = foreign();
        assertThat(site.position(site.take())).isEqualTo(1);
        for (Backup each : foreign.values()) {
            assertThat(site.tables.backups().findById(each.getId()).getStatus()).isEqualTo(each.getStatus());
        }
        site.agrees();
    }

    @Test
    void backups_of_other_providers_are_refused_by_name_and_nothing_is_done() {
        site.take();
        int asked = site.host.asked.size();
        String checkpoint = site.activeCheckpoint();
        foreign().forEach((reason, each) -> {
            Backup.VolumeInfo volume = each.getBackedUpVolumes().get(0);
            List<org.assertj.core.api.ThrowableAssert.ThrowingCallable> operations = List.of(
                    () -> site.provider.deleteBackup(each, true),
                    () -> site.provider.restoreVMFromBackup(site.vm, each),
                    () -> site.provider.restoreBackupToVM(site.vm, each, null, null),
                    () -> site.provider.restoreBackedUpVolume(each, volume, "", "", new Pair<>("web", State.Stopped)));
            operations.forEach(operation -> assertThatThrownBy(operation)
                    .isInstanceOf(CloudRuntimeException.class)
                    .hasMessageStartingWith("backup " + each.getUuid() + " is ")
                    .hasMessageContaining(reason));
            assertThat(site.tables.backups().removed(each.getId())).isFalse();
        });
        assertThat(site.host.asked).hasSize(asked);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
        site.agrees();
    }

    @Test
    void a_backup_whose_repository_was_removed_says_so() {
        site.offering(7, "NAS");
        Backup lost = row("i-2-10-VM/lost", "FULL", 7, Backup.Status.BackedUp, null);
        assertThatThrownBy(() -> site.provider.deleteBackup(lost, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("there is no backup repository for backup " + lost.getUuid()
                        + ": that of backup offering offering of NAS, repository-7, was removed");
    }

    /** The settings of the backup's own machine come along, that checkpoint among them. */
    @Test
    void a_machine_that_is_made_from_a_backup_has_no_checkpoint_however_far_that_gets() {
        Backup backup = site.tables.backups().findById(site.take().getId());
        String checkpoint = site.activeCheckpoint();
        when(site.vm.getId()).thenReturn(11L);
        for (String volumes : new String[] {"[]", null}) {
            site.tables.vmDetails().addDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, checkpoint, false);
            site.tables.describeVolumes(backup.getId(), volumes);
            Backup read = site.tables.backups().findById(backup.getId());
            assertThatThrownBy(() -> site.provider.restoreBackupToVM(site.vm, read, null, null))
                    .isInstanceOf(CloudRuntimeException.class);
            assertThat(site.tables.vmDetails().findDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID))
                    .isNull();
        }
        site.tables.vmDetails().addDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, checkpoint, false);
        assertThat(site.provider.assignVMToBackupOffering(site.vm, null)).isTrue();
        assertThat(site.tables.vmDetails().findDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID))
                .isNull();
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
    }

    /** Wherever it came from: it counts only if the machine's own newest backup began it. */
    @Test
    void a_checkpoint_of_another_machine_makes_no_incremental() {
        site.take();
        String checkpoint = site.activeCheckpoint();
        when(site.vm.getId()).thenReturn(11L);
        when(site.provider.vmInstanceDao.findByIdIncludingRemoved(11L)).thenReturn(site.vm);
        when(site.provider.volumeDao.findByInstance(11L)).thenReturn(site.volumes);
        site.tables.vmDetails().addDetail(11, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, checkpoint, false);
        Backup own = site.takeCounted();
        assertThat(((TakeBackupCommand) site.host.asked.get(1)).getMode()).isEqualTo("full");
        assertThat(site.position(own)).isZero();
    }
}
