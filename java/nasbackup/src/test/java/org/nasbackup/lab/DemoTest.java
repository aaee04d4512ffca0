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

import org.junit.jupiter.api.Test;
import org.nasbackup.ChildJvm;

/** The demo says what it saw. */
class DemoTest {
    @Test
    void it_shows_every_point_and_that_all_are_identical() throws Exception {
        String output = new ChildJvm(Demo.class).run();
        assertThat(output).doesNotContain("WARNING").endsWith("\nrestore points identical: 7 of 7\n");
        assertThat(output.lines().filter(line -> line.endsWith("  identical"))).hasSize(7);
    }

    @Test
    void it_fails_when_a_point_has_changed() throws Exception {
        String output = new ChildJvm(Demo.class).status(1).run("spoil");
        // The points on top of the first see its change too, those on the next full do not.
        assertThat(output.lines().filter(line -> line.endsWith("  not identical")))
                .hasSize(4);
        assertThat(output).endsWith("\nrestore points identical: 3 of 7\n");
    }
}
