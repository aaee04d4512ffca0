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

package org.nasbackup;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What crosses the boundary: nulls, wrong values, odd texts, panics, versions. */
@Tag("lab")
class BoundaryTest {
    private static NasBackup nasBackup;

    @BeforeAll
    static void open() {
        nasBackup = NasBackup.open();
    }

    private static NasBackupException failure(Executable call) {
        NasBackupException e = catchThrowableOfType(NasBackupException.class, call::execute);
        assertThat(e).as("an exception").isNotNull();
        assertThat(e.getMessage()).startsWith(e.code() + ": " + e.step()).doesNotContain("\n");
        return e;
    }

    private static void refused(String field, Executable call) {
        NasBackupException e = failure(call);
        assertThat(e.code()).as(e.getMessage()).isEqualTo(ErrorCode.INVALID_ARGUMENT);
        assertThat(e.getMessage()).contains(": " + field);
        assertThat(e.leftovers()).isFalse();
        assertThat(e.disk()).isNull();
    }

    private static Repository repository() {
        return Repository.builder().type("dir").address("/nonexistent").build();
    }

    private static TakeBackupRequest.Builder full() {
        return TakeBackupRequest.builder()
                .vmName("i-2-10-VM")
                .backupPath("i-2-10-VM/2026.01.01.00.00.00")
                .repository(repository())
                .mode(Mode.FULL)
                .bitmapNew("backup-1");
    }

    @Test
    void each_missing_field_of_a_backup_is_named() {
        refused("request", () -> nasBackup.takeBackup(null));
        refused("vmName", () -> nasBackup.takeBackup(full().vmName(null).build()));
        refused("backupPath", () -> nasBackup.takeBackup(full().backupPath(null).build()));
        refused("repository", () -> nasBackup.takeBackup(full().repository(null).build()));
        refused(
                "repository.type",
                () -> nasBackup.takeBackup(
                        full().repository(Repository.builder().address("/x").build())
                                .build()));
        refused(
                "repository.address",
                () -> nasBackup.takeBackup(
                        full().repository(Repository.builder().type("dir").build())
                                .build()));
        refused("bitmapNew", () -> nasBackup.takeBackup(full().bitmapNew(null).build()));
        TakeBackupRequest.Builder incremental = full().mode(Mode.INCREMENTAL).bitmapParent("backup-0");
        refused("parentPaths", () -> nasBackup.takeBackup(incremental.build()));
        refused(
                "bitmapParent",
                () -> nasBackup.takeBackup(incremental
                        .bitmapParent(null)
                        .parentPaths(List.of("i-2-10-VM/2025.01.01.00.00.00/root.x.qcow2"))
                        .build()));
    }

    @Test
    void each_contradiction_in_a_backup_is_named() {
        refused("bitmapNew", () -> nasBackup.takeBackup(full().mode(null).build()));
        refused("disks", () -> nasBackup.takeBackup(full().disks(List.of()).build()));
        StoppedDisk disk = StoppedDisk.builder().path("/x.qcow2").build();
        refused("disks", () -> nasBackup.takeBackup(full().disks(List.of(disk)).build()));
        refused(
                "disks[0].backing[0].format",
                () -> nasBackup.takeBackup(
                        full().disks(List.of(on(BackingFile.of("/t", null)))).build()));
        refused(
                "disks[0].backing[1].path",
                () -> nasBackup.takeBackup(
                        full().disks(List.of(on(BackingFile.of("/t", "raw"), BackingFile.of("t", "raw"))))
                                .build()));
    }

    private static StoppedDisk on(BackingFile... backing) {
        return StoppedDisk.builder()
                .path("/x.qcow2")
                .format("qcow2")
                .backing(Arrays.asList(backing))
                .build();
    }

    @Test
    void null_elements_are_named() {
        refused(
                "parentPaths[1]",
                () -> nasBackup.takeBackup(
                        full().parentPaths(Arrays.asList("a", null)).build()));
        refused(
                "disks[0]",
                () -> nasBackup.takeBackup(
                        full().disks(Arrays.asList((StoppedDisk) null)).build()));
        refused(
                "disks[0].backing[0]",
                () -> nasBackup.takeBackup(
                        full().disks(List.of(on((BackingFile) null))).build()));
        refused(
                "excludeDisks[1]",
                () -> nasBackup.takeBackup(
                        full().excludeDisks(Arrays.asList("vda", null)).build()));
        refused(
                "excludeDisks",
                () -> nasBackup.takeBackup(full().excludeDisks(List.of("")).build()));
    }

