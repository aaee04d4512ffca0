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
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.host.HostVO;
import com.cloud.utils.exception.CloudRuntimeException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.apache.logging.log4j.Logger;
import org.apache.logging.log4j.message.ParameterizedMessage;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.Ticket;
import org.nasbackup.provider.Tickets;

/** Waiting for a host, with a clock of the test's own. */
class HostSlotsTest {
    private static final long HOST = 21;
    private static final long PATIENCE_NANOS = TimeUnit.SECONDS.toNanos(180);
    private static final Duration NEVER = Duration.ofDays(1);
    private static final Duration OFTEN = Duration.ofMillis(1);

    /** What the database holds. */
    private static final class Memory implements Tickets {
        private final Map<String, Ticket> all = new ConcurrentHashMap<>();
        private final AtomicInteger looks = new AtomicInteger();
        private volatile boolean refusesRemoval;
        private volatile boolean failing;
        /** Of this work each later beat hangs. */
        private volatile String hangs = "none";
        /** Of this work two beats fail with an error. */
        private volatile String fails = "none";

        private final AtomicInteger hanging = new AtomicInteger();
        private final AtomicInteger failed = new AtomicInteger();
        private final AtomicInteger puts = new AtomicInteger();
        private final CountDownLatch release = new CountDownLatch(1);

        @Override
        public List<Ticket> of(long hostId) {
            looks.incrementAndGet();
            if (failing) {
                throw new IllegalStateException("no database");
            }
            return new ArrayList<>(all.values());
        }

        @Override
        public void put(long hostId, Ticket ticket) {
            boolean beats = Thread.currentThread().getName().equals("nas-backup-slots");
            if (beats && ticket.text().endsWith(hangs)) {
                hanging.incrementAndGet();
                HostSlotsTest.await(release);
            }
            if (beats && ticket.text().endsWith(fails)) {
                if (failed.get() < 2) {
                    failed.incrementAndGet();
                    throw new StackOverflowError("a statement");
                }
                puts.incrementAndGet();
            }
            all.put(ticket.id(), ticket);
        }

        @Override
        public void remove(long hostId, String id) {
            if (refusesRemoval) {
                throw new IllegalStateException("no database");
            }
            all.remove(id);
        }

        @Override
        public void removeUnchanged(long hostId, Ticket ticket) {
            all.computeIfPresent(ticket.id(), (id, is) -> is.text().equals(ticket.text()) ? null : is);
        }

        void plant(String id, String text) {
            all.put(id, Ticket.read(id, text));
        }
    }

    private static final class Locks implements ChainLocks {
        /** A virtual machine that somebody works on. */
        private volatile long taken;

        private volatile boolean failing;

        @Override
        public boolean ifFree(long vmId, Runnable work) {
            if (vmId == taken) {
                return false;
            }
            work.run();
            return true;
        }

        @Override
        public synchronized <T> T lockedLine(long hostId, Supplier<T> work) {
            if (failing) {
                throw new IllegalStateException("no lock");
            }
            return work.get();
        }
    }

    private final Memory tickets = new Memory();
    private final Locks locks = new Locks();
    private final HostVO host = mock(HostVO.class);
    private final List<String> logged = Collections.synchronizedList(new ArrayList<>());
    private final Logger logger = mock(Logger.class, call -> {
        Object[] arguments = call.getArguments();
        logged.add(ParameterizedMessage.format(
                String.valueOf(arguments[0]), Arrays.copyOfRange(arguments, 1, arguments.length)));
        return null;
    });
    private volatile long seconds = 1000;

    @BeforeEach
    void name() {
        when(host.getId()).thenReturn(HOST);
        when(host.getName()).thenReturn("kvm21");
    }

    private HostSlots slots(Duration beat) {
        HostSlots.Pace pace = new HostSlots.Pace(OFTEN, OFTEN, beat, Duration.ofSeconds(120));
        return new HostSlots(tickets, locks, logger, pace, () -> TimeUnit.SECONDS.toNanos(seconds));
    }

