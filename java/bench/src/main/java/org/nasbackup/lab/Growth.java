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

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.function.LongSupplier;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.nasbackup.CancelHandle;
import org.nasbackup.ErrorCode;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Phase;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.lab.Samples.Sample;

/** How the library's time and memory grow with disks, chains and guests. The repository is a folder beside the disks. */
final class Growth {
    private static final int DATA_MIB = 256;
    private static final int CHUNK_MIB = 64;
    private static final long SPARSE_TIB = 16;
    /** The library's backups at the same time; it refuses one more. */
    private static final int PLACES = 4;

    private final Samples samples;
    private final NasBackup library;
    private final int runs;

    Growth(Samples samples, NasBackup library, int runs) {
        this.samples = samples;
        this.library = library;
        this.runs = runs;
    }

    private static Sample sample(String what, long value, String unit) {
        return new Sample("growth").with("what", what).with("value", value).with("unit", unit);
    }

    /** The same data in a larger and larger disk. */
    void disk(long gib) {
        try (Subject subject = new Subject(new Guest(gib << 10))) {
            for (int at = 0; at < DATA_MIB; at += CHUNK_MIB) {
                subject.guest.write(1, 0x51, at, CHUNK_MIB);
            }
            subject.take(Mode.FULL); // the first one of a guest takes longer
            for (int run = 1; run <= runs; run++) {
                double full = subject.take(Mode.FULL);
                subject.guest.write(1, 0x60 + run, 16, 5);
                samples.add(sample("virtual disk", gib, "GiB")
                        .with("full_seconds", full)
                        .with("incremental_seconds", subject.take(Mode.INCREMENTAL)));
            }
        }
    }

    /** Incrementals on top of more and more points; the last one is read back through all of them. */
    void chain(int length) {
        Guest guest = Guest.ordinary();
        try (Story story = new Story(library, guest, new NasFolder())) {
            story.take(Mode.FULL);
            for (int points = 1; points <= length; points++) {
                guest.write(1, points, 10, 5);
                TakeBackupRequest request = story.request(Mode.INCREMENTAL).toBuilder()
                        .backupPath(String.format("%s/2032.01.02.03.%02d.%02d", guest.name(), points / 60, points % 60))
                        .build();
                TakeBackupResult result = story.take(request, null, null).result();
                if (Integer.bitCount(points) == 1) {
                    samples.add(sample("chain", points, "point")
                            .with("incremental_seconds", result.totalMillis() / 1000.0));
                }
            }
            Site.require(
                    story.last().differences(story.nas()).isEmpty(),
                    story.last().differences(story.nas()));
        }
    }

    /** So many guests, as many at the same time as have places: until the last one is done, by this process's clock. */
    void guests(int count) {
        List<Subject> subjects = IntStream.range(0, count)
                .mapToObj(i -> new Subject(new Guest(CHUNK_MIB)))
                .collect(Collectors.toList());
        ExecutorService threads = Executors.newFixedThreadPool(Math.min(count, PLACES));
        try {
            subjects.forEach(subject -> subject.guest.write(1, 0x53, 0, CHUNK_MIB));
            for (int run = 1; run <= runs; run++) {
                int pattern = 0x60 + run;
                double full = together(threads, subjects, Mode.FULL);
                subjects.forEach(subject -> subject.guest.write(1, pattern, 16, 5));
                samples.add(sample("guests at once", count, "guest")
                        .with("full_seconds", full)
                        .with("incremental_seconds", together(threads, subjects, Mode.INCREMENTAL)));
            }
        } finally {
            threads.shutdown();
            subjects.forEach(Subject::close);
        }
    }

    private static double together(ExecutorService threads, List<Subject> subjects, Mode mode) {
        long begun = System.nanoTime();
        List<CompletableFuture<Double>> all = subjects.stream()
                .map(subject -> CompletableFuture.supplyAsync(() -> subject.take(mode), threads))
                .collect(Collectors.toList());
        all.forEach(CompletableFuture::join);
        return (System.nanoTime() - begun) / 1e9;
    }

    /** Until the hypervisor is asked to begin; then the job is cancelled. The first time the guest still starts. */
    void planning() {
        try (Subject subject = new Subject(new Guest(SPARSE_TIB << 20))) {
            for (int run = 0; run <= runs; run++) {
                LongSupplier peak = Meter.watchMemory();
                double planned = untilBegin(subject.story.request(Mode.FULL));
                if (run > 0) {
                    samples.add(sample("planning for a sparse disk", SPARSE_TIB, "TiB")
                            .with("full_seconds", planned)
                            .with("peak_bytes", peak.getAsLong()));
                }
            }
        }
    }

    private double untilBegin(TakeBackupRequest request) {
        CancelHandle handle = new CancelHandle();
        double[] planned = {Double.NaN};
        long begun = System.nanoTime();
        try {
            library.takeBackup(
                    request,
                    status -> {
                        if (status.phase() == Phase.BEGIN) {
                            planned[0] = (System.nanoTime() - begun) / 1e9;
                            handle.cancel();
                        }
                    },
                    handle);
        } catch (NasBackupException e) {
            if (e.code() == ErrorCode.CANCELLED) {
                return planned[0];
            }
            throw e;
        }
        throw new IllegalStateException("not cancelled");
    }

    /** A guest with a repository. */
    private final class Subject implements AutoCloseable {
        private final Guest guest;
        private final Story story;
        private TakeBackupResult last;

        private Subject(Guest guest) {
            this.guest = guest;
            this.story = new Story(library, guest, new NasFolder());
        }

        private double take(Mode mode) {
            TakeBackupRequest.Builder request =
                    story.request(Mode.FULL).toBuilder().mode(mode);
            if (mode == Mode.INCREMENTAL) {
                request.bitmapParent(last.bitmapCreated())
                        .parentPaths(List.copyOf(last.volumes().values()));
            }
            last = library.takeBackup(request.build());
            Site.require(!last.incrementalFallback(), last.details());
            return last.totalMillis() / 1000.0;
        }

        @Override
        public void close() {
            story.close();
        }
    }
}
