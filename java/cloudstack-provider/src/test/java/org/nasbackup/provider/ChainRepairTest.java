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
import static org.nasbackup.provider.ChainRepair.Others.DELETED;
import static org.nasbackup.provider.ChainRepair.Others.MERGED;
import static org.nasbackup.provider.ChainRepair.Others.REFUSED;

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

    private static List<Step> plan(Point target, ChainRepair.Others others, Point... points) {
        return ChainRepair.computeChainRepair(List.of(points), target, others);
    }

    @Test
    void a_backup_without_a_chain_goes_alone() {
        Point target = Point.builder(1, "u1", "vm/T1").build();
        assertThat(plan(target, REFUSED, target, point(2, null, 0))).hasToString("[delete vm/T1]");
    }

    @Test
    void chains_of_other_backups_of_the_machine_are_left_alone() {
        Point other = Point.builder(5, "u5", "vm/T5")
                .chain("other")
                .parent("u1")
                .position(1)
                .build();
        Point full = point(1, null, 0);
        assertThat(plan(full, REFUSED, full, other)).hasToString("[delete vm/T1]");
    }

    @Test
    void a_middle_one_lets_its_child_absorb_it_and_moves_all_above() {
        Point target = point(2, "u1", 1);
        List<Step> steps = plan(
                target, REFUSED, point(1, null, 0), target, point(3, "u2", 2), point(4, "u3", 3), point(5, "u4", 4));
        assertThat(steps).hasToString("[rebase vm/T3 onto vm/T1, delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(3L, 1, 4L, 2, 5L, 3));
        assertThat(steps.get(1).positions()).isEmpty();
    }

    @Test
    void after_a_restore_both_children_are_put_onto_the_parent() {
        Point target = point(2, "u1", 1);
        List<Step> steps = plan(target, DELETED, point(1, null, 0), target, point(3, "u2", 2), point(4, "u2", 2));
        assertThat(steps).hasToString("[rebase vm/T3 onto vm/T1, rebase vm/T4 onto vm/T1, delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(3L, 1));
        assertThat(steps.get(1).positions()).isEqualTo(Map.of(4L, 1));
    }

    @Test
    void a_sibling_is_no_descendant() {
        Point target = point(3, "u1", 1);
        assertThat(plan(target, REFUSED, point(1, null, 0), point(2, "u1", 1), target, point(4, "u2", 2)))
                .hasToString("[delete vm/T3]");
    }

    @Test
    void what_an_earlier_version_left_half_done_is_finished() {
        // Its rebase was done and recorded, its delete failed: child and target share a position, the rest lags.
        Point target = point(2, "u1", 1);
        List<Step> steps = plan(
                target, REFUSED, point(1, null, 0), target, point(3, "u1", 1), point(4, "u3", 3), point(5, "u4", 4));
        assertThat(steps).hasToString("[delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(4L, 2, 5L, 3));
    }

    @Test
    void where_parents_are_not_recorded_positions_tell_them() {
        Point target = point(2, null, 1);
        List<Step> steps = plan(target, REFUSED, point(1, null, 0), target, point(3, null, 2), point(4, null, 3));
        assertThat(steps).hasToString("[rebase vm/T3 onto vm/T1, delete vm/T2]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(3L, 1, 4L, 2));
    }

    @Test
    void a_newer_backup_of_unknown_parent_holds_up_older_ones_until_it_is_gone() {
        Point target = point(2, "u1", 1);
        Point unknown = point(3, null, null);
        assertThatThrownBy(() -> plan(target, DELETED, point(1, null, 0), target, unknown))
                .isInstanceOf(RepairRefused.class)
                .hasMessage("backup u3 may stand on backup u2: its parent is not recorded; delete that one first");
        assertThat(plan(unknown, REFUSED, point(1, null, 0), target, unknown)).hasToString("[delete vm/T3]");
        Point full = point(1, null, 0);
        assertThatThrownBy(() -> plan(full, REFUSED, full, target, unknown))
                .hasMessageContaining("2 incremental backups");
        assertThat(plan(full, DELETED, full, target, unknown))
                .hasToString("[delete vm/T3, delete vm/T2, delete vm/T1]");
    }

    @Test
    void a_middle_one_whose_parent_s_record_is_gone_is_refused_but_the_tail_can_go() {
        Point target = point(2, "gone", 1);
        Point tail = point(3, "u2", 2);
        assertThatThrownBy(() -> plan(target, REFUSED, target, tail))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining("backup u3 stands on backup u2, whose own parent gone is not in the catalogue");
        assertThat(plan(tail, REFUSED, target, tail)).hasToString("[delete vm/T3]");
        assertThat(plan(target, REFUSED, target)).hasToString("[delete vm/T2]");
    }

    @Test
    void a_circle_is_refused() {
        Point full = point(1, null, 0);
        assertThatThrownBy(() -> plan(full, DELETED, full, point(2, "u3", 1), point(3, "u2", 2)))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining("circle");
    }

    @Test
    void another_full_of_the_chain_and_what_stands_on_it_are_not_taken_along() {
        Point full = point(1, null, 0);
        assertThat(plan(full, DELETED, full, point(2, "u1", 1), point(3, null, 0), point(4, "u3", 1)))
                .hasToString("[delete vm/T2, delete vm/T1]");
    }

    @Test
    void a_full_one_that_merges_lets_its_child_begin_a_chain_with_all_above() {
        Point target = point(1, null, 0);
        List<Step> steps = plan(target, MERGED, target, point(2, "u1", 1), point(3, "u2", 2), point(4, "u3", 3));
        assertThat(steps).hasToString("[make vm/T2 a full backup, delete vm/T1]");
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(2L, 0, 3L, 1, 4L, 2));
        assertThat(steps.get(0).chains()).isEqualTo(Map.of(2L, "u2", 3L, "u2", 4L, "u2"));
        assertThat(steps.get(1).positions()).isEmpty();
    }

    @Test
    void of_several_children_the_one_that_takes_over_the_least_merges_first() {
        Point target = point(1, null, 0);
        List<Step> steps =
                plan(target, MERGED, target, point(2, "u1", 1), sized(3, 30), sized(4, 40), point(5, "u2", 2));
        assertThat(steps)
                .hasToString(
                        "[make vm/T4 a full backup, make vm/T3 a full backup, make vm/T2 a full backup, delete vm/T1]");
        assertThat(steps.get(0).chains()).isEqualTo(Map.of(4L, "u4"));
        assertThat(steps.get(2).chains()).isEqualTo(Map.of(2L, "u2", 5L, "u2"));
    }

    private static Point sized(int id, long size) {
        return Point.builder(id, "u" + id, "vm/T" + id)
                .created(id)
                .chain("c")
                .parent("u1")
                .position(1)
                .size(size)
                .build();
    }

    @Test
    void where_parents_are_not_recorded_a_merged_full_leaves_them_told_by_positions() {
        Point target = point(1, null, 0);
        List<Step> steps = plan(target, MERGED, target, point(2, null, 1), point(3, null, 2));
        assertThat(steps).hasToString("[make vm/T2 a full backup, delete vm/T1]");
        assertThat(steps.get(0).chains()).isEqualTo(Map.of(2L, "u2", 3L, "u2"));
        assertThat(steps.get(0).positions()).isEqualTo(Map.of(2L, 0, 3L, 1));
    }

    @Test
    void a_full_one_does_not_merge_below_a_backup_of_unknown_parent() {
        Point target = point(1, null, 0);
        assertThatThrownBy(() -> plan(target, MERGED, target, point(2, "u1", 1), point(3, null, null)))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining("backup u3 may stand on backup u1");
    }

    private static Point begun(int id, String parent, int position, String... goals) {
        return Point.builder(id, "u" + id, "vm/T" + id)
                .created(id)
                .chain("c")
                .parent(parent)
                .position(position)
                .goals(List.of(goals))
                .build();
    }

    @Test
    void a_rebase_that_was_begun_may_be_done_or_not() {
        Point full = point(1, null, 0);
        Point left = point(2, "u1", 1);
        Point begun = begun(3, "u2", 2, "u1");
        Point above = point(4, "u3", 3);
        // What stands on it goes where it stands in both cases; and the point that it was to stand on can't go without
        // it.
        assertThat(plan(begun, REFUSED, full, left, begun, above))
                .hasToString("[rebase vm/T4 onto vm/T1, delete vm/T3]");
        assertThat(plan(full, MERGED, full, left, begun, above))
                .hasToString("[make vm/T3 a full backup, make vm/T2 a full backup, delete vm/T1]");
        assertThat(plan(left, REFUSED, full, left, begun, above))
                .hasToString("[rebase vm/T3 onto vm/T1, delete vm/T2]");
        Point alone = begun(3, "u1", 1, Point.ALONE);
        assertThat(plan(alone, REFUSED, full, alone, above)).hasToString("[make vm/T4 a full backup, delete vm/T3]");
    }
}
