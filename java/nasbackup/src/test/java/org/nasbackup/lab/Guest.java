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
import java.io.RandomAccessFile;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.nasbackup.StoppedDisk;

/**
 * A transient domain like CloudStack's, without an operating system: what it writes goes through QEMU's monitor to the
 * guest's own disk device, so that bitmaps see it.
 */
public final class Guest implements AutoCloseable {
    private static final AtomicInteger MADE = new AtomicInteger();
    private static final long MIB = 1 << 20;
    /** The disk of the guest's template. */
    private static final long ROOT_MIB = 64;

    /** Other JVMs of the lab have guests too. */
    private final String name = "i-" + ProcessHandle.current().pid() + "-" + (10 + MADE.getAndIncrement()) + "-VM";

    private final Path folder = Lab.folder("guest");
    private final Path template;
    private final Path firmware;
    private final List<Path> disks = new ArrayList<>();
    /** The last write to each disk, looked for in the copies. */
    private final List<Write> written = new ArrayList<>();

    private boolean running;

    /** One with a root disk, which is an overlay of a template, and data disks of these sizes; running. */
    public Guest(long... dataMib) {
        template = image(ROOT_MIB);
        Lab.run("qemu-io", "-f", "qcow2", "-c", "write -P 0x11 0 1M", "-c", "write -P 0x12 32M 192k", "" + template);
        Path root = folder.resolve(UUID.randomUUID().toString());
        Lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "" + template, "" + root);
        disks.add(root);
        Arrays.stream(dataMib).mapToObj(this::image).forEach(disks::add);
        disks.forEach(disk -> written.add(null));
        firmware = firmware();
        start();
    }

    /** Halts the processor: nothing is to be started, and QEMU's own takes one of the machine's cores for a second to find that out. */
    private Path firmware() {
        byte[] rom = new byte[64 << 10];
        // where a processor begins, in a ROM that ends where its addresses do: cli; hlt; jmp to hlt
        System.arraycopy(new byte[] {(byte) 0xfa, (byte) 0xf4, (byte) 0xeb, (byte) 0xfd}, 0, rom, 0xfff0, 4);
        try {
            return Files.write(folder.resolve("firmware"), rom);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** One with a root disk and a data disk that hold a few MiB. */
    public static Guest ordinary() {
        Guest guest = new Guest(96);
        guest.write(0, 0x21, 4, 3);
        guest.write(1, 0x22, 0, 2);
        return guest;
    }

    private Path image(long mib) {
        Path path = folder.resolve(UUID.randomUUID().toString());
        Lab.run("qemu-img", "create", "-q", "-f", "qcow2", "" + path, mib + "M");
        return path;
    }

    public String name() {
        return name;
    }

    public boolean isRunning() {
        return running;
    }

    /** Where its disks lie. */
    public Path folder() {
        return folder;
    }

    /** The file that its root disk stands on. */
    public Path template() {
        return template;
    }

    /** The file names of its disks; the first is the root disk. */
    public List<String> volumes() {
        return disks.stream().map(disk -> disk.getFileName().toString()).collect(Collectors.toList());
    }

    /** Starts it from fresh XML, as CloudStack does: libvirt then knows no checkpoint of it. */
    public void start() {
        Path xml = folder.resolve("domain.xml");
        try {
            Files.writeString(xml, xml());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        Lab.run("virsh", "create", "" + xml);
        running = true;
    }

    /** Stops it as CloudStack does in the end; QEMU stores its bitmaps. */
    public void stop() {
        Lab.run("virsh", "destroy", name);
        running = false;
    }

    public void restart() {
        stop();
        start();
    }

    /** Ends QEMU as a crash does, and waits until libvirt knows. */
    public void kill() {
        try {
            String pid = Files.readString(Path.of("/run/libvirt/qemu", name + ".pid"));
            Lab.run("kill", "-KILL", pid.strip());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        Lab.until("libvirt notices that QEMU is gone", () -> Lab.outcome("virsh", "domstate", name).status != 0);
        running = false;
    }

    /** Fills {@code mib} MiB of a disk with a byte, and flushes it. */
    public void write(int disk, int pattern, long atMib, long mib) {
        qemuIo(disk, "write -P " + pattern + " " + atMib + "M " + mib + "M");
        written.set(disk, new Write(pattern, atMib * MIB, mib * MIB));
    }

    /** Fills {@code mib} MiB of a disk with zeros by a command for it, not by data. */
    public void writeZeros(int disk, long atMib, long mib) {
        qemuIo(disk, "write -z " + atMib + "M " + mib + "M");
        written.set(disk, new Write(0, atMib * MIB, mib * MIB));
    }

    private void qemuIo(int disk, String command) {
        // QEMU prints the outcome on its own standard output: `keepContent` finds out.
        String device = "/machine/peripheral/virtio-disk" + disk + "/virtio-backend";
        for (String each : List.of(command, "flush")) {
            String answer = monitor("--hmp", "qemu-io -d " + device + " \"" + each + "\"");
            if (!answer.isBlank()) {
                throw new IllegalStateException(each + ": " + answer);
            }
        }
    }

    /** Lets the running backup of a disk copy next to nothing from now on; waits until what is under way is written. */
    void holdBackupStill(int disk) {
        String jobs = monitor("{\"execute\":\"query-block-jobs\"}");
        Matcher named = Pattern.compile("backup-" + target(disk) + "-libvirt-\\d+-format")
                .matcher(jobs);
        if (!named.find()) {
            throw new IllegalStateException("no backup of " + target(disk) + " runs: " + jobs);
        }
        String job = named.group();
        monitor("{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"" + job + "\",\"speed\":65536}}");
        String[] before = {""};
        Lab.until("the job's writes under way arrive", () -> {
            Lab.run("sleep", "0.3"); // the time in which nothing may arrive
            String now = monitor("{\"execute\":\"query-jobs\"}").replaceAll("\"id\":\"libvirt-\\d+\"", "");
            String last = before[0];
            before[0] = now;
            return now.equals(last);
        });
    }

    private String monitor(String... command) {
        String[] virsh = {"virsh", "qemu-monitor-command", name};
        String[] all = Arrays.copyOf(virsh, virsh.length + command.length);
        System.arraycopy(command, 0, all, virsh.length, command.length);
        String answer = Lab.run(all);
        if (answer.startsWith("{\"id\"") && answer.contains("\"error\":")) {
            throw new IllegalStateException(String.join(" ", all) + ": " + answer.strip());
        }
        return answer;
    }

    /** The checkpoints that libvirt knows. */
    public List<String> checkpoints() {
        return Lab.run("virsh", "checkpoint-list", name, "--name")
                .lines()
                .filter(line -> !line.isBlank())
                .collect(Collectors.toList());
    }

    /** As a request for the stopped guest names its disks. */
    List<StoppedDisk> stoppedDisks() {
        return disks.stream()
                .map(disk -> StoppedDisk.builder()
                        .path(disk.toString())
                        .format("qcow2")
                        .build())
                .collect(Collectors.toList());
    }

    /** Raw copies of what its disks hold now, in their order. Nobody else writes to them, and every write was flushed. */
    public List<Path> keepContent() {
        Path kept = Lab.folder("content");
        return IntStream.range(0, disks.size())
                .mapToObj(disk -> keepContent(disk, kept.resolve(target(disk))))
                .collect(Collectors.toList());
    }

    private Path keepContent(int disk, Path copy) {
        Lab.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", "" + disks.get(disk), "" + copy);
        Write last = written.get(disk);
        if (last != null && !last.isIn(copy)) {
            throw new IllegalStateException("the last write to " + target(disk) + " of " + name + " did not arrive");
        }
        return copy;
    }

    private static String target(int disk) {
        return "vd" + (char) ('a' + disk);
    }

    private String xml() {
        String devices = IntStream.range(0, disks.size())
                .mapToObj(disk -> "<disk type='file' device='disk'>"
                        + "<driver name='qemu' type='qcow2' cache='none' discard='unmap'/>"
                        + "<source file='" + disks.get(disk) + "'/><target dev='" + target(disk) + "' bus='virtio'/>"
                        + "<serial>" + serial(disks.get(disk)) + "</serial></disk>")
                .collect(Collectors.joining());
        return "<domain type='qemu'><name>" + name + "</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
                + "<os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='rom'>" + firmware
                + "</loader></os><features><acpi/></features>"
                + "<devices>" + devices + "<memballoon model='none'/></devices></domain>";
    }

    /** CloudStack's: the volume's uuid without dashes, cut. */
    private static String serial(Path disk) {
        return disk.getFileName().toString().replace("-", "").substring(0, 20);
    }

    /** Destroys the domain. */
    @Override
    public void close() {
        if (running) {
            stop();
        }
    }

    private static final class Write {
        private final int pattern;
        private final long offset;
        private final long length;

        private Write(int pattern, long offset, long length) {
            this.pattern = pattern;
            this.offset = offset;
            this.length = length;
        }

        private boolean isIn(Path raw) {
            try (RandomAccessFile file = new RandomAccessFile(raw.toFile(), "r")) {
                file.seek(offset);
                int first = file.read();
                file.seek(offset + length - 1);
                return first == pattern && file.read() == pattern;
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }
}