    @Test
    void a_negative_time_is_refused() {
        refused("waitSeconds", () -> nasBackup.takeBackup(full().waitSeconds(-1).build()));
    }

    @Test
    void each_missing_field_of_the_small_operations_is_named() {
        refused("request", () -> nasBackup.deleteBackup(null));
        refused(
                "repository",
                () -> nasBackup.deleteBackup(
                        DeleteBackupRequest.builder().backupPath("a/1").build()));
        refused(
                "backupPath",
                () -> nasBackup.deleteBackup(
                        DeleteBackupRequest.builder().repository(repository()).build()));
        refused("request", () -> nasBackup.rebaseBackup(null));
        RebaseBackupRequest.Builder file = RebaseBackupRequest.builder();
        refused("repository", () -> nasBackup.rebaseBackup(file.build()));
        refused(
                "target",
                () -> nasBackup.rebaseBackup(file.repository(repository()).build()));
        refused(
                "newBacking",
                () -> nasBackup.rebaseBackup(
                        file.target("i/1/root.x.qcow2").newBacking("../x").build()));
        refused("request", () -> nasBackup.rebasePoint(null));
        RebasePointRequest.Builder point = RebasePointRequest.builder();
        refused("repository", () -> nasBackup.rebasePoint(point.build()));
        refused(
                "backupPath",
                () -> nasBackup.rebasePoint(point.repository(repository()).build()));
        refused(
                "newParent",
                () -> nasBackup.rebasePoint(
                        point.backupPath("i/1").newParent("i/1").build()));
        refused("request", () -> nasBackup.verifyChain(null));
        VerifyChainRequest.Builder verify = VerifyChainRequest.builder();
        refused("repository", () -> nasBackup.verifyChain(verify.build()));
        refused(
                "backupPath",
                () -> nasBackup.verifyChain(verify.repository(repository()).build()));
        refused("request", () -> nasBackup.verifyData(null));
        refused(
                "backupPath",
                () -> nasBackup.verifyData(verify.repository(repository()).build()));
        refused("request", () -> nasBackup.flatten(null));
        FlattenRequest.Builder flatten = FlattenRequest.builder();
        refused("repository", () -> nasBackup.flatten(flatten.build()));
        flatten.repository(repository()).backupPath("i/1");
        refused("volume", () -> nasBackup.flatten(flatten.build()));
        flatten.volume("v");
        refused("output.path", () -> nasBackup.flatten(flatten.build()));
        flatten.output(Output.builder().format(OutputFormat.RAW).build());
        refused("output.path", () -> nasBackup.flatten(flatten.build()));
        flatten.output(Output.builder().path("/v").build());
        refused("output.format", () -> nasBackup.flatten(flatten.build()));
        refused("request", () -> nasBackup.restorePoint(null));
        RestorePointRequest.Builder restore = RestorePointRequest.builder();
        refused("repository", () -> nasBackup.restorePoint(restore.build()));
        restore.repository(repository()).backupPath("i/1").verify(Verify.CHAIN);
        refused("volumes", () -> nasBackup.restorePoint(restore.build()));
        refused("rateLimit", () -> nasBackup.restorePoint(restore.rateLimit(-1).build()));
        restore.rateLimit(0).volumes(List.of(RestoreVolume.builder().build()));
        refused("volumes[0].volume", () -> nasBackup.restorePoint(restore.build()));
        restore.volumes(List.of(RestoreVolume.builder().serial("s").file("f").build()));
        refused("volumes[0].serial", () -> nasBackup.restorePoint(restore.build()));
        RestoreOutput output = RestoreOutput.builder()
                .path("/v")
                .format(OutputFormat.RAW)
                .size(513)
                .build();
        restore.volumes(
                List.of(RestoreVolume.builder().volume("v").output(output).build()));
        refused("volumes[0].output.size", () -> nasBackup.restorePoint(restore.build()));
        refused("request", () -> nasBackup.signPoints(null));
        SignPointsRequest.Builder sign = SignPointsRequest.builder();
        refused("repository", () -> nasBackup.signPoints(sign.build()));
        sign.repository(repository());
        refused("instance", () -> nasBackup.signPoints(sign.instance("a/b").build()));
        refused("keyFile", () -> nasBackup.signPoints(sign.instance("a").build()));
        refused("request", () -> nasBackup.backupStats(null));
        refused(
                "repository",
                () -> nasBackup.backupStats(BackupStatsRequest.builder().build()));
        refused("job", () -> nasBackup.cancel(null));
    }

