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

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.ChildJvm;

/** 64 threads call everything at random, under {@code -Xcheck:jni}. */
@Tag("lab")
class ManyThreadsTest {
    @Test
    void nothing_is_warned_of_and_nothing_left() throws Exception {
        String output = new ChildJvm(ManyThreadsMain.class).run();
        assertThat(output.lines().filter(line -> line.startsWith("> ")))
                .as(output)
                .containsExactly("> jobs 0", "> points true, failures true");
        assertThat(output).doesNotContain("WARNING").doesNotContain("at org.nasbackup.Native");
    }
}
