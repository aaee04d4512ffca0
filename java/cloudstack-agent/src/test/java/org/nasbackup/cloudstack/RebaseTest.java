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

import com.cloud.agent.api.Answer;
import com.cloud.hypervisor.kvm.resource.wrapper.LibvirtRebaseBackupCommandWrapper;
import java.nio.file.Files;
import java.util.List;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.Mode;
import org.nasbackup.lab.Guest;
import org.nasbackup.lab.NasFolder;
import org.nasbackup.lab.Point;
import org.nasbackup.lab.Story;

/** The wrapper's rebase on chains of real backups. */
@Tag("lab")
class RebaseTest {
    /** The one of which each test has a copy. */
    private static Story made;

    private static Point full;
    private static Point first;
    private static Point second;

    private final Story story = made.copy();

    @BeforeAll
    static void make() {
        made = new Story(Library.open(), Guest.ordinary(), new NasFolder());
        full = made.take(Mode.FULL);
        first = incremental(0x31);
        second = incremental(0x32);
    }

    @AfterAll
    static void close() {
        made.close();
    }

    private static Point incremental(int pattern) {
        made.guest().write(0, pattern, 10, 1);
        made.guest().write(1, pattern, pattern, 1);
        return made.take(Mode.INCREMENTAL);
    }

    private BackupAnswer rebase(RebaseBackupCommand command) {
        Answer answer = new LibvirtRebaseBackupCommandWrapper().execute(command, null);
        return (BackupAnswer) answer;
    }

    private BackupAnswer rebasePoint(String point, String newParent) {
        return rebase(RebaseBackupCommand.ofPoint(
                point, newParent, null, "dir", story.nas().repository().address(), null));
    }

    private BackupAnswer rebaseFile(String target, String newBacking) {
        return rebase(new RebaseBackupCommand(
                target, newBacking, "dir", story.nas().repository().address(), null));
    }

    private static String file(Point point, int disk) {
        return point.result().disks().get(disk).file();
    }

    private long length(int disk) throws Exception {
        return Files.size(story.nas().at(file(second, disk)));
    }

    private void firstCanGo() {
        Library.operations()
                .deleteBackup(DeleteBackupRequest.builder()
                        .repository(story.nas().repository())
                        .backupPath(first.path())
                        .build());
        assertThat(List.of(full, second))
                .allSatisfy(point -> assertThat(point.differences(story.nas())).isEmpty());
    }

    @Test
    void a_command_for_a_point_rebases_all_its_disks() throws Exception {
        BackupAnswer answer = rebasePoint(second.path(), full.path());
        assertThat(answer.getDetails()).isNull();
        assertThat(answer.getResult()).isTrue();
        assertThat(answer.getSize()).isEqualTo(length(0) + length(1));
        firstCanGo();
    }

    @Test
    void a_command_for_a_file_rebases_that_file() throws Exception {
        for (int disk = 0; disk < 2; disk++) {
            BackupAnswer answer = rebaseFile(file(second, disk), file(full, disk));
            assertThat(answer.getResult()).as(answer.getDetails()).isTrue();
            assertThat(answer.getSize()).isEqualTo(length(disk));
        }
        firstCanGo();
    }

    @Test
    void without_a_new_backing_it_becomes_a_full_one() {
        assertThat(rebasePoint(second.path(), "").getResult()).isTrue();
        firstCanGo();
        assertThat(rebasePoint(second.path(), null).getResult()).isTrue();
    }

    @Test
    void what_is_refused_is_answered() {
        BackupAnswer parent = rebasePoint(first.path(), second.path());
        assertThat(parent.getResult()).isFalse();
        assertThat(parent.getDetails()).startsWith("PARENT_INVALID: ").doesNotContain("\n");
        assertThat(parent.getNeedsCleanup()).isFalse();
        BackupAnswer mixed = rebaseFile(file(first, 0), full.path());
        assertThat(mixed.getDetails()).startsWith("PARENT_INVALID: ");
        assertThat(rebaseFile(second.path(), full.path()).getResult()).isFalse();
        assertThat(rebasePoint("..", null).getDetails()).startsWith("INVALID_ARGUMENT: ");
        assertThat(first.differences(story.nas())).isEmpty();
    }
}
