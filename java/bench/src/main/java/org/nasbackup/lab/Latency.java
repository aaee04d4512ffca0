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
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.nasbackup.CancelHandle;
import org.nasbackup.Engine;
import org.nasbackup.ErrorCode;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Phase;
import org.nasbackup.ProgressListener;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.lab.Samples.Sample;

/** What a Linux guest's writes and reads take while nothing happens, and during backups. */
final class Latency implements AutoCloseable {
    private static final String NAME = "i-2-8-VM";
    private static final int DISK_MIB = 384;
    private static final int THROTTLED_MIB_PER_SECOND = 24;

    private final Samples samples;
    private final NasBackup library;
    private final WritingGuest guest;
    private int points;

    Latency(Samples samples, NasBackup library, Path home) {
        this.samples = samples;
        this.library = library;
        this.guest = new WritingGuest(home, NAME, DISK_MIB, "");
        Lab.until("the guest writes", () -> guest.reads(0).size() > 50);
    }

    /** For about so many seconds each, but for the throttled NAS, which takes what one backup takes. */
    void measure(int seconds) {
        during("no backup", () -> Lab.run("sleep", "" + seconds));
        for (Engine engine : List.of(Engine.PUSH, Engine.PULL)) {
            String name = engine.name().toLowerCase(Locale.ROOT);
            try (NasFolder nas = new NasFolder()) {
                during(name, () -> {
                    long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
                    while (System.nanoTime() < end) {
                        backUp(nas, engine);
                    }
                });
            }
            try (NasFolder nas = NasFolder.slow(THROTTLED_MIB_PER_SECOND)) {
                during(name + ", NAS at " + THROTTLED_MIB_PER_SECOND + " MiB/s", () -> backUp(nas, engine));
            }
        }
        hanging(seconds);
        full(seconds);
    }

    /** A push would hang with it. */
    private void hanging(int seconds) {
        try (NasFolder nas = NasFolder.slow(THROTTLED_MIB_PER_SECOND)) {
            TakeBackupRequest request =
                    request(nas, Engine.PULL).waitSeconds(seconds).build();
            try {
                during("pull, NAS hangs", () -> fail(request, ErrorCode.NAS_UNRESPONSIVE, nas::hang));
            } finally {
                nas.goOn();
            }
        }
    }

    private void full(int seconds) {
        try (NasImage nas = new NasImage("ext4", 1)) {
            Path filler = nas.root().resolve("filler");
            during("pull, NAS full", () -> {
                long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
                while (System.nanoTime() < end) {
                    TakeBackupRequest request =
                            request(nas.folder(), Engine.PULL).build();
                    fail(request, ErrorCode.NO_SPACE, () -> Lab.run("fallocate", "-l", "" + nas.free(), "" + filler));
                    Lab.run("rm", "" + filler);
                }
            });
        }
    }

    /** A backup that fails because of what happens when it begins to copy. */
    private void fail(TakeBackupRequest request, ErrorCode code, Runnable what) {
        AtomicBoolean happened = new AtomicBoolean();
        ProgressListener happen = status -> {
            if (status.phase() == Phase.COPY && happened.compareAndSet(false, true)) {
                what.run();
            }
        };
        try {
            Site.require(false, library.takeBackup(request, happen, new CancelHandle()));
        } catch (NasBackupException e) {
            Site.require(e.code() == code && happened.get(), e);
        }
    }

    private void during(String phase, Runnable what) {
        long from = guest.size();
        what.run();
        int seen = guest.reads(from).size();
        Lab.until("what was under way ends", () -> guest.reads(from).size() > seen + 1);
        add(phase, "write", guest.writes(from));
        add(phase, "read", guest.reads(from));
    }

    private void add(String phase, String what, List<Long> micros) {
        // the first may have begun before
        samples.add(new Sample("latency")
                .with("phase", phase)
                .with("what", what)
                .with("micros", micros.subList(1, micros.size())));
    }

    private void backUp(NasFolder nas, Engine engine) {
        TakeBackupResult result = library.takeBackup(request(nas, engine).build());
        Site.require(result.size() > (long) DISK_MIB << 20, result);
    }

    private TakeBackupRequest.Builder request(NasFolder nas, Engine engine) {
        return TakeBackupRequest.builder()
                .vmName(NAME)
                .backupPath(String.format("%s/2031.02.03.04.%02d.%02d", NAME, points / 60, points++ % 60))
                .repository(nas.repository())
                .mode(Mode.LEGACY)
                .engine(engine);
    }

    @Override
    public void close() {
        guest.close();
    }
}
