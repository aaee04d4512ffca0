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
import static org.assertj.core.api.Assertions.tuple;

import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import com.cloud.storage.Storage.StoragePoolType;
import java.lang.reflect.Proxy;
import java.util.List;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.GetBackupStorageStatsCommand;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.apache.cloudstack.backup.TakeBackupCommand;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.NullSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.nasbackup.BackingFile;
import org.nasbackup.Mode;
import org.nasbackup.NasBackupException;
import org.nasbackup.StoppedDisk;
import org.nasbackup.TakeBackupRequest;

/** From command to request. */
class RequestsTest {
    private static final String POOLS = "\"volumePools\":[{\"uuid\":\"p1\",\"poolType\":\"NetworkFilesystem\"},"
            + "{\"uuid\":\"p2\",\"poolType\":\"Linstor\"}]";

    private static TakeBackupCommand command(String fields) {
        return (TakeBackupCommand) Wire.read("[{\"org.apache.cloudstack.backup.TakeBackupCommand\":{"
                + "\"vmName\":\"i-2-9-VM\",\"backupPath\":\"i-2-9-VM/T1\",\"backupRepoType\":\"nfs\","
                + "\"backupRepoAddress\":\"192.0.2.9:/b\",\"mountOptions\":\"vers\\u003d4\"" + fields + "}}]");
    }

    private static TakeBackupRequest take(String fields) {
        return Requests.take(command(fields), 7200, VOLUMES);
    }

    private static final Volumes VOLUMES = new Volumes() {
        @Override
        public String format(PrimaryDataStoreTO pool, String path) {
            return "format of " + path + " in " + pool.getUuid();
        }

        @Override
        public String rbd(PrimaryDataStoreTO pool, String path) {
            return "rbd:" + path + ":id=user of " + pool.getUuid() + ":key=secret";
        }
    };

    @Test
    void who_where_and_how_are_passed_on() {
        TakeBackupRequest request = take(",\"quiesce\":true");
        assertThat(request.vmName()).isEqualTo("i-2-9-VM");
        assertThat(request.backupPath()).isEqualTo("i-2-9-VM/T1");
        assertThat(request.repository().type()).isEqualTo("nfs");
        assertThat(request.repository().address()).isEqualTo("192.0.2.9:/b");
        assertThat(request.repository().options()).isEqualTo("vers=4");
        assertThat(request.quiesce()).isTrue();
        assertThat(take("").quiesce()).isFalse();
        assertThat(request.disks()).isNull();
    }

    @ParameterizedTest
    @CsvSource({
        "'',7200",
        "',\"wait\":0',7200",
        "',\"wait\":-1',7200",
        "',\"wait\":90',45",
        "',\"wait\":\"90\"',45",
        "',\"wait\":3600',3480"
    })
    void the_command_s_wait_less_the_time_to_answer_goes_before_the_agent_s(String fields, long seconds) {
        assertThat(take(fields).waitSeconds()).isEqualTo(seconds);
    }

    @ParameterizedTest
    @CsvSource({
        "',\"wait\":7200,\"jobSeconds\":7080',7080",
        "',\"wait\":1800,\"jobSeconds\":7080',1680",
        "',\"wait\":14400,\"jobSeconds\":7080',7080",
        "',\"wait\":0,\"jobSeconds\":7080',7080",
        "',\"wait\":-1,\"jobSeconds\":7080',7080",
        "',\"jobSeconds\":60',60",
        "',\"wait\":90,\"jobSeconds\":0',45",
        "',\"wait\":1,\"jobSeconds\":7080',1"
    })
    void the_smaller_of_what_the_provider_asked_for_and_what_arrives_is_kept_to(String fields, long seconds) {
        assertThat(take(fields).waitSeconds()).isEqualTo(seconds);
    }

    @ParameterizedTest
    @NullSource
    @ValueSource(strings = {"", "legacy", "legacy-full"})
    void a_backup_without_a_mode_is_a_plain_full(String mode) {
        TakeBackupRequest request = take(
                (mode == null ? "" : ",\"mode\":\"" + mode + "\"") + ",\"bitmapNew\":\"b\",\"parentPaths\":[\"x\"]");
        assertThat(request.mode()).isEqualTo(Mode.LEGACY);
        assertThat(request.bitmapNew()).isNull();
        assertThat(request.parentPaths()).isNull();
    }

