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

import java.io.File;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.CancelHandle;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.FlattenRequest;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Output;
import org.nasbackup.OutputFormat;
import org.nasbackup.ProgressListener;
import org.nasbackup.RebaseBackupRequest;
import org.nasbackup.RebasePointRequest;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.VerifyChainRequest;

/** Many threads that call everything at random, and what they leave in the process. */
final class ManyThreadsMain {
    private static final int THREADS = 64;
    private static final int CALLS = 6;

    private final NasBackup nasBackup = Lab.open("off");
    private final NasFolder nas = new NasFolder();
    private final Guest guest = Guest.ordinary();
    private final String volume =
            Path.of(guest.stoppedDisks().get(0).path()).getFileName().toString();
    private final Path flat = Lab.folder("flat");
    private final AtomicInteger made = new AtomicInteger();
    private final AtomicInteger failed = new AtomicInteger();

    private ManyThreadsMain() {}

    public static void main(String[] arguments) throws Exception {
        new ManyThreadsMain().run();
    }

    private void run() throws Exception {
        call(new Random(0), 0);
        threads();
        int descriptors = entries("fd");
        int tasks = entries("task");
        threads();
        System.out.println("> jobs " + nasBackup.jobs().size());
        // what a JVM opens or starts for itself is not a handful
        Lab.until("no descriptor is left", () -> entries("fd") <= descriptors + 4);
        Lab.until("no thread is left", () -> entries("task") <= tasks + 4);
        System.out.println("> points " + (nas.points().size() > 0) + ", failures " + (failed.get() > 0));
        guest.close();
        nas.close();
    }

    private void threads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        List<Future<?>> all = new ArrayList<>();
        for (int thread = 0; thread < THREADS; thread++) {
            Random random = new Random(thread);
            all.add(pool.submit(() -> {
                for (int i = 0; i < CALLS; i++) {
                    call(random, random.nextInt(10));
                }
            }));
        }
        for (Future<?> each : all) {
            each.get();
        }
        pool.shutdown();
    }

    private void call(Random random, int what) {
        try {
            switch (what) {
                case 0:
                    nasBackup.takeBackup(backup());
                    break;
                case 1:
                    cancelled(random);
                    break;
                case 2:
                    nasBackup.backupStats(BackupStatsRequest.builder()
                            .repository(nas.repository())
                            .build());
                    break;
                case 3:
                    nasBackup.jobs().forEach(job -> nasBackup.cancel(job.job() + random.nextInt(2)));
                    break;
                case 4:
                    nasBackup.deleteBackup(DeleteBackupRequest.builder()
                            .repository(nas.repository())
                            .backupPath(point(1 + random.nextInt(40)))
                            .build());
                    break;
                case 5:
                    nasBackup.verifyChain(VerifyChainRequest.builder()
                            .repository(nas.repository())
                            .backupPath(point(random.nextInt(40)))
                            .build());
                    break;
                case 6:
                    nasBackup.rebasePoint(RebasePointRequest.builder()
                            .repository(nas.repository())
                            .backupPath(point(random.nextInt(40)))
                            .build());
                    break;
                case 7:
                    nasBackup.flatten(FlattenRequest.builder()
                            .repository(nas.repository())
                            .backupPath(point(random.nextInt(40)))
                            .volume(volume)
                            .output(Output.builder()
                                    .path(flat.resolve("disk-" + random.nextInt(4))
                                            .toString())
                                    .format(OutputFormat.RAW)
                                    .build())
                            .build());
                    break;
                case 8:
                    nasBackup.rebaseBackup(RebaseBackupRequest.builder()
                            .repository(nas.repository())
                            .target(point(random.nextInt(40)) + "/none.qcow2")
                            .newBacking(point(random.nextInt(40)) + "/none.qcow2")
                            .build());
                    break;
                default:
                    nasBackup.takeBackup(null);
            }
        } catch (NasBackupException e) {
            failed.incrementAndGet();
        }
    }

    /** Ended by its listener, or by its handle. */
    private void cancelled(Random random) {
        CancelHandle handle = new CancelHandle();
        boolean throwing = random.nextBoolean();
        ProgressListener listener = status -> {
            if (throwing) {
                throw new IllegalStateException("enough");
            }
            handle.cancel();
        };
        try {
            nasBackup.takeBackup(backup(), listener, handle);
        } catch (IllegalStateException e) {
            failed.incrementAndGet();
        }
    }

    private TakeBackupRequest backup() {
        return TakeBackupRequest.builder()
                .vmName(guest.name())
                .backupPath(point(made.getAndIncrement()))
                .repository(nas.repository())
                .mode(Mode.LEGACY)
                .build();
    }

    private String point(int number) {
        return guest.name() + String.format("/2026.01.01.00.%02d.%02d", number / 60, number % 60);
    }

    private static int entries(String what) {
        String[] names = new File("/proc/self/" + what).list();
        return names == null ? 0 : names.length;
    }
}
