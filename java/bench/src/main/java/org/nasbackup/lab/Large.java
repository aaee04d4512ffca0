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

package org.nasbackup.lab;

import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CompletableFuture;
import org.nasbackup.CancelHandle;
import org.nasbackup.Engine;
import org.nasbackup.ErrorCode;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Phase;
import org.nasbackup.ProgressListener;
import org.nasbackup.StoppedDisk;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.Verdict;
import org.nasbackup.VerifyChainRequest;
import org.nasbackup.VerifyChainResult;
import org.nasbackup.lab.Samples.Sample;

/** Of a disk of 3 GiB, so that the rates count and not the steps: both engines in turn, the guest idle and writing. */
final class Large implements AutoCloseable {
    private static final String NAME = "i-2-9-VM";
    private static final int DISK_MIB = 3072;
    private static final int FIRST_BITMAP = 1_926_000_000;

    private final Samples samples;
    private final NasBackup library;
    private final Path home;
    private final WritingGuest guest;
    private final NasFolder nas = new NasFolder();
    private int points;

    Large(Samples samples, NasBackup library, Path home) {
        this.samples = samples;
        this.library = library;
        this.home = home;
        this.guest = new WritingGuest(home, NAME, DISK_MIB, "burst");
    }

    void measure(int runs) {
        for (int run = 1; run <= runs; run++) {
            for (Engine engine : engines(run)) {
                Meter.dropCaches();
                TakeBackupResult full = library.takeBackup(request(engine).build());
                samples.add(sample(run, "full of an idle guest", engine, full.totalMillis() / 1000.0)
                        .with("job_seconds", full.jobMillis() / 1000.0)
                        .with("sync_seconds", full.syncMillis() / 1000.0));
                remove(full);
                cancel(run, engine);
            }
            burst(run);
            for (Engine engine : engines(run)) {
                burst(run, engine);
            }
            unchanged(run);
        }
    }

    /** They take turns in being first. */
    private static List<Engine> engines(int run) {
        return run % 2 == 1 ? List.of(Engine.PUSH, Engine.PULL) : List.of(Engine.PULL, Engine.PUSH);
    }

    private void add(int run, String what, Engine engine, double seconds) {
        samples.add(sample(run, what, engine, seconds));
    }

    private static Sample sample(int run, String what, Engine engine, double seconds) {
        return new Sample("large")
                .with("what", what)
                .with("engine", engine == null ? "none" : engine.name().toLowerCase(Locale.ROOT))
                .with("mib", DISK_MIB)
                .with("seconds", seconds)
                .with("run", run);
    }

    /** From a cancel in the middle of a full to the end of the call. */
    private void cancel(int run, Engine engine) {
        long[] cancelled = {0};
        CancelHandle handle = new CancelHandle();
        ProgressListener cancel = status -> {
            if (cancelled[0] == 0 && status.doneBytes() > (long) DISK_MIB << 18) { // a quarter
                cancelled[0] = System.nanoTime();
                handle.cancel();
            }
        };
        try {
            Site.require(false, library.takeBackup(request(engine).build(), cancel, handle));
        } catch (NasBackupException e) {
            Site.require(e.code() == ErrorCode.CANCELLED, e);
        }
        add(run, "cancel", engine, (System.nanoTime() - cancelled[0]) / 1e9);
    }

    /** The guest's 200 writes while nothing else happens. */
    private void burst(int run) {
        long from = guest.size();
        guest.order();
        add(run, "burst", null, ended(from));
    }

    /** The same, to clusters that the backup under way has not copied yet. */
    private void burst(int run, Engine engine) {
        long from = guest.size();
        boolean[] ordered = {false};
        CompletableFuture<Void> told = new CompletableFuture<>();
        // whoever tells of progress does not wait for the monitor
        CompletableFuture<Void> writing = told.thenRunAsync(guest::order);
        ProgressListener order = status -> {
            if (!ordered[0] && status.phase() == Phase.COPY) {
                ordered[0] = true;
                told.complete(null);
            }
        };
        TakeBackupResult full = library.takeBackup(request(engine).build(), order, new CancelHandle());
        Site.require(ordered[0], "the backup was over before the guest was told to write");
        writing.join();
        boolean within = !guest.writes(from).isEmpty();
        samples.add(sample(run, "burst", engine, ended(from)).with("within_the_backup", within));
        remove(full);
    }

