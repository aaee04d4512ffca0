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

package org.nasbackup.provider;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.HashMap;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Which hosts restore incremental backups right, told from their versions. */
class IncrementalRestoreTest {
    @ParameterizedTest
    @CsvSource({
        "4.20.3.0,false",
        "4.22.0.0,false",
        "4.22.1.0,false",
        "4.22.2.0-SNAPSHOT,false",
        "4.3.0,false",
        "4.23.0.0,true",
        "4.23.0.0-SNAPSHOT,true",
        "4.23,true",
        "4.23-a,true",
        " 4.24.1.0 ,true",
        "5.0.0.0,true",
        "3.99.0,false",
        // CloudStack writes the time for an agent that tells no version.
        "1795910400000,false",
        "4,false",
        "4.23x,false",
        "v4.23.0,false",
        "4.9999999999,false",
        "99999999999.23,false",
        "'',false",
        ",false",
    })
    void a_host_is_right_since_the_version_whose_restore_is(String version, boolean right) {
        assertThat(IncrementalRestore.right(version)).isEqualTo(right);
    }

    @Test
    void what_is_wrong_names_a_host_and_counts_the_others() {
        Map<String, String> hosts = new HashMap<>();
        assertThat(IncrementalRestore.obstacle(hosts)).isNull();
        hosts.put("c", null);
        assertThat(IncrementalRestore.obstacle(hosts))
                .isEqualTo("host c tells no version of CloudStack; hosts restore incremental backups since 4.23,"
                        + " earlier ones with nasbackup's wrapper");
        hosts.put("a", "4.22.1.0");
        assertThat(IncrementalRestore.obstacle(hosts))
                .isEqualTo("host a has CloudStack 4.22.1.0, and 1 more like it;"
                        + " hosts restore incremental backups since 4.23,"
                        + " earlier ones with nasbackup's wrapper");
    }
}
