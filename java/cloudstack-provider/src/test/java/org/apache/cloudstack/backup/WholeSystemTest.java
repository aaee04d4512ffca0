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
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.agent.api.Command;
import com.cloud.configuration.Resource.ResourceType;
import com.cloud.host.HostVO;
import com.cloud.storage.DataStoreRole;
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine.State;
import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStore;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.nasbackup.cloudstack.Agent;
import org.nasbackup.lab.Guest;
import org.nasbackup.lab.Lab;
import org.nasbackup.lab.NasFolder;
import org.nasbackup.lab.Point;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;
import org.nasbackup.provider.database.Tables;

/** From the provider down to QEMU and back, over a real database: rows, manifests, headers and contents agree. */
@Tag("lab")
class WholeSystemTest {
    private static Database database;

    private final RealHost host = new RealHost();
    private final Map<String, List<Path>> contents = new HashMap<>();
    private final Guest guest = Guest.ordinary();
    private final NasFolder nas = new NasFolder();
    private final Site site = Site.fresh(database);

    @BeforeAll
    static void start() throws Exception {
        database = new Database(MariaDb.shared().socket());
    }

    @AfterAll
    static void stop() throws Exception {
        database.close();
    }

    @BeforeEach
    void build() {
        connect(site);
    }

    private void connect(Site site) {
        site.provider.agentManager = host.manager();
        when(site.vm.getInstanceName()).thenReturn(guest.name());
        String address = nas.repository().address();
        BackupRepository repository = site.repositories.findByBackupOfferingId(5L);
        when(repository.getType()).thenReturn("dir");
        when(repository.getAddress()).thenReturn(address);
        site.volumes.clear();
        List<String> volumes = guest.volumes();
        for (int device = 0; device < volumes.size(); device++) {
            site.volume(device, "uuid-" + device, volumes.get(device));
        }
        pool(site, StoragePoolType.SharedMountPoint);
        site.template(guest.template().getFileName().toString());
    }

    /** Its folder is the guest's, on every host. */
    private void pool(Site site, StoragePoolType type) {
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(pool.getPoolType()).thenReturn(type);
        String folder = guest.folder().toString();
        Agent.pool(folder);
        when(pool.getPath()).thenReturn(folder);
        PrimaryDataStoreTO to =
                new Gson().fromJson("{\"uuid\":\"pool-1\",\"poolType\":\"" + type + "\"}", PrimaryDataStoreTO.class);
        DataStore store = mock(DataStore.class);
        when(store.getTO()).thenReturn(to);
        when(site.provider.dataStoreManager.getDataStore(31L, DataStoreRole.Primary))
                .thenReturn(store);
    }

    @AfterEach
    void close() {
        try (guest) {
            nas.close();
        }
    }

    /** Something of its own on each disk, something that each one overwrites, and a backup. */
    private Backup take(int number) {
        guest.write(0, 0x40 + number, 10 + number, 1);
        guest.write(1, 0x40 + number, 8, 1);
        guest.write(1, 0x40 + number, 20 + 2 * number, 2);
        return backUp();
    }

    private Backup backUp() {
        List<Path> content = guest.keepContent();
        Backup backup = site.takeCounted();
        assertThat(backup).as("the backup").isNotNull();
        contents.put(backup.getExternalId(), content);
        return backup;
    }

    /** A full one and incrementals. */
    private List<Backup> chain(int length) {
        List<Backup> taken = new ArrayList<>();
        for (int i = 0; i < length; i++) {
            taken.add(take(i));
        }
        return taken;
    }

    private void agree(Backup... expected) throws Exception {
        Map<String, Backup> rows = new HashMap<>();
        site.rows().forEach(row -> rows.put(row.getUuid(), row));
        assertThat(rows.keySet())
                .containsExactlyInAnyOrderElementsOf(
                        List.of(expected).stream().map(Backup::getUuid).collect(Collectors.toList()));
        assertThat(nas.points())
                .containsExactlyInAnyOrderElementsOf(
                        rows.values().stream().map(Backup::getExternalId).collect(Collectors.toList()));
        long bytes = 0;
        for (Backup row : rows.values()) {
            String parentUuid = site.detail(row, NASBackupChainKeys.PARENT_BACKUP_ID);
            Backup parent = parentUuid == null ? null : rows.get(parentUuid);
            assertThat(parent == null).as("parent of %s", row.getUuid()).isEqualTo(parentUuid == null);
            isAsItsRow(row, parent);
            bytes += row.getSize();
        }
        assertThat(site.tables.count(ResourceType.backup)).isEqualTo(rows.size());
        assertThat(site.tables.count(ResourceType.backup_storage)).isEqualTo(bytes);
    }

