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
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class RequestTest {
    @Test
    void the_key_of_an_output_in_ceph_is_in_no_text() {
        String path = "rbd:pool/image:id=user:key=secret";
        Output output = Output.builder().path(path).format(OutputFormat.RAW).build();
        RestoreOutput restored =
                RestoreOutput.builder().path(path).format(OutputFormat.RAW).build();
        assertThat(output).hasToString("rbd:pool/image").returns(path, Output::path);
        assertThat(restored).hasToString("rbd:pool/image").returns(path, RestoreOutput::path);
    }

    @Test
    void a_request_keeps_what_was_set_and_nothing_else() {
        Repository repository = Repository.builder()
                .type("nfs")
                .address("nas:/export")
                .options("vers=4.2")
                .build();
        TakeBackupRequest request = TakeBackupRequest.builder()
                .job("j")
                .vmName("i-2-10-VM")
                .repository(repository)
                .mode(Mode.INCREMENTAL)
                .parentPaths(List.of("a", "b"))
                .quiesce(true)
                .waitSeconds(5)
                .rateLimit(1 << 20)
                .excludeDisks(List.of("vdb"))
                .build();
        assertThat(request.toBuilder().build()).usingRecursiveComparison().isEqualTo(request);
        assertThat(request.repository().options()).isEqualTo("vers=4.2");
        assertThat(request.parentPaths()).containsExactly("a", "b");
        assertThat(request.excludeDisks()).containsExactly("vdb");
        assertThat(request.disks()).isNull();
        assertThat(request.engine()).isNull();
        assertThat(request.bitmapNew()).isNull();
    }

    @Test
    void a_copy_of_a_flatten_keeps_every_field() {
        FlattenRequest request = FlattenRequest.builder()
                .job("j")
                .repository(Repository.builder().type("dir").address("/export").build())
                .backupPath("i/2")
                .pointId("p")
                .volume("v")
                .output(Output.builder().path("/v").format(OutputFormat.QCOW2).build())
                .build();
        assertThat(request.toBuilder().build())
                .hasNoNullFieldsOrProperties()
                .usingRecursiveComparison()
                .isEqualTo(request);
        assertThat(request).hasToString("flatten v of i/2 on dir /export into /v");
    }

    @Test
    void a_copy_of_a_restore_keeps_every_field() {
        RestoreOutput output = RestoreOutput.builder()
                .path("/v")
                .format(OutputFormat.RAW)
                .size(1)
                .clusterSize(2)
                .preallocation(Preallocation.FALLOC)
                .build();
        RestorePointRequest request = RestorePointRequest.builder()
                .job("j")
                .repository(Repository.builder().type("dir").address("/export").build())
                .backupPath("i/2")
                .pointId("p")
                .volumes(List.of(
                        RestoreVolume.builder().volume("v").output(output).build(),
                        RestoreVolume.builder().file("f").output(output).build()))
                .nvramPath("/n")
                .tpmPath("/t")
                .verify(Verify.DATA)
                .keepOld(true)
                .keepOldIn("/k")
                .rateLimit(3)
                .build();
        assertThat(request.toBuilder().build())
                .hasNoNullFieldsOrProperties()
                .usingRecursiveComparison()
                .isEqualTo(request);
        assertThat(request).hasToString("restore [v into /v, f into /v] of i/2 on dir /export");
    }

    static Stream<Class<?>> classesWithBuilders() {
        return Stream.of(
                BackupStatsRequest.class,
                Configuration.class,
                DeleteBackupRequest.class,
                FlattenRequest.class,
                Output.class,
                RebaseBackupRequest.class,
                RebasePointRequest.class,
                Repository.class,
                RestoreOutput.class,
                RestorePointRequest.class,
                RestoreVolume.class,
                SignPointsRequest.class,
                StoppedDisk.class,
                TakeBackupRequest.class,
                VerifyChainRequest.class);
    }

    @ParameterizedTest
    @MethodSource("classesWithBuilders")
    void each_field_can_be_set_read_and_copied(Class<?> type) throws Exception {
        Object builder = type.getMethod("builder").invoke(null);
        Map<String, Object> set = new TreeMap<>();
        for (Field field : type.getDeclaredFields()) {
            Object value = sample(field);
            builder.getClass().getMethod(field.getName(), field.getType()).invoke(builder, value);
            set.put(field.getName(), value);
        }
        Object built = builder.getClass().getMethod("build").invoke(builder);
        assertThat(read(built, set.keySet())).isEqualTo(set);
        if (Stream.of(type.getMethods()).anyMatch(method -> method.getName().equals("toBuilder"))) {
            Object again = type.getMethod("toBuilder").invoke(built);
            Object copy = again.getClass().getMethod("build").invoke(again);
            assertThat(read(copy, set.keySet())).isEqualTo(set);
        }
    }

    private static Map<String, Object> read(Object built, Set<String> fields) throws Exception {
        Map<String, Object> read = new TreeMap<>();
        for (String field : fields) {
            read.put(field, built.getClass().getMethod(field).invoke(built));
        }
        return read;
    }

    /** A value that no field of this type has by default. */
    private static Object sample(Field field) throws Exception {
        Class<?> type = field.getType();
        if (type == String.class) {
            return "the " + field.getName();
        }
        if (type == long.class) {
            return (long) field.getName().hashCode();
        }
        if (type == boolean.class) {
            return true;
        }
        if (type == List.class) {
            return List.of("the " + field.getName());
        }
        if (type.isEnum()) {
            return type.getEnumConstants()[0];
        }
        Object builder = type.getMethod("builder").invoke(null);
        return builder.getClass().getMethod("build").invoke(builder);
    }

    @Test
    void lists_are_copied_and_can_not_be_changed() {
        List<String> paths = new ArrayList<>(List.of("a"));
        TakeBackupRequest request =
                TakeBackupRequest.builder().parentPaths(paths).disks(List.of()).build();
        List<BackingFile> backing = new ArrayList<>(List.of(BackingFile.of("/t", "qcow2")));
        StoppedDisk disk = StoppedDisk.builder()
                .path("/x")
                .format("qcow2")
                .backing(backing)
                .build();
        backing.clear();
        assertThat(disk.backing()).extracting(BackingFile::toString).containsExactly("/t (qcow2)");
        assertThatThrownBy(() -> disk.backing().clear()).isInstanceOf(UnsupportedOperationException.class);
        assertThat(StoppedDisk.builder().build().backing()).isNull();
        paths.add("b");
        assertThat(request.parentPaths()).containsExactly("a");
        assertThatThrownBy(() -> request.parentPaths().add("c")).isInstanceOf(UnsupportedOperationException.class);
        assertThatThrownBy(() -> request.disks().clear()).isInstanceOf(UnsupportedOperationException.class);
    }

    @Test
    void a_builder_used_again_does_not_change_what_it_built() {
        DeleteBackupRequest.Builder builder = DeleteBackupRequest.builder().backupPath("a/1");
        DeleteBackupRequest first = builder.build();
        assertThat(builder.backupPath("a/2").build().backupPath()).isEqualTo("a/2");
        assertThat(first.backupPath()).isEqualTo("a/1");
    }

    @Test
    void options_are_never_shown() {
        Repository repository = Repository.builder()
                .type("cifs")
                .address("//nas/share")
                .options("password=hunter2")
                .build();
        assertThat(List.of(
                        repository.toString(),
                        TakeBackupRequest.builder()
                                .repository(repository)
                                .build()
                                .toString(),
                        RebaseBackupRequest.builder()
                                .repository(repository)
                                .build()
                                .toString(),
                        RebasePointRequest.builder()
                                .repository(repository)
                                .build()
                                .toString(),
                        DeleteBackupRequest.builder()
                                .repository(repository)
                                .build()
                                .toString(),
                        BackupStatsRequest.builder()
                                .repository(repository)
                                .build()
                                .toString()))
                .allMatch(text -> text.contains("//nas/share") && !text.contains("hunter2"));
    }

    @Test
    void texts_become_constants_or_an_error_that_names_the_field() {
        assertThat(Mode.of("incremental")).isEqualTo(Mode.INCREMENTAL);
        assertThat(Mode.of(null)).isNull();
        assertThat(QuiesceFailure.of("warn").text()).isEqualTo("warn");
        assertThatExceptionOfType(NasBackupException.class)
                .isThrownBy(() -> Mode.of("Weekly"))
                .withMessage("INVALID_ARGUMENT: check the request: mode: 'Weekly' is not known");
        assertThatExceptionOfType(NasBackupException.class)
                .isThrownBy(() -> Engine.of("steam"))
                .withMessageContaining("engine: 'steam'");
        assertThatExceptionOfType(NasBackupException.class)
                .isThrownBy(() -> QuiesceFailure.of(""))
                .withMessageContaining("quiesceFailure: ''");
    }
}
