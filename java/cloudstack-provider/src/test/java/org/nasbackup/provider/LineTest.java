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

import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Who may begin, and who is dead. */
class LineTest {
    /** "3w" waits with number 3, "3u" urgently, "3a" stands aside, "1h" holds with number 1; its id is that text. */
    private static Ticket ticket(String text) {
        long number = Long.parseLong(text.substring(0, text.length() - 1));
        Ticket ticket = Ticket.waiting(text, number, text.endsWith("u"), "back up " + text);
        return text.endsWith("h") ? ticket.holding() : text.endsWith("a") ? ticket.aside() : ticket;
    }

    private static Line line(String texts) {
        return new Line(tickets(texts));
    }

    private static List<Ticket> tickets(String texts) {
        return Arrays.stream(texts.split(" "))
                .filter(text -> !text.isEmpty())
                .map(LineTest::ticket)
                .collect(Collectors.toList());
    }

    @ParameterizedTest
    @CsvSource({
        "'',1w,1,true",
        "1w,1w,1,true",
        "1h,2w,1,false",
        "1h,2w,2,true",
        // first come, first served: who came later gets what is left when each before it has got its own
        "2w 3w,3w,1,false",
        "2w 3w,2w,1,true",
        "2w 3w,3w,2,true",
        "1h 2w 3w,2w,2,true",
        "1h 2w 3w,3w,2,false",
        "1h 2w 3w,3w,3,true",
        // who came earlier and is late waits for those only that hold a slot
        "5h 6h,2w,2,false",
        "5h 6h 7w,2w,3,true",
        // two of one number, from a server that was taken for dead: one of them
        "2w 02w,02w,1,true",
        "2w 02w,2w,1,false",
        // fewer slots than before
        "1h 2h 3h,4w,2,false",
        "3h,4w,2,true",
        // who holds a slot may keep it
        "1h 2h,2h,1,true",
        // what is urgent goes before all that wait, in its own order, and takes no slot away
        "1w 2w 3u,3u,1,true",
        "1w 2w 3u,1w,1,false",
        "1w 2w 3u,1w,2,true",
        "3u 4u,4u,1,false",
        "3u 4u,3u,1,true",
        "1h 3u,3u,1,false",
        // who stands aside keeps nobody from a slot, and has its place when it waits again
        "1a 2w,2w,1,true",
        "1h 2a 3a 4w,4w,2,true",
        "2w 3w,3w,1,false"
    })
    void each_that_asked_earlier_goes_first(String line, String ticket, int slots, boolean mayBegin) {
        assertThat(line(line).with(ticket(ticket)).mayBegin(ticket(ticket), slots))
                .isEqualTo(mayBegin);
    }

    /** Whatever the line is: no more than there are slots, and none before its turn. */
    @Test
    void all_lines_of_six_begin_in_order_and_never_too_many() {
        for (int holders = 0; holders < 1 << 6; holders++) {
            StringBuilder text = new StringBuilder();
            for (int i = 0; i < 6; i++) {
                text.append(i + 1).append((holders >> i & 1) == 1 ? "h " : "w ");
            }
            List<Ticket> waiting = tickets(text.toString()).stream()
                    .filter(ticket -> !ticket.holds())
                    .collect(Collectors.toList());
            Line line = line(text.toString());
            for (int slots = 1; slots <= 4; slots++) {
                int free = Math.max(slots - Integer.bitCount(holders), 0);
                for (int i = 0; i < waiting.size(); i++) {
                    assertThat(line.mayBegin(waiting.get(i), slots))
                            .as("%s of %s, %s slots", waiting.get(i), text, slots)
                            .isEqualTo(i < free);
                }
            }
        }
    }

    @Test
    void the_next_number_is_behind_all() {
        assertThat(line("").next()).isEqualTo(1);
        assertThat(line("7h 3w").next()).isEqualTo(8);
    }

