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
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class SimulatedNightTest {
    private static final int HOSTS = 4;

    /** Of 10 bytes each. */
    private static List<SimulatedNight.Guest> guests(int count) {
        return IntStream.range(0, count)
                .mapToObj(i -> new SimulatedNight.Guest(i % HOSTS, 10))
                .collect(Collectors.toList());
    }

    private static SimulatedNight night(int slots, int threads, double nas) {
        SimulatedNight.Lab lab =
                new SimulatedNight.Lab().slots(slots, threads).backup(1, 10).bandwidth(20, nas);
        return new SimulatedNight(lab, HOSTS, guests(40));
    }

    @Test
    void one_slot_of_each_host_takes_one_backup_after_the_other() {
        SimulatedNight night = night(1, 100, 1000);
        assertThat(night.run()).isCloseTo(20, within(1e-6));
        assertThat(night.mostOfHost).isEqualTo(1);
        assertThat(night.most).isEqualTo(HOSTS);
        assertThat(night.longestWait).isCloseTo(18, within(1e-6));
        assertThat(night.worked()).isCloseTo(80, within(1e-6));
    }

    @Test
    void more_slots_help_until_the_bandwidth_of_a_host_is_full() {
        assertThat(night(2, 100, 1000).run()).isCloseTo(10, within(1e-6));
        assertThat(night(100, 100, 1000).run()).isCloseTo(1 + 100 / 20.0, within(1e-6));
    }

    @Test
    void a_nas_that_is_full_makes_backups_longer_and_no_night_shorter() {
        SimulatedNight two = night(2, 100, 10);
        SimulatedNight four = night(4, 100, 10);
        // in rounds, whose fixed parts nothing fills here
        assertThat(two.run()).isCloseTo(5 + 40, within(1e-6));
        assertThat(four.run()).isCloseTo(3 + 40, within(1e-6));
        assertThat(four.longestBackup).isGreaterThan(1.8 * two.longestBackup);
        assertThat(four.mostOfHost).isEqualTo(4);
    }

    @Test
    void no_more_are_under_way_than_servers_have_threads() {
        SimulatedNight night = night(4, 3, 1000);
        night.run();
        assertThat(night.most).isEqualTo(3);
    }
}
