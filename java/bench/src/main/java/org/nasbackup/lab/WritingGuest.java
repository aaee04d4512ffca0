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
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.UUID;
import java.util.stream.Collectors;

/** A guest with Linux, whose disk is full of data. It writes and reads it, past every cache, and says what that took. */
final class WritingGuest implements AutoCloseable {
    private static final int CHUNK_MIB = 64;

    private final String name;
    private final Path folder = Lab.folder("writer");
    private final Path console = folder.resolve("console");
    private final Path orders = folder.resolve("" + UUID.randomUUID());
    private final Path disk = folder.resolve("" + UUID.randomUUID());
    private final String what;
    private int ordered;

    /** @param what for {@code bench/guest/latency.c}: empty, it does so all the time; {@code burst}, it writes when it is told to */
    WritingGuest(Path home, String name, int diskMib, String what) {
        this.name = name;
        this.what = what;
        Lab.run("" + home.resolve("guest/make"), System.getenv("BENCH_GUEST"), "" + folder);
        Lab.run("qemu-img", "create", "-q", "-f", "qcow2", "" + orders, "1M");
        Lab.run("qemu-img", "create", "-q", "-f", "qcow2", "" + disk, diskMib + "M");
        for (int at = 0; at < diskMib; at += CHUNK_MIB) {
            Lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 65 " + at + "M " + CHUNK_MIB + "M", "" + disk);
        }
        start();
    }

    String name() {
        return name;
    }

    Path disk() {
        return disk;
    }

    void start() {
        String type = "kvm".equals(System.getenv("NASBACKUP_LAB_ACCELERATOR")) ? "kvm" : "qemu";
        String xml = "<domain type='" + type + "'><name>" + name
                + "</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>"
                + "<os><type arch='x86_64' machine='q35'>hvm</type><kernel>" + folder + "/vmlinuz</kernel><initrd>"
                + folder + "/initrd</initrd><cmdline>console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable"
                + " rdinit=/writer what=" + what + "</cmdline></os><features><acpi/></features><devices>"
                + disk(disk, "vda") + disk(orders, "vdb") + "<serial type='file'><source path='" + console
                + "'/></serial>"
                + "<memballoon model='none'/></devices></domain>";
        try {
            Files.deleteIfExists(console); // what the last one said would tell that this one is ready
            Lab.run("virsh", "create", "" + Files.writeString(folder.resolve("domain.xml"), xml));
            Lab.until("the guest is ready", () -> writes(0).size() > 0);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    void stop() {
        Lab.run("virsh", "destroy", name);
    }

    private static String disk(Path file, String target) {
        return "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='" + file
                + "'/><target dev='" + target + "' bus='virtio'/></disk>";
    }

    /** Lets it write a burst. */
    void order() {
        String write = "write -P " + ++ordered + " 0 4k";
        String device = "/machine/peripheral/virtio-disk1/virtio-backend";
        Lab.run("virsh", "qemu-monitor-command", name, "--hmp", "qemu-io -d " + device + " \"" + write + "\"");
    }

    /** How much it has said so far. */
    long size() {
        return console.toFile().length();
    }

    /** Microseconds of each write, or burst of writes, that it said since then. */
    List<Long> writes(long from) {
        return micros("w ", from);
    }

    /** Microseconds of each read that it said since then. */
    List<Long> reads(long from) {
        return micros("r ", from);
    }

    /** Of whole lines. */
    private List<Long> micros(String what, long from) {
        try {
            if (!Files.exists(console)) {
                return List.of();
            }
            byte[] all = Files.readAllBytes(console);
            String text = new String(all, (int) from, all.length - (int) from, StandardCharsets.US_ASCII);
            return text.substring(0, text.lastIndexOf('\n') + 1)
                    .lines()
                    .map(String::strip)
                    .filter(line -> line.matches(what + "[0-9]+"))
                    .map(line -> Long.parseLong(line.substring(what.length())))
                    .collect(Collectors.toList());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Override
    public void close() {
        stop();
        try {
            Files.delete(disk);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
