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

import com.cloud.host.Host;
import com.cloud.utils.exception.CloudRuntimeException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;
import java.util.function.Predicate;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;
import org.apache.logging.log4j.Logger;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.Heartbeats;
import org.nasbackup.provider.Line;
import org.nasbackup.provider.Ticket;
import org.nasbackup.provider.Tickets;

/**
 * Gives out the slots of hosts, first come first served over all management servers. Work takes a thread of a host's agent for
 * hours, and an agent has five threads for all commands: work that waited in these would keep the agent from hearing any.
 */
public final class HostSlots {
    /** How often a server looks at lines and beats, and when it takes another server for dead. */
    public static final class Pace {
        public static final Pace ORDINARY = new Pace(
                Duration.ofSeconds(2), Duration.ofSeconds(20), Duration.ofSeconds(20), Duration.ofSeconds(120));

        private final long look;
        /** Nanoseconds for which what one turn has seen is good for the others. */
        private final long glance;

        private final long askAgain;
        private final long beat;
        private final long lease;

        /**
         * @param look the time between two looks at the line; slots that this server frees are seen at once
         * @param askAgain the time before a host that had no place is asked again
         * @param beat the time between two signs of life
         * @param lease the time without a sign of life after which a server is dead
         */
        public Pace(Duration look, Duration askAgain, Duration beat, Duration lease) {
            this.look = look.toMillis();
            this.glance = look.toNanos() / 2;
            this.askAgain = askAgain.toMillis();
            this.beat = beat.toMillis();
            this.lease = lease.toNanos();
        }
    }

    /** Work that is to be done on a host. */
    public static final class Claim {
        private final long hostId;
        private final String hostName;
        private final int slots;
        private final int patienceSeconds;
        private final boolean urgent;
        private final String name;

        /**
         * @param slots how many the host has
         * @param patienceSeconds how long to wait for a slot, for the virtual machine and for a place
         * @param urgent whether the work comes before all that is not urgent
         * @param name of the work, a verb and its object, for the log
         */
        public Claim(Host host, int slots, int patienceSeconds, boolean urgent, String name) {
            this.hostId = host.getId();
            this.hostName = OneLine.of(host.getName());
            this.slots = Math.max(slots, 1);
            this.patienceSeconds = patienceSeconds;
            this.urgent = urgent;
            this.name = OneLine.of(name);
        }
    }

    /** What this server knows of a host's line. Threads that wait for a slot of the host wait on this monitor. */
    private final class AtHost {
        private final Heartbeats heartbeats = new Heartbeats(pace.lease);
        /** How often turns were woken. */
        private volatile long wakes;
        /** Held while a turn looks at the line for all of them. */
        private final Object looking = new Object();

        private Line seen;
        private long seenAfter;
        private long seenAt;

        /** The line as one of this server's turns saw it a moment ago: else each turn that ends would have all others ask the database. */
        Line glance(Supplier<Line> look) {
            synchronized (looking) {
                if (seen == null || seenAfter != wakes || System.nanoTime() - seenAt > pace.glance) {
                    seen = null;
                    seenAfter = wakes;
                    seenAt = System.nanoTime();
                    seen = look.get();
                }
                return seen;
            }
        }

        /**
         * Waits, unless turns were woken since the caller waited last.
         *
         * @param woken how often turns were woken then
         * @return how often they were now
         */
        synchronized long pause(long woken, long millis) throws InterruptedException {
            if (wakes == woken) {
                wait(millis);
            }
            return wakes;
        }

        synchronized void wake() {
            wakes++;
            notifyAll();
        }
    }

    /** The work was not begun: others held the slots, or the machine, for the whole patience. */
    public static final class NoTurn extends CloudRuntimeException {
        private static final long serialVersionUID = 1L;

        NoTurn(String reason) {
            super(reason);
        }
    }

    private static final long TELL_NANOS = TimeUnit.MINUTES.toNanos(1);
    private static final long IDLE_SECONDS = 10;
    /** Threads that beat. A statement that hangs keeps one of them; the others beat on. */
    private static final int BEATERS = 4;

    private static final String SAME_MACHINE =
            "another backup, deletion or restore of the same virtual machine is under way";

    private final Tickets tickets;
    private final ChainLocks locks;
    private final Logger logger;
    private final Pace pace;
    private final LongSupplier nanoTime;
    private final Map<Long, AtHost> hosts = new ConcurrentHashMap<>();
    private final ScheduledThreadPoolExecutor beats = new ScheduledThreadPoolExecutor(BEATERS, HostSlots::daemon);
    /** The ids of the tickets of this server, which lives. */
    private final Set<String> ours = ConcurrentHashMap.newKeySet();

