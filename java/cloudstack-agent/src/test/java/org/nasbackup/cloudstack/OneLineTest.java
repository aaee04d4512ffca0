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

import java.io.PrintWriter;
import java.io.StringWriter;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Texts of others, where they could forge a line or drive a terminal. */
class OneLineTest {
    @Test
    void lines_become_one_and_nothing_of_them_acts() {
        assertThat(OneLine.of("the NAS is full\r\n  2031-01-02 ERROR forged\n\n\u001b[2J\u001b]0;title\u0007"))
                .isEqualTo("the NAS is full; 2031-01-02 ERROR forged; \\u{1b}[2J\\u{1b}]0;title\\u{7}");
        assertThat(OneLine.of("a\u0085b\u2028c\u2029d\u000be\ff")).isEqualTo("a; b; c; d; e; f");
        assertThat(OneLine.of("\u009b31m\u007f\u0000\t\u0008.")).isEqualTo("\\u{9b}31m\\u{7f}\\u{0}\\u{9}\\u{8}.");
        assertThat(OneLine.of("T1\u202egpj\u2066\u200f\ufeff\u200b\udb40\udc41\ud800"))
                .isEqualTo("T1\\u{202e}gpj\\u{2066}\\u{200f}\\u{feff}\\u{200b}\\u{e0041}\\u{d800}");
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "disk 'vda': \\n $1 'ä ö' 漢字 💾 \"<&>\" C:\\x", "i-2-9-VM/2031.01.02.03.04.05"})
    void what_shows_stays_as_it_is(String text) {
        assertThat(OneLine.of(text)).isEqualTo(text);
    }

    @Test
    void what_is_plain_stays_so_and_what_is_not_there_too() {
        String plain = OneLine.of("\u001b[2J\n\u202e$0");
        assertThat(OneLine.of(plain)).isEqualTo(plain);
        assertThat(OneLine.of((String) null)).isNull();
    }

    @Test
    void a_text_without_end_is_cut() {
        for (String each : new String[] {" ", "\n", "x", "\u001b"}) {
            assertThat(OneLine.of(each.repeat(4 << 20))).hasSizeLessThanOrEqualTo(8 * OneLine.LONGEST);
        }
    }

    @Test
    void a_failure_with_its_causes_has_a_line_for_each_place_in_the_code_and_no_other() {
        Throwable cause = new IllegalStateException("no\nERROR forged\u001b[2J");
        Throwable failure = new RuntimeException("x\r\n\tat forged.Place(Forged.java:1)", cause);
        StringWriter printed = new StringWriter();
        OneLine.of(failure).printStackTrace(new PrintWriter(printed, true));
        assertThat(printed.toString()).doesNotContain("\u001b").doesNotContain("\n\tat forged");
        assertThat(printed.toString().lines())
                .noneMatch(line -> line.startsWith("ERROR"))
                .anyMatch(line -> line.contains("IllegalStateException: no; ERROR forged\\u{1b}[2J"))
                .anyMatch(line -> line.contains("OneLineTest.java"));
    }
}
