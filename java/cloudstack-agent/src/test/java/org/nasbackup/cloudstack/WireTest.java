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

import com.cloud.agent.api.Command;
import com.google.gson.Gson;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupStorageStatsAnswer;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.GetBackupStorageStatsCommand;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.apache.cloudstack.backup.TakeBackupCommand;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.junit.jupiter.api.Test;

/** What is on the wire between this version and others. */
class WireTest {
    private static final String REPO = "\"backupRepoType\":\"nfs\",\"backupRepoAddress\":\"192.0.2.9:/b\",";
    private static final String BASE = "\"contextMap\":{},\"wait\":0,\"bypassHostMaintenance\":false}}]";

    @Test
    void an_incremental_take_is_written_for_both_kinds_of_host() {
        TakeBackupCommand command = new TakeBackupCommand("i-2-9-VM", "i-2-9-VM/T2");
        command.setBackupRepoType("nfs");
        command.setBackupRepoAddress("192.0.2.9:/b");
        command.setMountOptions("vers=4");
        command.setQuiesce(false);
        command.setMode("incremental");
        command.setBitmapNew("backup-2");
        command.setBitmapParent("backup-1");
        command.setParentPath("i-2-9-VM/T1/root.r.qcow2");
        command.setParentPaths(List.of("i-2-9-VM/T1/root.r.qcow2", "i-2-9-VM/T1/datadisk.d.qcow2"));
        assertThat(Wire.write(command))
                .isEqualTo("[{\"org.apache.cloudstack.backup.TakeBackupCommand\":{\"vmName\":\"i-2-9-VM\","
                        + "\"backupPath\":\"i-2-9-VM/T2\"," + REPO + "\"mountOptions\":\"vers\\u003d4\","
                        + "\"quiesce\":false,\"mode\":\"incremental\",\"bitmapNew\":\"backup-2\","
                        + "\"bitmapParent\":\"backup-1\",\"parentPath\":\"i-2-9-VM/T1/root.r.qcow2\","
                        + "\"parentPaths\":[\"i-2-9-VM/T1/root.r.qcow2\",\"i-2-9-VM/T1/datadisk.d.qcow2\"]," + BASE);
    }

    /** A host that does not know the last field passes it over. */
    @Test
    void what_the_volumes_of_a_stopped_guest_stand_on_is_written_for_each_and_read_again() {
        TakeBackupCommand command = new TakeBackupCommand("i-2-9-VM", "i-2-9-VM/T2");
        command.setVolumePaths(List.of("/mnt/p/a", "/mnt/p/b", "c"));
        command.setVolumeBacking(Arrays.asList(Map.of("/mnt/p/t", "qcow2"), Map.of(), null));
        String json = Wire.write(command);
        assertThat(json)
                .isEqualTo("[{\"org.apache.cloudstack.backup.TakeBackupCommand\":{\"vmName\":\"i-2-9-VM\","
                        + "\"backupPath\":\"i-2-9-VM/T2\",\"volumePaths\":[\"/mnt/p/a\",\"/mnt/p/b\",\"c\"],"
                        + "\"volumeBacking\":[{\"/mnt/p/t\":\"qcow2\"},{},null]," + BASE);
        assertThat(((TakeBackupCommand) Wire.read(json)).getVolumeBacking()).isEqualTo(command.getVolumeBacking());
    }

    @Test
    void the_other_commands_keep_their_fields() {
        assertThat(Wire.write(
                        new RebaseBackupCommand("i/T3/root.r.qcow2", "i/T1/root.r.qcow2", "nfs", "192.0.2.9:/b", "")))
                .isEqualTo("[{\"org.apache.cloudstack.backup.RebaseBackupCommand\":{"
                        + "\"targetPath\":\"i/T3/root.r.qcow2\",\"newBackingPath\":\"i/T1/root.r.qcow2\"," + REPO
                        + "\"mountOptions\":\"\"," + BASE);
        assertThat(Wire.write(new DeleteBackupCommand("i/T3", "nfs", "192.0.2.9:/b", null)))
                .isEqualTo("[{\"org.apache.cloudstack.backup.DeleteBackupCommand\":{\"backupPath\":\"i/T3\"," + REPO
                        + BASE);
        assertThat(Wire.write(new VerifyBackupCommand("i/T3", "p1", "m1", "nfs", "192.0.2.9:/b", null)))
                .isEqualTo("[{\"org.apache.cloudstack.backup.VerifyBackupCommand\":{\"backupPath\":\"i/T3\","
                        + "\"pointId\":\"p1\",\"mac\":\"m1\"," + REPO + BASE);
        assertThat(Wire.write(new GetBackupStorageStatsCommand("nfs", "192.0.2.9:/b", null)))
                .isEqualTo("[{\"org.apache.cloudstack.backup.GetBackupStorageStatsCommand\":{" + REPO + BASE);
    }

