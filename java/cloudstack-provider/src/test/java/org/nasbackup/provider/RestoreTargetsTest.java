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

import java.util.List;
import java.util.function.Function;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RestoreTargetsTest {
    @ParameterizedTest
    @CsvSource({
        "r a b,r a b,r a b",
        "r a b,r b a,r a b",
        "r a b,r2 b a,r2 a b",
        "r a b,r b c,r c b",
        "r a b,x y z,x y z",
        "r a,y r,r y",
        "r,r,r",
    })
    void volumes_are_known_by_what_they_are_before_where_they_are(String backedUp, String volumes, String targets) {
        assertThat(RestoreTargets.of(List.of(backedUp.split(" ")), List.of(volumes.split(" ")), Function.identity()))
                .containsExactly(targets.split(" "));
    }
}
