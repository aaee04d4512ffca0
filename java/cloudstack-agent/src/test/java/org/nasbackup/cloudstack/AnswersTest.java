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

import java.util.Map;
import java.util.Set;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupStorageStatsAnswer;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.junit.jupiter.api.Test;
import org.nasbackup.ErrorCode;
import org.nasbackup.Results;
import org.nasbackup.VerifyChainResult;

/** From result or failure to answer. */
class AnswersTest {
    @Test
    void an_incremental_after_a_restart_of_the_guest() {
        BackupAnswer answer = Answers.taken(
                null, Results.taken("incremental", 4096, "backup-2", "backup-1", false, "vda: redefined"));
        assertThat(answer.getResult()).isTrue();
        assertThat(answer.getSize()).isEqualTo(4096L);
        assertThat(answer.getVirtualSize()).isEqualTo(8192L);
        assertThat(answer.getVolumes()).isEqualTo(Map.of("root-volume", "i-2-9-VM/T1/root.root-volume.qcow2"));
        assertThat(answer.getBitmapCreated()).isEqualTo("backup-2");
        assertThat(answer.getBitmapRecreated()).isEqualTo("backup-1");
        assertThat(answer.getIncrementalFallback()).isFalse();
        assertThat(answer.getKind()).isEqualTo("incremental");
        assertThat(answer.getNeedsCleanup()).isFalse();
        assertThat(answer.getDetails()).isEqualTo("vda: redefined");
        assertThat(answer.getPointId()).isEqualTo("0123456789abcdef0123456789abcdef");
        assertThat(answer.getMac()).isEqualTo("m1");
    }

    @Test
    void a_full_in_place_of_an_incremental() {
        BackupAnswer answer = Answers.taken(null, Results.taken("full", 1, null, null, true, "bitmap lost"));
        assertThat(answer.getIncrementalFallback()).isTrue();
        assertThat(answer.getKind()).isEqualTo("full");
        assertThat(answer.getBitmapCreated()).isNull();
    }

    /** Without a key it is a guard against mishaps, which is no reason to keep from a restore what nobody could look at. */
    @Test
    void what_is_bad_is_not_restored_nor_what_could_not_be_looked_at_where_a_key_vouches() {
        String manifest = "i/T1/manifest.json";
        for (String mac : new String[] {null, "m1"}) {
            assertThat(verified(null, mac, Results.verified("good", manifest)).getResult())
                    .isTrue();
            BackupAnswer bad = verified(null, mac, Results.verified("bad", manifest, "has another id", "and no\nMAC"));
            assertThat(bad.getResult()).isFalse();
            assertThat(bad.getDetails())
                    .isEqualTo("CORRUPT_IMAGE: check the restore point: " + manifest + ": has another id, and no; MAC");
            BackupAnswer aborted = verified(null, mac, Results.verified("aborted", manifest, "the NAS is gone"));
            assertThat(aborted.getResult()).isEqualTo(mac == null);
            assertThat(aborted.getDetails())
                    .isEqualTo("IO: check the restore point: " + manifest + ": the NAS is gone");
            for (ErrorCode code : ErrorCode.values()) {
                BackupAnswer failed =
                        Answers.notVerified(verification(mac), Results.failure(code, code + ": x", false));
                boolean known = Set.of("CORRUPT_IMAGE", "NOT_FOUND", "UNSUPPORTED_IMAGE")
                        .contains(code.name());
                assertThat(failed.getResult()).as(code.name()).isEqualTo(mac == null && !known);
                assertThat(failed.getDetails()).isEqualTo(code + ": x");
            }
        }
    }

    private static VerifyBackupCommand verification(String mac) {
        return new VerifyBackupCommand("i/T1", "p1", mac, "nfs", "nas:/b", null);
    }

    private static BackupAnswer verified(String wanted, VerifyChainResult result) {
        return verified(wanted, null, result);
    }

