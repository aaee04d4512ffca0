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
import org.apache.cloudstack.backup.BackupAnswer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What a backup is asked to be, and its place in a chain once it is made. */
class BackupChoiceTest {
    private static final Policy POLICY = new Policy(true, 4);

    private static Point.Builder point(int id, String bitmap, Integer position) {
        return Point.builder(id, "u" + id, "vm/T" + id)
                .created(id)
                .chain("c")
                .position(position)
                .bitmap(bitmap)
                .volumes(List.of(new Volume("r", "x/root"), new Volume("d", "data")));
    }

    private static BackupChoice choose(Policy policy, String active, Point... points) {
        return BackupChoice.choose(policy, List.of(points), active, List.of("r", "d"));
    }

    @Test
    void an_incremental_stands_on_the_newest_that_owns_the_checkpoint() {
        BackupChoice choice = choose(
                POLICY, "b2", point(2, "b2", 1).build(), point(1, "b1", 0).build());
        assertThat(choice.mode()).isEqualTo("incremental");
        assertThat(choice.parent().uuid()).isEqualTo("u2");
        assertThat(choice.parentFiles()).containsExactly("vm/T2/root.root.qcow2", "vm/T2/datadisk.data.qcow2");
    }

    @Test
    void volumes_are_paired_by_what_they_are() {
        Point parent = point(1, "b1", 0).build();
        assertThat(BackupChoice.choose(POLICY, List.of(parent), "b1", List.of("new", "d"))
                        .parentFiles())
                .containsExactly("vm/T1/datadisk.data.qcow2");
        assertThat(BackupChoice.choose(POLICY, List.of(parent), "b1", List.of("new", "other"))
                        .reason())
                .isEqualTo("backup u1 has none of the virtual machine's volumes");
    }

    @ParameterizedTest
    @CsvSource({
        "1,b1,every backup is to be a full one",
        ",b1,every backup is to be a full one",
        "-1,b1,every backup is to be a full one",
        "4,,no checkpoint is active",
        "4,other,the newest backup does not own checkpoint other",
    })
    void a_full_when_nothing_can_be_built_upon(Integer every, String active, String reason) {
        BackupChoice choice =
                choose(new Policy(true, every), active, point(1, "b1", 0).build());
        assertThat(choice.mode()).isEqualTo("full");
        assertThat(choice.incremental()).isFalse();
        assertThat(choice.reason()).isEqualTo(reason);
    }

    @Test
    void a_chain_ends_with_the_number_that_the_key_gives() {
        assertThat(choose(POLICY, "b", point(1, "b", 2).build()).incremental()).isTrue();
        assertThat(choose(POLICY, "b", point(1, "b", 3).build()).reason()).isEqualTo("the chain has its 4 backups");
    }

    @Test
    void with_the_key_at_0_a_chain_never_ends() {
        assertThat(choose(new Policy(true, 0), "b", point(1, "b", 5000).build()).incremental())
                .isTrue();
    }

    @Test
    void a_failed_backup_is_no_parent_and_a_parent_outside_chains_neither() {
        Point failed = point(2, "b", 1).good(false).build();
        assertThat(choose(POLICY, "b", failed, point(1, "a", 0).build()).mode()).isEqualTo("full");
        assertThat(choose(POLICY, "b", point(1, "b", null).build()).reason()).isEqualTo("backup u1 is in no chain");
        assertThat(choose(POLICY, "b", point(1, "b", 0).chain(null).build()).reason())
                .isEqualTo("backup u1 is in no chain");
    }

    @Test
    void switched_off_there_is_no_mode() {
        BackupChoice choice =
                choose(new Policy(false, 4), "b1", point(1, "b1", 0).build());
        assertThat(choice.mode()).isNull();
        assertThat(choice.incremental()).isFalse();
        assertThat(choice.reason()).isEqualTo("incremental backups are switched off");
        assertThat(choose(
                        POLICY.withoutIncrementals("old hosts"),
                        "b1",
                        point(1, "b1", 0).build()))
                .satisfies(refused -> {
                    assertThat(refused.mode()).isNull();
                    assertThat(refused.reason()).isEqualTo("old hosts");
                });
    }

    private static BackupAnswer answer(String kind, String created, String recreated, boolean fallback) {
        BackupAnswer answer = new BackupAnswer(null, true, "");
        answer.setKind(kind);
        answer.setBitmapCreated(created);
        answer.setBitmapRecreated(recreated);
        answer.setIncrementalFallback(fallback);
        return answer;
    }

    private static BackupAnswer answer(String created, String recreated, boolean fallback) {
        return answer(null, created, recreated, fallback);
    }

    @Test
    void an_incremental_continues_its_parent_s_chain() {
        BackupChoice choice = choose(POLICY, "b1", point(1, "b1", 0).build());
        ChainLink link = ChainLink.of(choice, answer("b2", "b1", false), "new");
        assertThat(link.chainId()).isEqualTo("c");
        assertThat(link.position()).isEqualTo(1);
        assertThat(link.parent()).isEqualTo("u1");
        assertThat(link.bitmap()).isEqualTo("b2");
        assertThat(link.recreated()).isEqualTo("b1");
    }

    /** Hosts of ours say what they made; of CloudStack's own, those that know no incrementals make a full and confirm none. */
    @ParameterizedTest
    @CsvSource({
        "incremental,b2,false,u1",
        "incremental,,false,u1",
        "full,b2,false,none",
        "full,b2,true,none",
        "full,,false,",
        ",b2,false,u1",
        ",b2,true,none",
        ",,false,",
        ",,true,",
    })
    void a_backup_is_recorded_as_what_the_host_made(String kind, String bitmap, boolean fallback, String parent) {
        BackupChoice choice = choose(POLICY, "b1", point(1, "b1", 0).build());
        ChainLink link = ChainLink.of(choice, answer(kind, bitmap, null, fallback), "new");
        if (parent == null) {
            assertThat(link).as("it is outside chains").isNull();
            return;
        }
        boolean incremental = parent.equals("u1");
        assertThat(link.parent()).isEqualTo(incremental ? "u1" : null);
        assertThat(link.chainId()).isEqualTo(incremental ? "c" : "new");
        assertThat(link.position()).isEqualTo(incremental ? 1 : 0);
        assertThat(link.bitmap()).isEqualTo(bitmap);
    }

    @Test
    void a_full_begins_a_chain_only_with_a_bitmap() {
        BackupChoice incremental = choose(POLICY, "b1", point(1, "b1", 0).build());
        BackupChoice full = choose(POLICY, null);
        for (BackupChoice choice : List.of(incremental, full)) {
            ChainLink link = ChainLink.of(choice, answer("b2", null, choice.incremental()), "new");
            assertThat(link.chainId()).isEqualTo("new");
            assertThat(link.position()).isZero();
            assertThat(link.parent()).isNull();
            assertThat(ChainLink.of(choice, answer(null, null, choice.incremental()), "new"))
                    .isNull();
        }
        BackupChoice off = choose(new Policy(false, 4), null);
        assertThat(ChainLink.of(off, answer("b", null, false), "new")).isNull();
    }
}
