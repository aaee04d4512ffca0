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
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine.State;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.cloudstack.backup.ModelHost.Fault;
import org.apache.logging.log4j.LogManager;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.Ticket;
import org.nasbackup.provider.cloudstack.DetailTickets;
import org.nasbackup.provider.cloudstack.HostSlots;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;
import org.nasbackup.provider.database.Tables;

/** More work for a host than its agent has threads, over real tables. */
@Tag("each-version")
@Tag("lab")
class BusyHostTest {
    private static final long HOST = 21;
    private static final int MACHINES = 20;
    private static final int PATIENCE_SECONDS = 180;

    private final List<Database> databases = new ArrayList<>();
    private Site site;
    private DetailTickets tickets;

    @BeforeEach
    void build() throws Exception {
        site = Site.fresh(database());
        site.slotsPerHost = 2;
        tickets = new DetailTickets(site.tables.userDetails(), site.tables.database());
    }

    @AfterEach
    void close() throws Exception {
        for (Database each : databases) {
            each.close();
        }
    }

    private Database database() throws Exception {
        Database database = new Database(MariaDb.shared().socket());
        databases.add(database);
        return database;
    }

    /** A management server's, with a connection of its own. Its waits are short, and {@code eachLook} happens in each. */
    private HostSlots slots(Runnable eachLook) throws Exception {
        Tables tables = new Tables(database());
        HostSlots.Pace pace = new HostSlots.Pace(
                Duration.ofMillis(5), Duration.ofMillis(5), Duration.ofSeconds(20), Duration.ofSeconds(120));
        return new HostSlots(
                new DetailTickets(tables.userDetails(), tables.database()),
                tables.database(),
                LogManager.getLogger(BusyHostTest.class),
                pace,
                () -> {
                    eachLook.run();
                    return System.nanoTime();
                });
    }

    private void hold(String id) {
        tickets.put(HOST, Ticket.waiting(id, 1, false, "back up " + id).holding());
    }

    private static void until(String what, BooleanSupplier holds) {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        while (!holds.getAsBoolean()) {
            assertThat(System.nanoTime()).as(what).isLessThan(deadline);
        }
    }

    /** One thread of a management server: a machine that is backed up there. */
    private Future<Pair<Boolean, Backup>> take(ExecutorService threads, AgentPool agent, HostSlots slots, int machine)
            throws Exception {
        Site own = server(agent, slots);
        VMInstanceVO vm = machine(own, 100 + machine);
        return threads.submit(() -> own.provider.takeBackup(vm, false));
    }

    private Site server(AgentPool agent, HostSlots slots) throws Exception {
        Site own = new Site(new Tables(database()));
        own.slotsPerHost = 2;
        own.slots = slots;
        own.provider.agentManager = agent.manager();
        return own;
    }

    /** With one volume. */
    private VMInstanceVO machine(Site own, long id) {
        List<VolumeVO> volumes = List.of(own.newVolume(0, "uuid-" + id, "path-" + id));
        when(own.provider.volumeDao.findByInstance(id)).thenReturn(volumes);
        VMInstanceVO vm = mock(VMInstanceVO.class);
        when(vm.getId()).thenReturn(id);
        when(vm.getInstanceName()).thenReturn("i-2-" + id + "-VM");
        when(vm.getState()).thenReturn(State.Running);
        when(vm.getHostId()).thenReturn(HOST);
        when(vm.getDataCenterId()).thenReturn(1L);
        when(vm.getBackupOfferingId()).thenReturn(5L);
        when(vm.getHypervisorType()).thenReturn(HypervisorType.KVM);
        when(own.provider.vmInstanceDao.findByIdIncludingRemoved(id)).thenReturn(vm);
        when(vm.getAccountId()).thenReturn(2L);
        when(vm.getDomainId()).thenReturn(3L);
        site.tables
                .database()
                .write(
                        "insert ignore into vm_instance"
                                + " (id, instance_name, account_id, domain_id, data_center_id, backup_offering_id)"
                                + " values (?, ?, 2, 3, 1, 5)",
                        id,
                        vm.getInstanceName());
        return vm;
    }

    private List<String> statuses() {
        return site.tables.database().read(row -> row.getString(1), "select status from backups where removed is null");
    }

