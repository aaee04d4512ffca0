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

package org.apache.cloudstack.backup;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.nasbackup.provider.SimulatedNight;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/**
 * What a management server asks of the database where there are 10, 1,000 and 10,000 machines of 30 points, and how long a night
 * of 10,000 takes, with what the nights of the lab have found a backup to take.
 */
final class ManyGuests {
    private static final int GUESTS = 10_000;
    private static final int POINTS = 30;
    private static final double GIB = 1 << 30;
    private static final double DATA = 20 * GIB;
    /** Of a link of 10 Gbit/s. */
    private static final double HOST = 1.25e9;
    /** Of a server of CloudStack's for API jobs. */
    private static final int THREADS = 125;

    private ManyGuests() {}

    /** @param args the folder with the samples of the nights, which gets those of this program */
    public static void main(String[] args) throws Exception {
        Path samples = Path.of(args[0]);
        try (PrintStream out =
                new PrintStream(Files.newOutputStream(samples.resolve("guests.jsonl")), true, StandardCharsets.UTF_8)) {
            machine(out);
            statements(out);
            nights(out, nights(samples.resolve("night.jsonl")));
        }
    }

    private static void machine(PrintStream out) throws IOException {
        String load = Files.readString(Path.of("/proc/loadavg")).split(" ")[0];
        say(out, Map.of("section", "machine", "when", Instant.now().toString(), "load", Double.valueOf(load)));
    }

    private static void say(PrintStream out, Map<String, Object> sample) {
        String line = new Gson().toJson(sample);
        out.println(line);
        System.out.println(line);
    }

    private static Map<String, Object> sample(String kind) {
        Map<String, Object> sample = new LinkedHashMap<>();
        sample.put("section", "guests");
        sample.put("kind", kind);
        return sample;
    }

    private static void statements(PrintStream out) throws Exception {
        try (Database database = new Database(MariaDb.shared().socket())) {
            for (int guests : new int[] {10, 1000, GUESTS}) {
                new Fleet(database, guests, POINTS).asked().forEach((job, asked) -> {
                    Map<String, Object> sample = sample("statements");
                    sample.put("guests", guests);
                    sample.put("job", job);
                    sample.put("statements", asked.statements);
                    sample.put("rows", asked.rows);
                    sample.put("seconds", asked.seconds);
                    say(out, sample);
                });
            }
        }
    }

    /** The full and the incremental nights, as the lab has measured them. */
    private static List<JsonObject> nights(Path samples) throws IOException {
        try (Stream<String> lines = Files.lines(samples)) {
            return lines.map(line -> new JsonParser().parse(line).getAsJsonObject())
                    .filter(night -> night.has("kind")
                            && List.of("Full", "Changes")
                                    .contains(night.get("kind").getAsString()))
                    .collect(Collectors.toList());
        }
    }

    /** Seconds of a guest by its bytes, by least squares: those of none, and those of a byte. */
    private static double[] fit(List<JsonObject> nights) {
        double[] bytes = perGuest(nights, "bytes");
        double[] seconds = perGuest(nights, "seconds");
        double meanBytes = mean(bytes);
        double meanSeconds = mean(seconds);
        double up = 0;
        double down = 0;
        for (int i = 0; i < bytes.length; i++) {
            up += (bytes[i] - meanBytes) * (seconds[i] - meanSeconds);
            down += (bytes[i] - meanBytes) * (bytes[i] - meanBytes);
        }
        double ofByte = up / down;
        return new double[] {meanSeconds - ofByte * meanBytes, ofByte};
    }

    private static double[] perGuest(List<JsonObject> nights, String field) {
        return nights.stream()
                .mapToDouble(night ->
                        night.get(field).getAsDouble() / night.get("guests").getAsDouble())
                .toArray();
    }

    private static double mean(double[] values) {
        return IntStream.range(0, values.length)
                .mapToDouble(i -> values[i])
                .average()
                .orElseThrow();
    }

    private static void nights(PrintStream out, List<JsonObject> measured) {
        double[] fit = fit(measured);
        for (int[] site : new int[][] {{1, 20}, {1, 50}, {1, 200}, {4, 200}}) {
            for (double nas : new double[] {1e9, 4e9, 16e9}) {
                for (int slots : new int[] {1, 2, 4}) {
                    Map<String, Object> sample = sample("night");
                    sample.put("fixed", fit[0]);
                    sample.put("rate", 1 / fit[1]);
                    sample.put("servers", site[0]);
                    sample.put("hosts", site[1]);
                    sample.put("nas", nas);
                    sample.put("slots", slots);
                    SimulatedNight.Lab lab = new SimulatedNight.Lab()
                            .slots(slots, site[0] * THREADS)
                            .backup(fit[0], 1 / fit[1])
                            .bandwidth(HOST, nas);
                    night(sample, new SimulatedNight(lab, site[1], guests(site[1])));
                    say(out, sample);
                }
            }
        }
    }

    private static void night(Map<String, Object> sample, SimulatedNight night) {
        sample.put("seconds", night.run());
        sample.put("backup", night.worked() / GUESTS);
        sample.put("longest", night.longestBackup);
        sample.put("wait", night.waited() / GUESTS);
        sample.put("longest_wait", night.longestWait);
        sample.put("at_once", night.most);
    }

    /** Changed as in the nights of the lab: of 40 guests one is rewritten, six change by 20 %, all others by less than 1 %. */
    private static List<SimulatedNight.Guest> guests(int hosts) {
        Random random = new Random(1);
        List<Double> shares = new ArrayList<>();
        for (int i = 0; i < GUESTS; i++) {
            int of = i % 40;
            shares.add(of == 0 ? 1 : of <= 6 ? 0.2 : (of % 9 + 1) / 1000.0);
        }
        List<Integer> at = IntStream.range(0, GUESTS).mapToObj(i -> i % hosts).collect(Collectors.toList());
        Collections.shuffle(shares, random);
        Collections.shuffle(at, random);
        return IntStream.range(0, GUESTS)
                .mapToObj(i -> new SimulatedNight.Guest(at.get(i), DATA * shares.get(i)))
                .collect(Collectors.toList());
    }
}
