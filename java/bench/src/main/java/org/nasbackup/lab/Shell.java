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

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import org.nasbackup.Repository;

/** The shell path as the agent runs it: the script is started without a shell, what it prints is read and parsed. */
final class Shell {
    private final String script;
    private final boolean given;
    /** Newer scripts take the parent's file of each disk, older ones that of the root disk. */
    private final boolean takesParents;

    private final Path shim = Lab.folder("shim");
    private final Path times = shim.resolve("times");

    /** @param home the folder of {@code virsh.c} */
    Shell(String script, Path home) {
        this.script = script;
        this.given = !Path.of(script).startsWith(home);
        this.takesParents = Lab.read(Path.of(script)).contains("--parent-paths");
        String virsh = Lab.run("which", "virsh").strip();
        Lab.run("gcc", "-O2", "-static", "-DVIRSH=\"" + virsh + "\"", "-o", shim + "/virsh", home + "/virsh.c");
    }

    /** Whether it is an operator's. */
    boolean isGiven() {
        return given;
    }

    List<String> parents(List<String> files) {
        return takesParents ? List.of("--parent-paths", commas(files)) : List.of("--parent-path", files.get(0));
    }

    /** As the script's option lists them. */
    static String commas(List<?> values) {
        return values.stream().map(Object::toString).collect(Collectors.joining(","));
    }

    /** What it answered; exit statuses other than 0 throw. */
    List<String> run(String operation, Repository repository, String... options) {
        List<String> command = new ArrayList<>(List.of(script, "-o", operation));
        List<String> where = List.of(
                "-t",
                repository.type(),
                "-s",
                repository.address(),
                "-m",
                repository.options() == null ? "" : repository.options());
        int vm = operation.equals("backup") ? 2 : 0;
        List<String> rest = List.of(options);
        command.addAll(rest.subList(0, vm));
        command.addAll(where);
        command.addAll(rest.subList(vm, rest.size()));
        ProcessBuilder builder = new ProcessBuilder(command);
        builder.environment().merge("PATH", shim.toString(), (path, first) -> first + ":" + path);
        builder.environment().put("BENCH_VERSION_TIMES", times.toString());
        try {
            Process process = builder.start();
            List<String> lines = new ArrayList<>();
            try (BufferedReader out =
                    new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
                out.lines().forEach(lines::add);
            }
            if (process.waitFor() != 0) {
                String error = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
                throw new IllegalStateException(
                        command + ": exit status " + process.exitValue() + ": " + lines + " " + error);
            }
            return lines;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e);
        }
    }

    /** The answer of a backup, read as the agent's wrapper does. */
    static Taken parse(List<String> lines, boolean running) {
        Taken taken = new Taken();
        List<String> sizes = new ArrayList<>();
        for (String line : lines) {
            String text = line.strip();
            if (text.startsWith("BITMAP_CREATED=")) {
                taken.bitmap = text.substring("BITMAP_CREATED=".length());
            } else if (text.startsWith("INCREMENTAL_FALLBACK=")) {
                taken.fallback = true;
            } else if (!text.isEmpty() && !text.startsWith("BITMAP_RECREATED=")) {
                sizes.add(text);
            }
        }
        taken.size = running
                ? Long.parseLong(sizes.get(sizes.size() - 1))
                : sizes.stream()
                        .mapToLong(size -> Long.parseLong(size.split(" ")[0]))
                        .sum();
        return taken;
    }

    static final class Taken {
        String bitmap;
        boolean fallback;
        long size;
    }

    /** The {@code virsh version} calls since the last time this was asked. */
    double versionSeconds() {
        try {
            if (!Files.exists(times)) {
                return 0;
            }
            List<Long> micros =
                    Files.readAllLines(times).stream().map(Long::parseLong).collect(Collectors.toList());
            Files.delete(times);
            return micros.stream().mapToLong(Long::longValue).sum() / 1e6;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