    private void isAsItsRow(Backup row, Backup parent) throws Exception {
        assertThat(row.getStatus()).isEqualTo(Backup.Status.BackedUp);
        assertThat(site.position(row)).isEqualTo(parent == null ? 0 : site.position(parent) + 1);
        JsonObject manifest = json(Files.readString(nas.at(row.getExternalId() + "/manifest.json")));
        assertThat(manifest.get("kind").getAsString()).isEqualTo(parent == null ? "full" : "incremental");
        JsonElement below = manifest.get("parent");
        assertThat(below.isJsonNull()).isEqualTo(parent == null);
        if (parent != null) {
            assertThat(below.getAsJsonObject().get("backupPath").getAsString()).isEqualTo(parent.getExternalId());
        }
        readsAsOnItsDay(row);
        long bytes = 0;
        for (int disk = 0; disk < files().size(); disk++) {
            String file = files().get(disk);
            bytes += Files.size(nas.at(row.getExternalId() + "/" + file));
            assertThat(backing(row, disk)).isEqualTo(parent == null ? null : "../" + timestamp(parent) + "/" + file);
        }
        assertThat(row.getSize()).isEqualTo(bytes);
    }

    private String backing(Backup row, int disk) {
        Path image = nas.at(row.getExternalId() + "/" + files().get(disk));
        JsonElement backing = json(Lab.run("qemu-img", "info", "--output=json", "-f", "qcow2", "" + image))
                .get("backing-filename");
        return backing == null ? null : backing.getAsString();
    }

    private void readsAsOnItsDay(Backup row) {
        for (int disk = 0; disk < files().size(); disk++) {
            Path image = nas.at(row.getExternalId() + "/" + files().get(disk));
            assertThat(Point.difference(image, contents.get(row.getExternalId()).get(disk)))
                    .as("%s", image)
                    .isNull();
        }
    }

    private List<String> files() {
        List<String> volumes = guest.volumes();
        return List.of("root." + volumes.get(0) + ".qcow2", "datadisk." + volumes.get(1) + ".qcow2");
    }

    private static String timestamp(Backup backup) {
        return backup.getExternalId().substring(backup.getExternalId().indexOf('/') + 1);
    }

    private static JsonObject json(String text) {
        return new JsonParser().parse(text).getAsJsonObject();
    }

    private List<Integer> positions(Backup... backups) {
        return List.of(backups).stream().map(site::position).collect(Collectors.toList());
    }

