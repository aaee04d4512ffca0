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
import org.libvirt.Connect;
import org.nasbackup.ChildJvm;

/** libvirt has one event loop in a process. libvirt-java registers and runs it too, before us or after us. */
@Tag("lab")
class EventLoopTest {
    @ParameterizedTest
    @ValueSource(strings = {"first", "second"})
    void backups_work_and_the_other_user_hears_its_events(String libvirtJava) throws Exception {
        String output = new ChildJvm(EventLoopMain.class)
                .onClassPath(Path.of(ChildJvm.folderOf(Connect.class)))
                .onClassPath(Path.of(ChildJvm.folderOf(com.sun.jna.Native.class)))
                .run(libvirtJava);
        assertThat(output.lines().filter(line -> line.startsWith("> ")))
                .containsExactly("> FULL []", "> heard", "> INCREMENTAL []", "> heard", "> INCREMENTAL []", "> heard");
        // -Xcheck:jni has something to say of JNA, and nothing of us.
        assertThat(output).doesNotContain("at org.nasbackup.Native");
    }
}
