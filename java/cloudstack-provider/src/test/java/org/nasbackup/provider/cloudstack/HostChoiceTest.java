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

package org.nasbackup.provider.cloudstack;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.ArgumentMatchers.anyLong;
import static org.mockito.ArgumentMatchers.eq;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.times;
import static org.mockito.Mockito.verify;
import static org.mockito.Mockito.when;

import com.cloud.agent.AgentManager;
import com.cloud.agent.api.UnsupportedAnswer;
import com.cloud.exception.AgentUnavailableException;
import com.cloud.exception.OperationTimedoutException;
import com.cloud.host.HostVO;
import com.cloud.host.Status;
import com.cloud.host.dao.HostDao;
import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.resource.ResourceManager;
import com.cloud.storage.ScopeType;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.dao.VolumeDao;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * A stopped machine ran last on host 1, of cluster 7 as host 2 is. Host 3 is in cluster 8 of the same zone, and host 4 in
 * another zone. A letter for each host: N of a version that restores incrementals, O of one that does not, M is N in maintenance,
 * U is N with an unknown version, D is N that is down, - is not known. W is O with our wrapper, E is O with an earlier jar of ours,
 * H is W that does not answer. The others have CloudStack's own wrapper.
 */
class HostChoiceTest {
    private static final long ZONE = 1;

    private final HostDao hosts = mock(HostDao.class);
    private final VirtualMachine vm = mock(VirtualMachine.class);
    private final StoragePoolVO pool = mock(StoragePoolVO.class);
    private final AgentManager agents = mock(AgentManager.class);
    private long now;
    private final HostChoice choice = new HostChoice(
            hosts,
            mock(VolumeDao.class),
            mock(PrimaryDataStoreDao.class),
            mock(ResourceManager.class),
            new Restorers(agents, new Restorers.Memory(), () -> now));

    private HostVO host(long id, char kind) {
        if (kind == '-') {
            return null;
        }
        HostVO host = mock(HostVO.class);
        when(host.getId()).thenReturn(id);
        when(host.getName()).thenReturn("kvm" + id);
        when(host.getHypervisorType()).thenReturn(HypervisorType.KVM);
        when(host.getStatus()).thenReturn(kind == 'D' ? Status.Down : Status.Up);
        when(host.isInMaintenanceStates()).thenReturn(kind == 'M');
        when(host.getVersion()).thenReturn("OWEH".indexOf(kind) >= 0 ? "4.22.1.0" : kind == 'U' ? "x" : "4.23.0.0");
        when(host.getClusterId()).thenReturn(id < 3 ? 7L : 8L);
        when(host.getDataCenterId()).thenReturn(id < 4 ? ZONE : 2);
        when(hosts.findById(id)).thenReturn(host);
        answers(id, kind);
        return host;
    }

    private void answers(long id, char kind) {
        try {
            when(agents.send(eq(id), any(VerifyBackupCommand.class))).thenAnswer(call -> {
                VerifyBackupCommand question = call.getArgument(1);
                assertThat(question.getBackupRepoAddress()).isNull();
                if (kind == 'H') {
                    throw new OperationTimedoutException(null, id, 1, 1, false);
                }
                if (kind != 'W' && kind != 'E') {
                    return new UnsupportedAnswer(question, "Unsupported command issued");
                }
                BackupAnswer answer = new BackupAnswer(question, true, null);
                answer.setRestoresChains(kind == 'W' ? true : null);
                return answer;
            });
        } catch (AgentUnavailableException | OperationTimedoutException e) {
            throw new IllegalStateException(e);
        }
    }

    private static List<HostVO> upAndEnabled(HostVO... some) {
        return Arrays.stream(some)
                .filter(Objects::nonNull)
                .filter(host -> host.getStatus() == Status.Up && !host.isInMaintenanceStates())
                .collect(Collectors.toList());
    }

