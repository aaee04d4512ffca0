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

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;

/**
 * What was measured, a JSON line for each run, written at once: a file for each section, so that one that is measured again
 * takes the place of what it was. {@code bench/report.py} makes figures of them.
 */
final class Samples {
    private static final Gson GSON =
            new GsonBuilder().disableHtmlEscaping().serializeNulls().create();

    private final Path folder;
    private Path file;

    Samples(Path folder) {
        this.folder = folder;
    }

    /** What is added from now on is of this section. */
    void begin(String section) {
        file = folder.resolve(section + ".jsonl");
        try {
            Files.createDirectories(folder);
            Files.writeString(file, "");
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        double load = ManagementFactory.getOperatingSystemMXBean().getSystemLoadAverage();
        add(new Sample("machine").with("load", load).with("when", "" + Instant.now()));
    }

    void add(Sample sample) {
        System.out.println(sample);
        try {
            Files.writeString(
                    file, GSON.toJson(Collections.unmodifiableMap(sample.fields)) + "\n", StandardOpenOption.APPEND);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** One line; seconds and bytes, unless the name says otherwise. */
    static final class Sample {
        private final Map<String, Object> fields = new LinkedHashMap<>();

        Sample(String section) {
            with("section", section);
        }

        Sample with(String name, Object value) {
            fields.put(name, value);
            return this;
        }

        @Override
        public String toString() {
            StringBuilder text = new StringBuilder();
            fields.forEach((name, value) -> text.append(name)
                    .append(' ')
                    .append(value instanceof Double ? String.format(Locale.ROOT, "%.4f", value) : value)
                    .append("  "));
            return text.toString().strip();
        }
    }
}
