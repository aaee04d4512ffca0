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

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.backup.BackupAnswer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The sentences that users read. */
class OutcomeTest {
    private static final Point PARENT = Point.builder(1, "u1", "vm/T1")
            .chain("c")
            .position(0)
            .bitmap("b1")
            .volumes(List.of(new Volume("r", "root")))
            .build();

    private static BackupChoice choice(String kind) {
        Policy policy = new Policy(true, 10);
        return BackupChoice.choose(
                kind.equals("none") ? policy.withoutIncrementals("host a is old") : policy,
                List.of(PARENT),
                kind.equals("incremental") ? "b1" : null,
                List.of("r"));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "incremental|b2||false|12582912||incremental of 12 MiB on vm/T1",
                "incremental|b2||false|||incremental on vm/T1",
                "incremental|b2|b1|false|1536|sda: made again|incremental of 1.5 KiB on vm/T1, after its checkpoint was lost:"
                        + " made again, or the disks compared with the parent; its host says: sda: made again",
                "incremental|b2||true|3221225472|bitmap lost|full of 3.0 GiB in place of an incremental; its host says: bitmap lost",
                "full|b2||false|900||full of 900 bytes, since no checkpoint is active",
                "full|||false|900||full of 900 bytes, since no checkpoint is active;"
                        + " nothing can stand on it, its host confirmed no bitmap",
                "none|||false|0|vdb is left out|full of 0 bytes, since host a is old; its host says: vdb is left out",
            })
    void a_backup_tells_what_it_became_and_why(
            String asked, String bitmap, String recreated, boolean fallback, Long size, String details, String text) {
        BackupAnswer answer = new BackupAnswer(null, true, details);
        answer.setBitmapCreated(bitmap);
        answer.setBitmapRecreated(recreated);
        answer.setIncrementalFallback(fallback);
        answer.setSize(size);
        BackupChoice choice = choice(asked);
        assertThat(Outcome.taken("vm/T2", choice, ChainLink.of(choice, answer, "new"), answer))
                .isEqualTo("Backup vm/T2: " + text);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "0|0|0|was deleted",
                "2|0|0|was deleted, after 2 that stood on it took over what they need",
                "0|2|0|was deleted, after it was merged into 2, which became full",
                "0|0|3|was deleted, with 3 that stood on it",
            })
    void a_deletion_tells_what_became_of_the_others(int rebased, int merged, int others, String text) {
        List<Step> steps = new ArrayList<>();
        for (int i = 0; i < rebased + merged; i++) {
            steps.add(Step.rebase(PARENT, i < rebased ? PARENT : null, PARENT, Map.of()));
        }
        for (int i = 0; i <= others; i++) {
            steps.add(Step.delete(PARENT, Map.of()));
        }
        assertThat(Outcome.deleted("vm/T1", steps)).isEqualTo("Backup vm/T1 " + text);
    }

    @Test
    void failures_name_their_reason() {
        assertThat(Outcome.notTaken("vm", "x")).isEqualTo("Instance vm was not backed up: x");
        assertThat(Outcome.notDeleted("vm/T1", "x")).isEqualTo("Backup vm/T1 was not deleted: x");
        assertThat(Outcome.restored("Volume r", "vm/T1", null)).isEqualTo("Volume r was restored from backup vm/T1");
        assertThat(Outcome.notRestored("Volume r", "vm/T1", "x"))
                .isEqualTo("Volume r was not restored from backup vm/T1: x");
        assertThat(Outcome.restored("Instance i", "vm/T1", Outcome.restoredWith("y ", List.of("a", "b"), List.of("c"))))
                .isEqualTo("Instance i was restored from backup vm/T1; it holds no volume a, b: left as it was;"
                        + " the instance no longer has volume c of it: not restored; its host says: y");
        assertThat(Outcome.restoredWith(" ", List.of(), List.of())).isNull();
    }

    @ParameterizedTest
    @CsvSource({
        "0,0 bytes",
        "1023,1023 bytes",
        "1024,1.0 KiB",
        "10485760,10 MiB",
        "1099511627776,1.0 TiB",
        "-1,-1 bytes"
    })
    void sizes_are_short(long bytes, String text) {
        assertThat(Outcome.size(bytes)).isEqualTo(text);
    }
}