    private HostSlots.Claim claim(int patienceSeconds) {
        return new HostSlots.Claim(host, 1, patienceSeconds, false, "back up b");
    }

    private CompletableFuture<String> work(HostSlots slots, int patienceSeconds) {
        return CompletableFuture.supplyAsync(() -> slots.held(claim(patienceSeconds), () -> "done"));
    }

    private static void until(String what, BooleanSupplier holds) {
        long deadline = System.nanoTime() + PATIENCE_NANOS;
        while (!holds.getAsBoolean()) {
            assertThat(System.nanoTime()).as(what).isLessThan(deadline);
            Thread.onSpinWait();
        }
    }

    /** The clock goes on, and who waits sees what it is then. */
    private void later(int by) {
        for (int left = by; left > 0; left -= 30) {
            seconds += Math.min(left, 30);
            looked();
        }
    }

    /** It has, at what is there now. */
    private void looked() {
        int before = tickets.looks.get();
        until("it has looked", () -> tickets.looks.get() >= before + 2);
    }

    private static <T> T get(CompletableFuture<T> work) throws Exception {
        return work.get(180, TimeUnit.SECONDS);
    }

    @Test
    void who_finds_a_slot_begins_at_once_and_leaves_nothing() {
        assertThat(slots(NEVER).<String>held(claim(0), () -> {
                    assertThat(tickets.all.values()).extracting(Ticket::text).containsExactly("1 holds 1 back up b");
                    return "done";
                }))
                .isEqualTo("done");
        assertThat(tickets.all).isEmpty();
        assertThat(logged).isEmpty();
    }

    @Test
    void a_server_that_dies_keeps_its_slot_and_its_turn_for_a_lease() throws Exception {
        tickets.plant("dead", "1 holds 7 back up a");
        tickets.plant("dead, too", "2 waits 3 back up c");
        CompletableFuture<String> next = work(slots(NEVER), 7200);
        until("it waits", () -> tickets.all.size() == 3 && !logged.isEmpty());
        later(119);
        assertThat(tickets.all).hasSize(3);
        seconds += 1;
        assertThat(get(next)).isEqualTo("done");
        assertThat(tickets.all).isEmpty();
        assertThat(logged)
                .contains("Ticket dead: 1 holds 7 back up a of host 21 is of a management server that lives no more,"
                        + " and ends");
    }

    @Test
    void a_server_that_beats_keeps_its_slot_for_as_long_as_it_works() throws Exception {
        tickets.plant("slow", "1 holds 0 back up a");
        CompletableFuture<String> next = work(slots(NEVER), 7200);
        until("it waits", () -> !logged.isEmpty());
        for (int beat = 1; beat <= 10; beat++) {
            later(100);
            assertThat(next).isNotDone();
            tickets.plant("slow", "1 holds " + beat + " back up a");
            later(1);
        }
        tickets.remove(HOST, "slow");
        assertThat(get(next)).isEqualTo("done");
    }

