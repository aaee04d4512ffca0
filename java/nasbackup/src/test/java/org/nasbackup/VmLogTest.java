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

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Runs after all other tests, in a JVM of its own: reads what their JVMs had to say of the library's JNI calls. */
@Tag("vm-log")
@Tag("lab")
class VmLogTest {
    private static final Path PREFIX = Path.of(System.getProperty("vm.log"));

    @Test
    void check_jni_had_nothing_to_warn_of() throws Exception {
        List<Path> logs;
        try (Stream<Path> files = Files.list(PREFIX.getParent())) {
            logs = files.filter(file -> file.toString().startsWith(PREFIX.toString()))
                    .collect(Collectors.toList());
        }
        assertThat(logs).isNotEmpty();
        for (Path file : logs) {
            String log = Files.readString(file);
            assertThat(log.contains("-Xcheck:jni"))
                    .as("the other tests ran under -Xcheck:jni")
                    .isTrue();
            assertThat(log.contains("<tty_done")).as("their JVM ended in order").isTrue();
            assertThat(log.lines().filter(line -> line.contains("WARNING"))).isEmpty();
            Files.delete(file);
        }
    }
}
