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

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.LongSupplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.nasbackup.lab.Samples.Sample;

/** Measures runs: the rivals in turn, so that what else happens on the machine meets all of them alike. */
final class Meter {
    private static final OperatingSystemMXBean PROCESS =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    /** In what strace writes; the outcome of a call that was interrupted comes later, on a line of its own. */
    private static final Pattern BEGUN = Pattern.compile("execve(at)?\\(");

    private static final Pattern FAILED = Pattern.compile("execve(at)?(\\(| resumed>).* = -1 ");
    /** The helper through which Java starts programs, and what times virsh. */
    private static final Pattern NOT_COUNTED = Pattern.compile("/jspawnhelper\"|/shim-[0-9]+/virsh\"");

    /** A call by its name, and what of it tells its files. */
    private static final Pattern CALL = Pattern.compile("^\\d+ +(\\w+)\\((.*)");

    private static final Pattern SYNCED = Pattern.compile("sync(\\(| resumed>).* = 0 <([0-9.]+)>");

    private final Samples samples;
    private final NasImage nas;
    private final Shell shell;
    private final Path traces;
    private final int runs;

    /** @param traces the folder for what strace writes, a file for each operation and rival */
    Meter(Samples samples, NasImage nas, Shell shell, Path traces, int runs) {
        this.samples = samples;
        this.nas = nas;
        this.shell = shell;
        this.traces = traces;
        this.runs = runs;
    }

    /** A run of each whose system calls are counted and whose outcome is checked, then those that are timed. */
    void measure(Operation operation, Rival... rivals) {
        List<Rival> able = Stream.of(rivals)
                .filter(rival -> rival == Rival.FLOOR || isRight(operation, rival))
                .collect(Collectors.toList());
        for (int run = 1; run <= runs; run++) {
            run(operation, run, able);
        }
        for (int run = runs + 1; run <= runs * operation.comparedWithFloor(); run++) {
            run(operation, run, List.of(Rival.WARM, Rival.FLOOR));
        }
    }

    private void run(Operation operation, int run, List<Rival> rivals) {
        for (Rival rival : rivals) {
            operation.before(rival);
            samples.add(timed(operation, rival).with("run", run));
            operation.after(rival);
        }
    }

    /** The run that is checked. An operator's script need not know every operation; of the others each has to succeed. */
    private boolean isRight(Operation operation, Rival rival) {
        try {
            operation.beforeCheck(rival);
            samples.add(traced(operation, rival));
            operation.check(rival);
            return true;
        } catch (IllegalStateException e) {
            if (rival != Rival.SHELL || !shell.isGiven()) {
                throw e;
            }
            System.err.println(operation.name() + " is left out of the script's, which can't do it: " + e.getMessage());
            return false;
        } finally {
            operation.after(rival);
        }
    }

    private Sample sample(String section, Operation operation, Rival rival) {
        return new Sample(section)
                .with("operation", operation.name())
                .with("filesystem", nas.fileSystem())
                .with("rival", rival.toString());
    }

    private Sample timed(Operation operation, Rival rival) {
        Sample sample = sample("operation", operation, rival);
        if (operation.dropsCaches()) {
            dropCaches();
        }
        shell.versionSeconds();
        long written = nas.bytesWritten();
        double children = childrenCpuSeconds();
        long cpu = PROCESS.getProcessCpuTime();
        LongSupplier peak = watchMemory();
        long begun = System.nanoTime();
        operation.run(rival, sample);
        double took = (System.nanoTime() - begun) / 1e9;
        if (rival != Rival.FLOOR) { // it says by itself what it took, without its start
            sample.with("seconds", took);
        }
        double started = childrenCpuSeconds() - children;
        if (rival == Rival.SHELL) {
            sample.with("version_seconds", shell.versionSeconds()).with("cpu_seconds", started);
        }
        if (rival.isNative()) {
            sample.with("cpu_seconds", started + (PROCESS.getProcessCpuTime() - cpu) / 1e9)
                    .with("peak_bytes", peak.getAsLong());
        }
        return sample.with("bytes_written", nas.bytesWritten() - written);
    }

