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

package org.nasbackup.lab;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.nasbackup.ChildJvm;
import org.nasbackup.Configuration;
import org.nasbackup.Kind;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.TakeBackupRequest;

/** An agent's JVM is killed in the middle of a backup. The server, which got no answer, asks the next one again. */
@Tag("lab")
class KilledJvmTest {
    private static final int KILLED = 128 + 9;

    private final Path state = Lab.folder("state");
    private final Path mounts = Lab.folder("mounts");
    private final Configuration host = TakeMain.host(state.toString(), mounts.toString());

    @ParameterizedTest
    @ValueSource(strings = {"copy:1", "publish:1", "rename the restore point:1", "remove the older bitmaps:1"})
    void the_next_jvm_clears_up_and_its_incremental_is_one(String step) throws Exception {
        try (Story story = new Story(NasBackup.open(host), Guest.ordinary(), new NasFolder())) {
            story.take(Mode.FULL);
            story.guest().write(0, 0x51, 3, 2);
            TakeBackupRequest request = story.request(Mode.INCREMENTAL);
            new ChildJvm(TakeMain.class)
                    .environment("NASBACKUP_KILL_AT", step)
                    .status(KILLED)
                    .run(TakeMain.arguments(state.toString(), mounts.toString(), request));
            story.guest().write(1, 0x52, 7, 1);
            NasBackup.open(host);
            Point next = story.take(Mode.INCREMENTAL);
            assertThat(next.result().kind()).as(next.result().details()).isEqualTo(Kind.INCREMENTAL);
            assertThat(story.points()).allSatisfy(point -> assertThat(point.differences(story.nas()))
                    .isEmpty());
            assertThat(story.guest().checkpoints())
                    .containsExactly(next.result().bitmapCreated());
            assertThat(state.resolve("scratch").toFile().list()).isNullOrEmpty();
        }
    }
}
