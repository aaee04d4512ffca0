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
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class HostSettingsTest {
    @TempDir
    private Path folder;

    private Configuration read(String lines) throws IOException {
        return HostSettings.read(Files.writeString(folder.resolve("settings"), lines))
                .build();
    }

    @Test
    void every_setting_can_be_set() throws Exception {
        Configuration all = read("# of this host\nconnectionUri = test:///default\nstateDir = /s\nmountDir = /m\n"
                + "mountKeepSeconds = 5\nscratchDir=/fast/scratch\nscratchPerVm = 67108864\nscratchPerHost = 67108865\n"
                + "engine = push\nrateLimit = 1000000\nhostRateLimit = 2000000\nparallelBackups = 2 \n"
                + "freezeSeconds = 90\nfreezeMountPoints = /, /var/lib/my sql,C:\\\\\n"
                + "quiesceFailure = warn\nlogLevel = debug\nfileMode = 640\nfolderMode = 751\nkeyFile = /k\n"
                + "metricsFile = /m.prom\n");
        assertThat(all.connectionUri()).isEqualTo("test:///default");
        assertThat(all.stateDir()).isEqualTo("/s");
        assertThat(all.mountDir()).isEqualTo("/m");
        assertThat(all.mountKeepSeconds()).isEqualTo(5);
        assertThat(all.scratchDir()).isEqualTo("/fast/scratch");
        assertThat(all.scratchPerVm()).isEqualTo(67_108_864);
        assertThat(all.scratchPerHost()).isEqualTo(67_108_865);
        assertThat(all.engine()).isEqualTo(Engine.PUSH);
        assertThat(all.rateLimit()).isEqualTo(1_000_000);
        assertThat(all.hostRateLimit()).isEqualTo(2_000_000);
        assertThat(all.parallelBackups()).isEqualTo(2);
        assertThat(all.quiesceFailure()).isEqualTo(QuiesceFailure.WARN);
        assertThat(all.freezeSeconds()).isEqualTo(90);
        assertThat(all.freezeMountPoints()).containsExactly("/", "/var/lib/my sql", "C:\\");
        assertThat(all.logLevel()).isEqualTo("debug");
        assertThat(all.fileMode()).isEqualTo("640");
        assertThat(all.folderMode()).isEqualTo("751");
        assertThat(all.keyFile()).isEqualTo("/k");
        assertThat(all.metricsFile()).isEqualTo("/m.prom");
    }

    @Test
    void without_a_file_all_is_as_by_default() {
        Configuration none = HostSettings.read(folder.resolve("none")).build();
        assertThat(none)
                .usingRecursiveComparison()
                .isEqualTo(Configuration.builder().build());
    }

    @Test
    void a_list_without_entries_is_empty() throws Exception {
        assertThat(read("freezeMountPoints =").freezeMountPoints()).isEmpty();
        assertThat(read("freezeMountPoints = \\t ").freezeMountPoints()).isEmpty();
    }

    @Test
    void repositories_are_the_command_s() throws Exception {
        assertThat(read("repository.nas = nfs:nas:/export"))
                .usingRecursiveComparison()
                .isEqualTo(Configuration.builder().build());
    }

    @Test
    void what_is_wrong_is_named() {
        assertThatIllegalArgumentException()
                .isThrownBy(() -> read("scratchdir = /x"))
                .withMessage(folder.resolve("settings") + ": there is no setting 'scratchdir'");
        assertThatIllegalArgumentException()
                .isThrownBy(() -> read("engine = \\u00"))
                .withMessageContaining(folder.resolve("settings").toString());
        for (String line : new String[] {"engine = fast", "rateLimit = 10M", "quiesceFailure ="}) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> read(line))
                    .withMessageContaining(line.substring(0, line.indexOf(' ')) + " can't be '");
        }
    }
}
