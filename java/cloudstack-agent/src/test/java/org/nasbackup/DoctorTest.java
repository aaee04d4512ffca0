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

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;

/** What Doctor says of a host. */
class DoctorTest {
    private boolean good;

    private String told(Consumer<Findings> look) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Findings findings = new Findings(new PrintStream(out, true, StandardCharsets.UTF_8));
        look.accept(findings);
        good = findings.good();
        return out.toString(StandardCharsets.UTF_8);
    }

    private static Finding finding(String state, boolean stops, String advice) {
        String json = "{\"what\":\"libnbd\",\"state\":\"%s\",\"found\":\"is there\",\"advice\":%s,\"stops\":%s}";
        return new Finding(Reply.of(String.format(json, state, advice, stops)));
    }

    @Test
    void what_the_library_finds_is_told_with_what_to_do_and_stops_backups_or_not() {
        assertThat(told(findings -> Doctor.tell(findings, finding("ok", false, "null"))))
                .isEqualTo("ok       libnbd: is there" + System.lineSeparator());
        assertThat(good).isTrue();
        for (String state : new String[] {"lacks", "defect", "untried"}) {
            assertThat(told(findings -> Doctor.tell(findings, finding(state, false, "\"install it\""))))
                    .startsWith("NOTE ")
                    .contains("libnbd: is there; install it");
            assertThat(good).isTrue();
        }
        assertThat(told(findings -> Doctor.tell(findings, finding("lacks", true, "null"))))
                .startsWith("MISSING ");
        assertThat(good).isFalse();
        assertThat(told(findings -> Doctor.tell(findings, finding("untried", true, "null"))))
                .startsWith("NOT CHECKED ");
        assertThat(good).isFalse();
    }
}
