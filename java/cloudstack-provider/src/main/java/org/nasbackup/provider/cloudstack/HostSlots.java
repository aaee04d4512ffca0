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
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.apache.logging.log4j.Logger;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.Heartbeats;
import org.nasbackup.provider.Line;
import org.nasbackup.provider.Ticket;
import org.nasbackup.provider.Tickets;

/**
 * Work that takes a thread of a host's agent for hours waits here for one of the host's slots, first come first served over
 * all management servers. An agent has five threads for all that it is asked; who waits in one makes it deaf.
 */
public final class HostSlots {
    /** How often it looks and beats, and when it takes a server for dead. */
    public static final class Pace {
        public static final Pace ORDINARY = new Pace(
                Duration.ofSeconds(2), Duration.ofSeconds(20), Duration.ofSeconds(20), Duration.ofSeconds(120));

        private final long look;
        private final long askAgain;
        private final long beat;
        private final long lease;

        /**
         * @param look between two looks at the line; one's own server tells at once when a slot is free
         * @param askAgain before a host that had no place is asked again
         * @param beat between two signs of life
         * @param lease how long they have to be missing
         */
        public Pace(Duration look, Duration askAgain, Duration beat, Duration lease) {
            this.look = look.toMillis();
            this.askAgain = askAgain.toMillis();
            this.beat = beat.toMillis();
            this.lease = lease.toNanos();
        }
    }

    private static final long TELL_NANOS = TimeUnit.MINUTES.toNanos(1);
    private static final long IDLE_SECONDS = 10;

    private final Tickets tickets;
    private final ChainLocks locks;
    private final Logger logger;
    private final Pace pace;
    private final LongSupplier nanoTime;
    private final Map<Long, Heartbeats> heartbeats = new ConcurrentHashMap<>();
    private final ScheduledThreadPoolExecutor beats = new ScheduledThreadPoolExecutor(1, HostSlots::daemon);
    /** Those of this server live. */
    private final Set<String> ours = ConcurrentHashMap.newKeySet();

    private final Object freed = new Object();

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
     * Does the work while it holds a slot of the host. Work that fails since the host had no place is done again.
     *
     * @param slots how many the host has
     * @param patienceSeconds how long to wait for a slot, and for a place
     * @param name of the work, a verb and its object, for the log
     */
    public <T> T held(Host host, int slots, int patienceSeconds, String name, Supplier<T> work) {
        Turn turn = new Turn(host, slots, patienceSeconds, name);
        try {
            turn.await();
            while (true) {
                try {
                    return work.get();
                } catch (AgentFailure e) {
                    if (e.kind() != AgentFailure.Kind.NO_PLACE) {
                        throw e;
                    }
                    turn.goOn(e.getMessage());
                    turn.pause(pace.askAgain);
                }
            }
        } finally {
            turn.end();
        }
    }

    private Line line(long hostId) {
        List<Ticket> all = tickets.of(hostId);
        List<Ticket> dead = heartbeats
                .computeIfAbsent(hostId, id -> new Heartbeats(pace.lease))
                .dead(all, nanoTime.getAsLong());
        dead.removeIf(ticket -> ours.contains(ticket.id()));
        for (Ticket ticket : dead) {
            logger.warn("Ticket {} of host {} is of a management server that lives no more, and ends", ticket, hostId);
            tickets.removeUnchanged(hostId, ticket);
        }
        return new Line(all.stream().filter(ticket -> !dead.contains(ticket)).collect(Collectors.toList()));
    }

    /** One's turn, from its asking to its end. */
    private final class Turn {
        private final Host host;
        private final int slots;
        private final int patienceSeconds;
        private final String name;
        private final String id = UUID.randomUUID().toString();
        private final long begun = nanoTime.getAsLong();
        private long tellAt = begun;
        private Ticket ticket;
        private ScheduledFuture<?> beating;

        Turn(Host host, int slots, int patienceSeconds, String name) {
            this.host = host;
            this.slots = Math.max(slots, 1);
            this.patienceSeconds = patienceSeconds;
            this.name = name;
            ours.add(id);
        }

        void await() {
            boolean begins = locks.lockedLine(host.getId(), this::step);
            beating = beats.scheduleWithFixedDelay(this::beat, pace.beat, pace.beat, TimeUnit.MILLISECONDS);
            while (!begins) {
                goOn(line(host.getId()).with(ticket()).reason(ticket(), slots));
                pause(pace.look);
                begins = mayBegin() && locks.lockedLine(host.getId(), this::step);
            }
        }

        /** Looks without the lock, which takes a connection of the database's own. */
        private boolean mayBegin() {
            return line(host.getId()).with(ticket()).mayBegin(ticket(), slots);
        }

        /** Joins the line if it has not, and begins if there is a slot for it. Under the line's lock. */
        private synchronized boolean step() {
            Line line = line(host.getId());
            boolean joins = ticket == null;
            if (joins) {
                ticket = Ticket.waiting(id, line.next(), name);
            }
            boolean begins = line.with(ticket).mayBegin(ticket, slots);
            if (begins) {
                put(ticket.holding());
            } else if (joins) {
                put(ticket);
            }
            return begins;
        }

        private void put(Ticket next) {
            tickets.put(host.getId(), next);
            ticket = next;
        }

        private synchronized Ticket ticket() {
            return ticket;
        }

        /** Says that this server lives; who was taken for dead is back. */
        private synchronized void beat() {
            try {
                if (ticket != null) {
                    put(ticket.beaten());
                }
            } catch (RuntimeException | LinkageError e) {
                logger.warn("Unable to keep the turn to {} on host {}: {}", name, host.getName(), e.getMessage());
            }
        }

        /** Tells once a minute why it waits, and ends when that takes too long. */
        void goOn(String reason) {
            long now = nanoTime.getAsLong();
            long waited = TimeUnit.NANOSECONDS.toSeconds(now - begun);
            if (waited >= patienceSeconds) {
                throw new CloudRuntimeException("unable to " + name + " - host " + host.getName()
                        + " was not free within " + patienceSeconds + " seconds (nas.backup.queue.wait): " + reason);
            }
            if (now - tellAt >= 0) {
                tellAt = now + TELL_NANOS;
                logger.info(
                        "Waiting to {} for {} of at most {} seconds, host {} is not free: {}",
                        name,
                        waited,
                        patienceSeconds,
                        host.getName(),
                        reason);
            }
        }

        void pause(long millis) {
            synchronized (freed) {
                try {
                    freed.wait(millis);
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                    throw new CloudRuntimeException(
                            "unable to " + name + " - interrupted while it waited for host " + host.getName(), e);
                }
            }
        }

        void end() {
            if (beating != null) {
                beating.cancel(false);
            }
            synchronized (this) {
                ticket = null;
            }
            ours.remove(id);
            try {
                tickets.remove(host.getId(), id);
            } catch (RuntimeException | LinkageError e) {
                // the work's own end is what counts; nobody beats for it any more
                logger.warn("The turn to {} on host {} ends with its lease: {}", name, host.getName(), e.getMessage());
            }
            synchronized (freed) {
                freed.notifyAll();
            }
        }
    }
}
