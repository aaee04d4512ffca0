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

package org.apache.cloudstack.backup;

import static org.assertj.core.api.Assertions.assertThat;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.ArgumentMatchers.anyLong;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.configuration.Resource.ResourceType;
import com.cloud.host.HostVO;
import com.cloud.host.Status;
import com.cloud.host.dao.HostDao;
import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.resource.ResourceManager;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.VMTemplateStoragePoolVO;
import com.cloud.storage.Volume;
import com.cloud.storage.VolumeVO;
import com.cloud.storage.dao.DiskOfferingDao;
import com.cloud.storage.dao.VMTemplateDao;
import com.cloud.storage.dao.VMTemplatePoolDao;
import com.cloud.storage.dao.VolumeDao;
import com.cloud.vm.VMInstanceVO;
import com.cloud.vm.VirtualMachine;
import com.cloud.vm.VirtualMachine.State;
import com.cloud.vm.dao.VMInstanceDao;
import com.cloud.vm.snapshot.dao.VMSnapshotDao;
import com.cloud.vm.snapshot.dao.VMSnapshotDetailsDao;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.LongSupplier;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.cloudstack.backup.dao.BackupOfferingDao;
import org.apache.cloudstack.backup.dao.BackupRepositoryDao;
import org.apache.cloudstack.backup.dao.BackupScheduleDao;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStoreManager;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.SnapshotDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.apache.logging.log4j.LogManager;
import org.apache.logging.log4j.Logger;
import org.apache.logging.log4j.message.ParameterizedMessage;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.Crash;
import org.nasbackup.provider.ModelNas;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.DetailTickets;
import org.nasbackup.provider.cloudstack.HostSlots;
import org.nasbackup.provider.cloudstack.Transactions;
import org.nasbackup.provider.database.Backups;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.Tables;

/** A management server with one virtual machine: real tables, a modelled host, CloudStack's rest as it has to answer. */
final class Site {
    static final long VM = 10;
    static final long OFFERING = 5;
    static final long ZONE = 1;

    final Crash.Meter meter = new Crash.Meter();
    final ModelNas nas = new ModelNas(meter);
    final ModelHost host = new ModelHost(nas, meter);
    private static final long TEMPLATE = 201;

    final Tables tables;
    final VMInstanceVO vm = mock(VMInstanceVO.class);
    final NASBackupProvider provider;
    final Manager manager = new Manager(this);
    final Map<String, Map<String, Map<Integer, String>>> contents = new TreeMap<>();
    final List<VolumeVO> volumes = new ArrayList<>();
    final BackupRepositoryDao repositories = mock(BackupRepositoryDao.class);
    final BackupOfferingDao offerings = mock(BackupOfferingDao.class);
    final HostDao hosts = mock(HostDao.class);
    State state = State.Running;
    /** The machine's; null: it has none. */
    Long offering = OFFERING;

    Policy policy = new Policy(true, 10);
    int waitSeconds = 7200;
    /** Whose settings the provider wanted. */
    final Set<Long> zonesAsked = new TreeSet<>();

    boolean mergesFull;
    /** Of CloudStack on hosts that have not the newest. */
    final Map<Long, String> hostVersions = new TreeMap<>();
    /** Of each host: no work waits for another's. */
    int slotsPerHost = 100;

    int queueWaitSeconds = 7200;
    /** Null: the provider's own. */
    HostSlots slots;
    /** What of the server does not fit the provider. */
    List<String> misfits = List.of();

    /** What the provider told its operator. */
    final List<String> logged = new ArrayList<>();

    /** What the provider told users. */
    final List<String> events = new ArrayList<>();

    /** Offerings whose billing ended. */
    final List<Long> usageEnded = new ArrayList<>();

    /** What goes wrong with an event. */
    Runnable eventFault = () -> {};

    Instant now = Instant.parse("2031-01-02T03:04:05Z");

    /** Over empty tables. */
    static Site fresh(Database database) {
        Tables tables = new Tables(database);
        tables.clear();
        return new Site(tables);
    }

