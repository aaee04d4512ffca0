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
import org.nasbackup.Engine;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.lab.Samples.Sample;

/** What a Linux guest's writes take while nothing happens, and during backups. */
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
        Lab.until("the guest writes", () -> guest.micros(0).size() > 50);
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
    }

    private void during(String phase, Runnable what) {
        long from = guest.size();
        what.run();
        int seen = guest.micros(from).size();
        Lab.until("the write under way ends", () -> guest.micros(from).size() > seen);
        // the first may have begun before
        List<Long> micros = guest.micros(from);
        Sample sample = new Sample("latency").with("phase", phase);
        samples.add(sample.with("micros", micros.subList(1, micros.size())));
    }

    private void backUp(NasFolder nas, Engine engine) {
        TakeBackupResult result = library.takeBackup(TakeBackupRequest.builder()
                .vmName(NAME)
                .backupPath(String.format("%s/2031.02.03.04.%02d.%02d", NAME, points / 60, points++ % 60))
                .repository(nas.repository())
                .mode(Mode.LEGACY)
                .engine(engine)
                .build());
        Site.require(result.size() > (long) DISK_MIB << 20, result);
    }

    @Override
    public void close() {
        guest.close();
    }
}