    private HostVO[] site(String kinds, ScopeType scope) {
        HostVO[] all = new HostVO[4];
        for (int i = 0; i < kinds.length(); i++) {
            all[i] = host(i + 1, kinds.charAt(i));
        }
        List<HostVO> inCluster = upAndEnabled(all[0], all[1]);
        List<HostVO> inZone = upAndEnabled(all[0], all[1], all[2]);
        when(hosts.findHypervisorHostInCluster(7)).thenReturn(inCluster);
        when(hosts.findHypervisorHostInZone(ZONE)).thenReturn(inZone);
        when(vm.getInstanceName()).thenReturn("i-2-10-VM");
        when(vm.getDataCenterId()).thenReturn(ZONE);
        when(vm.getLastHostId()).thenReturn(1L);
        when(pool.getUuid()).thenReturn("p");
        when(pool.getPoolType()).thenReturn(StoragePoolType.NetworkFilesystem);
        when(pool.getScope()).thenReturn(scope);
        when(pool.getClusterId()).thenReturn(scope == ScopeType.ZONE ? null : Long.valueOf(7));
        return all;
    }

    private static void check(String expected, Callable<Long> chosen) throws Exception {
        if (expected.matches("\\d")) {
            assertThat(chosen.call()).isEqualTo(Long.parseLong(expected));
        } else {
            assertThatThrownBy(chosen::call)
                    .isInstanceOf(CloudRuntimeException.class)
                    .hasMessageContaining(expected);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "NNNN,CLUSTER,false,1",
        "ONNN,CLUSTER,false,1",
        "ONNN,CLUSTER,true,2",
        "UNNN,CLUSTER,true,2",
        "DNNN,CLUSTER,false,2",
        "-NNN,CLUSTER,true,2",
        "MNNN,CLUSTER,false,2",
        "MONN,CLUSTER,true,1",
        "ODNN,CLUSTER,true,host kvm1 has CloudStack 4.22.1.0; hosts restore incremental backups since 4.23, earlier ones with nasbackup's wrapper",
        "OONN,CLUSTER,true,host kvm1 has CloudStack 4.22.1.0, and 1 more like it;",
        "OONN,ZONE,true,3",
        "WNNN,CLUSTER,true,1",
        "OWNN,CLUSTER,true,2",
        "EWNN,CLUSTER,true,2",
        "HWNN,CLUSTER,true,2",
        "EHNN,CLUSTER,true,'host kvm1 has CloudStack 4.22.1.0, and 1 more like it;'",
        "DDON,ZONE,true,host kvm3 has CloudStack 4.22.1.0;",
        "DDNN,CLUSTER,false,no KVM host that reaches the volumes of virtual machine i-2-10-VM is up",
        "DDDN,ZONE,false,no KVM host that reaches the volumes of virtual machine i-2-10-VM is up",
        "ONNN,HOST,true,host kvm1 has CloudStack 4.22.1.0;",
        "DNNN,HOST,false,no KVM host that reaches the volumes of virtual machine i-2-10-VM is up",
        "MNNN,HOST,true,1",
    })
    void a_restore_goes_through_a_host_that_has_the_storage_and_restores_it_right(
            String kinds, ScopeType scope, boolean incremental, String expected) throws Exception {
        site(kinds, scope);
        check(expected, () -> choice.forRestore(vm, List.of(pool), incremental).getId());
    }

    /** It was made of a backup, or its volumes were moved while it was stopped. */
    @ParameterizedTest
    @CsvSource({"CLUSTER,1", "ZONE,1", "HOST,2"})
    void local_storage_tells_its_host_whatever_host_was_the_last(ScopeType scope, String expected) throws Exception {
        HostVO[] all = site("NNNN", scope);
        when(pool.getHostAddress()).thenReturn("192.0.2.2");
        when(hosts.findByIp("192.0.2.2")).thenReturn(all[1]);
        check(expected, () -> choice.forRestore(vm, List.of(pool), false).getId());
    }