    private double ended(long from) {
        Lab.until("the burst ends", () -> !guest.writes(from).isEmpty());
        return guest.writes(from).get(0) / 1e6;
    }

    /** What needs fingerprints: a point is read and compared with them, and so is a disk that has lost its bitmap. */
    private void unchanged(int run) {
        String bitmap = "backup-" + (FIRST_BITMAP + points);
        TakeBackupResult full = library.takeBackup(
                request(Engine.PULL).mode(Mode.FULL).bitmapNew(bitmap).build());
        String file = full.disks().get(0).file();
        // whatever lies beneath this machine's disk may know what was read a moment ago: they take turns in being
        // second
        boolean readFirst = run % 2 == 1;
        inTurn(
                readFirst,
                () -> add(run, "read the point", null, read(nas.at(file))),
                () -> add(run, "verify", null, verify(file)));
        guest.stop();
        inTurn(readFirst, () -> stopped(run), () -> converted(run));
        Lab.run("qemu-img", "bitmap", "--remove", "" + guest.disk(), bitmap);
        guest.start();
        TakeBackupRequest.Builder again = request(Engine.PULL)
                .mode(Mode.INCREMENTAL)
                .bitmapNew("backup-" + (FIRST_BITMAP + points))
                .bitmapParent(bitmap)
                .parentPaths(List.of(file));
        inTurn(
                readFirst,
                () -> add(run, "read the disk", null, read(guest.disk())),
                () -> add(run, "incremental by fingerprints", Engine.PULL, compared(again.build())));
        remove(full);
    }

    private static void inTurn(boolean asNamed, Runnable first, Runnable second) {
        for (Runnable one : asNamed ? List.of(first, second) : List.of(second, first)) {
            Meter.dropCaches();
            one.run();
        }
    }

    private double compared(TakeBackupRequest request) {
        TakeBackupResult result = library.takeBackup(request);
        Site.require(!result.incrementalFallback(), result.details());
        remove(result);
        return result.totalMillis() / 1000.0;
    }

    /** A full of the stopped guest, synced, as all are. */
    private void stopped(int run) {
        StoppedDisk disk =
                StoppedDisk.builder().path("" + guest.disk()).format("qcow2").build();
        double before = Meter.cpuSeconds();
        TakeBackupResult full =
                library.takeBackup(request(Engine.AUTO).disks(List.of(disk)).build());
        samples.add(sample(run, "full of a stopped guest", null, full.totalMillis() / 1000.0)
                .with("cpu_seconds", Meter.cpuSeconds() - before));
        remove(full);
    }

    /** What the script does for one, and its sync. */
    private void converted(int run) {
        String copy = "" + nas.at("converted");
        double before = Meter.cpuSeconds();
        long begun = System.nanoTime();
        Lab.run("qemu-img", "convert", "-O", "qcow2", "" + guest.disk(), copy);
        Lab.run("sync", copy);
        samples.add(sample(run, "qemu-img convert and sync", null, (System.nanoTime() - begun) / 1e9)
                .with("cpu_seconds", Meter.cpuSeconds() - before));
        Lab.run("rm", copy);
    }

    private double verify(String file) {
        long begun = System.nanoTime();
        VerifyChainResult result = library.verifyData(VerifyChainRequest.builder()
                .repository(nas.repository())
                .backupPath(point(file))
                .build());
        double took = (System.nanoTime() - begun) / 1e9;
        Site.require(result.verdict() == Verdict.GOOD, result);
        return took;
    }

    private double read(Path file) {
        return Double.parseDouble(
                Lab.run("" + home.resolve("floor.py"), "read", "" + file).strip());
    }

    private TakeBackupRequest.Builder request(Engine engine) {
        return TakeBackupRequest.builder()
                .vmName(NAME)
                .backupPath(String.format("%s/2031.02.03.05.%02d.%02d", NAME, points / 60, points++ % 60))
                .repository(nas.repository())
                .mode(Mode.LEGACY)
                .engine(engine);
    }

    private void remove(TakeBackupResult taken) {
        Lab.run("rm", "-r", "" + nas.at(point(taken.disks().get(0).file())));
    }

    private static String point(String file) {
        return file.substring(0, file.lastIndexOf('/'));
    }

    @Override
    public void close() {
        guest.close();
        nas.close();
    }
}