    @Test
    void a_result_crosses_with_every_field() {
        TakeBackupResult result = TestHooks.result(100);
        assertThat(result.kind()).isEqualTo(Kind.INCREMENTAL);
        assertThat(result.pointId()).isEqualTo("id");
        assertThat(result.mac()).matches("[0-9a-f]{64}");
        assertThat(result.size()).isEqualTo(1);
        assertThat(result.virtualSize()).isEqualTo(2);
        assertThat(result.volumes()).hasSize(100).containsEntry("volume7", "file7");
        assertThat(result.bitmapCreated()).isEqualTo("created");
        assertThat(result.parentName()).isEqualTo("name");
        assertThat(result.bitmapRecreated()).isNull();
        assertThat(result.incrementalFallback()).isTrue();
        assertThat(result.details()).isEqualTo("one\ntwo");
        assertThat(result.engine()).isEqualTo(Engine.PUSH);
        assertThat(result.jobMillis()).isEqualTo(3);
        assertThat(result.syncMillis()).isEqualTo(4);
        assertThat(result.totalMillis()).isEqualTo(8);
        assertThat(result.disks())
                .extracting(DiskResult::volume)
                .hasSize(100)
                .startsWith("volume0", "volume1")
                .endsWith("volume99");
        DiskResult some = result.disks().get(2);
        assertThat(List.of(some.target(), some.serial(), some.file(), some.parent(), some.bitmap()))
                .containsExactly("vd2", "serial2", "file2", "parent2", "bitmap2");
        assertThat(some.kind()).isEqualTo(Kind.INCREMENTAL);
        assertThat(some.size()).isEqualTo(2);
        assertThat(some.virtualSize()).isEqualTo(Long.MAX_VALUE);
        DiskResult none = result.disks().get(3);
        assertThat(Arrays.asList(none.target(), none.serial(), none.parent(), none.bitmap()))
                .containsOnlyNulls();
        assertThat(none.kind()).isEqualTo(Kind.FULL);
        assertThatThrownBy(() -> result.disks().clear()).isInstanceOf(UnsupportedOperationException.class);
        assertThatThrownBy(() -> result.volumes().clear()).isInstanceOf(UnsupportedOperationException.class);
        assertThat(TestHooks.result(0).disks()).isEmpty();
    }

    @Test
    void statistics_cross_with_their_numbers(@TempDir Path folder) throws Exception {
        BackupStatsResult stats = nasBackup.backupStats(BackupStatsRequest.builder()
                .repository(Repository.builder()
                        .type("dir")
                        .address(folder.toString())
                        .build())
                .build());
        assertThat(stats.totalBytes()).isEqualTo(Files.getFileStore(folder).getTotalSpace());
        assertThat(stats.usedBytes()).isPositive().isLessThan(stats.totalBytes());
    }

    @ParameterizedTest
    @ValueSource(strings = {"plain", "with spaces", "ümläut 名前", "emoji \uD83D\uDE00", "a\nb", "nul\0nul", "%s{}\"'\\"})
    void texts_cross_unchanged(String text) {
        TestHooks.runJob(text, 1, status -> assertThat(status.job()).isEqualTo(text));
        assertThat(failure(() -> TestHooks.panic(text)).getMessage())
                .isEqualTo("INTERNAL: run the call: panic: "
                        + text.replace("\n", "; ").replace("\0", "\\u{0}"));
    }

    @Test
    void half_a_surrogate_pair_is_refused() {
        refused("vmName", () -> nasBackup.takeBackup(full().vmName("i-2-\uD83D").build()));
    }

