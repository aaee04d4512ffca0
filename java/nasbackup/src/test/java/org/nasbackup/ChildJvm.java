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

package org.nasbackup;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Runs a class, {@link ChildMain} unless told, in a JVM of its own, checked by {@code -Xcheck:jni}. */
public final class ChildJvm {
    /** Options of a JVM that ends before its optimizing compiler has earned back what it took. */
    public static final List<String> SHORT_LIVED = List.of("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC");

    private final List<String> classPath = new ArrayList<>();
    private final List<String> options = new ArrayList<>();
    private final Map<String, String> environment = new HashMap<>();
    private final Class<?> main;
    private int status;

    ChildJvm() {
        this(ChildMain.class);
    }

    public ChildJvm(Class<?> main) {
        this.main = main;
        classPath.add(folderOf(ChildJvm.class));
        classPath.add(folderOf(NasBackup.class));
        options.addAll(SHORT_LIVED);
        options.add("-Xcheck:jni");
        options.add("-Djava.library.path=" + System.getProperty("java.library.path"));
    }

    public static String folderOf(Class<?> type) {
        return type.getProtectionDomain().getCodeSource().getLocation().getPath();
    }

    ChildJvm option(String option) {
        options.add(option);
        return this;
    }

    public ChildJvm onClassPath(Path folder) {
        classPath.add(folder.toString());
        return this;
    }

    /** What lies in it hides the same of the façade's. */
    ChildJvm firstOnClassPath(Path folder) {
        classPath.add(0, folder.toString());
        return this;
    }

    public ChildJvm environment(String name, String value) {
        environment.put(name, value);
        return this;
    }

    /** The exit status that it must end with, instead of 0. */
    public ChildJvm status(int expected) {
        status = expected;
        return this;
    }

    /** The façade's classes without a library that an earlier build may have put beside them. */
    ChildJvm withoutBundledLibrary(Path scratch) throws IOException {
        Path source = Path.of(folderOf(NasBackup.class));
        try (var files = Files.walk(source)) {
            for (Path file : (Iterable<Path>) files.filter(Files::isRegularFile)::iterator) {
                if (!file.toString().endsWith(".so")) {
                    Path copy = scratch.resolve(source.relativize(file).toString());
                    Files.createDirectories(copy.getParent());
                    Files.copy(file, copy);
                }
            }
        }
        classPath.remove(folderOf(NasBackup.class));
        return onClassPath(scratch);
    }

    /** What it printed. It must end by itself. */
    public String run(String... arguments) throws IOException, InterruptedException {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(options);
        command.addAll(List.of("-cp", String.join(":", classPath), main.getName()));
        command.addAll(List.of(arguments));
        Path output = Files.createTempFile("child-jvm", ".out");
        try {
            ProcessBuilder builder =
                    new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(output.toFile());
            builder.environment().putAll(environment);
            Process child = builder.start();
            boolean ended = child.waitFor(360, TimeUnit.SECONDS);
            child.destroyForcibly().waitFor();
            String text = Files.readString(output, StandardCharsets.UTF_8);
            assertThat(ended).as("ended by itself: %s", text).isTrue();
            assertThat(child.exitValue()).as(text).isEqualTo(status);
            return text;
        } finally {
            Files.delete(output);
        }
    }
}