    /** Over what the tables hold. */
    Site(Tables tables) {
        this.tables = tables;
        meter.never();
        provider = new TestedProvider(tables.database(), tables.database());
        provider.backupDao = tables.backupDao();
        provider.backupDetailsDao = tables.backupDetails();
        provider.vmInstanceDetailsDao = tables.vmDetails();
        provider.resourceLimitService = tables.limits();
        provider.userDetailsDao = tables.userDetails();
        provider.agentManager = host.manager();
        provider.hostDao = hosts;
        provider.backupRepositoryDao = repositories;
        provider.backupOfferingDao = offerings;
        provider.backupScheduleDao = mock(BackupScheduleDao.class);
        when(provider.backupScheduleDao.findById(anyLong()))
                .thenAnswer(call -> schedule(tables.maxBackups(call.<Long>getArgument(0))));
        provider.vmInstanceDao = mock(VMInstanceDao.class);
        provider.volumeDao = mock(VolumeDao.class);
        provider.diskOfferingDao = mock(DiskOfferingDao.class);
        provider.primaryDataStoreDao = mock(PrimaryDataStoreDao.class);
        provider.vmTemplateDao = mock(VMTemplateDao.class);
        provider.vmTemplatePoolDao = mock(VMTemplatePoolDao.class);
        provider.snapshotDataStoreDao = mock(SnapshotDataStoreDao.class);
        provider.dataStoreManager = mock(DataStoreManager.class);
        provider.resourceManager = mock(ResourceManager.class);
        provider.backupManager = mock(BackupManager.class);
        provider.vmSnapshotDao = mock(VMSnapshotDao.class);
        provider.vmSnapshotDetailsDao = mock(VMSnapshotDetailsDao.class);
        machine();
        hosts();
        pool();
        volume(0, "uuid-r", "r");
        volume(1, "uuid-d1", "d1");
        volume(2, "uuid-d2", "d2");
        when(provider.volumeDao.findByInstance(VM)).thenAnswer(call -> volumes);
        BackupRepository repository = mock(BackupRepository.class);
        when(repository.getType()).thenReturn("nfs");
        when(repository.getAddress()).thenReturn("192.0.2.9:/b");
        when(repository.getName()).thenReturn("the NAS");
        when(repositories.findByBackupOfferingId(OFFERING)).thenReturn(repository);
        when(repositories.listByZoneAndProvider(ZONE, "nas")).thenReturn(List.of(repository));
        offering(OFFERING, "nas");
        when(provider.backupManager.getBackupNameFromVM(any())).thenReturn("web-2031-01-02");
        when(provider.backupManager.getBackupDetailsFromVM(any())).thenAnswer(call -> Manager.details(this));
        when(provider.backupManager.createVolumeInfoFromVolumes(any()))
                .thenAnswer(call -> Backups.describe(call.<List<Volume>>getArgument(0)));
    }

    /** Its clock goes on by a second whenever it is asked: it waits for a dead server's lease, or a host's place, in no time. */
    void waitsNoTime() {
        AtomicLong nanos = new AtomicLong();
        waits(Duration.ofMillis(1), () -> nanos.addAndGet(TimeUnit.SECONDS.toNanos(1)));
    }

    /** It sees at once that its turn has come. */
    void looksOften() {
        waits(Duration.ofMillis(10), System::nanoTime);
    }

    private void waits(Duration moment, LongSupplier nanoTime) {
        slots = new HostSlots(
                new DetailTickets(tables.userDetails(), tables.database()),
                tables.database(),
                LogManager.getLogger(Site.class),
                new HostSlots.Pace(moment, moment, Duration.ofSeconds(20), Duration.ofSeconds(120)),
                nanoTime);
    }

    private final class TestedProvider extends NASBackupProvider {
        TestedProvider(ChainLocks locks, Transactions transactions) {
            super(
                    new Clock() {
                        @Override
                        public ZoneId getZone() {
                            return ZoneOffset.UTC;
                        }

                        @Override
                        public Clock withZone(ZoneId zone) {
                            return this;
                        }

                        @Override
                        public Instant instant() {
                            return now;
                        }
                    },
                    locks,
                    transactions);
            logger = mock(Logger.class, call -> {
                Object[] arguments = call.getArguments();
                logged.add(ParameterizedMessage.format(
                        String.valueOf(arguments[0]), Arrays.copyOfRange(arguments, 1, arguments.length)));
                return null;
            });
        }

        @Override
        Policy policy(long zoneId) {
            return policy;
        }

        @Override
        void addEvent(ActionEvents.Type type, boolean good, String text, long accountId, long vmId) {
            assertThat(vmId != VM || accountId == 2).isTrue();
            eventFault.run();
            events.add((good ? "" : "failed ") + type + ": " + text);
        }