    /** Of two management servers; the host's agent has five threads. */
    @Test
    void twenty_backups_of_a_host_leave_its_agent_free_and_come_in_their_order() throws Exception {
        HostSlots[] servers = {slots(() -> {}), slots(() -> {})};
        ExecutorService threads = Executors.newFixedThreadPool(MACHINES);
        List<Future<Pair<Boolean, Backup>>> all = new ArrayList<>();
        List<String> begun = new ArrayList<>();
        List<String> asked = new ArrayList<>();
        try (AgentPool agent = new AgentPool()) {
            for (int machine = 0; machine < MACHINES; machine++) {
                int asking = machine + 1;
                asked.add("i-2-" + (100 + machine) + "-VM");
                all.add(take(threads, agent, servers[machine % 2], machine));
                until("it is in the line", () -> tickets.of(HOST).size() == asking);
                if (machine < 2) {
                    begun.add(((TakeBackupCommand) agent.next()).getVmName());
                }
                assertThat(agent.isHealthy()).isTrue();
            }
            for (int machine = 2; machine < MACHINES; machine++) {
                assertThat(statuses())
                        .hasSize(machine)
                        .filteredOn("BackingUp"::equals)
                        .hasSize(2);
                agent.finishOne();
                begun.add(((TakeBackupCommand) agent.next()).getVmName());
                assertThat(agent.isHealthy()).isTrue();
            }
            agent.finishOne();
            agent.finishOne();
            for (Future<Pair<Boolean, Backup>> each : all) {
                assertThat(each.get(PATIENCE_SECONDS, TimeUnit.SECONDS).first()).isTrue();
            }
            assertThat(agent.most).hasValue(2);
        } finally {
            threads.shutdownNow();
        }
        assertThat(begun).isEqualTo(asked);
        assertThat(statuses()).hasSize(MACHINES).containsOnly("BackedUp");
        assertThat(tickets.of(HOST)).isEmpty();
    }