    private static BackupAnswer verified(String wanted, String mac, VerifyChainResult result) {
        VerifyBackupCommand command = verification(mac);
        command.setBackupFile(wanted);
        return Answers.verified(command, result);
    }

    /** The images of the others can be damaged; a manifest is of all, and an image below may have any name. */
    @Test
    void one_volume_is_restored_whatever_is_wrong_with_others() {
        for (String file :
                new String[] {"i/T1/datadisk.d.qcow2", "i/T1/manifest.json", "i/T0/manifest.json", "i/T0/x.qcow2"}) {
            VerifyChainResult result = Results.verified("bad", file, "is damaged");
            assertThat(verified(null, result).getResult()).as(file).isFalse();
            assertThat(verified("d", result).getResult()).as(file).isFalse();
            assertThat(verified("pool/d", result).getResult()).as(file).isFalse();
            assertThat(verified("unknown", result).getResult()).as(file).isFalse();
            assertThat(verified("r", result).getResult()).as(file).isEqualTo(file.endsWith("datadisk.d.qcow2"));
        }
    }

    @Test
    void failures_carry_their_line_and_what_they_left() {
        BackupAnswer answer =
                Answers.failed(null, Results.failure(ErrorCode.NO_SPACE, "NO_SPACE: write vda: the NAS is full", true));
        assertThat(answer.getResult()).isFalse();
        assertThat(answer.getDetails()).isEqualTo("NO_SPACE: write vda: the NAS is full");
        assertThat(answer.getNeedsCleanup()).isTrue();
        assertThat(Answers.failed(null, Results.failure(ErrorCode.BUSY, "BUSY: x", false))
                        .getNeedsCleanup())
                .isFalse();
    }

    /** The server asks again for nothing else. */
    @Test
    void a_host_without_a_place_is_told_from_whatever_else_is_busy() {
        String line = "BUSY: take a place: x";
        assertThat(Answers.failed(null, Results.failure(ErrorCode.BUSY, "take a place", line, false))
                        .getNoPlace())
                .isTrue();
        assertThat(Answers.failed(null, Results.failure(ErrorCode.BUSY, "lock on this host", "BUSY: x", false))
                        .getNoPlace())
                .isFalse();
        assertThat(Answers.failed(null, Results.failure(ErrorCode.IO, "take a place", "IO: x", false))
                        .getNoPlace())
                .isFalse();
    }

    @Test
    void a_defect_is_one_line_with_its_type() {
        assertThat(Answers.failed(null, new NoClassDefFoundError("a/B")).getDetails())
                .isEqualTo("INTERNAL: java.lang.NoClassDefFoundError: a/B");
        assertThat(Answers.failed(null, new NullPointerException()).getDetails())
                .isEqualTo("INTERNAL: java.lang.NullPointerException");
        assertThat(Answers.failed(null, new IllegalStateException("two\n  lines\r\n"))
                        .getDetails())
                .isEqualTo("INTERNAL: java.lang.IllegalStateException: two; lines");
    }

    @Test
    void sizes_of_a_repository_and_of_a_rebased_point() {
        BackupStorageStatsAnswer stats = Answers.stats(null, Results.stats(1024, 512));
        assertThat(stats.getResult()).isTrue();
        assertThat(stats.getTotalSize()).isEqualTo(1024L);
        assertThat(stats.getUsedSize()).isEqualTo(512L);
        BackupStorageStatsAnswer failed =
                Answers.statsFailed(null, Results.failure(ErrorCode.MOUNT_FAILED, "MOUNT_FAILED: x", false));
        assertThat(failed.getResult()).isFalse();
        assertThat(failed.getDetails()).isEqualTo("MOUNT_FAILED: x");
        assertThat(failed.getTotalSize()).isZero();
        BackupAnswer rebased = Answers.rebased(null, Results.rebased(77, "m2"));
        assertThat(rebased.getSize()).isEqualTo(77L);
        assertThat(rebased.getMac()).isEqualTo("m2");
        assertThat(Answers.deleted(null).getResult()).isTrue();
    }
}
