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

package org.nasbackup.provider;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * A night of backups by a virtual clock. A backup takes a thread of a management server, waits in its host's {@link Line}, and
 * then works for a fixed time and for as long as its bytes take: at no more than its own rate, its share of the host's bandwidth
 * and its share of the NAS's.
 */
public final class SimulatedNight {
    /** Seconds and bytes per second. */
    public static final class Lab {
        int slots;
        int threads;
        double fixed;
        double rate;
        double host;
        double nas;

        public Lab slots(int ofEachHost, int threadsOfServers) {
            slots = ofEachHost;
            threads = threadsOfServers;
            return this;
        }

        public Lab backup(double fixedSeconds, double ratePerSecond) {
            fixed = fixedSeconds;
            rate = ratePerSecond;
            return this;
        }

        public Lab bandwidth(double ofEachHost, double ofNas) {
            host = ofEachHost;
            nas = ofNas;
            return this;
        }
    }

    /** A machine that is to be backed up. */
    public static final class Guest {
        private final int host;
        private final double bytes;

        public Guest(int host, double bytes) {
            this.host = host;
            this.bytes = bytes;
        }
    }

    private static final class Job {
        final int host;
        final double asked;
        Ticket ticket;
        double begun;
        double fixed;
        double bytes;

        Job(Guest guest, double now, Lab lab, Ticket ticket) {
            this.host = guest.host;
            this.bytes = guest.bytes;
            this.fixed = lab.fixed;
            this.asked = now;
            this.ticket = ticket;
        }

        boolean writes() {
            return fixed <= 0;
        }
    }

    private static final double MOMENT = 1e-9;

    private final Lab lab;
    private final Deque<Guest> guests;
    private final List<List<Job>> hosts;
    private final List<Job> atWork = new ArrayList<>();
    private double now;
    private int threads;
    private double worked;
    private double waited;
    /** The most backups at once of all hosts, and of one. */
    public int most;

    public int mostOfHost;
    /** Seconds of the backup that waited longest for its host, and of the one that took longest. */
    public double longestWait;

    public double longestBackup;

    /** @param guests in the order in which the server asks for their backups */
    public SimulatedNight(Lab lab, int hosts, List<Guest> guests) {
        this.lab = lab;
        this.guests = new ArrayDeque<>(guests);
        this.hosts = Stream.generate(ArrayList<Job>::new).limit(hosts).collect(Collectors.toList());
    }

    /** @return the night's seconds */
    public double run() {
        while (!guests.isEmpty() || threads > 0) {
            while (!guests.isEmpty() && threads < lab.threads) {
                join(guests.poll());
            }
            pass();
        }
        return now;
    }

    /** The seconds that backups work, all in all. */
    public double worked() {
        return worked;
    }

    /** The seconds that they wait for their hosts, all in all. */
    public double waited() {
        return waited;
    }

    private static Line line(List<Job> jobs) {
        return new Line(jobs.stream().map(job -> job.ticket).collect(Collectors.toList()));
    }

    private void join(Guest guest) {
        threads++;
        List<Job> jobs = hosts.get(guest.host);
        long number = line(jobs).next();
        jobs.add(new Job(guest, now, lab, Ticket.waiting(guest.host + "." + number, number, false, "back up")));
        begin(jobs);
    }

    /** Who joined first is asked first, and those behind one that waits wait, too. */
    private void begin(List<Job> jobs) {
        for (Job job : jobs) {
            if (!job.ticket.holds()) {
                if (!line(jobs).mayBegin(job.ticket, lab.slots)) {
                    break;
                }
                job.ticket = job.ticket.holding();
                job.begun = now;
                waited += now - job.asked;
                longestWait = Math.max(longestWait, now - job.asked);
                atWork.add(job);
            }
        }
        most = Math.max(most, atWork.size());
        mostOfHost = Math.max(mostOfHost, (int)
                jobs.stream().filter(job -> job.ticket.holds()).count());
    }

    /** The time goes on until the next job has done its fixed part, or its bytes. */
    private void pass() {
        int[] writing = new int[hosts.size()];
        atWork.stream().filter(Job::writes).forEach(job -> writing[job.host]++);
        int all = (int) atWork.stream().filter(Job::writes).count();
        double passed = atWork.stream()
                .mapToDouble(job -> job.writes() ? job.bytes / rate(writing[job.host], all) : job.fixed)
                .min()
                .orElseThrow();
        now += passed;
        List<Job> done = new ArrayList<>();
        for (Job job : atWork) {
            if (job.writes()) {
                double rate = rate(writing[job.host], all);
                job.bytes -= passed * rate;
                if (job.bytes <= MOMENT * rate) {
                    done.add(job);
                }
            } else {
                job.fixed = job.fixed - passed <= MOMENT ? 0 : job.fixed - passed;
            }
        }
        done.forEach(this::end);
    }

    private double rate(int ofHost, int all) {
        return Math.min(lab.rate, Math.min(lab.host / ofHost, lab.nas / all));
    }

    private void end(Job job) {
        threads--;
        worked += now - job.begun;
        longestBackup = Math.max(longestBackup, now - job.begun);
        atWork.remove(job);
        hosts.get(job.host).remove(job);
        begin(hosts.get(job.host));
    }
}
