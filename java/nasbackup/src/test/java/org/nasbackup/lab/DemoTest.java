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

/** The demo says what it saw. */
@Tag("lab")
class DemoTest {
    private static long lines(String output, String pattern) {
        return output.lines().filter(line -> line.matches(pattern)).count();
    }

    @Test
    void it_shows_every_point_and_that_all_are_identical() throws Exception {
        String output = new ChildJvm(Demo.class).run();
        assertThat(output).doesNotContain("WARNING").endsWith("\nrestore points identical: 4 of 4\n");
        assertThat(lines(output, "\\d .*  identical")).isEqualTo(7);
        assertThat(lines(output, "deletion of point 1 refused: HAS_CHILDREN: .*"))
                .isOne();
        assertThat(lines(output, "point 3 put onto point 1 in .*")).isOne();
        assertThat(lines(output, "point 2 deleted: [1-9][\\d,]* bytes freed")).isOne();
        assertThat(
                        lines(
                                output,
                                "full point 6 and the 1 incremental on it deleted \\(forced\\): 7, then 6: [1-9][\\d,]* bytes freed"))
                .isOne();
        assertThat(lines(output, "point [1345] read back again: identical")).isEqualTo(4);
    }

    @Test
    void it_fails_when_a_point_has_changed() throws Exception {
        String output = new ChildJvm(Demo.class).status(1).run("spoil");
        // The points on top of the first see its change too, those on the next full do not.
        assertThat(lines(output, "\\d .*  not identical")).isEqualTo(5);
        assertThat(lines(output, "point [1345] read back again: not identical")).isEqualTo(4);
        assertThat(output).endsWith("\nrestore points identical: 0 of 4\n");
    }
}
