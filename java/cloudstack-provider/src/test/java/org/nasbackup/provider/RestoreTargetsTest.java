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
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import java.util.function.BiPredicate;
import java.util.function.Function;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RestoreTargetsTest {
    @ParameterizedTest
    @CsvSource({
        "r a b,r a b,r a b",
        "r a b,r b a,r a b",
        "r a b,r2 b a,r2 a b",
        "r a b,x y z,x y z",
        "r a,y r,r y",
        "r,r,r",
    })
    void of_a_machine_made_from_it_volumes_are_known_by_what_they_are_before_where_they_are(
            String backedUp, String volumes, String targets) {
        assertThat(of(backedUp, volumes, (from, to) -> true)).containsExactly(targets.split(" "));
    }

    /** The root disk is another one after a reinstallation. */
    @ParameterizedTest
    @CsvSource({
        "r a b,r a b,r a b",
        "r a b,r b a,r a b",
        "r a b,r2 b a,r2 a b",
        "r a b,a b r2,r2 a b",
        "r,r2,r2",
    })
    void of_the_machine_itself_the_root_disk_alone_can_be_another_one(String backedUp, String volumes, String targets) {
        assertThat(of(backedUp, volumes, RestoreTargetsTest::roots)).containsExactly(targets.split(" "));
    }

    @ParameterizedTest
    @CsvSource({
        "r a,r c,a,c",
        "r a b,r b c,a,c",
        "r a b,r2 b c,a,c",
        "r a,c r,a,c",
        "r a b,r2 r a,b,r2",
        "r a,a c,r,c",
    })
    void an_image_goes_onto_no_volume_that_the_backup_never_held(
            String backedUp, String volumes, String missing, String overwritten) {
        assertThatThrownBy(() -> of(backedUp, volumes, RestoreTargetsTest::roots))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining("it holds volume " + missing + ",")
                .hasMessageContaining("does not hold volume " + overwritten + ",");
    }

    private static boolean roots(String from, String to) {
        return from.startsWith("r") && to.startsWith("r");
    }

    private static List<String> of(String backedUp, String volumes, BiPredicate<String, String> replaces) {
        return RestoreTargets.of(
                List.of(backedUp.split(" ")), List.of(volumes.split(" ")), Function.identity(), replaces);
    }
}
