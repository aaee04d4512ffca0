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
import java.nio.file.Path;
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

    @Test
    void a_host_that_only_pulls_lacks_nothing_on_a_kernel_that_follows_links() {
        assertThat(told(findings -> Doctor.links(findings, true, null))).startsWith("ok ");
        assertThat(good).isTrue();
        for (Engine engine : new Engine[] {null, Engine.AUTO, Engine.PUSH}) {
            assertThat(told(findings -> Doctor.links(findings, false, engine))).startsWith("MISSING ");
            assertThat(good).isFalse();
        }
        assertThat(told(findings -> Doctor.links(findings, false, Engine.PULL))).startsWith("NOTE ");
        assertThat(good).isTrue();
    }

    @Test
    void tools_are_those_that_the_library_runs() {
        assertThat(told(findings -> assertThat(Doctor.tool(findings, "env")).isEqualTo(Path.of("/usr/bin/env"))))
                .isEmpty();
        assertThat(told(findings ->
                        assertThat(Doctor.tool(findings, "no-such-tool")).isNull()))
                .contains("MISSING  no-such-tool in /usr/bin, /usr/sbin, /bin, /sbin");
    }
}
