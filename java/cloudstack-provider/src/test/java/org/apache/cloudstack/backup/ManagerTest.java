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
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.configuration.Resource.ResourceType;
import com.cloud.host.HostVO;
import com.cloud.host.Status;
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine.State;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.cloudstack.backup.ModelHost.Fault;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
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
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;
import org.nasbackup.provider.database.Version;

/** What users of a manager see of the provider, in each version: jobs that fail, states, counts, and reasons. */
@Tag("each-version")
@Tag("lab")
class ManagerTest {
    private static final String[] HOST = {"192.0.2.22", "kvm22"};
    private static final String[] POOL = {"pool-1", "primary"};

    private static Database database;

    private Site site;
    /** Those that were counted since. */
    private final Set<Long> failures = new HashSet<>();

    @BeforeAll
    static void start() throws Exception {
        database = new Database(MariaDb.shared().socket());
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
        }
        return taken;
    }

    @Test
    void the_offering_s_end_leaves_the_backups_and_the_next_one_begins_a_chain() {
        List<Backup> taken = take(3);
        site.tables.schedule(Site.VM, 3);
        assertThat(site.manager.removeOffering(false)).isTrue();
        assertThat(site.activeCheckpoint()).isNull();
        assertThat(site.rows()).hasSize(3);
        assertThatThrownBy(site::take).hasMessageContaining("doesn't have a Backup Offering");
        site.delete(taken.get(1), false);
        site.agrees();
        site.offering = Site.OFFERING;
        assertThat(site.position(site.take())).isZero();
        site.agrees();
    }

    @Test
    void a_machine_with_backups_is_expunged_after_its_offering_ended_and_they_can_be_deleted_then() {
        List<Backup> taken = take(3);
        assertThatThrownBy(site.manager::expunge).hasMessageContaining("remove the backup offering");
        assertThat(site.manager.removeOffering(false)).isTrue();
        site.state = State.Stopped;
        site.manager.expunge();
        site.delete(taken.get(1), false);
        site.agrees();
        site.delete(taken.get(0), true);
        site.agrees();
        assertThat(site.nas.paths()).isEmpty();
    }

    /** A row that is left would refuse it for ever. */
    @Test
    void a_machine_whose_backups_all_went_is_expunged() {
        List<Backup> taken = take(2);
        site.host.fails(Fault.REFUSED);
        assertThat(site.take()).isNull();
        site.delete(taken.get(0), true);
        site.manager.expunge();
        assertThat(site.state).isEqualTo(State.Expunging);
        assertThat(site.offering).isNull();
    }

    @Test
    void a_restore_ends_stopped_and_the_next_backup_is_a_full() {
        List<Backup> taken = take(2);
        assertThatThrownBy(() -> site.manager.restore(taken.get(1).getId())).hasMessageContaining("should be stopped");
        site.state = State.Stopped;
        site.manager.restore(taken.get(1).getId());
        assertThat(site.state).isEqualTo(State.Stopped);
        assertThat(site.host.asked.get(2)).isInstanceOf(VerifyBackupCommand.class);
        assertThat(((RestoreBackupCommand) site.host.asked.get(3)).getVmState()).isEqualTo(State.Restoring);
        assertThat(site.position(site.take())).isZero();
        site.agrees();
    }

    /** The manager compares only how many there are. */
    @Test
    void a_data_disk_that_was_exchanged_since_is_not_overwritten_with_another_one_s_image() {
        Backup backup = take(1).get(0);
        site.state = State.Stopped;
        site.volumes.set(1, site.newVolume(1, "uuid-new", "new"));
        site.manager.restore(backup.getId());
        assertThat(restored()).containsExactly("/mnt/pool-1/r", "/mnt/pool-1/d2");
        assertThat(site.events)
                .last()
                .asString()
                .contains("it holds no volume uuid-new: left as it was")
                .contains("no longer has volume uuid-d1 of it: not restored");
        site.manager.create(backup.getId());
        site.volumes.set(0, site.newVolume(0, "uuid-reinstalled", "r2"));
        site.volumes.set(1, site.newVolume(3, "uuid-d1", "d1"));
        site.manager.restore(backup.getId());
        assertThat(restored()).containsExactly("/mnt/pool-1/r2", "/mnt/pool-1/d1", "/mnt/pool-1/d2");
    }

    private List<String> restored() {
        return ((RestoreBackupCommand) site.host.asked.get(site.host.asked.size() - 1)).getRestoreVolumePaths();
    }

    @Test
    void a_backup_that_was_deleted_while_its_restore_waited_leaves_the_machine_as_it_was() {
        List<Backup> taken = take(3);
        String checkpoint = site.activeCheckpoint();
        site.state = State.Stopped;
        database.whileItWaits(() -> site.delete(taken.get(1), false));
        assertThatThrownBy(() -> site.manager.restore(taken.get(1).getId()))
                .cause()
                .hasMessageContaining("it was deleted meanwhile");
        assertThat(site.host.asked).noneMatch(RestoreBackupCommand.class::isInstance);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
        site.agrees();
    }

    @Test
    void a_restore_whose_host_went_down_while_it_waited_is_done_by_another_one() {
        Backup backup = take(1).get(0);
        site.state = State.Stopped;
        database.whileItWaits(() -> site.host(22, Status.Down));
        site.manager.restore(backup.getId());
        assertThat(site.host.hosts).containsExactly(21L, 21L, 21L);
    }

    /** The machine would stay in Restoring otherwise, and could be neither started nor restored again. */
    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"NO_ANSWER", "OTHER_ANSWER", "UNREACHABLE", "TIMEOUT", "REFUSED"})
    void a_restore_that_fails_leaves_no_machine_in_between(Fault fault) {
        List<Backup> taken = take(1);
        site.state = State.Stopped;
        site.host.fails(Fault.NONE, fault);
        assertThatThrownBy(() -> site.manager.restore(taken.get(0).getId())).isInstanceOf(CloudRuntimeException.class);
        assertThat(site.state).isEqualTo(State.Stopped);
        site.manager.restore(taken.get(0).getId());
        site.agrees();
    }

    /** CloudStack's own restore does not ask: it would write whatever lies under the name. */
    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"NONE", "NO_ANSWER", "OTHER_ANSWER", "UNREACHABLE", "TIMEOUT", "REFUSED"})
    void nothing_is_touched_by_a_restore_of_what_is_not_known_to_be_the_point_that_was_made(Fault fault) {
        Backup backup = take(2).get(1);
        String checkpoint = site.activeCheckpoint();
        VMInstanceVO receiver = receiver();
        site.host.replaced.add(backup.getExternalId());
        site.state = State.Stopped;
        for (Runnable restore : List.<Runnable>of(
                () -> site.manager.restore(backup.getId()),
                () -> site.manager.create(backup.getId()),
                () -> site.manager.restoreVolume(backup.getId(), 1, receiver, HOST, POOL))) {
            site.host.fails(fault);
            site.events.clear();
            assertThatThrownBy(restore::run).isInstanceOf(CloudRuntimeException.class);
            assertThat(site.events)
                    .singleElement()
                    .asString()
                    .contains("backup " + backup.getUuid() + " is not known to be as it was made: host kvm");
        }
        assertThat(site.host.asked).noneMatch(RestoreBackupCommand.class::isInstance);
        assertThat(site.state).isEqualTo(State.Stopped);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
        assertThat(site.host.asked)
                .filteredOn(VerifyBackupCommand.class::isInstance)
                .hasSize(3)
                .allSatisfy(each -> assertThat(((VerifyBackupCommand) each).getPointId())
                        .isEqualTo("point " + backup.getExternalId()));
        site.agrees();
    }

    /** One that can't check is no reason not to restore, unless somebody has asked for points that are vouched for. */
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void a_host_that_can_t_check_a_point_restores_it_unless_it_is_vouched_for(boolean signed) {
        site.host.signs = signed;
        Backup backup = take(1).get(0);
        site.state = State.Stopped;
        site.host.software = ModelHost.Software.STOCK_4_23;
        if (signed) {
            assertThatThrownBy(() -> site.manager.restore(backup.getId())).isInstanceOf(CloudRuntimeException.class);
            assertThat(site.host.asked).last().isInstanceOfSatisfying(VerifyBackupCommand.class, each -> assertThat(
                            each.getMac())
                    .isEqualTo("mac 1"));
        } else {
            site.manager.restore(backup.getId());
            assertThat(site.host.asked).last().isInstanceOf(RestoreBackupCommand.class);
            assertThat(site.logged)
                    .anyMatch(line -> line.startsWith("Backup " + backup.getUuid() + " is restored though"));
        }
        // it logs what it does not know, passwords too
        assertThat(site.host.asked)
                .filteredOn(VerifyBackupCommand.class::isInstance)
                .allMatch(each -> ((VerifyBackupCommand) each).getBackupRepoAddress() == null)
                .allMatch(each -> ((VerifyBackupCommand) each).getMountOptions().isEmpty());
        assertThat(site.state).isEqualTo(State.Stopped);
    }

    @Test
    void a_restore_whose_method_this_server_lacks_leaves_no_machine_in_between() {
        List<Backup> taken = take(1);
        site.state = State.Stopped;
        site.host.gate = () -> {
            throw new NoSuchMethodError("setBackupFiles");
        };
        assertThatThrownBy(() -> site.manager.restore(taken.get(0).getId()))
                .cause()
                .hasMessageContaining("setBackupFiles");
        assertThat(site.state).isEqualTo(State.Stopped);
    }

    private String checkpointOfTheMadeOne() {
        return site.tables
                .vmDetails()
                .listDetailsKeyPairs(Manager.MADE)
                .get(NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID);
    }

    /** The settings of the machine that was backed up name its bitmap, which the new one's disks do not have. */
    @Test
    void a_machine_that_is_made_of_a_backup_has_no_checkpoint_and_leaves_the_other_its_own() {
        List<Backup> taken = take(2);
        site.tables.vmDetails().addDetail(Site.VM, "cpuOvercommitRatio", "2.0", true);
        Backup backup = site.take();
        String checkpoint = site.activeCheckpoint();
        site.manager.create(backup.getId());
        assertThat(site.tables.vmDetails().listDetailsKeyPairs(Manager.MADE))
                .containsEntry("cpuOvercommitRatio", "2.0")
                .doesNotContainKey(NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
        assertThat(site.position(site.take())).isEqualTo(3);
        site.delete(taken.get(1), false);
        site.agrees();
    }

    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"NO_ANSWER", "TIMEOUT", "REFUSED"})
    void a_machine_that_could_not_be_made_has_no_checkpoint_either(Fault fault) {
        Backup backup = take(2).get(1);
        site.host.fails(fault);
        assertThatThrownBy(() -> site.manager.create(backup.getId())).isInstanceOf(CloudRuntimeException.class);
        assertThat(checkpointOfTheMadeOne()).isNull();
        assertThat(site.activeCheckpoint()).isNotNull();
        site.agrees();
    }

    @Test
    void a_machine_that_is_started_while_its_lock_is_waited_for_is_backed_up_as_one_that_runs() {
        site.state = State.Stopped;
        database.whileItWaits(() -> site.state = State.Running);
        take(1);
        assertThat(site.host.hosts).containsExactly(21L);
        assertThat(((TakeBackupCommand) site.host.asked.get(0)).getVolumePaths())
                .isNullOrEmpty();
        site.agrees();
        when(site.vm.getState()).thenReturn(State.Starting);
        assertThatThrownBy(site::take).hasMessageContaining("is in state Starting");
        site.agrees();
    }

    /** CloudStack knows of starts on other hosts, whose guests the one that reads can't see. */
    @ParameterizedTest
    @CsvSource({
        "RBD,Starting,22,Error",
        "RBD,Running,22,Error",
        "RBD,Stopped,23,Error",
        "RBD,Stopped,22,BackedUp",
        "Linstor,Running,22,Error",
        "SharedMountPoint,Running,22,BackedUp",
        "NetworkFilesystem,Running,22,BackedUp"
    })
    void a_backup_of_disks_that_nothing_locks_is_none_once_the_machine_was_started(
            StoragePoolType type, State state, long lastHost, Backup.Status status) {
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(pool.getPoolType()).thenReturn(type);
        site.state = State.Stopped;
        take(1);
        String checkpoint = site.activeCheckpoint();
        site.host.gate = () -> {
            site.state = state;
            when(site.vm.getLastHostId()).thenReturn(lastHost);
        };
        if (status == Backup.Status.BackedUp) {
            take(1);
            site.agrees();
            return;
        }
        assertThatThrownBy(site::take)
                .hasMessageContaining("was started meanwhile")
                .hasMessageContaining("pool-1");
        assertThat(site.rows()).extracting(Backup::getStatus).containsExactly(Backup.Status.BackedUp, status);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
        site.tables.recount();
        site.delete(site.rows().get(1), false);
        site.agrees();
    }

    private VMInstanceVO receiver() {
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(site.provider.primaryDataStoreDao.findByUuid("pool-1")).thenReturn(pool);
        HostVO host = site.hosts.findById(22L);
        when(site.hosts.findByIp("192.0.2.22")).thenReturn(host);
        DiskOfferingVO offering = mock(DiskOfferingVO.class);
        when(site.provider.diskOfferingDao.findByUuid(any())).thenReturn(offering);
        VMInstanceVO receiver = mock(VMInstanceVO.class);
        when(receiver.getId()).thenReturn(11L);
        when(receiver.getName()).thenReturn("i-2-11-VM");
        when(receiver.getState()).thenReturn(State.Stopped);
        when(receiver.getBackupOfferingId()).thenReturn(null);
        when(site.provider.vmInstanceDao.findVMByInstanceName("i-2-11-VM")).thenReturn(receiver);
        return receiver;
    }

    @Test
    void a_volume_is_restored_by_the_first_of_the_four_calls() {
        Backup backup = take(2).get(1);
        int asked = site.host.asked.size();
        site.manager.restoreVolume(backup.getId(), 1, receiver(), HOST, POOL);
        assertThat(site.host.asked).hasSize(asked + 2);
        assertThat(((VerifyBackupCommand) site.host.asked.get(asked)).getBackupFile())
                .isEqualTo("d1");
        site.agrees();
    }

    /** The manager tries other names of host and pool then, and says what the last call said that threw nothing. */
    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"NO_ANSWER", "OTHER_ANSWER", "UNREACHABLE", "TIMEOUT", "REFUSED"})
    void a_volume_that_is_not_restored_says_why(Fault fault) {
        Backup backup = take(2).get(1);
        VMInstanceVO receiver = receiver();
        int asked = site.host.asked.size();
        site.host.fails(Fault.NONE, fault);
        assertThatThrownBy(() -> site.manager.restoreVolume(backup.getId(), 1, receiver, HOST, POOL))
                .hasMessageContaining("kvm22");
        assertThat(site.host.asked).hasSize(asked + 2);
    }

    private static final class Killed extends Error {
        private static final long serialVersionUID = 1L;
    }

    /**
     * Before and after each command, and before each commit; whatever it tries after that fails.
     *
     * @return was it killed? Else it came to its end.
     */
    private boolean killed(int stop, Runnable work) {
        AtomicInteger stops = new AtomicInteger();
        Runnable gate = () -> {
            if (stops.getAndIncrement() >= stop) {
                throw new Killed();
            }
        };
        site.host.gate = gate;
        database.beforeCommit(gate);
        try {
            work.run();
        } catch (Killed e) {
            // as it is
        } finally {
            site.host.gate = () -> {};
            database.beforeCommit(() -> {});
        }
        return stops.get() > stop;
    }

    /** @return how often it was killed */
    private int atEveryStop(Runnable before, Runnable work) {
        boolean killed = true;
        int stop = -1;
        while (killed) {
            build();
            site.waitsNoTime();
            before.run();
            stop++;
            killed = killed(stop, work);
            site.tables.recount();
            site.nas.paths().forEach(path -> site.contents.computeIfAbsent(path, p -> site.nas.read(p)));
            for (int sync = 0; sync < 4; sync++) {
                site.manager.sync();
            }
            site.takeScheduled(schedule);
            eachReadsAsOnItsDay();
            for (Backup row : site.rows()) {
                if (row.getStatus() == Backup.Status.Error) {
                    site.delete(row, false);
                }
            }
            site.agrees();
        }
        return stop;
    }

    private long schedule;

    private void scheduled(int count) {
        schedule = site.tables.schedule(Site.VM, count);
        for (int i = 0; i < count; i++) {
            site.takeScheduled(schedule);
        }
    }

    @ParameterizedTest
    @EnumSource(
            value = Fault.class,
            names = {"NONE", "UNREACHABLE", "REFUSED_HALF_WAY"})
    void a_server_that_dies_in_a_schedule_s_job_leaves_nothing_that_the_next_one_does_not_end(Fault surplus) {
        assertThat(atEveryStop(
                        () -> {
                            scheduled(2);
                            site.host.fails(Fault.NONE, surplus);
                        },
                        () -> site.takeScheduled(schedule)))
                .isGreaterThan(5);
    }

    @Test
    void a_server_that_dies_in_the_periodic_task_leaves_nothing_that_the_next_one_does_not_end() {
        assertThat(atEveryStop(
                        () -> {
                            scheduled(4);
                            List<Backup> taken = site.rows();
                            site.tables.keep(schedule, 3);
                            site.host.fails(Fault.UNREACHABLE);
                            site.delete(taken.get(0), false);
                            if (Version.LATER) {
                                site.tables.backups().setStatus(taken.get(2).getId(), "Hidden");
                            }
                        },
                        () -> site.manager.sync()))
                .isGreaterThan(7);
    }

    /** A person, two schedules, faults of hosts, and the periodic task, as chance has it. */
    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5, 6})
    void whatever_is_asked_and_fails_each_backup_reads_as_on_its_day_and_all_can_be_deleted(int seed) {
        Random chance = new Random(seed);
        int fullEvery = chance.nextInt(6);
        site.policy = new Policy(true, fullEvery);
        site.mergesFull = chance.nextBoolean();
        site.waitsNoTime();
        long daily = site.tables.schedule(Site.VM, 1 + chance.nextInt(4));
        long weekly = site.tables.schedule(Site.VM, 1 + chance.nextInt(2));
        site.host.gate =
                () -> site.nas.paths().forEach(path -> site.contents.computeIfAbsent(path, p -> site.nas.read(p)));
        for (int step = 0; step < 80; step++) {
            if (chance.nextInt(5) == 0) {
                site.host.fails(Fault.values()[chance.nextInt(Fault.values().length)]);
            }
            try {
                site.now = site.now.plus(Duration.ofHours(1));
                something(chance, daily, weekly);
            } catch (CloudRuntimeException e) {
                // its job fails, and is asked for again or not
            }
            assertThat(site.state).isIn(State.Running, State.Stopped);
            eachReadsAsOnItsDay();
            eachIsCountedOnce();
        }
        assertThat(site.contents).as("backups").hasSizeGreaterThan(20);
        assertThat(site.host.asked.stream().anyMatch(RebaseBackupCommand.class::isInstance))
                .as("merges")
                .isEqualTo(fullEvery != 1);
        site.offering = Site.OFFERING;
        site.mergesFull = true;
        allCanBeDeleted(chance.nextBoolean());
    }

    /** One that failed is so once the server counts anew, which it does every few minutes. */
    private void eachIsCountedOnce() {
        List<Backup> counted = site.rows();
        boolean failed = counted.removeIf(row -> row.getStatus() == Backup.Status.Error && failures.add(row.getId()));
        assertThat(site.tables.count(ResourceType.backup)).isEqualTo(counted.size());
        assertThat(site.tables.count(ResourceType.backup_storage))
                .isEqualTo(counted.stream()
                        .mapToLong(row -> row.getSize() == null ? 0 : row.getSize())
                        .sum());
        if (failed) {
            site.tables.recount();
        }
    }

    private void something(Random chance, long daily, long weekly) {
        List<Backup> rows = site.rows();
        Backup any = rows.isEmpty() ? null : rows.get(chance.nextInt(rows.size()));
        switch (any == null ? 0 : chance.nextInt(14)) {
            case 0:
                site.manager.take();
                break;
            case 1:
            case 2:
            case 3:
            case 4:
                site.manager.take(daily);
                break;
            case 5:
                site.manager.take(weekly);
                break;
            case 6:
            case 7:
            case 8:
                site.manager.delete(any.getId(), chance.nextInt(4) == 0);
                break;
            case 9:
                site.host.restarted = chance.nextBoolean();
                site.state = chance.nextBoolean() ? State.Running : State.Stopped;
                break;
            case 10:
                site.manager.restore(any.getId());
                break;
            case 11:
                site.manager.create(any.getId());
                break;
            case 12:
                site.manager.removeOffering(false);
                site.offering = Site.OFFERING;
                break;
            default:
                site.manager.sync();
        }
    }

    private void eachReadsAsOnItsDay() {
        for (Backup row : site.rows()) {
            String path = row.getExternalId();
            if (row.getStatus() == Backup.Status.BackedUp && site.nas.has(path)) {
                assertThat(site.nas.read(path)).as(path).isEqualTo(site.contents.get(path));
            }
        }
    }

    /** Faults that were not met yet refuse some, and files of backups that failed are deleted with these. */
    private void allCanBeDeleted(boolean forced) {
        String last = null;
        for (int round = 0;
                round < 30 && !(site.rows().isEmpty() && site.nas.paths().isEmpty());
                round++) {
            site.manager.sync();
            for (Backup row : site.rows()) {
                try {
                    if (!site.tables.backups().removed(row.getId())) {
                        site.manager.delete(row.getId(), forced);
                    }
                } catch (CloudRuntimeException e) {
                    last = e.getMessage();
                }
                eachReadsAsOnItsDay();
                eachIsCountedOnce();
            }
        }
        assertThat(site.rows()).as(last).isEmpty();
        assertThat(site.nas.paths()).as(last).isEmpty();
        assertThat(site.tables.count(ResourceType.backup)).isZero();
        assertThat(site.tables.count(ResourceType.backup_storage)).isZero();
    }

    /** One that throws ends it for all zones that come after. */
    @Test
    void the_periodic_sync_never_fails() {
        take(1);
        site.host.fails(Fault.UNREACHABLE);
        site.manager.sync();
        for (long id = 21; id <= 23; id++) {
            site.host(id, Status.Down);
        }
        when(site.provider.resourceManager.findOneRandomRunningHostByHypervisor(any(), anyLong()))
                .thenReturn(null);
        site.manager.sync();
    }
}