    @Test
    void an_unknown_mode_is_refused() {
        assertThatThrownBy(() -> take(",\"mode\":\"differential\""))
                .isInstanceOf(NasBackupException.class)
                .hasMessageContaining("'differential'");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "`,\"parentPath\":\"i/T0/root.r.qcow2\"`|i/T0/root.r.qcow2",
                "`,\"parentPaths\":[\"i/T0/root.r.qcow2\"]`|i/T0/root.r.qcow2",
                "`,\"parentPath\":\"i/T0/root.uuid.qcow2\",\"parentPaths\":[\"i/T0/root.r.qcow2\",\"i/T0/datadisk.d.qcow2\"]`"
                        + "|i/T0/root.r.qcow2 i/T0/datadisk.d.qcow2",
                "`,\"parentPath\":\"\",\"parentPaths\":[]`|",
                "``|",
            })
    void one_parent_path_and_several_are_understood(String fields, String paths) {
        TakeBackupRequest request =
                take(",\"mode\":\"incremental\",\"bitmapNew\":\"b2\",\"bitmapParent\":\"b1\"" + fields);
        assertThat(request.mode()).isEqualTo(Mode.INCREMENTAL);
        assertThat(request.bitmapNew()).isEqualTo("b2");
        assertThat(request.bitmapParent()).isEqualTo("b1");
        assertThat(request.parentPaths()).isEqualTo(paths == null ? null : List.of(paths.split(" ")));
    }

    @Test
    void the_disks_of_a_stopped_guest_get_the_format_their_pool_tells() {
        TakeBackupRequest request = take(",\"volumePaths\":[\"/mnt/p1/a\",\"/dev/drbd/by-res/cs-b/0\"]," + POOLS);
        assertThat(request.disks())
                .extracting(StoppedDisk::path, StoppedDisk::format)
                .containsExactly(
                        tuple("/mnt/p1/a", "format of /mnt/p1/a in p1"),
                        tuple("/dev/drbd/by-res/cs-b/0", "format of /dev/drbd/by-res/cs-b/0 in p2"));
    }

    @Test
    void a_stopped_guest_may_be_asked_for_an_incremental() {
        TakeBackupRequest request = take(
                ",\"mode\":\"incremental\",\"bitmapNew\":\"b2\",\"bitmapParent\":\"b1\",\"parentPaths\":[\"i/T0/root.a.qcow2\"]"
                        + ",\"volumePaths\":[\"/mnt/p1/a\"]," + POOLS);
        assertThat(request.mode()).isEqualTo(Mode.INCREMENTAL);
        assertThat(request.bitmapParent()).isEqualTo("b1");
        assertThat(request.parentPaths()).containsExactly("i/T0/root.a.qcow2");
        assertThat(request.disks()).extracting(StoppedDisk::path).containsExactly("/mnt/p1/a");
    }

    @ParameterizedTest
    @ValueSource(
            strings = {"", ",\"volumePaths\":[]", ",\"volumePaths\":null", ",\"volumePaths\":[],\"volumePools\":[]"})
    void no_paths_mean_a_running_guest(String fields) {
        assertThat(take(fields).disks()).isNull();
    }

    @ParameterizedTest
    @ValueSource(strings = {"", ",\"volumePools\":null", ",\"volumePools\":[]", ",\"volumePools\":[null]"})
    void a_format_that_no_pool_tells_is_not_guessed(String pools) {
        assertThatThrownBy(() -> take(",\"volumePaths\":[\"/mnt/p1/a\"]" + pools))
                .hasMessage("INVALID_ARGUMENT: check the request: volumePools: the management server does not name the"
                        + " pool of '/mnt/p1/a', and so not its format");
    }

    @Test
    void what_a_volume_may_stand_on_is_passed_on_and_nothing_where_the_server_does_not_know() {
        String volumes =
                ",\"volumePaths\":[\"/mnt/p1/a\",\"/mnt/p1/b\",\"/dev/drbd/by-res/cs-b/0\"]," + "\"volumePools\":["
                        + "{\"uuid\":\"p1\",\"poolType\":\"NetworkFilesystem\"},{\"uuid\":\"p1\",\"poolType\":\"NetworkFilesystem\"},"
                        + "{\"uuid\":\"p2\",\"poolType\":\"Linstor\"}]";
        List<StoppedDisk> disks = take(volumes
                        + ",\"volumeBacking\":[{\"/mnt/p1/s\":\"qcow2\",\"/mnt/p1/t\":\"raw\"},{},null]")
                .disks();
        assertThat(disks.get(0).backing())
                .extracting(BackingFile::toString)
                .containsExactly("/mnt/p1/s (qcow2)", "/mnt/p1/t (raw)");
        assertThat(disks.get(1).backing()).isEmpty();
        assertThat(disks.get(2).backing()).isNull();
        assertThat(take(volumes).disks()).extracting(StoppedDisk::backing).containsOnlyNulls();
        assertThatThrownBy(() -> take(volumes + ",\"volumeBacking\":[{}]"))
                .hasMessage(
                        "INVALID_ARGUMENT: check the request: volumeBacking: it does not have an element for each of"
                                + " volumePaths");
    }

    @Test
    void the_disks_of_a_stopped_guest_on_rbd_are_named_as_qemu_opens_them_and_shown_without_the_key() {
        TakeBackupRequest request =
                take(",\"volumePaths\":[\"pool/a\"],\"volumePools\":[{\"uuid\":\"p\",\"poolType\":\"RBD\"}]");
        assertThat(request.disks())
                .extracting(StoppedDisk::path, StoppedDisk::format)
                .containsExactly(tuple("rbd:pool/a:id=user of p:key=secret", "format of pool/a in p"));
        assertThat(request.disks().get(0)).hasToString("rbd:pool/a (format of pool/a in p)");
    }

    @ParameterizedTest
    @CsvSource({"/mnt/p/a-b,a-b", "/var/lib/x/images/a.qcow2,a.qcow2", "/dev/drbd/by-res/cs-a-b/0,a-b", "a,a"})
    void the_pool_knows_a_volume_by_its_own_path(String path, String volume) {
        assertThat(PoolVolumes.volumeOf(path)).isEqualTo(volume);
    }

    /** PowerFlex shows it to no host while its machine is stopped. */
    @Test
    void a_volume_that_this_host_does_not_have_is_named() {
        KVMStoragePool pool = (KVMStoragePool) Proxy.newProxyInstance(
                KVMStoragePool.class.getClassLoader(), new Class<?>[] {KVMStoragePool.class}, (p, method, a) -> null);
        PoolVolumes volumes = new PoolVolumes(new KVMStoragePoolManager(null, null) {
            @Override
            public KVMStoragePool getStoragePool(StoragePoolType type, String uuid) {
                return pool;
            }
        });
        TakeBackupCommand command = command(
                ",\"volumePaths\":[\"/mnt/p/v:n\"],\"volumePools\":[{\"uuid\":\"p\",\"poolType\":\"PowerFlex\"}]");
        assertThatThrownBy(() -> Requests.take(command, 7200, volumes))
                .hasMessage("INVALID_ARGUMENT: look for volume 'v:n' of pool p: this host does not have it");
    }

    @ParameterizedTest
    @CsvSource({
        "i/T3/root.r.qcow2,i/T1/root.r.qcow2,i/T1/root.r.qcow2,false",
        "i/T3/root.r.qcow2,'',,false",
        "i/T3,i/T1,i/T1,true",
        "i/T3,'',,true",
        "i/T3,,,true"
    })
    void a_rebase_is_of_a_file_or_of_a_point(String target, String given, String backing, boolean point) {
        RebaseOrder order = Requests.rebase(
                point
                        ? RebaseBackupCommand.ofPoint(target, given, "i/T2", "cifs", "//nas/b", "vers=3")
                        : new RebaseBackupCommand(target, given, "cifs", "//nas/b", "vers=3"));
        assertThat(order.target()).isEqualTo(target);
        assertThat(order.newBacking()).isEqualTo(backing);
        assertThat(order.wholePoint()).isEqualTo(point);
        assertThat(order.going()).isEqualTo(point ? "i/T2" : null);
        assertThat(order.repository().type()).isEqualTo("cifs");
        assertThat(order.repository().address()).isEqualTo("//nas/b");
        assertThat(order.repository().options()).isEqualTo("vers=3");
    }

    @Test
    void a_rebase_of_both_or_of_nothing_is_refused() {
        for (String fields : new String[] {"", "\"targetPath\":\"i/T3/root.r.qcow2\",\"backupPath\":\"i/T3\""}) {
            RebaseBackupCommand command = (RebaseBackupCommand)
                    Wire.read("[{\"org.apache.cloudstack.backup.RebaseBackupCommand\":{" + fields + "}}]");
            assertThatThrownBy(() -> Requests.rebase(command))
                    .hasMessage("INVALID_ARGUMENT: check the request: either targetPath or backupPath has to be given");
        }
    }

    @Test
    void delete_and_stats_name_their_repository() {
        var delete = Requests.delete(new DeleteBackupCommand("i/T1", "nfs", "a", null));
        assertThat(delete.backupPath()).isEqualTo("i/T1");
        assertThat(delete.repository().address()).isEqualTo("a");
        assertThat(delete.repository().options()).isEmpty();
        var stats = Requests.stats(new GetBackupStorageStatsCommand("nfs", "a", "o"));
        assertThat(stats.repository().options()).isEqualTo("o");
    }
}