    private Sample traced(Operation operation, Rival rival) {
        String name = operation.name() + " " + nas.fileSystem() + " " + rival;
        Path log = traces.resolve(name.replace(' ', '-'));
        String me = "" + ProcessHandle.current().pid();
        try {
            Process strace = new ProcessBuilder(
                            "strace",
                            "-f",
                            "-qq",
                            "-T",
                            "-y",
                            "-e",
                            "trace=execve,execveat,sync,%file,%desc",
                            "-o",
                            "" + log,
                            "-p",
                            me)
                    .inheritIO()
                    .start();
            Lab.until("strace sees every thread", Meter::everyThreadIsTraced);
            LongSupplier memory = watchMemory();
            try {
                operation.run(rival, sample("", operation, rival));
            } finally {
                strace.destroy();
                strace.waitFor();
            }
            long peak = memory.getAsLong();
            List<String> calls = Files.readAllLines(log);
            double synced = calls.stream()
                    .map(SYNCED::matcher)
                    .filter(Matcher::find)
                    .mapToDouble(sync -> Double.parseDouble(sync.group(2)))
                    .sum();
            long failed =
                    calls.stream().filter(call -> FAILED.matcher(call).find()).count();
            long begun = calls.stream()
                    .filter(call -> BEGUN.matcher(call).find())
                    .filter(call -> !NOT_COUNTED.matcher(call).find())
                    .count();
            return sample("trace", operation, rival)
                    .with("execs", begun - failed)
                    .with("calls", onRepository(calls))
                    .with("peak_bytes", peak)
                    .with("sync_seconds", synced);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e);
        }
    }

    /** How often each system call named the repository, or what was open in it, where it is mounted all the time or by the script. */
    private Map<String, Integer> onRepository(List<String> calls) {
        Map<String, Integer> counts = new TreeMap<>();
        calls.stream()
                .map(CALL::matcher)
                .filter(Matcher::find)
                .filter(call ->
                        call.group(2).contains("" + nas.root()) || call.group(2).contains("/csbackup."))
                .forEach(call -> counts.merge(call.group(1), 1, Integer::sum));
        return counts;
    }

    private static boolean everyThreadIsTraced() {
        try (Stream<Path> threads = Files.list(Path.of("/proc/self/task"))) {
            return threads.noneMatch(
                    thread -> Lab.read(thread.resolve("status")).lines().anyMatch("TracerPid:\t0"::equals));
        } catch (IOException | UncheckedIOException e) {
            return false; // a thread has ended meanwhile: look again
        }
    }

    static void dropCaches() {
        Lab.run("sync");
        write(Path.of("/proc/sys/vm/drop_caches"), "3");
    }

    /** CPU of this process, of the programs that it started and that ended, and of theirs. */
    static double cpuSeconds() {
        return PROCESS.getProcessCpuTime() / 1e9 + childrenCpuSeconds();
    }

    /** CPU of the programs that this process started and that ended, and of theirs. */
    private static double childrenCpuSeconds() {
        String stat = Lab.read(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[13]) + Long.parseLong(fields[14])) / 100.0; // cutime, cstime (proc(5))
    }

    /**
     * The bytes of memory that this process takes at most from now on. What comes of mapped files does not count: the kernel takes
     * pages of programs away, and reads them again, whenever it likes.
     */
    static LongSupplier watchMemory() {
        write(Path.of("/proc/self/clear_refs"), "5"); // the peak starts again (proc(5))
        long all = memory("VmRSS");
        long files = memory("RssFile");
        return () -> memory("VmHWM") - all - Math.max(0, memory("RssFile") - files);
    }

    /** Bytes, of this process. */
    private static long memory(String field) {
        return Lab.read(Path.of("/proc/self/status"))
                .lines()
                .filter(line -> line.startsWith(field + ":"))
                .mapToLong(line -> Long.parseLong(line.split("\\s+")[1]) * 1024)
                .findFirst()
                .orElseThrow();
    }

    private static void write(Path path, String text) {
        try {
            Files.writeString(path, text);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
