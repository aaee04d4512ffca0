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
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.CancelHandle;
import org.nasbackup.DiskResult;
import org.nasbackup.ErrorCode;
import org.nasbackup.FlattenRequest;
import org.nasbackup.FlattenResult;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Output;
import org.nasbackup.OutputFormat;
import org.nasbackup.RestoreOutput;
import org.nasbackup.RestorePointRequest;
import org.nasbackup.RestorePointResult;
import org.nasbackup.RestoreVolume;
import org.nasbackup.RestoredVolume;
import org.nasbackup.Verdict;
import org.nasbackup.VerifiedFile;
import org.nasbackup.Verify;
import org.nasbackup.VerifyChainRequest;
import org.nasbackup.VerifyChainResult;

/** A chain of real backups verified and flattened through façade and JNI. */
@Tag("lab")
class VerifyAndFlattenTest {
    /** Offset of the L1 table's offset in a qcow2 header (QEMU, docs/interop/qcow2.txt). */
    private static final int L1_TABLE = 40;

    private static NasBackup nasBackup;

    /** What all tests read. */
    private static Story story;

    private static Point full;
    private static Point incremental;

    @BeforeAll
    static void open() {
        nasBackup = Lab.open("info");
        story = new Story(nasBackup, Guest.ordinary(), new NasFolder());
        full = story.take(Mode.FULL);
        story.guest().write(0, 0x31, 12, 1);
        story.guest().write(1, 0x32, 8, 2);
        incremental = story.take(Mode.INCREMENTAL);
    }

    @AfterAll
    static void close() {
        story.close();
    }

    private static VerifyChainResult verify(Story story, Point point) {
        return nasBackup.verifyChain(VerifyChainRequest.builder()
                .repository(story.nas().repository())
                .backupPath(point.path())
                .build());
    }

    private static Output output(Path path, OutputFormat format) {
        return Output.builder().path(path.toString()).format(format).build();
    }

    private FlattenRequest.Builder flatten(Point point, DiskResult disk, Path output) {
        return FlattenRequest.builder()
                .repository(story.nas().repository())
                .backupPath(point.path())
                .volume(disk.volume())
                .output(output(output, OutputFormat.QCOW2));
    }

    @Test
    void a_sound_chain_is_good_file_by_file() {
        VerifyChainResult result = verify(story, incremental);
        assertThat(result.verdict()).as("%s", result).isEqualTo(Verdict.GOOD);
        assertThat(result.files())
                .allSatisfy(file -> assertThat(file.verdict()).isEqualTo(Verdict.GOOD))
                .extracting(VerifiedFile::file)
                .contains(
                        incremental.result().disks().get(1).file(),
                        full.result().disks().get(1).file(),
                        incremental.path() + "/manifest.json");
    }

    @Test
    void damage_anywhere_below_is_bad_and_named() throws Exception {
        Story copy = story.copy();
        String damaged = full.result().disks().get(1).file();
        try (FileChannel image =
                FileChannel.open(copy.nas().at(damaged), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            ByteBuffer entry = ByteBuffer.allocate(8);
            image.read(entry, L1_TABLE);
            image.write(ByteBuffer.wrap(new byte[] {0, 0, 0x7f, 0, 0, 0, 0, 0}), entry.getLong(0));
        }
        VerifyChainResult result = verify(copy, incremental);
        assertThat(result.verdict()).isEqualTo(Verdict.BAD);
        assertThat(result.files()).anySatisfy(file -> {
            assertThat(file.file()).isEqualTo(damaged);
            assertThat(file.verdict()).isEqualTo(Verdict.BAD);
            assertThat(file.reasons()).isNotEmpty();
        });
    }

    @Test
    void all_disks_are_restored_in_one_call_and_each_byte_is_verified() {
        Path outputs = Lab.folder("restored");
        List<RestoreVolume> volumes = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            volumes.add(RestoreVolume.builder()
                    .volume(incremental.result().disks().get(i).volume())
                    .output(RestoreOutput.builder()
                            .path(outputs.resolve("disk" + i).toString())
                            .format(OutputFormat.QCOW2)
                            .build())
                    .build());
        }
        RestorePointRequest request = RestorePointRequest.builder()
                .repository(story.nas().repository())
                .backupPath(incremental.path())
                .pointId(incremental.result().pointId())
                .volumes(volumes)
                .build();
        RestorePointResult result = nasBackup.restorePoint(request);
        assertThat(result.bytesRead()).isPositive();
        for (int i = 0; i < 2; i++) {
            DiskResult disk = incremental.result().disks().get(i);
            RestoredVolume restored = result.volumes().get(i);
            assertThat(restored.volume()).isEqualTo(disk.volume());
            assertThat(restored.file())
                    .isEqualTo(Path.of(disk.file()).getFileName().toString());
            assertThat(restored.verified()).isEqualTo(Verify.DATA);
            assertThat(restored.kept()).isNull();
            assertThat(incremental.difference(Path.of(restored.output()), i)).isNull();
        }
        assertThat(nasBackup
                        .restorePoint(request.toBuilder().keepOld(true).build())
                        .volumes())
                .allSatisfy(volume -> assertThat(Path.of(volume.kept())).exists());
    }

    @Test
    void each_disk_becomes_a_file_that_stands_on_nothing() {
        Path outputs = Lab.folder("flat");
        for (Point point : story.points()) {
            for (int i = 0; i < 2; i++) {
                DiskResult disk = point.result().disks().get(i);
                Path output = outputs.resolve("disk" + i);
                FlattenResult result =
                        nasBackup.flatten(flatten(point, disk, output).build());
                assertThat(result.bytesCloned() + result.bytesCopied()).isPositive();
                assertThat(Lab.run("qemu-img", "info", "" + output)).doesNotContain("backing");
                assertThat(point.difference(output, i)).isNull();
            }
        }
        DiskResult root = full.result().disks().get(0);
        Path raw = outputs.resolve("raw");
        nasBackup.flatten(
                flatten(full, root, raw).output(output(raw, OutputFormat.RAW)).build());
        assertThat(Lab.run("qemu-img", "info", "-f", "raw", "" + raw)).contains("format: raw");
        assertThat(nasBackup.jobs()).isEmpty();
    }

    @Test
    void what_is_refused_or_cancelled_leaves_no_output() {
        Path output = Lab.folder("flat").resolve("disk");
        DiskResult disk = full.result().disks().get(0);
        FlattenRequest.Builder request = flatten(full, disk, output);
        assertThat(failure(request.output(output(Path.of("disk"), OutputFormat.RAW)), null))
                .isEqualTo(ErrorCode.INVALID_ARGUMENT);
        assertThat(failure(request.output(output(output, OutputFormat.RAW)).volume("none"), null))
                .isEqualTo(ErrorCode.NOT_FOUND);
        CancelHandle handle = new CancelHandle();
        handle.cancel();
        assertThat(failure(request.volume(disk.volume()), handle)).isEqualTo(ErrorCode.CANCELLED);
        assertThat(Files.exists(output)).isFalse();
        assertThat(output.getParent().toFile().list()).isEmpty();
    }

    private static ErrorCode failure(FlattenRequest.Builder request, CancelHandle handle) {
        NasBackupException e =
                catchThrowableOfType(NasBackupException.class, () -> nasBackup.flatten(request.build(), null, handle));
        assertThat(e).as("an exception").isNotNull();
        return e.code();
    }
}
