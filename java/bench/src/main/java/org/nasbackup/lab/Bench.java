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

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.nasbackup.NasBackup;

/** Measures everything; {@code bench/run} starts it in a lab. Arguments: folder of bench, of the outcome, script. */
final class Bench {
    private static final Rival[] ENGINES = Rival.values();
    private static final Rival[] ALL = {Rival.NATIVE, Rival.WARM, Rival.SHELL, Rival.FLOOR};

    private final Path home;
    private final Path traces;
    private final Samples samples;
    private final Shell shell;
    private final NasBackup library = Lab.open("off");
    private final int runs = Integer.parseInt(System.getenv().getOrDefault("BENCH_RUNS", "5"));

    private Bench(Path home, Path out, String script) {
        this.home = home;
        this.traces = out.resolve("traces");
        this.samples = new Samples(out.resolve("samples"));
        this.shell = new Shell(script, home);
    }

    public static void main(String[] arguments) throws Exception {
        Bench bench = new Bench(Path.of(arguments[0]), Path.of(arguments[1]), arguments[2]);
        Files.createDirectories(bench.traces);
        Map<String, Runnable> sections = new LinkedHashMap<>();
        sections.put("backups", bench::backups);
        sections.put("rebase", bench::rebases);
        sections.put("large", bench::large);
        sections.put("latency", bench::latency);
        sections.put("growth", bench::growth);
        sections.put("boundary", () -> Boundary.measure(bench.samples));
        String chosen = System.getenv("BENCH_SECTIONS");
        List<String> names =
                chosen == null || chosen.isBlank() ? List.copyOf(sections.keySet()) : List.of(chosen.split(" "));
        Site.require(sections.keySet().containsAll(names), names);
        for (String name : names) {
            bench.samples.begin(name);
            sections.get(name).run();
        }
    }

    private void backups() {
        try (NasImage nas = new NasImage("xfs", 32)) {
            Site site = new Site(library, shell, home, nas);
            Meter meter = new Meter(samples, nas, shell, traces, runs);
            try (Backups backups = new Backups(site)) {
                meter.measure(backups.full(), ENGINES);
                meter.measure(backups.delete(), ALL);
                meter.measure(backups.incremental(), ENGINES);
                meter.measure(backups.restarted(), ENGINES);
                meter.measure(backups.flatten(), ALL);
                meter.measure(backups.stopped(), ALL);
                meter.measure(new Stats(site), ALL);
            }
        }
    }

    private void large() {
        try (Large large = new Large(samples, library, home)) {
            large.measure(runs);
        }
    }

    private void latency() {
        try (Latency latency = new Latency(samples, library, home)) {
            latency.measure(quick() ? 5 : 20);
        }
    }

    private void growth() {
        Growth growth = new Growth(samples, library, runs);
        boolean isLong = System.getenv("BENCH_LONG") != null;
        (isLong ? List.of(1, 4, 16, 64) : List.of(1, 4)).forEach(growth::disk);
        growth.chain(isLong ? 64 : 8);
        (isLong ? List.of(1, 2, 4, 8) : List.of(1, 2)).forEach(growth::guests);
        growth.planning();
    }

    private boolean quick() {
        return runs == 1;
    }

    private void rebases() {
        for (String fileSystem : quick() ? List.of("xfs", "ext4") : List.of("xfs", "btrfs", "ext4")) {
            try (NasImage nas = new NasImage(fileSystem, 12)) {
                Site site = new Site(library, shell, home, nas);
                Meter meter = new Meter(samples, nas, shell, traces, runs);
                Rebases rebase = new Rebases(site, "rebase", 700);
                meter.measure(rebase, ALL);
                if (fileSystem.equals("ext4")) { // where blocks are shared a merge is a rebase
                    meter.measure(new Merge(site, rebase), ALL);
                }
                if (!quick()) {
                    meter.measure(new Rebases(site, "rebase, fragmented", 11_840), ALL);
                }
            }
        }
    }
}