    /** CloudStack names the first host that it has a row of. */
    @ParameterizedTest
    @CsvSource({
        "NNNN,CLUSTER,false,true,1",
        "DNNN,CLUSTER,false,true,2",
        "MNNN,CLUSTER,false,false,2",
        "ONNN,CLUSTER,false,true,2",
        "ONNN,CLUSTER,true,true,host kvm1 has CloudStack 4.22.1.0;",
        "ONNN,CLUSTER,true,false,1",
        "OONN,CLUSTER,false,true,host kvm1 has CloudStack 4.22.1.0, and 1 more like it;",
        "ODNN,ZONE,false,true,3",
        "ONNN,HOST,false,true,host kvm1 has CloudStack 4.22.1.0;",
        "DNNN,HOST,false,false,no KVM host that reaches the volumes of storage pool p is up",
    })
    void a_volume_goes_through_the_named_host_or_one_as_near(
            String kinds, ScopeType scope, boolean attached, boolean incremental, String expected) throws Exception {
        HostVO named = site(kinds, scope)[0];
        check(expected, () -> choice.forVolume(named, pool, attached, incremental)
                .getId());
    }

    @ParameterizedTest
    @CsvSource({
        "NNNN,",
        "NNNO,",
        "NNDN,",
        "WNWN,",
        "WWWN,",
        "NWEN,host kvm3 has CloudStack 4.22.1.0;",
        "NWHN,host kvm3 has CloudStack 4.22.1.0;",
        "NNON,host kvm3 has CloudStack 4.22.1.0; hosts restore incremental backups since 4.23, earlier ones with nasbackup's wrapper",
        "OONN,'host kvm1 has CloudStack 4.22.1.0, and 1 more like it; hosts restore incremental backups since 4.23, earlier ones with nasbackup''s wrapper'",
    })
    void incrementals_are_taken_where_every_host_of_the_zone_that_is_up_restores_them(String kinds, String obstacle) {
        HostVO taking = site(kinds, ScopeType.ZONE)[0];
        String found = choice.obstacleToIncrementals(ZONE, taking);
        assertThat(found == null ? "" : found).startsWith(obstacle == null ? "" : obstacle);
        assertThat(found == null).isEqualTo(obstacle == null);
    }

    /** A backup of each machine would ask each host else. */
    @Test
    void hosts_are_asked_once_in_a_while_for_backups_and_each_time_for_restores() throws Exception {
        HostVO taking = site("WWNN", ScopeType.CLUSTER)[0];
        choice.obstacleToIncrementals(ZONE, taking);
        choice.obstacleToIncrementals(ZONE, taking);
        verify(agents, times(2)).send(anyLong(), any(VerifyBackupCommand.class));
        answers(1, 'O');
        check("2", () -> choice.forRestore(vm, List.of(pool), true).getId());
        now += TimeUnit.MINUTES.toNanos(6);
        assertThat(choice.obstacleToIncrementals(ZONE, taking)).startsWith("host kvm1 has CloudStack 4.22.1.0;");
    }

    /** CloudStack's own wrapper would copy to a folder of that name on the host's own disk. */
    @ParameterizedTest
    @CsvSource({
        "NWNN,CLVM,2",
        "NWNN,StorPool,2",
        "NWNN,PowerFlex,2",
        "NWNN,FiberChannel,2",
        "NWNN,NetworkFilesystem,1",
        "NNNN,CLVM,'storage pool p is of type CLVM, which hosts write with nasbackup''s restore alone'"
    })
    void what_the_stock_wrapper_can_t_write_goes_through_a_host_with_ours(
            String kinds, StoragePoolType type, String expected) throws Exception {
        site(kinds, ScopeType.CLUSTER);
        when(pool.getPoolType()).thenReturn(type);
        check(expected, () -> choice.forRestore(vm, List.of(pool), false).getId());
    }
}
