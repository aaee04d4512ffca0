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

package com.cloud.hypervisor.kvm.resource.wrapper;

import static org.assertj.core.api.Assertions.assertThat;

import com.cloud.agent.api.Answer;
import com.cloud.hypervisor.kvm.resource.LibvirtComputingResource;
import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import com.cloud.storage.Storage.StoragePoolType;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Supplier;
import java.util.stream.Stream;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupStorageStatsAnswer;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.GetBackupStorageStatsCommand;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.apache.cloudstack.backup.TakeBackupCommand;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.apache.logging.log4j.Logger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.DeleteBackupResult;
import org.nasbackup.ErrorCode;
import org.nasbackup.RebaseResult;
import org.nasbackup.Results;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.VerifyChainRequest;
import org.nasbackup.VerifyChainResult;
import org.nasbackup.cloudstack.Operations;
import org.nasbackup.cloudstack.RebaseOrder;
import org.nasbackup.cloudstack.RestoreOrder;
import org.nasbackup.cloudstack.Restored;
import org.nasbackup.cloudstack.Wire;

/** Command in, answer out, whatever the library does. */
class WrapperTest {
    private final List<String> asked = new ArrayList<>();
    private boolean hasKey;

    private final LibvirtComputingResource resource = new LibvirtComputingResource() {
        @Override
        public int getCmdsTimeout() {
            return 7_200_000;
        }

        @Override
        public KVMStoragePoolManager getStoragePoolMgr() {
            return new KVMStoragePoolManager(null, null) {
                @Override
                public KVMStoragePool getStoragePool(StoragePoolType type, String uuid) {
                    return (KVMStoragePool) Proxy.newProxyInstance(
                            KVMStoragePool.class.getClassLoader(),
                            new Class<?>[] {KVMStoragePool.class},
                            (pool, method, arguments) -> "/usr");
                }
            };
        }
    };

    private final Operations library = new Operations() {
        @Override
        public TakeBackupResult takeBackup(TakeBackupRequest request) {
            asked.add(request + " within " + request.waitSeconds());
            return Results.taken("full", 9, "backup-1", null, false, "");
        }

        @Override
        public RebaseResult rebase(RebaseOrder order) {
            asked.add(order.target() + " onto " + order.newBacking());
            return Results.rebased(11, null);
        }

        @Override
        public DeleteBackupResult deleteBackup(DeleteBackupRequest request) {
            asked.add(request.toString());
            return Results.deleted(3);
        }

        @Override
        public VerifyChainResult verifyChain(VerifyChainRequest request) {
            asked.add(request + " of id " + request.pointId());
            return Results.verified("good", "i/T1/manifest.json");
        }

        @Override
        public Restored restorePoint(RestoreOrder order) {
            asked.add(order.images().get(0).volume() + " of " + order.backupPath() + " to "
                    + order.images().get(0).path());
            return new Restored(0, 0, null);
        }

        @Override
        public String connectionUri() {
            return "test:///default";
        }

        @Override
        public boolean hasKey() {
            return hasKey;
        }

        @Override
        public BackupStatsResult backupStats(BackupStatsRequest request) {
            asked.add(request.toString());
            return Results.stats(1024, 512);
        }
    };

    private final TakeBackupCommand take = new TakeBackupCommand("i-2-9-VM", "i-2-9-VM/T1");
    private final RebaseBackupCommand rebase =
            RebaseBackupCommand.ofPoint("i/T3", "i/T1", "i/T2", "nfs", "nas:/b", null);
    private final DeleteBackupCommand delete = new DeleteBackupCommand("i/T2", "nfs", "nas:/b", null);
    private final VerifyBackupCommand verify = new VerifyBackupCommand("i/T1", "p1", null, "nfs", "nas:/b", null);
    private final RestoreBackupCommand restore = (RestoreBackupCommand)
            Wire.read("[{\"org.apache.cloudstack.backup.RestoreBackupCommand\":{\"backupPath\":\"i/T1\",\"disks\":[{"
                    + "\"backupFile\":\"d1\",\"volumeUuid\":\"n-1\",\"path\":\"/p/n-1\",\"volumePath\":\"n-1\","
                    + "\"pool\":{\"uuid\":\"p\",\"poolType\":\"NetworkFilesystem\"}}]}}]");
    private final GetBackupStorageStatsCommand stats = new GetBackupStorageStatsCommand("nfs", "nas:/b", null);

    private List<Answer> all(Supplier<Operations> operations) {
        take.setMode("full");
        return List.of(
                new LibvirtTakeBackupCommandWrapper(operations).execute(take, resource),
                new LibvirtRebaseBackupCommandWrapper(operations).execute(rebase, resource),
                new LibvirtDeleteBackupCommandWrapper(operations).execute(delete, resource),
                new LibvirtVerifyBackupCommandWrapper(operations).execute(verify, resource),
                new LibvirtRestoreBackupCommandWrapper(operations).execute(restore, resource),
                new LibvirtGetBackupStatsCommandWrapper(operations).execute(stats, resource));
    }

    @Test
    void each_command_becomes_one_call() {
        take.setBackupRepoType("nfs");
        take.setBackupRepoAddress("nas:/b");
        List<Answer> answers = all(() -> library);
        assertThat(asked)
                .containsExactly(
                        "takeBackup FULL of i-2-9-VM to i-2-9-VM/T1 on nfs nas:/b within 7200",
                        "i/T3 onto i/T1",
                        "deleteBackup i/T2 on nfs nas:/b",
                        "verification of i/T1 on nfs nas:/b of id p1",
                        "d1 of i/T1 to /usr/n-1",
                        "backupStats nfs nas:/b");
        assertThat(answers).allMatch(Answer::getResult);
        assertThat(((BackupAnswer) answers.get(0)).getBitmapCreated()).isEqualTo("backup-1");
        assertThat(((BackupAnswer) answers.get(1)).getSize()).isEqualTo(11L);
        assertThat(((BackupStorageStatsAnswer) answers.get(5)).getUsedSize()).isEqualTo(512L);
    }