    /** And of two slots another machine's restore and backups have the other one. */
    @Test
    void ten_deletions_of_one_machine_take_one_slot_and_all_are_done() throws Exception {
        site.slotsPerHost = 100;
        site.policy = new Policy(false, 1);
        List<Backup> backups = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            backups.add(site.take());
        }
        HostSlots slots = slots(() -> {});
        ExecutorService threads = Executors.newFixedThreadPool(MACHINES);
        List<Future<?>> all = new ArrayList<>();
        try (AgentPool agent = new AgentPool()) {
            Future<Pair<Boolean, Backup>> first = take(threads, agent, slots, 0);
            agent.finishOne();
            agent.next();
            long restored =
                    first.get(PATIENCE_SECONDS, TimeUnit.SECONDS).second().getId();
            for (Backup backup : backups) {
                Site own = server(agent, slots);
                all.add(threads.submit(() -> own.provider.deleteBackup(backup, false)));
            }
            assertThat(agent.next()).isInstanceOf(DeleteBackupCommand.class);
            until("nine stand aside", () -> site.tables.database().aside() == 9);
            all.add(take(threads, agent, slots, 1));
            assertThat(((TakeBackupCommand) agent.next()).getVmName()).isEqualTo("i-2-101-VM");
            all.add(take(threads, agent, slots, 2));
            until("a backup waits", () -> tickets.of(HOST).size() == 12);
            Site own = server(agent, slots);
            VMInstanceVO vm = machine(own, 100);
            Backup backup = own.tables.backups().findById(restored);
            all.add(threads.submit(() -> own.provider.restoreVMFromBackup(vm, backup)));
            until("a restore waits", () -> tickets.of(HOST).size() == 13);
            assertThat(agent.isHealthy()).isTrue();
            agent.finishOne();
            assertThat(agent.next()).isInstanceOf(RestoreBackupCommand.class);
            for (int left = 12; left > 0; left--) {
                agent.finishOne();
                assertThat(agent.isHealthy()).isTrue();
            }
            for (Future<?> each : all) {
                each.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
            }
            assertThat(agent.most).hasValue(2);
        } finally {
            threads.shutdownNow();
        }
        assertThat(statuses()).hasSize(3).containsOnly("BackedUp");
        assertThat(tickets.of(HOST)).isEmpty();
    }

    /** One that reads between the removal of the old one and the writing of the new one would give its slot away. */
    @Test
    void a_ticket_that_is_written_anew_is_there_all_the_time() throws Exception {
        Ticket old = Ticket.waiting("a", 1, false, "back up a").holding();
        tickets.put(HOST, old);
        Tables others = new Tables(database());
        DetailTickets read = new DetailTickets(others.userDetails(), others.database());
        List<String> seen = new ArrayList<>();
        site.tables.database().beforeCommit(() -> seen.add(read.of(HOST).toString()));
        tickets.put(HOST, old.beaten());
        assertThat(seen).containsExactly("[a: 1 holds 1 back up a]");
        assertThat(read.of(HOST)).hasToString("[a: 1 holds 2 back up a]");
    }

    @Test
    void a_restore_into_another_zone_goes_by_that_zone_s_settings() {
        Backup backup = site.tables.backups().findById(site.take().getId());
        when(site.hosts.findById(HOST).getDataCenterId()).thenReturn(2L);
        site.zonesAsked.clear();
        site.provider.restoreVMFromBackup(site.vm, backup);
        assertThat(site.zonesAsked).containsExactly(2L);
    }

    @Test
    void more_slots_than_leave_an_agent_a_thread_are_cut_and_told_of_once() {
        for (int slots : new int[] {4, 5, 5, 1, 5, 9, 9}) {
            assertThat(site.provider.bounded(Site.ZONE, slots)).isEqualTo(Math.min(slots, 4));
        }
        assertThat(site.logged).hasSize(3).allMatch(line -> line.contains("taken for 4"));
        assertThat(site.logged.get(2)).contains("zone 1 is 9");
    }

    /** Backups, deletions and restores have the same slots. */
    @Test
    void who_gets_no_slot_in_time_fails_and_nothing_has_happened() {
        site.slotsPerHost = 100;
        Backup backup = site.take();
        String checkpoint = site.activeCheckpoint();
        site.slotsPerHost = 2;
        site.queueWaitSeconds = 0;
        hold("a");
        hold("b");
        int asked = site.host.asked.size();
        // Nothing of the others, whose owners are none of this one's business.
        String why = " - its turn did not come within 0 seconds (nas.backup.queue.wait): 2 of 2 slots of its host are"
                + " taken, 0 wait before it";
        assertThatThrownBy(() -> site.provider.takeBackup(site.vm, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to back up i-2-10-VM" + why);
        assertThatThrownBy(() -> site.provider.deleteBackup(backup, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to delete backup " + backup.getUuid() + why);
        assertThatThrownBy(() -> site.provider.restoreVMFromBackup(site.vm, backup))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to restore backup " + backup.getUuid() + why);
        assertThat(site.events).filteredOn(event -> event.endsWith(why)).hasSize(3);
        assertThat(site.logged)
                .filteredOn(line -> line.endsWith("0 wait before it; at work: back up a, back up b"))
                .hasSize(3);
        assertThat(site.host.asked).hasSize(asked);
        assertThat(site.activeCheckpoint()).isEqualTo(checkpoint);
        assertThat(tickets.of(HOST)).hasSize(2);
        site.agrees();
    }

    @Test
    void a_deletion_that_is_refused_does_not_wait() {
        Backup full = site.take();
        site.take();
        hold("a");
        hold("b");
        assertThatThrownBy(() -> site.provider.deleteBackup(full, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("1 incremental backup stands on");
        site.agrees();
    }

    @Test
    void who_was_moved_while_it_waited_is_backed_up_on_its_new_host() throws Exception {
        hold("a");
        hold("b");
        AtomicInteger looks = new AtomicInteger();
        site.slots = slots(() -> {
            if (looks.incrementAndGet() == 10) {
                when(site.vm.getHostId()).thenReturn(23L);
                tickets.remove(HOST, "a");
            }
        });
        assertThat(site.take()).isNotNull();
        assertThat(site.host.hosts).containsExactly(23L);
        site.agrees();
    }

    /** Else a deletion of the same machine, by another host, would wait for hours. */
    @Test
    void who_waits_for_a_host_has_neither_a_record_nor_the_machine_s_lock() throws Exception {
        hold("a");
        hold("b");
        List<String> found = new ArrayList<>();
        site.slots = slots(() -> {
            if (found.isEmpty()) {
                found.add("rows " + site.rows().size() + ", lock free "
                        + site.tables
                                .database()
                                .read(row -> row.getInt(1), "select is_free_lock('nas.backup.chain.vm.10')"));
            } else {
                tickets.remove(HOST, "a");
            }
        });
        assertThat(site.take()).isNotNull();
        assertThat(found).containsExactly("rows 0, lock free [1]");
    }

    @Test
    void a_host_without_a_place_is_asked_again_and_its_refusals_leave_no_row() throws Exception {
        site.slots = slots(() -> {});
        site.host.fails(Fault.NO_PLACE, Fault.NO_PLACE);
        assertThat(site.take()).isNotNull();
        assertThat(site.host.asked).hasSize(3);
        assertThat(site.tables.database().read(row -> row.getLong(1), "select count(*) from backups"))
                .containsExactly(1L);
        site.agrees();
        assertThat(tickets.of(HOST)).isEmpty();
    }
}
