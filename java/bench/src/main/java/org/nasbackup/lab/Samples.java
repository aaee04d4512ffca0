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
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;

/** What was measured, a JSON line for each run, written at once. {@code bench/report.py} makes figures of it. */
final class Samples {
    private static final Gson GSON =
            new GsonBuilder().disableHtmlEscaping().serializeNulls().create();

    private final Path file;

    Samples(Path file) {
        this.file = file;
        try {
            Files.createDirectories(file.getParent());
            Files.writeString(file, "");
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
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