    @Test
    void a_panic_becomes_an_exception_with_its_text() {
        NasBackupException e = failure(() -> TestHooks.panic("lost 3 of 7"));
        assertThat(e.code()).isEqualTo(ErrorCode.INTERNAL);
        assertThat(e).hasMessage("INTERNAL: run the call: panic: lost 3 of 7").hasNoCause();
        assertThat(nasBackup.jobs()).isEmpty();
    }

    @Test
    void versions_agree_or_refuse_each_other() {
        assertThat(nasBackup.version()).isEqualTo(NasBackup.javaVersion()).matches("\\d+\\.\\d+\\.\\d+");
        NasBackupException e = failure(() -> Native.init("0.0.1", null));
        assertThat(e.code()).isEqualTo(ErrorCode.VERSION_MISMATCH);
        assertThat(e.getMessage()).contains("0.0.1", nasBackup.version(), "install both of one version");
        assertThat(failure(() -> Native.init(null, null)).code()).isEqualTo(ErrorCode.VERSION_MISMATCH);
        assertThat(failure(() -> Native.check("0.0.1", null)).code()).isEqualTo(ErrorCode.VERSION_MISMATCH);
        assertThat(NasBackup.check(null)).isEqualTo(nasBackup.version());
    }

    @Test
    void what_the_host_lacks_is_told_thing_by_thing() {
        // without a scratch folder, which is the host's
        Configuration odd = Configuration.builder()
                .connectionUri("qemu:///none")
                .engine(Engine.PUSH)
                .build();
        Finding libvirt = NasBackup.doctor(odd).stream()
                .filter(finding -> finding.what().equals("libvirt"))
                .findFirst()
                .orElseThrow();
        assertThat(libvirt.state()).isEqualTo(Finding.State.LACKS);
        assertThat(libvirt.stops()).isTrue();
        assertThat(libvirt.advice()).contains("connectionUri");
    }

    @Test
    void a_wrong_configuration_is_refused_by_key() {
        refused(
                "logLevel",
                () -> NasBackup.open(Configuration.builder().logLevel("loud").build()));
        refused(
                "logLevel",
                () -> NasBackup.check(Configuration.builder().logLevel("loud").build()));
        refused(
                "stateDir",
                () -> NasBackup.open(Configuration.builder().stateDir("here").build()));
        refused(
                "connectionUri",
                () -> NasBackup.open(Configuration.builder().connectionUri("").build()));
        refused(
                "logConfig",
                () -> NasBackup.open(Configuration.builder()
                        .logConfig("/nowhere/log4rs.yaml")
                        .build()));
        refused(
                "rateLimit",
                () -> NasBackup.open(Configuration.builder().rateLimit(1).build()));
        refused(
                "hostRateLimit",
                () -> NasBackup.open(Configuration.builder().hostRateLimit(-1).build()));
        refused(
                "parallelBackups",
                () -> NasBackup.open(Configuration.builder().parallelBackups(-1).build()));
        refused(
                "scratchPerVm",
                () -> NasBackup.open(Configuration.builder().scratchPerVm(1).build()));
        refused(
                "scratchPerHost",
                () -> NasBackup.open(Configuration.builder().scratchPerHost(1).build()));
        refused(
                "freezeSeconds",
                () -> NasBackup.open(Configuration.builder().freezeSeconds(301).build()));
        refused(
                "freezeMountPoints",
                () -> NasBackup.open(Configuration.builder()
                        .freezeMountPoints(List.of("/", ""))
                        .build()));
        refused(
                "mountKeepSeconds",
                () -> NasBackup.open(
                        Configuration.builder().mountKeepSeconds(-1).build()));
        refused(
                "fileMode",
                () -> NasBackup.open(Configuration.builder().fileMode("666").build()));
        refused(
                "folderMode",
                () -> NasBackup.open(Configuration.builder().folderMode("7").build()));
        refused(
                "keyFile",
                () -> NasBackup.open(Configuration.builder().keyFile("/none").build()));
        refused(
                "metricsFile",
                () -> NasBackup.open(
                        Configuration.builder().metricsFile("m.prom").build()));
        NasBackup.open(Configuration.builder()
                .engine(Engine.PUSH)
                .quiesceFailure(QuiesceFailure.WARN)
                .mountKeepSeconds(0)
                .build());
        NasBackup.open();
    }
}