        @Override
        void endUsage(VirtualMachine vm, long offeringId) {
            eventFault.run();
            usageEnded.add(offeringId);
        }

        @Override
        boolean mergesFull(long zoneId) {
            return mergesFull;
        }

        @Override
        int waitSeconds(long zoneId) {
            zonesAsked.add(zoneId);
            return waitSeconds;
        }

        @Override
        int slotsPerHost(long zoneId) {
            zonesAsked.add(zoneId);
            return slotsPerHost;
        }

        @Override
        HostSlots slots() {
            return slots == null ? super.slots() : slots;
        }

        @Override
        int queueWaitSeconds(long zoneId) {
            zonesAsked.add(zoneId);
            return queueWaitSeconds;
        }

        @Override
        List<String> misfits() {
            return misfits == null ? super.misfits() : misfits;
        }

        @Override
        int mountTimeout() {
            return 30;
        }
    }

    private void machine() {
        when(vm.getId()).thenReturn(VM);
        when(vm.getInstanceName()).thenReturn("i-2-10-VM");
        when(vm.getName()).thenReturn("web");
        when(vm.getState()).thenAnswer(call -> state);
        when(vm.getHostId()).thenAnswer(call -> state == State.Running ? 21L : null);
        when(vm.getLastHostId()).thenReturn(22L);
        when(vm.getDataCenterId()).thenReturn(ZONE);
        when(vm.getBackupOfferingId()).thenAnswer(call -> offering);
        when(vm.getAccountId()).thenReturn(2L);
        when(vm.getDomainId()).thenReturn(3L);
        when(vm.getHypervisorType()).thenReturn(HypervisorType.KVM);
        when(provider.vmInstanceDao.findByIdIncludingRemoved(VM)).thenReturn(vm);
        when(provider.vmInstanceDao.findVMByInstanceName("i-2-10-VM")).thenReturn(vm);
    }

    void offering(long id, String of) {
        BackupOfferingVO offering = mock(BackupOfferingVO.class);
        when(offering.getProvider()).thenReturn(of);
        when(offering.getName()).thenReturn("offering of " + of);
        when(offering.getExternalId()).thenReturn("repository-" + id);
        when(offerings.findByIdIncludingRemoved(id)).thenReturn(offering);
    }

    private void hosts() {
        for (long id = 21; id <= 23; id++) {
            host(id, Status.Up);
        }
        HostVO random = hosts.findById(23L);
        when(hosts.findHypervisorHostInZone(ZONE))
                .thenAnswer(call ->
                        LongStream.rangeClosed(21, 23).mapToObj(hosts::findById).collect(Collectors.toList()));
        when(provider.resourceManager.findOneRandomRunningHostByHypervisor(HypervisorType.KVM, ZONE))
                .thenReturn(random);
    }

    void host(long id, Status status) {
        HostVO row = mock(HostVO.class);
        when(row.getId()).thenReturn(id);
        when(row.getName()).thenReturn("kvm" + id);
        when(row.getStatus()).thenReturn(status);
        when(row.getClusterId()).thenReturn(7L);
        when(row.getDataCenterId()).thenReturn(ZONE);
        when(row.getVersion()).thenAnswer(call -> hostVersions.getOrDefault(id, "4.23.0.0"));
        when(row.getHypervisorType()).thenReturn(HypervisorType.KVM);
        when(hosts.findById(id)).thenReturn(row);
    }

    void volume(long device, String uuid, String path) {
        volumes.add(newVolume(device, uuid, path));
    }

    VolumeVO newVolume(long device, String uuid, String path) {
        VolumeVO volume = mock(VolumeVO.class);
        when(volume.getUuid()).thenReturn(uuid);
        when(volume.getPath()).thenReturn(path);
        when(volume.getDeviceId()).thenReturn(device);
        when(volume.getSize()).thenReturn(8L);
        when(volume.getPoolId()).thenReturn(31L);
        when(volume.getPassphraseId()).thenReturn(null);
        when(volume.getState()).thenReturn(Volume.State.Ready);
        when(volume.getVolumeType()).thenReturn(device == 0 ? Volume.Type.ROOT : Volume.Type.DATADISK);
        return volume;
    }

