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

package org.nasbackup.cloudstack;

import static org.assertj.core.api.Assertions.assertThat;

import com.cloud.agent.api.Command;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.jar.Attributes;
import java.util.jar.JarOutputStream;
import java.util.jar.Manifest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class CloudStackVersionTest {
    @TempDir
    Path folder;

    @ParameterizedTest
    @CsvSource({
        "4.22.0.0,           true",
        "4.22.0,             true",
        "4.22.1.1,           true",
        "4.23.0.0,           true",
        "4.23.0.0-SNAPSHOT,  true",
        "4.23.1.0,           false",
        "4.22.2.0-SNAPSHOT,  false",
        "4.21.0.0,           false",
        "5,                  false",
        "local,              false",
    })
    void a_version_counts_as_checked_by_its_release(String version, boolean checked) {
        assertThat(CloudStackVersion.isChecked(version)).isEqualTo(checked);
        assertThat(CloudStackVersion.describe(version))
                .isEqualTo("CloudStack " + version
                        + (checked
                                ? ", which this build was checked against"
                                : ", while this build was checked against 4.22.0, 4.22.1, 4.23"));
    }

    @Test
    void the_manifest_tells_it_in_a_jar_and_in_a_folder() throws Exception {
        Manifest manifest = new Manifest();
        manifest.getMainAttributes().put(Attributes.Name.MANIFEST_VERSION, "1.0");
        manifest.getMainAttributes().put(Attributes.Name.IMPLEMENTATION_VERSION, "4.22.0.0");
        Path jar = folder.resolve("cloud-api.jar");
        new JarOutputStream(Files.newOutputStream(jar), manifest).close();
        Path silent = folder.resolve("silent.jar");
        new JarOutputStream(Files.newOutputStream(silent), new Manifest()).close();
        assertThat(CloudStackVersion.of(jar)).isEqualTo("4.22.0.0");
        assertThat(CloudStackVersion.of(silent)).isNull();
        assertThat(CloudStackVersion.of(folder)).isNull();
        Path inFolder = Files.createDirectories(folder.resolve("META-INF")).resolve("MANIFEST.MF");
        try (var out = Files.newOutputStream(inFolder)) {
            manifest.write(out);
        }
        assertThat(CloudStackVersion.of(folder)).isEqualTo("4.22.0.0");
    }

    @Test
    void what_can_t_be_told_is_said_and_ends_nothing() {
        assertThat(CloudStackVersion.describe(Command.class))
                .startsWith("CloudStack of a version that its jar does not tell, while this build")
                .contains("/cloudstack-stubs");
        assertThat(CloudStackVersion.describe(String.class))
                .startsWith("CloudStack of a version that can't be told - java.lang.NullPointerException");
    }
}
