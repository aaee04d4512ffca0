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
import java.util.Map;
import org.junit.jupiter.api.Test;

/** Plans for records that are not as this version writes them. */
class ChainRepairTest {
    private static Point point(int id, String parent, Integer position) {
        return Point.builder(id, "u" + id, "vm/T" + id)
                .created(id)
                .chain("c")
                .parent(parent)
                .position(position)
                .build();
    }

    private static List<Step> plan(Point target, boolean forced, Point... points) {
        return ChainRepair.computeChainRepair(List.of(points), target, forced);
    }

    @Test
    void a_backup_without_a_chain_goes_alone() {
        Point target = Point.builder(1, "u1", "vm/T1").build();
        assertThat(plan(target, false, target, point(2, null, 0))).hasToString("[delete vm/T1]");
    }

    @Test
    void chains_of_other_backups_of_the_machine_are_left_alone() {
        Point other = Point.builder(5, "u5", "vm/T5")
                .chain("other")
                .parent("u1")
                .position(1)
                .build();
        Point full = point(1, null, 0);
        assertThat(plan(full, false, full, other)).hasToString("[delete vm/T1]");
    }

    @Test
    void a_middle_one_lets_its_child_absorb_it_and_moves_all_above() {
        Point target = point(2, "u1", 1);
        List<Step> steps =
                plan(target, false, point(1, null, 0), target, point(3, "u2", 2), point(4, "u3", 3), point(5, "u4", 4));
        assertThat(steps).hasToString("[rebase vm/T3 onto vm/T1, delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(3L, 1, 4L, 2, 5L, 3));
        assertThat(steps.get(1).positions()).isEmpty();
    }

    @Test
    void after_a_restore_both_children_are_put_onto_the_parent() {
        Point target = point(2, "u1", 1);
        List<Step> steps = plan(target, true, point(1, null, 0), target, point(3, "u2", 2), point(4, "u2", 2));
        assertThat(steps).hasToString("[rebase vm/T3 onto vm/T1, rebase vm/T4 onto vm/T1, delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(3L, 1));
        assertThat(steps.get(1).positions()).isEqualTo(Map.of(4L, 1));
    }

    @Test
    void a_sibling_is_no_descendant() {
        Point target = point(3, "u1", 1);
        assertThat(plan(target, false, point(1, null, 0), point(2, "u1", 1), target, point(4, "u2", 2)))
                .hasToString("[delete vm/T3]");
    }

    @Test
    void what_an_earlier_version_left_half_done_is_finished() {
        // Its rebase was done and recorded, its delete failed: child and target share a position, the rest lags.
        Point target = point(2, "u1", 1);
        List<Step> steps =
                plan(target, false, point(1, null, 0), target, point(3, "u1", 1), point(4, "u3", 3), point(5, "u4", 4));
        assertThat(steps).hasToString("[delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(4L, 2, 5L, 3));
    }

    @Test
    void where_parents_are_not_recorded_positions_tell_them() {
        Point target = point(2, null, 1);
        List<Step> steps = plan(target, false, point(1, null, 0), target, point(3, null, 2), point(4, null, 3));
        assertThat(steps).hasToString("[rebase vm/T3 onto vm/T1, delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(3L, 1, 4L, 2));
    }

    @Test
    void a_newer_backup_of_unknown_parent_holds_up_older_ones_until_it_is_gone() {
        Point target = point(2, "u1", 1);
        Point unknown = point(3, null, null);
        assertThatThrownBy(() -> plan(target, true, point(1, null, 0), target, unknown))
                .isInstanceOf(RepairRefused.class)
                .hasMessage("backup u3 may stand on backup u2: its parent is not recorded; delete that one first");
        assertThat(plan(unknown, false, point(1, null, 0), target, unknown)).hasToString("[delete vm/T3]");
        Point full = point(1, null, 0);
        assertThatThrownBy(() -> plan(full, false, full, target, unknown))
                .hasMessageContaining("2 incremental backups");
        assertThat(plan(full, true, full, target, unknown)).hasToString("[delete vm/T3, delete vm/T2, delete vm/T1]");
    }

    @Test
    void a_middle_one_whose_parent_s_record_is_gone_is_refused_but_the_tail_can_go() {
        Point target = point(2, "gone", 1);
        Point tail = point(3, "u2", 2);
        assertThatThrownBy(() -> plan(target, false, target, tail))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining("backup u3 stands on backup u2, whose own parent gone is not in the catalogue");
        assertThat(plan(tail, false, target, tail)).hasToString("[delete vm/T3]");
        assertThat(plan(target, false, target)).hasToString("[delete vm/T2]");
    }

    @Test
    void a_circle_is_refused() {
        Point full = point(1, null, 0);
        assertThatThrownBy(() -> plan(full, true, full, point(2, "u3", 1), point(3, "u2", 2)))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining("circle");
    }

    @Test
    void another_full_of_the_chain_and_what_stands_on_it_are_not_taken_along() {
        Point full = point(1, null, 0);
        assertThat(plan(full, true, full, point(2, "u1", 1), point(3, null, 0), point(4, "u3", 1)))
                .hasToString("[delete vm/T2, delete vm/T1]");
    }
}