    /** What each version of a host reads is what that version's own server writes. */
    @Test
    void a_restore_of_each_version_is_read_whole() {
        for (String fields : new String[] {
            "\"backupVolumesUUIDs\":[\"u\"],\"restoreVolumePaths\":[\"/p\"],\"diskType\":\"root\","
                    + "\"restoreVolumeUUID\":\"u\",\"vmState\":\"Running\",\"mountTimeout\":30,"
                    + "\"mountOptions\":\"vers\\u003d4\",",
            "\"backupVolumesUUIDs\":[\"u\"],\"restoreVolumePaths\":[\"/p\"],\"restoreVolumeSizes\":[8],"
                    + "\"backupFiles\":[\"f\"],\"vmExists\":true,\"vmState\":\"Stopped\",\"mountTimeout\":30,"
        }) {
            String json = "[{\"org.apache.cloudstack.backup.RestoreBackupCommand\":{\"vmName\":\"web\","
                    + "\"backupPath\":\"i/T1\"," + REPO + fields + BASE;
            Command command = Wire.read(json);
            assertThat(Wire.write(command)).isEqualTo(json);
            assertThat(command.executeInSequence()).isFalse();
        }
    }

    /** CloudStack's own hosts pass over what they do not know, and read what is theirs. */
    @Test
    void a_restore_of_ours_has_what_each_version_of_a_host_reads() {
        RestoreBackupCommand machine = RestoreBackupCommand.ofMachine(List.of(
                new RestoreBackupCommand.Disk("r", "b-r", "u-r", null, "/mnt/p/r", "r", 8L),
                new RestoreBackupCommand.Disk("d", "b-d", "u-d", null, "/mnt/p/d2", "d2", 9L)));
        assertThat(Wire.write(machine))
                .isEqualTo("[{\"org.apache.cloudstack.backup.RestoreBackupCommand\":{\"disks\":["
                        + "{\"backupFile\":\"r\",\"backedUpUuid\":\"b-r\",\"volumeUuid\":\"u-r\",\"path\":\"/mnt/p/r\",\"volumePath\":\"r\",\"size\":8},"
                        + "{\"backupFile\":\"d\",\"backedUpUuid\":\"b-d\",\"volumeUuid\":\"u-d\",\"path\":\"/mnt/p/d2\",\"volumePath\":\"d2\",\"size\":9}],"
                        + "\"backupVolumesUUIDs\":[\"r\",\"d\"],\"restoreVolumePools\":[null,null],"
                        + "\"restoreVolumePaths\":[\"/mnt/p/r\",\"/mnt/p/d2\"],\"restoreVolumeSizes\":[8,9],"
                        + "\"backupFiles\":[\"r\",\"d\"],\"vmExists\":true," + BASE);
        RestoreBackupCommand volume = RestoreBackupCommand.ofVolume(
                new RestoreBackupCommand.Disk("d", "b", "u", null, "/mnt/p/u", "u", 9L), "datadisk");
        assertThat(Wire.write(volume))
                .doesNotContain("vmExists")
                .contains("\"backupFiles\":[\"d\"],\"diskType\":\"datadisk\",\"restoreVolumeUUID\":\"d\"");
    }

    /** CloudStack's own script, when it fails at a rebase, removes what the repository holds: it must not get this one. */
    @Test
    void a_rebase_of_a_point_has_no_target_that_another_host_could_start_on() {
        assertThat(Wire.write(RebaseBackupCommand.ofPoint("i/T3", "i/T1", "i/T2", "nfs", "192.0.2.9:/b", "")))
                .isEqualTo("[{\"org.apache.cloudstack.backup.RebaseBackupCommand\":{\"backupPath\":\"i/T3\","
                        + "\"newParentPath\":\"i/T1\",\"goingPath\":\"i/T2\"," + REPO + "\"mountOptions\":\"\","
                        + BASE);
    }

    @Test
    void answers_keep_their_fields() {
        BackupAnswer answer = new BackupAnswer(null, true, "4096");
        answer.setSize(4096L);
        answer.setBitmapCreated("backup-1");
        answer.setIncrementalFallback(false);
        answer.setPointId("p1");
        answer.setMac("m1");
        assertThat(Wire.write(answer))
                .isEqualTo("[{\"org.apache.cloudstack.backup.BackupAnswer\":{\"size\":4096,"
                        + "\"bitmapCreated\":\"backup-1\",\"incrementalFallback\":false,\"pointId\":\"p1\",\"mac\":\"m1\","
                        + "\"result\":true,"
                        + "\"details\":\"4096\"," + BASE);
        BackupStorageStatsAnswer stats = new BackupStorageStatsAnswer(null, true, null);
        stats.setTotalSize(1024L);
        assertThat(Wire.write(stats))
                .isEqualTo("[{\"org.apache.cloudstack.backup.BackupStorageStatsAnswer\":{\"totalSize\":1024,"
                        + "\"usedSize\":0,\"result\":true," + BASE);
    }

