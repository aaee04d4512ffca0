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
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.List;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.nasbackup.ErrorCode;
import org.nasbackup.OutputFormat;
import org.nasbackup.Results;

/** The order of what a restore does on a host, whatever fails. */
class RestorationTest {
    private static final String POOL = "\"pool\":{\"uuid\":\"p\",\"poolType\":\"NetworkFilesystem\"}";
    private static final String DISK =
            "{\"backupFile\":\"%s\",\"volumeUuid\":\"u-%s\",\"path\":\"/p/%s\",\"volumePath\":\"%s\"," + "\"size\":8,"
                    + POOL + "}";

    private final List<String> done = new ArrayList<>();
    private String fails = "nothing";
    private ErrorCode code;
    private boolean lacks = true;

    private void does(String step) {
        done.add(step);
        if (step.equals(fails)) {
            throw code == null ? new IllegalStateException(step) : Results.failure(code, step, false);
        }
    }

    private final Places places = (item, fresh) -> {
        does("open " + item.volumePath() + (fresh ? " anew" : ""));
        Place.Kind kind = item.volumePath().startsWith("dev") ? Place.Kind.BLOCK : Place.Kind.FILE;
        return new Place(kind, "/here/" + item.volumePath(), OutputFormat.QCOW2, "<source/>")
                .disconnectedBy(() -> does("close " + item.volumePath()))
                .removedBy(() -> does("remove " + item.volumePath()));
    };

    private final Operations library = (Operations) Proxy.newProxyInstance(
            Operations.class.getClassLoader(), new Class<?>[] {Operations.class}, (proxy, method, arguments) -> {
                RestoreOrder order = (RestoreOrder) arguments[0];
                StringBuilder images = new StringBuilder(
                        "restore " + order.backupPath() + " " + order.pointId() + " in " + order.seconds() + "s");
                order.images().forEach(image -> images.append(" ")
                        .append(image.volume() == null ? image.file() : image.volume())
                        .append(">")
                        .append(image.path())
                        .append("#")
                        .append(image.size()));
                does(images.toString());
                return new Restored(3 << 20, 5L << 30, "a line\nanother");
            });

    private final Guests guests = new Guests(null) {
        @Override
        void attach(String name, Place place, String uuid) {
            does("attach " + place.path() + " of " + uuid + " to " + name);
        }

        @Override
        boolean lacks(String name, Place place) {
            return lacks;
        }
    };

    private BackupAnswer restore(String fields) {
        RestoreBackupCommand command = RestorePlanTest.read(fields);
        RestorePlan plan = RestorePlan.of(command);
        return Answers.restored(command, plan, new Restoration(library, places, guests).run(command, plan, 9));
    }

    private static String disks(String... names) {
        List<String> disks = new ArrayList<>();
        for (String name : names) {
            disks.add(DISK.replace("%s", name));
        }
        return "\"pointId\":\"id-1\",\"disks\":[" + String.join(",", disks) + "]";
    }

    @Test
    void all_volumes_of_a_machine_go_into_one_call() {
        BackupAnswer answer = restore("\"vmExists\":true," + disks("r", "dev"));
        assertThat(done)
                .containsExactly(
                        "open r",
                        "open dev",
                        "restore i-2-10-VM/T1 id-1 in 9s r>/here/r#8 dev>/here/dev#null",
                        "close r",
                        "close dev");
        assertThat(answer.getResult()).isTrue();
        assertThat(answer.getDetails())
                .isEqualTo("3 MiB were read from the NAS, and 5120 MiB of the volumes were right as they were;"
                        + " a line; another");
    }

    @ParameterizedTest
    @ValueSource(strings = {"open dev", "restore i-2-10-VM/T1 id-1 in 9s r>/here/r#8 dev>/here/dev#null"})
    void a_host_that_could_not_restore_is_connected_to_no_volume(String step) {
        fails = step;
        assertThatThrownBy(() -> restore("\"vmExists\":true," + disks("r", "dev")))
                .hasMessage(step);
        assertThat(done).contains("close r", "remove r");
    }

    /** Who has it may have it by the same connection. */
    @ParameterizedTest
    @CsvSource({"DOMAIN_STATE,0", "BUSY,0", "IO,2"})
    void what_somebody_else_has_is_not_taken_from_him(ErrorCode code, int closed) {
        this.code = code;
        fails = "restore i-2-10-VM/T1 id-1 in 9s r>/here/r#8 dev>/here/dev#null";
        assertThatThrownBy(() -> restore("\"vmExists\":true," + disks("r", "dev")))
                .hasMessage(fails);
        assertThat(done).filteredOn(step -> step.startsWith("close")).hasSize(closed);
        done.clear();
        fails = "restore i-2-10-VM/T1 id-1 in 9s n>/here/n#null";
        assertThatThrownBy(() -> restore("\"vmState\":\"Stopped\"," + disks("n")))
                .hasMessage(fails);
        assertThat(done).as("a new one is ours").contains("close n", "remove n");
    }

    /** Before the server gives it up. */
    @Test
    void a_restore_ends_before_who_asked_stops_waiting() {
        restore("\"wait\":7200,\"vmExists\":true," + disks("r"));
        assertThat(done).contains("restore i-2-10-VM/T1 id-1 in 7080s r>/here/r#8");
    }

    /** The server finds it by that text. */
    @Test
    void a_new_volume_is_told_by_its_uuid_alone() {
        assertThat(restore("\"vmState\":\"Stopped\"," + disks("n")).getDetails())
                .isEqualTo("u-n");
        assertThat(done).containsExactly("open n anew", "restore i-2-10-VM/T1 id-1 in 9s n>/here/n#null", "close n");
    }

    @Test
    void a_running_machine_gets_the_volume_and_keeps_it() {
        restore("\"vmState\":\"Running\"," + disks("n"));
        assertThat(done)
                .containsExactly(
                        "open n anew",
                        "restore i-2-10-VM/T1 id-1 in 9s n>/here/n#null",
                        "attach /here/n of u-n to i-2-10-VM");
    }

    @Test
    void a_volume_that_the_machine_did_not_get_is_removed() {
        fails = "attach /here/n of u-n to i-2-10-VM";
        assertThatThrownBy(() -> restore("\"vmState\":\"Running\"," + disks("n")))
                .hasMessage(fails);
        assertThat(done).endsWith("close n", "remove n");
    }

    /** libvirt was restarted, say, once it had passed the disk on. */
    @Test
    void a_volume_that_the_machine_may_have_got_is_left_to_it() {
        fails = "attach /here/n of u-n to i-2-10-VM";
        lacks = false;
        assertThatThrownBy(() -> restore("\"vmState\":\"Running\"," + disks("n")))
                .hasMessage(fails + "; the guest may have got it, and it is not removed");
        assertThat(done).endsWith(fails);
    }
}
