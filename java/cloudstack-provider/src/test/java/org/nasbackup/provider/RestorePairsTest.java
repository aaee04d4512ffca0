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

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.BiFunction;
import java.util.stream.Collectors;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.nasbackup.provider.RestorePairs.Disk;

/** A volume: its uuid, which begins with r where it is a root, {@code @} its device number, {@code #} its size. */
class RestorePairsTest {
    private static final BiFunction<List<Disk>, List<Disk>, RestorePairs> SAME = RestorePairs::ofSameMachine;
    private static final BiFunction<List<Disk>, List<Disk>, RestorePairs> OTHER = RestorePairs::ofOtherMachine;

    @ParameterizedTest
    @CsvSource({
        "r@0 a@1 b@2, r@0 a@1 b@2, r>r a>a b>b, as it was",
        "r@0 a@1 b@2, r@0 b@2 a@3, r>r a>a b>b, renumbered by a restore",
        "r@0 a@1 b@2, r@0 b@1 a@2, r>r a>a b>b, renumbered by two restores",
        "r@0 a@1 b@2 c@3, r@0 b@2 c@4 a@5, r>r a>a b>b c>c, CS#13922: a data disk that was numbered behind the others",
        "r@0 a@1 b@2, b@1 a@2 r@0, r>r a>a b>b, in whatever order they are listed",
        "a@1 r@0, r@0 a@1, r>r a>a, the root first in whatever order it was recorded",
        "r@0 a@1 b@2, r2@0 b@1 a@2, r>r2 a>a b>b, reinstalled",
        "r@0, r2@0, r>r2, reinstalled and nothing else",
        "r@0 a@1, r@0 a@1 new@2, r>r a>a | new, one was added",
        "r@0 a@1, r@0 new@1 a@2, r>r a>a | new, one was added in its place",
        "r@0 a@1, r@0 r2@1 a@2, r>r a>a | r2, another machine's root was attached",
        "r@0#8 a@1#8, r@0#8 a@1#16, r>r a>a, one was made larger",
        "r@0 a b, r@0 b@1 a@2, r>r a>a b>b, the record knows no numbers",
        "r@0 a@1 b@2, r@0 b@2, r>r b>b ! a, one was removed",
        "r@0 a@1 b@2, r@0, r>r ! a b, all data volumes were removed",
        "r@0 a@1, r@0 c@1, r>r | c ! a, another one has the place of one that was removed",
        "r@0 a@1 b@2, r@0 c@1 b@2, r>r b>b | c ! a, another one has its place and its number",
        "r@0 a@1#8, r@0 c@1#8, r>r | c ! a, another one has its place, its number and its size",
        "r@0 a@1 b@2, r2@0 b@1 c@2, r>r2 b>b | c ! a, reinstalled, one removed and one added",
        "r@0 a@1#9, r@0 c@1#8, r>r | c ! a, a smaller one has its place",
    })
    void of_the_same_machine_volumes_are_known_by_their_uuids(String recorded, String present, String paired) {
        assertThat(text(SAME, recorded, present)).isEqualTo(paired);
    }

    @ParameterizedTest
    @CsvSource({
        "r@0 a@1, a@1 c@0, 'it holds volume r, which the machine no longer has'",
        "r@0 a@1, a@1, 'it holds volume r, which the machine no longer has'",
        "r@0 a@1, r2@0 r3@2 a@1, 'it holds volume r, which the machine no longer has'",
        "r@0 a@1 b@2, a@1, 'it holds volumes r, b, which the machine no longer has'",
        "a@1, b@1, 'it holds volume a, which the machine no longer has'",
        "r@0 a@1#9, r@0 a@1#8, 'volume a of the machine has 8 bytes, and volume a of the backup, which it is to get, 9'",
        "r@0 a@1 a@2, r@0 a@1, 'its record names volume a twice'",
    })
    void of_the_same_machine_nothing_is_restored_without_its_root_or_onto_less_room(
            String recorded, String present, String refused) {
        refuses(SAME, recorded, present, refused);
    }