    /** The machine's root disk was made of a template, which lies in its pool by this name. */
    void template(String installPath) {
        VolumeVO root = volumes.get(0);
        when(root.getTemplateId()).thenReturn(TEMPLATE);
        VMTemplateStoragePoolVO template = mock(VMTemplateStoragePoolVO.class);
        when(template.getInstallPath()).thenReturn(installPath);
        when(provider.vmTemplatePoolDao.findByPoolTemplate(31L, TEMPLATE, null)).thenReturn(template);
    }

    private void pool() {
        StoragePoolVO pool = mock(StoragePoolVO.class);
        when(pool.getId()).thenReturn(31L);
        when(pool.getUuid()).thenReturn("pool-1");
        when(pool.getPoolType()).thenReturn(StoragePoolType.NetworkFilesystem);
        when(provider.primaryDataStoreDao.findById(anyLong())).thenReturn(pool);
    }

    /** A backup on the modelled host. */
    Backup take() {
        Backup backup = takeCounted();
        if (backup != null) {
            contents.put(backup.getExternalId(), nas.read(backup.getExternalId()));
        }
        return backup;
    }

    Backup takeCounted() {
        now = now.plus(Duration.ofMinutes(1));
        return manager.take();
    }

    private static BackupScheduleVO schedule(Integer maxBackups) {
        if (maxBackups == null) {
            return null;
        }
        BackupScheduleVO schedule = mock(BackupScheduleVO.class);
        when(schedule.getMaxBackups()).thenReturn(maxBackups);
        return schedule;
    }

    /** A backup that a schedule asks for; what the schedule keeps too many of is deleted. */
    Backup takeScheduled(long schedule) {
        now = now.plus(Duration.ofMinutes(1));
        Backup backup = manager.take(schedule);
        contents.put(backup.getExternalId(), nas.read(backup.getExternalId()));
        return backup;
    }

    void delete(Backup backup, boolean forced) {
        manager.delete(backup.getId(), forced);
    }

    /** Details of a machine as the manager writes them into those of its backups. */
    static String json(Map<String, String> settings) {
        return new Gson().toJson(settings);
    }

    static Map<String, String> settings(String json) {
        Map<String, String> settings = new TreeMap<>();
        JsonObject object = new JsonParser().parse(json).getAsJsonObject();
        object.entrySet()
                .forEach(entry -> settings.put(entry.getKey(), entry.getValue().getAsString()));
        return settings;
    }

    String detail(Backup backup, String key) {
        return tables.backupDetails().listDetailsKeyPairs(backup.getId()).get(key);
    }

    Integer position(Backup backup) {
        String position = detail(backup, NASBackupChainKeys.CHAIN_POSITION);
        return position == null ? null : Integer.valueOf(position);
    }

    String activeCheckpoint() {
        var detail = tables.vmDetails().findDetail(VM, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID);
        return detail == null ? null : detail.getValue();
    }

    /** The machine's, of this provider. */
    List<Backup> rows() {
        return tables.backups().listByVmId(null, VM).stream()
                .filter(row -> row.getBackupOfferingId() == OFFERING)
                .collect(Collectors.toList());
    }

    /** Records, files and counts tell the same, and every point reads as on its day. */
    void agrees() {
        Map<String, Backup> byUuid = new TreeMap<>();
        long bytes = 0;
        for (Backup row : rows()) {
            byUuid.put(row.getUuid(), row);
            bytes += row.getSize();
        }
        assertThat(nas.paths()).hasSize(byUuid.size());
        for (Backup row : rows()) {
            String path = row.getExternalId();
            assertThat(row.getStatus()).isEqualTo(Backup.Status.BackedUp);
            assertThat(nas.read(path)).as(path).isEqualTo(contents.get(path));
            assertThat(row.getSize()).isEqualTo(nas.size(path));
            Backup parent = byUuid.get(String.valueOf(detail(row, NASBackupChainKeys.PARENT_BACKUP_ID)));
            assertThat(nas.backings(path))
                    .allMatch(backing -> parent != null && backing.equals(parent.getExternalId()));
            if (position(row) != null) {
                assertThat(position(row)).isEqualTo(parent == null ? 0 : position(parent) + 1);
            }
            assertThat(detail(row, "template")).isEqualTo("t-1");
        }
        assertThat(tables.count(ResourceType.backup)).isEqualTo(byUuid.size());
        assertThat(tables.count(ResourceType.backup_storage)).isEqualTo(bytes);
    }
}
