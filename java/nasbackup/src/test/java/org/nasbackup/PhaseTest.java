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
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

class PhaseTest {
    /** The library's own, by the names that they have here. */
    private static Map<String, String> ofTheLibrary() throws IOException {
        Map<String, String> phases = new LinkedHashMap<>();
        Pattern.compile("^    (\\w+) = \"(.+)\",$", Pattern.MULTILINE)
                .matcher(Files.readString(Path.of("../../rust/work/phase.rs")))
                .results()
                .forEach(phase -> phases.put(
                        phase.group(1).replaceAll("(?<=[a-z])(?=[A-Z])", "_").toUpperCase(Locale.ROOT),
                        phase.group(2)));
        return phases;
    }

    @Test
    void java_and_the_library_have_the_same_phases() throws IOException {
        Map<String, String> phases = new LinkedHashMap<>();
        for (Phase phase : Phase.values()) {
            phases.put(phase.name(), phase.text());
            assertThat(Phase.of(phase.text())).isEqualTo(phase);
        }
        Map<String, String> expected = ofTheLibrary();
        expected.put("OTHER", "other");
        assertThat(phases).isEqualTo(expected);
    }

    @Test
    void a_phase_of_a_newer_library_is_another_and_shown_by_its_text() {
        JobStatus status = new JobStatus(
                Reply.of(
                        "{\"job\":\"j\",\"operation\":\"takeBackup\",\"vmName\":\"i-2-10-VM\",\"phase\":\"count the stars\","
                                + "\"doneBytes\":0,\"totalBytes\":0,\"elapsedMillis\":0,\"bytesPerSecond\":null,\"remainingMillis\":null}"));
        assertThat(status.phase()).isEqualTo(Phase.OTHER);
        assertThat(status).hasToString("takeBackup i-2-10-VM (j): count the stars, 0 of 0 bytes");
    }
}