    @Test
    void a_chain_is_taken_and_deleted_anywhere() throws Exception {
        List<Backup> taken = chain(3);
        guest.restart();
        for (int i = 3; i < 6; i++) {
            taken.add(take(i));
        }
        Backup full = taken.get(0);
        Backup second = taken.get(2);
        Backup fifth = taken.get(5);
        assertThat(site.detail(taken.get(3), NASBackupChainKeys.BITMAP_RECREATED))
                .isEqualTo(site.detail(second, NASBackupChainKeys.BITMAP_NAME));
        agree(taken.toArray(new Backup[0]));

        site.delete(taken.get(1), false);
        agree(full, second, taken.get(3), taken.get(4), fifth);
        assertThat(positions(full, second, taken.get(3), taken.get(4), fifth)).containsExactly(0, 1, 2, 3, 4);
        assertThat(site.detail(second, NASBackupChainKeys.PARENT_BACKUP_ID)).isEqualTo(full.getUuid());

        site.delete(taken.get(3), false);
        agree(full, second, taken.get(4), fifth);

        // the newest: its bitmap goes out of use with it, and the next backup begins a chain
        assertThat(site.activeCheckpoint()).isEqualTo(site.detail(fifth, NASBackupChainKeys.BITMAP_NAME));
        site.delete(fifth, false);
        agree(full, second, taken.get(4));
        assertThat(site.activeCheckpoint()).isNull();

        assertThatThrownBy(() -> site.delete(full, false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("2 incremental backups stand on");
        agree(full, second, taken.get(4));

        Backup next = take(6);
        assertThat(site.position(next)).isZero();
        agree(full, second, taken.get(4), next);

        int before = host.deleted().size();
        site.delete(full, true);
        assertThat(host.deleted().subList(before, host.deleted().size()))
                .containsExactly(taken.get(4).getExternalId(), second.getExternalId(), full.getExternalId());
        agree(next);
        Backup last = take(7);
        agree(next, last);

        site.mergesFull = true;
        site.delete(next, false);
        agree(last);
        agree(last, take(8));
    }

    @ParameterizedTest
    @ValueSource(classes = {RebaseBackupCommand.class, DeleteBackupCommand.class})
    void a_deletion_whose_answer_is_lost_is_finished_by_the_next(Class<? extends Command> command) throws Exception {
        List<Backup> taken = chain(4);
        host.losesAnswer(command);
        assertThatThrownBy(() -> site.delete(taken.get(1), false)).isInstanceOf(CloudRuntimeException.class);
        readsAsOnItsDay(taken.get(0));
        readsAsOnItsDay(taken.get(2));
        readsAsOnItsDay(taken.get(3));
        site.delete(taken.get(1), false);
        agree(taken.get(0), taken.get(2), taken.get(3));
        agree(taken.get(0), taken.get(2), taken.get(3), take(4));
    }

    @Test
    void a_repair_whose_second_image_is_damaged_changes_none_and_is_done_once_that_can_be_read() throws Exception {
        List<Backup> taken = chain(4);
        Path second = nas.at(taken.get(1).getExternalId() + "/" + files().get(1));
        long firstTable = l1Entry(second, null);
        l1Entry(second, firstTable | 1L << 60);
        Map<String, String> before = new HashMap<>(
                site.tables.backupDetails().listDetailsKeyPairs(taken.get(2).getId()));
        assertThatThrownBy(() -> site.delete(taken.get(1), false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining(files().get(1))
                .hasMessageContaining("left to do: rebase " + taken.get(2).getExternalId());
        before.put(NASBackupChainKeys.REBASE_BEGUN, taken.get(0).getUuid());
        assertThat(site.tables.backupDetails().listDetailsKeyPairs(taken.get(2).getId()))
                .isEqualTo(before);
        assertThat(site.rows()).hasSize(4);
        assertThat(host.deleted()).isEmpty();
        for (int image = 0; image < 2; image++) {
            assertThat(backing(taken.get(2), image))
                    .isEqualTo("../" + timestamp(taken.get(1)) + "/" + files().get(image));
        }
        l1Entry(second, firstTable);
        taken.forEach(this::readsAsOnItsDay);
        site.delete(taken.get(1), false);
        agree(taken.get(0), taken.get(2), taken.get(3));
    }

    @Test
    void deletions_and_a_backup_at_once_leave_a_valid_chain() throws Exception {
        List<Backup> taken = chain(5);
        guest.write(1, 0x77, 8, 1);
        List<Path> content = guest.keepContent();
        new ManyServers(MariaDb.shared().socket(), this::server)
                .atOnce(List.of(
                        server -> server.delete(taken.get(1), false),
                        server -> server.delete(taken.get(2), false),
                        server -> server.delete(taken.get(3), false),
                        Site::takeCounted));
        Backup last = site.rows().get(2);
        contents.put(last.getExternalId(), content);
        assertThat(positions(taken.get(0), taken.get(4), last)).containsExactly(0, 1, 2);
        agree(taken.get(0), taken.get(4), last);
    }

    private Site server(Tables tables) {
        Site other = new Site(tables);
        other.now = site.now;
        connect(other);
        return other;
    }

    /** The first entry of a qcow2 image's table of tables, as it was (QEMU, docs/interop/qcow2.txt). */
    private static long l1Entry(Path image, Long written) throws IOException {
        try (RandomAccessFile file = new RandomAccessFile(image.toFile(), "rw")) {
            file.seek(40);
            long table = file.readLong();
            file.seek(table);
            long entry = file.readLong();
            if (written != null) {
                file.seek(table);
                file.writeLong(written);
            }
            return entry;
        }
    }

    @Test
    void records_without_files_are_deleted_newest_first() throws Exception {
        List<Backup> taken = chain(4);
        Lab.run("rm", "-r", "" + nas.at(taken.get(1).getExternalId()));
        assertThatThrownBy(() -> site.delete(taken.get(1), false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining(timestamp(taken.get(1)))
                .hasMessageContaining("left to do: rebase " + taken.get(2).getExternalId());
        assertThat(site.rows()).hasSize(4);
        Lab.run("rm", "-r", "" + nas.at(taken.get(3).getExternalId()));
        assertThatThrownBy(() -> site.delete(taken.get(2), false))
                .hasMessageContaining("left to do: rebase " + taken.get(3).getExternalId());
        for (int i = 3; i > 0; i--) {
            site.delete(taken.get(i), false);
        }
        agree(taken.get(0));
        agree(taken.get(0), take(4));
    }

    @Test
    void files_without_a_record_keep_what_they_stand_on() throws Exception {
        List<Backup> taken = chain(3);
        Path orphan = nas.at(taken.get(2).getExternalId()).resolveSibling("2030.01.01.00.00.00");
        Files.createDirectory(orphan);
        String backing = "../" + timestamp(taken.get(2)) + "/" + files().get(0);
        Path image = orphan.resolve(files().get(0));
        Lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b", backing, "" + image, "64M");
        assertThatThrownBy(() -> site.delete(taken.get(2), false))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageContaining("HAS_CHILDREN: ")
                .hasMessageContaining(orphan.getFileName().toString());
        Lab.run("rm", "-r", "" + orphan);
        agree(taken.toArray(new Backup[0]));
        site.delete(taken.get(2), false);
        agree(taken.get(0), taken.get(1));
    }

    @Test
    void CloudStack_restores_every_point() throws Exception {
        List<Backup> taken = chain(3);
        guest.restart();
        taken.add(take(3));
        site.delete(taken.remove(1), false);
        guest.kill();
        guest.start();
        Backup compared = take(4);
        assertThat(site.position(compared)).isEqualTo(3);
        assertThat(site.logged)
                .last()
                .asString()
                .contains("disk vda: compared with the parent point's fingerprints, bitmap");
        taken.add(compared);
        guest.stop();
        site.state = State.Stopped;
        Backup stopped = backUp();
        assertThat(site.position(stopped)).isEqualTo(4);
        taken.add(stopped);
        guest.start();
        site.state = State.Running;
        Backup onStopped = take(5);
        assertThat(site.position(onStopped)).isEqualTo(5);
        taken.add(onStopped);
        guest.stop();
        site.state = State.Stopped;
        agree(taken.toArray(new Backup[0]));
        for (Backup backup : taken) {
            assertThat(site.provider.restoreVMFromBackup(
                            site.vm, site.tables.backups().findById(backup.getId())))
                    .isTrue();
            for (int disk = 0; disk < 2; disk++) {
                Path restored = guest.folder().resolve(guest.volumes().get(disk));
                Path content = contents.get(backup.getExternalId()).get(disk);
                assertThat(Point.difference(restored, content))
                        .as("%s", restored)
                        .isNull();
            }
        }
        // What the disks hold now is not what the newest backup's bitmap counts from.
        guest.start();
        site.state = State.Running;
        Backup next = take(6);
        assertThat(site.position(next)).isZero();
        taken.add(next);
        agree(taken.toArray(new Backup[0]));
    }

    /** What the guest's QEMU has left in its header is believed as far as CloudStack knows the same. */
    @Test
    void a_stopped_machine_s_disk_is_read_with_its_template_and_with_no_other_volume_of_its_pool() {
        guest.stop();
        site.state = State.Stopped;
        assertThat(backUp()).isNotNull();
        Path other = guest.folder().resolve("another-s-volume");
        Path root = guest.folder().resolve(guest.volumes().get(0));
        Lab.run("cp", "" + guest.template(), "" + other);
        Lab.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "" + other, "" + root);
        assertThat(site.takeCounted()).isNull();
        assertThat(site.logged)
                .last()
                .asString()
                .contains("UNSUPPORTED_IMAGE")
                .contains("'" + root + "' has '" + other + "' as its backing file, which is none of the files");
    }

    /** The numbers of its data disks are exchanged by each restore, as CloudStack does it. */
    @Test
    void a_host_with_our_wrapper_restores_every_point() throws Exception {
        host.restores = true;
        site.hostVersions.putAll(Map.of(21L, "4.22.0.0", 22L, "4.22.1.0", 23L, "4.22.1.0"));
        List<Backup> taken = chain(3);
        assertThat(site.position(taken.get(2))).isEqualTo(2);
        guest.stop();
        site.state = State.Stopped;
        for (Backup backup : List.of(taken.get(2), taken.get(0), taken.get(1))) {
            assertThat(site.provider.restoreVMFromBackup(
                            site.vm, site.tables.backups().findById(backup.getId())))
                    .as("%s", site.events)
                    .isTrue();
            for (int disk = 0; disk < 2; disk++) {
                assertThat(difference(guest.volumes().get(disk), backup, disk)).isNull();
            }
            assertThat(site.events).last().asString().contains("MiB were read from the NAS");
            Collections.reverse(site.volumes);
        }
        agree(taken.toArray(new Backup[0]));
        guest.start();
    }

    /** They are connected by the agent's storage layer; CloudStack's own wrapper would write to a folder of the host. */
    @Test
    void volumes_on_block_devices_are_restored() throws Exception {
        host.restores = true;
        List<Backup> taken = chain(2);
        guest.stop();
        site.state = State.Stopped;
        pool(site, StoragePoolType.CLVM);
        Map<String, String> devices = new HashMap<>();
        for (String volume : guest.volumes()) {
            Path file = guest.folder().resolve("device-" + volume);
            Lab.run("truncate", "-s", "100M", "" + file);
            devices.put(
                    volume, Lab.run("losetup", "--find", "--show", "" + file).strip());
        }
        Agent.pool(devices);
        try {
            Backup backup = site.tables.backups().findById(taken.get(1).getId());
            assertThat(site.provider.restoreVMFromBackup(site.vm, backup))
                    .as("%s", site.events)
                    .isTrue();
            for (int disk = 0; disk < 2; disk++) {
                Path content = contents.get(backup.getExternalId()).get(disk);
                String device = devices.get(guest.volumes().get(disk));
                Lab.run("cmp", "-n", "" + Files.size(content), "" + content, device);
            }
        } finally {
            Agent.pool(Map.of());
            devices.values().forEach(device -> Lab.run("losetup", "--detach", device));
        }
    }

    @Test
    void a_running_guest_gets_a_volume_of_a_backup() throws Exception {
        host.restores = true;
        List<Backup> taken = chain(2);
        StoragePoolVO pool = site.provider.primaryDataStoreDao.findById(31L);
        when(site.provider.primaryDataStoreDao.findByUuid("pool-1")).thenReturn(pool);
        HostVO named = site.hosts.findById(21L);
        when(site.hosts.findByIp("192.0.2.21")).thenReturn(named);
        DiskOfferingVO offering = mock(DiskOfferingVO.class);
        when(site.provider.diskOfferingDao.findByUuid(any())).thenReturn(offering);
        when(site.provider.vmInstanceDao.findVMByInstanceName(guest.name())).thenReturn(site.vm);
        Backup backup = site.tables.backups().findById(taken.get(1).getId());
        Pair<Boolean, String> restored = site.provider.restoreBackedUpVolume(
                backup,
                backup.getBackedUpVolumes().get(1),
                "192.0.2.21",
                "pool-1",
                new Pair<>(guest.name(), State.Running));
        assertThat(restored.first()).as(restored.second()).isTrue();
        Path volume = guest.folder().resolve(restored.second());
        assertThat(Lab.run("virsh", "domblklist", guest.name())).contains("" + volume);
        String serial = restored.second().replace("-", "").substring(0, 20);
        assertThat(Lab.run("virsh", "dumpxml", guest.name())).contains("<serial>" + serial + "</serial>");
        guest.stop();
        assertThat(difference(restored.second(), backup, 1)).isNull();
    }

    private String difference(String volume, Backup backup, int disk) {
        return Point.difference(
                guest.folder().resolve(volume),
                contents.get(backup.getExternalId()).get(disk));
    }

    /** Its images and its manifest are whole, and each agrees with the other. */
    @Test
    void an_older_point_under_a_newer_name_is_not_restored() throws Exception {
        List<Backup> taken = chain(2);
        guest.stop();
        site.state = State.Stopped;
        List<Path> before = guest.keepContent();
        Path newer = nas.at(taken.get(1).getExternalId());
        Path older = nas.at(taken.get(0).getExternalId());
        Lab.run("sh", "-c", "mv " + newer + " " + newer + "-kept && cp -a " + older + " " + newer);
        assertThat(site.provider.restoreVMFromBackup(
                        site.vm, site.tables.backups().findById(taken.get(1).getId())))
                .isFalse();
        assertThat(site.events)
                .last()
                .asString()
                .contains("is not known to be as it was made: host kvm22: CORRUPT_IMAGE: ")
                .contains(site.detail(taken.get(1), NASBackupChainKeys.POINT_ID));
        for (int disk = 0; disk < 2; disk++) {
            Path volume = guest.folder().resolve(guest.volumes().get(disk));
            assertThat(Point.difference(volume, before.get(disk)))
                    .as("%s", volume)
                    .isNull();
        }
    }
}