    /** @param nanoTime a clock that only goes forward */
    public HostSlots(Tickets tickets, ChainLocks locks, Logger logger, Pace pace, LongSupplier nanoTime) {
        this.tickets = tickets;
        this.locks = locks;
        this.logger = logger;
        this.pace = pace;
        this.nanoTime = nanoTime;
        beats.setRemoveOnCancelPolicy(true);
        beats.setKeepAliveTime(IDLE_SECONDS, TimeUnit.SECONDS);
        beats.allowCoreThreadTimeOut(true);
    }

    private static Thread daemon(Runnable work) {
        Thread thread = new Thread(work, "nas-backup-slots");
        thread.setDaemon(true);
        return thread;
    }

    /**
     * Does the work while it holds a slot of the host and the lock of the virtual machine's chains. If that lock is taken, the turn
     * gives the slot back until the lock is free: no turn waits for it with a slot. Work that fails because the host had no place
     * is done again.
     */
    public <T> T held(Claim claim, long vmId, Supplier<T> work) {
        return held(claim, whenFree -> locks.ifFree(vmId, whenFree), work);
    }

    /** Does the work while it holds a slot of the host, for a caller that has the virtual machine's lock. */
    public <T> T held(Claim claim, Supplier<T> work) {
        return held(
                claim,
                now -> {
                    now.run();
                    return true;
                },
                work);
    }

    private <T> T held(Claim claim, Predicate<Runnable> ifFree, Supplier<T> work) {
        Turn turn = new Turn(claim);
        List<T> results = new ArrayList<>(1);
        try {
            turn.join();
            while (results.isEmpty()) {
                turn.attempt(ifFree, () -> results.add(work.get()));
            }
            return results.get(0);
        } finally {
            turn.end();
        }
    }

    private AtHost at(long hostId) {
        return hosts.computeIfAbsent(hostId, id -> new AtHost());
    }

    private Line line(long hostId) {
        List<Ticket> all = tickets.of(hostId);
        List<Ticket> dead = at(hostId).heartbeats.dead(all, nanoTime.getAsLong());
        dead.removeIf(ticket -> ours.contains(ticket.id()));
        for (Ticket ticket : dead) {
            logger.warn("Ticket {} of host {} is of a management server that lives no more, and ends", ticket, hostId);
            tickets.removeUnchanged(hostId, ticket);
        }
        return new Line(all.stream().filter(ticket -> !dead.contains(ticket)).collect(Collectors.toList()));
    }

    /** The reason why a turn has to wait. */
    private static final class Why {
        private final String logged;
        private final String told;

        /** @param told the reason for the owner of the work, without the work of other owners */
        Why(String logged, String told) {
            this.logged = logged;
            this.told = told;
        }
    }

    /** A turn, from its ticket to its end. */
    private final class Turn {
        private final Claim claim;
        private final long hostId;
        private final String id = UUID.randomUUID().toString();
        private final long begun = nanoTime.getAsLong();
        private long tellAt = begun;
        /** How often turns of its host had been woken when it waited last. */
        private long woken;

        private ScheduledFuture<?> beating;
        /** Held while the ticket is written. */
        private final ReentrantLock own = new ReentrantLock();

        private volatile Ticket ticket;

        Turn(Claim claim) {
            this.claim = claim;
            this.hostId = claim.hostId;
            ours.add(id);
        }

        /** Waits until the turn has a slot. Fails at once if it can't join the line. */
        void join() {
            boolean begins = locks.lockedLine(hostId, this::step);
            beating = beats.scheduleWithFixedDelay(this::beat, pace.beat, pace.beat, TimeUnit.MILLISECONDS);
            if (!begins) {
                await();
            }
        }

        private void await() {
            for (Why why = begin(); why != null; why = begin()) {
                goOn(why);
                pause();
            }
        }

        /**
         * Looks first without the lock, which takes a database connection of its own. A turn that has waited for hours does not
         * fail because the database does not answer now: it may in a moment.
         *
         * @return why the turn has to wait; null: it has a slot
         */
        private Why begin() {
            try {
                Line line = at(hostId).glance(() -> line(hostId)).with(ticket);
                if (line.mayBegin(ticket, claim.slots) && locks.lockedLine(hostId, this::step)) {
                    return null;
                }
                String reason = line.reason(ticket, claim.slots);
                return new Why(reason + "; at work: " + line.holders(), reason);
            } catch (RuntimeException | LinkageError e) {
                return new Why(
                        "its line can't be looked at: " + OneLine.of(e.toString()),
                        "the management server could not look at its host's line");
            }
        }

        /** Joins the line unless it has, and begins if there is a slot for it. The caller has the line's lock. */
        private boolean step() {
            own.lock();
            try {
                Line line = line(hostId);
                boolean joins = ticket == null;
                if (joins) {
                    ticket = Ticket.waiting(id, line.next(), claim.urgent, claim.name);
                }
                boolean begins = line.with(ticket).mayBegin(ticket, claim.slots);
                if (begins) {
                    put(ticket.holding());
                } else if (joins) {
                    put(ticket);
                }
                return begins;
            } finally {
                own.unlock();
            }
        }