    @Test
    void who_waits_says_why_every_minute_and_gives_up_in_time() {
        tickets.plant("slow", "1 holds 0 back up a");
        CompletableFuture<String> next = work(slots(NEVER), 600);
        until("it waits", () -> !logged.isEmpty());
        for (int beat = 1; beat < 20; beat++) {
            tickets.plant("slow", "1 holds " + beat + " back up a");
            later(30);
        }
        assertThat(next).isNotDone();
        assertThat(logged).hasSize(10);
        assertThat(logged.get(2))
                .isEqualTo("Waiting to back up b on host kvm21 for 120 of at most 600 seconds:"
                        + " 1 of 1 slots of its host are taken, 0 wait before it; at work: back up a");
        tickets.plant("slow", "1 holds 20 back up a");
        seconds += 30;
        assertThatThrownBy(() -> get(next))
                .cause()
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to back up b - its turn did not come within 600 seconds"
                        + " (nas.backup.queue.wait): 1 of 1 slots of its host are taken, 0 wait before it");
        assertThat(logged.get(logged.size() - 1))
                .isEqualTo("Waited in vain to back up b on host kvm21 for 600 of at most 600 seconds:"
                        + " 1 of 1 slots of its host are taken, 0 wait before it; at work: back up a");
        assertThat(tickets.all).containsOnlyKeys("slow");
    }

    @Test
    void a_host_without_a_place_is_asked_again_with_the_slot_in_hand() {
        AtomicInteger asked = new AtomicInteger();
        assertThat(slots(NEVER).<Integer>held(claim(7200), () -> {
                    assertThat(tickets.all).hasSize(1);
                    if (asked.incrementAndGet() < 3) {
                        throw new AgentFailure(AgentFailure.Kind.NO_PLACE, "host kvm21: BUSY", false);
                    }
                    return asked.get();
                }))
                .isEqualTo(3);
        assertThat(logged)
                .containsExactly("Waiting to back up b on host kvm21 for 0 of at most 7200 seconds: host kvm21: BUSY");
        assertThatThrownBy(() -> slots(NEVER).held(claim(7200), () -> {
                    seconds += 7200;
                    throw new AgentFailure(AgentFailure.Kind.NO_PLACE, "host kvm21: BUSY", false);
                }))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageEndingWith(
                        "within 7200 seconds (nas.backup.queue.wait): its host has no place for one more");
        assertThat(tickets.all).isEmpty();
    }

    /** Else each that ends would have all others ask the database. */
    @Test
    void who_waits_for_the_same_host_looks_with_the_others() throws Exception {
        HostSlots.Pace pace = new HostSlots.Pace(NEVER, NEVER, NEVER, Duration.ofSeconds(120));
        HostSlots slots = new HostSlots(tickets, locks, logger, pace, () -> TimeUnit.SECONDS.toNanos(seconds));
        CountDownLatch end = new CountDownLatch(1);
        List<CompletableFuture<?>> all = new ArrayList<>();
        for (int turn = 0; turn < 6; turn++) {
            int logs = turn;
            all.add(CompletableFuture.supplyAsync(
                    () -> slots.held(claim(7200), () -> await(end)), task -> new Thread(task).start()));
            until("it has its slot, or waits", () -> tickets.all.size() == logs + 1 && logged.size() == logs);
        }
        end.countDown();
        for (CompletableFuture<?> turn : all) {
            get(turn);
        }
        // one at each join and at each begin that had to wait, and one of all for each end
        assertThat(tickets.looks.get()).isLessThanOrEqualTo(6 + 5 + 1 + 6);
    }

    /** With one slot: a deletion of the same virtual machine waits without it, and the next one goes first. */
    @Test
    void who_finds_its_machine_at_work_gives_its_slot_to_others_and_keeps_its_place() throws Exception {
        locks.taken = 10;
        HostSlots slots = slots(NEVER);
        CompletableFuture<String> same =
                CompletableFuture.supplyAsync(() -> slots.held(claim(7200), 10, () -> "deleted"));
        until("it stands aside", () -> texts().contains("1 aside 2 back up b"));
        assertThat(slots.<String>held(claim(7200), 11, () -> {
                    assertThat(texts()).contains("2 holds 1 back up b");
                    locks.taken = 0;
                    until("it waits again", () -> texts().contains("1 waits 3 back up b"));
                    return "done";
                }))
                .isEqualTo("done");
        assertThat(get(same)).isEqualTo("deleted");
        assertThat(tickets.all).isEmpty();
        assertThat(logged)
                .contains("Waiting to back up b on host kvm21 for 0 of at most 7200 seconds:"
                        + " another backup, deletion or restore of the same virtual machine is under way");
    }

    private List<String> texts() {
        return tickets.all.values().stream().map(Ticket::text).collect(Collectors.toList());
    }

    @Test
    void who_stands_aside_does_so_within_its_patience() {
        locks.taken = 10;
        assertThatThrownBy(() -> slots(NEVER).held(claim(0), 10, () -> "done"))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("unable to back up b - its turn did not come within 0 seconds (nas.backup.queue.wait):"
                        + " another backup, deletion or restore of the same virtual machine is under way");
        assertThat(tickets.all).isEmpty();
    }

    @Test
    void a_database_that_fails_meanwhile_is_asked_again_and_who_can_t_join_fails_at_once() throws Exception {
        tickets.plant("slow", "1 holds 0 back up a");
        CompletableFuture<String> next = work(slots(NEVER), 7200);
        until("it waits", () -> !logged.isEmpty());
        tickets.failing = true;
        locks.failing = true;
        looked();
        seconds += 60;
        until("it tells", () -> logged.size() == 2);
        assertThat(logged.get(1))
                .isEqualTo("Waiting to back up b on host kvm21 for 60 of at most 7200 seconds:"
                        + " its line can't be looked at: java.lang.IllegalStateException: no database");
        assertThatThrownBy(() -> slots(NEVER).held(claim(7200), () -> "done")).hasMessage("no lock");
        tickets.remove(HOST, "slow");
        tickets.failing = false;
        looked();
        seconds += 60;
        until("it finds the lock failing", () -> logged.size() == 3);
        assertThat(logged.get(2)).endsWith("its line can't be looked at: java.lang.IllegalStateException: no lock");
        locks.failing = false;
        assertThat(get(next)).isEqualTo("done");
    }

    @Test
    void a_statement_that_hangs_or_fails_stops_no_beat_of_others() throws Exception {
        HostSlots slots = slots(OFTEN);
        tickets.hangs = "work that hangs";
        CountDownLatch end = new CountDownLatch(1);
        CompletableFuture<Object> hangs = CompletableFuture.supplyAsync(
                () -> slots.held(new HostSlots.Claim(host, 2, 7200, false, "do work that hangs"), () -> await(end)));
        until("its beat hangs", () -> tickets.hanging.get() == 1);
        tickets.fails = "work that fails";
        slots.held(new HostSlots.Claim(host, 2, 7200, false, "do work that fails"), () -> {
            until("its beats fail and go on", () -> tickets.failed.get() >= 2);
            int before = tickets.puts.get();
            until("it beats", () -> tickets.puts.get() > before + 2);
            return null;
        });
        tickets.release.countDown();
        end.countDown();
        get(hangs);
        assertThat(tickets.all).isEmpty();
    }

    private static Object await(CountDownLatch latch) {
        try {
            return latch.await(180, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Test
    void other_failures_are_the_work_s_own() {
        AgentFailure failure = new AgentFailure(AgentFailure.Kind.REFUSED, "BUSY: another job", false);
        assertThatThrownBy(() -> slots(NEVER).held(claim(7200), () -> {
                    throw failure;
                }))
                .isSameAs(failure);
        assertThat(tickets.all).isEmpty();
    }

    @Test
    void who_works_beats_even_when_it_was_taken_for_dead_and_not_once_more_at_its_end() {
        slots(OFTEN).held(claim(7200), () -> {
            until("it beats", () -> tickets.all.values().stream()
                    .anyMatch(ticket -> !ticket.text().equals("1 holds 1 back up b")));
            tickets.all.clear();
            until("it is back", () -> !tickets.all.isEmpty());
            return null;
        });
        assertThat(tickets.all).isEmpty();
    }

    @Test
    void work_that_is_done_is_done_whatever_becomes_of_its_ticket() {
        tickets.refusesRemoval = true;
        assertThat(slots(NEVER).<String>held(claim(7200), () -> "done")).isEqualTo("done");
        assertThat(logged).containsExactly("The turn to back up b on host kvm21 ends with its lease: no database");
    }

    @Test
    void who_is_interrupted_leaves_the_line() throws Exception {
        tickets.plant("slow", "1 holds 0 back up a");
        CompletableFuture<Throwable> end = new CompletableFuture<>();
        Thread thread = new Thread(() -> {
            try {
                slots(NEVER).held(claim(7200), () -> "done");
                end.complete(null);
            } catch (CloudRuntimeException e) {
                end.complete(e);
            }
        });
        thread.start();
        until("it waits", () -> tickets.all.size() == 2);
        thread.interrupt();
        assertThat(get(end)).hasMessage("unable to back up b - interrupted while it waited");
        assertThat(tickets.all).containsOnlyKeys("slow");
    }
}