    @Test
    void a_command_of_the_first_version_is_read() {
        TakeBackupCommand command = (TakeBackupCommand) Wire.read(
                "[{\"org.apache.cloudstack.backup.TakeBackupCommand\":{\"vmName\":\"i-2-9-VM\",\"wait\":0}}]");
        assertThat(command.getVmName()).isEqualTo("i-2-9-VM");
        assertThat(command.getQuiesce()).isNull();
        assertThat(command.getVolumePaths()).isNull();
        assertThat(command.getVolumeBacking()).isNull();
        assertThat(command.getMode()).isNull();
        assertThat(command.executeInSequence()).isFalse();
    }

    @Test
    void fields_of_a_later_version_are_passed_over_and_texts_are_read_as_what_they_say() {
        TakeBackupCommand command =
                (TakeBackupCommand) Wire.read("[{\"org.apache.cloudstack.backup.TakeBackupCommand\":"
                        + "{\"vmName\":\"i-2-9-VM\",\"quiesce\":\"true\",\"wait\":\"300\",\"bypassHostMaintenance\":\"true\","
                        + "\"volumePassphrases\":{\"a\":[1,2]},\"laterField\":{\"x\":[{}]},"
                        + "\"volumePools\":[{\"uuid\":\"p\",\"poolType\":\"NetworkFilesystem\",\"host\":\"h\",\"port\":2049},null],"
                        + "\"volumePaths\":[\"/mnt/p/a\",\"/mnt/p/b\"]}}]");
        assertThat(command.getQuiesce()).isTrue();
        assertThat(command.getWait()).isEqualTo(300);
        assertThat(command.getVolumePools()).hasSize(2);
        assertThat(command.getVolumePools().get(0).getPoolType().name()).isEqualTo("NetworkFilesystem");
        assertThat(command.getVolumePools().get(1)).isNull();
    }

    @Test
    void an_answer_of_an_earlier_version_is_read() {
        BackupAnswer answer = (BackupAnswer) Wire.read("[{\"org.apache.cloudstack.backup.BackupAnswer\":"
                + "{\"size\":\"4096\",\"result\":\"true\",\"details\":\"4096\"}}]");
        assertThat(answer.getResult()).isTrue();
        assertThat(answer.getSize()).isEqualTo(4096L);
        assertThat(answer.getNeedsCleanup()).isFalse();
        assertThat(answer.getIncrementalFallback()).isFalse();
        assertThat(answer.getBitmapCreated()).isNull();
        assertThat(answer.getBitmapRecreated()).isNull();
        assertThat(answer.getKind()).isNull();
        assertThat(answer.getPointId()).isNull();
        assertThat(answer.getMac()).isNull();
    }

    /** What a host wrote is not what a log, an event or the database gets. */
    @Test
    void an_answer_s_texts_are_read_in_one_line() {
        BackupAnswer answer =
                (BackupAnswer) Wire.read("[{\"org.apache.cloudstack.backup.BackupAnswer\":{\"result\":true,"
                        + "\"details\":\"a\\nb\",\"bitmapCreated\":\"c\\u001b\",\"bitmapRecreated\":\"d\\re\"}}]");
        assertThat(answer.getDetails()).isEqualTo("a; b");
        assertThat(answer.getBitmapCreated()).isEqualTo("c\\u{1b}");
        assertThat(answer.getBitmapRecreated()).isEqualTo("d; e");
        BackupStorageStatsAnswer stats = (BackupStorageStatsAnswer)
                Wire.read("[{\"org.apache.cloudstack.backup.BackupStorageStatsAnswer\":{\"details\":\"a\\nb\"}}]");
        assertThat(stats.getDetails()).isEqualTo("a; b");
    }

    /** The stock answer of the full-only release; it must read what we send. */
    static final class EarlierAnswer {
        Long size;
        Boolean needsCleanup;
        boolean result;
        String details;
    }

    @Test
    void an_earlier_version_reads_our_answer() {
        BackupAnswer answer = new BackupAnswer(null, false, "why");
        answer.setNeedsCleanup(true);
        answer.setBitmapRecreated("backup-1");
        answer.setVolumes(Map.of("v", "f"));
        answer.setPointId("p1");
        answer.setMac("m1");
        EarlierAnswer read = new Gson().fromJson(new Gson().toJsonTree(answer), EarlierAnswer.class);
        assertThat(read.result).isFalse();
        assertThat(read.details).isEqualTo("why");
        assertThat(read.needsCleanup).isTrue();
        assertThat(read.size).isNull();
    }
}