        private void put(Ticket next) {
            tickets.put(hostId, next);
            ticket = next;
        }

        /** Says that this server lives, and so puts back a ticket that was removed as dead. A thread that writes it now does the same. */
        private void beat() {
            if (!own.tryLock()) {
                return;
            }
            try {
                if (ticket != null) {
                    put(ticket.beaten());
                }
            } catch (Throwable e) {
                // every exception: the executor would end the beats
                logger.warn("Unable to keep the turn to {} on host {}", claim.name, claim.hostName, OneLine.of(e));
            } finally {
                own.unlock();
            }
        }

        /** Changes the ticket. If the database does not take the change now, the next beat writes it. */
        private void become(UnaryOperator<Ticket> change) {
            own.lock();
            try {
                ticket = change.apply(ticket);
                tickets.put(hostId, ticket);
            } catch (RuntimeException | LinkageError e) {
                logger.warn(
                        "Unable to write the ticket to {} on host {}, the next beat writes it",
                        claim.name,
                        claim.hostName,
                        OneLine.of(e));
            } finally {
                own.unlock();
            }
        }

        /** Tries to do the work; the turn has a slot. If the work was not done, the turn has a slot again when this returns. */
        void attempt(Predicate<Runnable> ifFree, Runnable work) {
            try {
                if (!ifFree.test(work)) {
                    standAside(ifFree);
                }
            } catch (AgentFailure e) {
                if (e.kind() != AgentFailure.Kind.NO_PLACE) {
                    throw e;
                }
                goOn(new Why(e.getMessage(), "its host has no place for one more"));
                sleep(pace.askAgain);
            }
        }

        /** Gives the slot to others until the virtual machine is free, and keeps the place in the line. */
        private void standAside(Predicate<Runnable> ifFree) {
            become(Ticket::aside);
            at(hostId).wake();
            for (Why why = new Why(SAME_MACHINE, SAME_MACHINE); why != null; why = obstacle(ifFree)) {
                goOn(why);
                pause();
            }
            become(Ticket::waitingAgain);
            await();
        }

        private Why obstacle(Predicate<Runnable> ifFree) {
            try {
                return ifFree.test(() -> {}) ? null : new Why(SAME_MACHINE, SAME_MACHINE);
            } catch (RuntimeException | LinkageError e) {
                return new Why(
                        "whether its virtual machine is free can't be told: " + OneLine.of(e.toString()), SAME_MACHINE);
            }
        }

        /** Logs once a minute why the turn waits, and ends the turn when it has waited too long. */
        private void goOn(Why why) {
            long now = nanoTime.getAsLong();
            long waited = TimeUnit.NANOSECONDS.toSeconds(now - begun);
            boolean inVain = waited >= claim.patienceSeconds;
            if (inVain || now - tellAt >= 0) {
                tellAt = now + TELL_NANOS;
                logger.info(
                        "{} to {} on host {} for {} of at most {} seconds: {}",
                        inVain ? "Waited in vain" : "Waiting",
                        claim.name,
                        claim.hostName,
                        waited,
                        claim.patienceSeconds,
                        why.logged);
            }
            if (inVain) {
                throw new NoTurn("unable to " + claim.name + " - its turn did not come within " + claim.patienceSeconds
                        + " seconds (nas.backup.queue.wait): " + why.told);
            }
        }

        /** Waits until the next look, or until a turn of this server has ended. */
        private void pause() {
            try {
                woken = at(hostId).pause(woken, pace.look);
            } catch (InterruptedException e) {
                throw interrupted(e);
            }
        }

        private void sleep(long millis) {
            try {
                TimeUnit.MILLISECONDS.sleep(millis);
            } catch (InterruptedException e) {
                throw interrupted(e);
            }
        }

        private CloudRuntimeException interrupted(InterruptedException e) {
            Thread.currentThread().interrupt();
            return new CloudRuntimeException("unable to " + claim.name + " - interrupted while it waited", e);
        }

        void end() {
            if (beating != null) {
                beating.cancel(false);
            }
            own.lock();
            ticket = null;
            own.unlock();
            ours.remove(id);
            try {
                tickets.remove(hostId, id);
            } catch (RuntimeException | LinkageError e) {
                // the outcome of the work counts; the ticket has no beats any more, so others remove it
                logger.warn(
                        "The turn to {} on host {} ends with its lease: {}",
                        claim.name,
                        claim.hostName,
                        OneLine.of(e.getMessage()));
            }
            at(hostId).wake();
        }
    }
}