    @ParameterizedTest
    @CsvSource({
        "r@0 a@1 b@2, rn@0 x@1 y@2, r>rn a>x b>y, as it was made",
        "r@0 a@1 b@2, rn@0 y@2 x@1, r>rn a>x b>y, in whatever order they are listed",
        "r@0 a@2 b@5, rn@0 x@2 y@5, r>rn a>x b>y, with gaps",
        "r@0 a@1, rn@0 x@1 more@2, r>rn a>x | more, one was added",
        "r@0 a@2, rn@0 x@1, r>rn a>x, one alone whatever its number",
        "r@0 a, rn@0 x@1, r>rn a>x, one alone of a record that knows no numbers",
        "r@0#8, rn@0#16, r>rn, with a larger root",
        "r@0, rn@0, r>rn, with a root alone",
    })
    void of_another_machine_volumes_are_known_by_the_recorded_numbers(String recorded, String present, String paired) {
        assertThat(text(OTHER, recorded, present)).isEqualTo(paired);
    }

    /** By their order, the two of the first case would each get the other's; nobody can tell. */
    @ParameterizedTest
    @CsvSource({
        "r@0 a@2 b@4, rn@0 x@1 y@2, 'which volume of the machine is to get volumes a, b of device numbers 2, 4'",
        "r@0 a@1 b@2, rn@0 x@1 y@3, 'those of the machine that are left have device numbers 1, 3'",
        "r@0 a b, rn@0 x@1 y@2, 'to get volumes a, b of device numbers not told, not told'",
        "r@0 a@1 b@1, rn@0 x@1 y@2, 'which volume of the machine is to get volumes a, b'",
        "r@0 a@1 b@2, rn@0 x@1, 'which volume of the machine is to get volumes a, b'",
        "r@0 a@1, x@0 y@1, 'which volume of the machine is to get volume r of device numbers 0'",
        "r@0 a@1, rn@0, 'to get volume a of device numbers 1: those of the machine that are left have no device numbers'",
        "r@0 a@1#9, rn@0 x@1#8, 'volume x of the machine has 8 bytes, and volume a of the backup, which it is to get, 9'",
    })
    void of_another_machine_what_the_numbers_do_not_tell_is_refused(String recorded, String present, String refused) {
        refuses(OTHER, recorded, present, refused);
    }

    private static void refuses(
            BiFunction<List<Disk>, List<Disk>, RestorePairs> rule, String recorded, String present, String refused) {
        assertThatThrownBy(() -> rule.apply(disks(recorded), disks(present)))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining(refused);
    }

    private static String text(BiFunction<List<Disk>, List<Disk>, RestorePairs> rule, String recorded, String present) {
        RestorePairs pairs = rule.apply(disks(recorded), disks(present));
        List<String> words = pairs.pairs().stream()
                .map(pair -> pair.from().uuid() + ">" + pair.to().uuid())
                .collect(Collectors.toCollection(ArrayList::new));
        if (!pairs.leftAlone().isEmpty()) {
            words.add("|");
            words.addAll(pairs.leftAlone());
        }
        if (!pairs.leftOut().isEmpty()) {
            words.add("!");
            words.addAll(pairs.leftOut());
        }
        return String.join(" ", words);
    }

    private static List<Disk> disks(String text) {
        return Arrays.stream(text.split(" ")).map(RestorePairsTest::disk).collect(Collectors.toList());
    }

    private static Disk disk(String text) {
        String[] sized = text.split("#");
        String[] numbered = sized[0].split("@");
        return new Disk(
                numbered[0],
                text.startsWith("r"),
                numbered.length > 1 ? Long.valueOf(numbered[1]) : null,
                sized.length > 1 ? Long.valueOf(sized[1]) : null);
    }
}