    @Test
    void the_reason_counts_and_the_holders_are_named_apart() {
        assertThat(line("1h 2h 3w 4w 5w").reason(ticket("5w"), 2))
                .isEqualTo("2 of 2 slots of its host are taken, 2 wait before it");
        assertThat(line("5w").reason(ticket("5w"), 2))
                .isEqualTo("0 of 2 slots of its host are taken, 0 wait before it");
        assertThat(line("1h 2h 3w").holders()).isEqualTo("back up 1h, back up 2h");
    }

    @Test
    void a_ticket_is_read_as_it_was_written() {
        Ticket ticket =
                Ticket.waiting("a", 7, false, "back up i-2-10-VM").beaten().holding();
        assertThat(ticket.text()).isEqualTo("7 holds 2 back up i-2-10-VM");
        assertThat(Ticket.read("a", ticket.text())).hasToString(ticket.toString());
        Ticket urgent = Ticket.waiting("b", 8, true, "urgent holds 1 x").aside();
        assertThat(urgent.text()).isEqualTo("8 urgent aside 1 urgent holds 1 x");
        assertThat(Ticket.read("b", urgent.text())).hasToString(urgent.toString());
        assertThat(Ticket.read("b", urgent.text()).urgent()).isTrue();
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "7", "7 holds x y", "-7 holds 2 y", "7 held 2 y", "99999999999999999999 holds 2 y"})
    void what_is_no_ticket_is_none(String text) {
        assertThat(Ticket.read("a", text)).isNull();
    }

    /** Each row: what is seen at which second, as id:beats; and who is dead then, with a lease of 100 seconds. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                // as long as it beats, however slowly, it lives
                "0 a:1, 25 a:1, 50 a:1, 75 a:1, 99 a:1, 100 a:2, 125 a:2, 150 a:2, 175 a:2, 199 a:2 |",
                "0 a:1, 25 a:1, 50 a:1, 75 a:1, 99 a:1, 100 a:1 | a",
                // seen late: its time begins then
                "500 a:1, 525 a:1, 550 a:1, 575 a:1, 599 a:1 |",
                "500 a:1, 525 a:1, 550 a:1, 575 a:1, 599 a:1, 600 a:1 | a",
                "0 b:1, 25 a:1 b:2, 50 a:1 b:3, 75 a:1 b:4, 100 a:1 b:5, 125 a:1 b:6 | a",
                // whoever was away and is there again has its time again
                "0 a:1, 25 a:1, 50 a:1, 75 a:1, 80, 100 a:1, 125 a:1 |",
                // nobody looked for long, for whatever reason: that is nobody's death
                "0 a:1, 9000 a:90 |",
                "0 a:1, 9000 a:1 |",
                "0 a:1, 9000 a:1, 9025 a:1, 9050 a:1, 9074 a:1 |",
                "0 a:1, 9000 a:1, 9025 a:1, 9050 a:1, 9075 a:1 | a",
                // the clock may begin anywhere
                "-50 a:1, -25 a:1, 0 a:1, 25 a:1, 49 a:1 |",
                "-50 a:1, -25 a:1, 0 a:1, 25 a:1, 49 a:1, 50 a:1 | a"
            })
    void dead_is_whose_beats_stand_still_for_a_lease(String seen, String dead) {
        Heartbeats heartbeats = new Heartbeats(100);
        List<Ticket> found = List.of();
        for (String look : seen.split(", ")) {
            String[] words = look.trim().split(" ");
            List<Ticket> tickets = Arrays.stream(words)
                    .skip(1)
                    .map(word -> Ticket.read(word.split(":")[0], "1 holds " + word.split(":")[1] + " work"))
                    .collect(Collectors.toList());
            found = heartbeats.dead(tickets, Long.parseLong(words[0]));
        }
        assertThat(found).extracting(Ticket::id).isEqualTo(dead == null ? List.of() : List.of(dead.trim()));
    }
}
