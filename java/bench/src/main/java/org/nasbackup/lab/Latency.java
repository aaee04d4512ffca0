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

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
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
    private final Path folder = Lab.folder("writer");
    private final Path console = folder.resolve("console");
    private int points;

    Latency(Samples samples, NasBackup library, Path home) {
        this.samples = samples;
        this.library = library;
        String linux = System.getenv("BENCH_GUEST");
        Lab.run("" + home.resolve("guest/make"), linux, "" + folder);
        Path disk = folder.resolve(UUID.randomUUID().toString());
        Lab.run("qemu-img", "create", "-q", "-f", "qcow2", "" + disk, DISK_MIB + "M");
        for (int at = 0; at < DISK_MIB; at += 64) {
            Lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 65 " + at + "M 64M", "" + disk);
        }
        String xml = "<domain type='qemu'><name>" + NAME + "</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>"
                + "<os><type arch='x86_64' machine='q35'>hvm</type><kernel>" + folder + "/vmlinuz</kernel><initrd>"
                + folder + "/initrd</initrd><cmdline>console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable"
                + " rdinit=/writer</cmdline></os><features><acpi/></features><devices>"
                + "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='" + disk
                + "'/><target dev='vda' bus='virtio'/></disk><serial type='file'><source path='" + console
                + "'/></serial><memballoon model='none'/></devices></domain>";
        try {
            Lab.run("virsh", "create", "" + Files.writeString(folder.resolve("domain.xml"), xml));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        Lab.until("the guest writes", () -> micros(0).size() > 50);
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
        long from = size();
        what.run();
        int seen = micros(from).size();
        Lab.until("the write under way ends", () -> micros(from).size() > seen);
        // the first may have begun before
        List<Long> micros = micros(from);
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

    private long size() {
        return console.toFile().length();
    }

    /** The whole lines with a number since then. */
    private List<Long> micros(long from) {
        try {
            if (!Files.exists(console)) {
                return List.of();
            }
            byte[] all = Files.readAllBytes(console);
            String text =
                    new String(all, (int) from, all.length - (int) from, java.nio.charset.StandardCharsets.US_ASCII);
            return text.substring(0, text.lastIndexOf('\n') + 1)
                    .lines()
                    .map(String::strip)
                    .filter(line -> line.matches("[0-9]+"))
                    .map(Long::parseLong)
                    .collect(Collectors.toList());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Override
    public void close() {
        Lab.run("virsh", "destroy", NAME);
    }
}
