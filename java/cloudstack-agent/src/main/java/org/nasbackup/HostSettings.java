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

import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.function.BiConsumer;

/** A host's own settings: a file of {@code name = value} lines, with the names of {@link Configuration}'s fields. */
public final class HostSettings {
    /** An operator makes this file to change the defaults. */
    public static final Path FILE = Path.of("/etc/nasbackup/nasbackup.properties");

    /** How the names begin by which the command {@code nasbackup} knows repositories. CloudStack knows its own. */
    private static final String REPOSITORY = "repository.";

    private static final Map<String, BiConsumer<Configuration.Builder, String>> SETTINGS = Map.ofEntries(
            Map.entry("connectionUri", Configuration.Builder::connectionUri),
            Map.entry("stateDir", Configuration.Builder::stateDir),
            Map.entry("mountDir", Configuration.Builder::mountDir),
            Map.entry("mountKeepSeconds", (all, value) -> all.mountKeepSeconds(Long.parseLong(value))),
            Map.entry("scratchDir", Configuration.Builder::scratchDir),
            Map.entry("scratchPerVm", (all, value) -> all.scratchPerVm(Long.parseLong(value))),
            Map.entry("scratchPerHost", (all, value) -> all.scratchPerHost(Long.parseLong(value))),
            Map.entry("engine", (all, value) -> all.engine(Engine.valueOf(value.toUpperCase(Locale.ROOT)))),
            Map.entry("rateLimit", (all, value) -> all.rateLimit(Long.parseLong(value))),
            Map.entry("hostRateLimit", (all, value) -> all.hostRateLimit(Long.parseLong(value))),
            Map.entry("parallelBackups", (all, value) -> all.parallelBackups(Long.parseLong(value))),
            Map.entry(
                    "quiesceFailure",
                    (all, value) -> all.quiesceFailure(QuiesceFailure.valueOf(value.toUpperCase(Locale.ROOT)))),
            Map.entry("freezeSeconds", (all, value) -> all.freezeSeconds(Long.parseLong(value))),
            Map.entry("freezeMountPoints", (all, value) -> all.freezeMountPoints(list(value))),
            Map.entry("fileMode", Configuration.Builder::fileMode),
            Map.entry("folderMode", Configuration.Builder::folderMode),
            Map.entry("keyFile", Configuration.Builder::keyFile),
            Map.entry("metricsFile", Configuration.Builder::metricsFile),
            Map.entry("logLevel", Configuration.Builder::logLevel));

    private HostSettings() {}

    /**
     * The settings in a file, the defaults when there is none.
     *
     * @throws IllegalArgumentException naming the line that is wrong
     */
    public static Configuration.Builder read(Path file) {
        Configuration.Builder settings = Configuration.builder();
        Properties lines = new Properties();
        try (Reader reader = Files.newBufferedReader(file)) {
            lines.load(reader);
        } catch (NoSuchFileException e) {
            return settings;
        } catch (IOException | IllegalArgumentException e) {
            throw new IllegalArgumentException("unable to read " + file + " - " + e, e);
        }
        lines.stringPropertyNames().stream()
                .filter(name -> !name.startsWith(REPOSITORY))
                .forEach(name -> set(settings, file, name, lines.getProperty(name)));
        return settings;
    }

    /** The entries of a list; an empty text is an empty list, not a list of one empty entry. */
    private static List<String> list(String value) {
        return value.isEmpty() ? List.of() : List.of(value.split("\\s*,\\s*"));
    }

    private static void set(Configuration.Builder settings, Path file, String name, String value) {
        BiConsumer<Configuration.Builder, String> setting = SETTINGS.get(name);
        if (setting == null) {
            throw new IllegalArgumentException(file + ": there is no setting '" + name + "'");
        }
        try {
            setting.accept(settings, value.strip());
        } catch (IllegalArgumentException e) {
            throw new IllegalArgumentException(file + ": " + name + " can't be '" + value + "'", e);
        }
    }
}