    static Stream<Throwable> whatever_can_be_thrown() {
        return Stream.of(
                Results.failure(ErrorCode.LIBVIRT, "LIBVIRT: connect to libvirt: it is not there", true),
                new UnsatisfiedLinkError("no nasbackup in java.library.path"),
                new NoClassDefFoundError("org/nasbackup/NasBackup"),
                new ExceptionInInitializerError("x"),
                new StackOverflowError(),
                new NullPointerException());
    }

    @ParameterizedTest
    @MethodSource("whatever_can_be_thrown")
    void nothing_is_thrown_and_the_answer_has_the_type_that_the_server_casts_to(Throwable failure) {
        List<Answer> answers = all(() -> {
            throw WrapperTest.<RuntimeException>sneaky(failure);
        });
        assertThat(answers.subList(0, 5)).hasOnlyElementsOfType(BackupAnswer.class);
        assertThat(answers.get(5)).isInstanceOf(BackupStorageStatsAnswer.class);
        // what nobody could look at, and no key vouches for, is told and restored
        assertThat(answers).allMatch(answer -> answer.getResult() == (answer == answers.get(3)));
        assertThat(answers).allSatisfy(answer -> assertThat(answer.getDetails())
                .isNotBlank()
                .doesNotContain("\n")
                .contains(failure.getMessage() == null ? failure.getClass().getName() : failure.getMessage()));
        assertThat(((BackupAnswer) answers.get(0)).getNeedsCleanup())
                .isEqualTo(failure.getMessage() != null && failure.getMessage().startsWith("LIBVIRT"));
    }

    @SuppressWarnings("unchecked")
    private static <T extends Throwable> T sneaky(Throwable failure) throws T {
        throw (T) failure;
    }

    /** Else it would take a forged point for a good one. */
    @Test
    void a_host_without_a_key_does_not_vouch_for_a_point_that_a_key_vouches_for() {
        VerifyBackupCommand signed = new VerifyBackupCommand("i/T1", "p1", "m1", "nfs", "nas:/b", null);
        LibvirtVerifyBackupCommandWrapper wrapper = new LibvirtVerifyBackupCommandWrapper(() -> library);
        Answer answer = wrapper.execute(signed, resource);
        assertThat(answer.getResult()).isFalse();
        assertThat(answer.getDetails()).contains("keyFile");
        assertThat(asked).isEmpty();
        hasKey = true;
        assertThat(wrapper.execute(signed, resource).getResult()).isTrue();
    }

    @Test
    void a_host_that_is_asked_whether_it_knows_the_question_looks_at_nothing() {
        VerifyBackupCommand known = new VerifyBackupCommand("i/T1", "p1", null, null, null, null);
        Answer answer = new LibvirtVerifyBackupCommandWrapper(() -> library).execute(known, resource);
        assertThat(answer.getResult()).isTrue();
        assertThat(((BackupAnswer) answer).getRestoresChains()).isTrue();
        assertThat(asked).isEmpty();
    }

    /** A stack's own lines tell nothing from those in a text. */
    @Test
    void the_agent_s_log_and_the_answer_get_no_line_of_others() {
        List<Object> logged = new ArrayList<>();
        Logger log = (Logger) Proxy.newProxyInstance(
                WrapperTest.class.getClassLoader(), new Class<?>[] {Logger.class}, (proxy, method, arguments) -> {
                    logged.addAll(Arrays.asList(arguments));
                    return null;
                });
        Throwable failure = Results.failure(ErrorCode.IO, "IO: read 'T1\nERROR forged\u001b[2J'", false);
        LibvirtDeleteBackupCommandWrapper wrapper =
                new LibvirtDeleteBackupCommandWrapper(() -> {
                    throw WrapperTest.<RuntimeException>sneaky(failure);
                }) {
                    {
                        logger = log;
                    }
                };
        String shown = "IO: read 'T1; ERROR forged\\u{1b}[2J'";
        assertThat(wrapper.execute(delete, resource).getDetails()).isEqualTo(shown);
        assertThat(logged).last().isInstanceOfSatisfying(Throwable.class, each -> assertThat(each.toString())
                .endsWith(shown));
        assertThat(logged.toString()).doesNotContain("\n").doesNotContain("\u001b");
    }

    @Test
    void a_command_that_lacks_everything_is_answered_too() {
        take.setVolumePaths(List.of("/mnt/p/a"));
        RebaseBackupCommand empty = new RebaseBackupCommand(null, null, null, null, null);
        Answer answer = new LibvirtRebaseBackupCommandWrapper(() -> library).execute(empty, resource);
        assertThat(answer).isInstanceOf(BackupAnswer.class);
        assertThat(answer.getDetails())
                .isEqualTo("INVALID_ARGUMENT: check the request: either targetPath or backupPath has to be given");
        RestoreBackupCommand nothing = RestoreBackupCommand.ofMachine(List.of());
        assertThat(new LibvirtRestoreBackupCommandWrapper(() -> library).execute(nothing, resource))
                .isInstanceOfSatisfying(BackupAnswer.class, each -> assertThat(each.getDetails())
                        .isEqualTo("INVALID_ARGUMENT: check the request: no volume is named"));
        Answer taken = new LibvirtTakeBackupCommandWrapper(() -> library).execute(take, resource);
        assertThat(taken.getDetails()).startsWith("INVALID_ARGUMENT: check the request: volumePools: ");
        assertThat(asked).isEmpty();
    }
}
