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

import com.cloud.hypervisor.kvm.storage.KVMPhysicalDisk;
import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import com.cloud.storage.Storage.StoragePoolType;
import java.io.IOException;
import java.lang.reflect.Proxy;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.apache.cloudstack.utils.qemu.QemuImg.PhysicalDiskFormat;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.libvirt.Connect;
import org.libvirt.LibvirtException;
import org.libvirt.jna.Libvirt.VirErrorCallback;
import org.nasbackup.OutputFormat;

/** What the agent's storage layer is asked before and after a restore. */
class PoolPlacesTest {
    /** Else libvirt prints each error of this process. */
    private static final VirErrorCallback UNPRINTED = (data, error) -> {};

    @TempDir
    Path folder;

    private final List<String> asked = new ArrayList<>();
    private boolean connects = true;
    private boolean has = true;
    private boolean makes = true;
    private boolean breaks;
    private boolean there = true;
    private String user = "o'neil";
    private Set<String> guestsHave = Set.of();

    private final KVMStoragePool pool = (KVMStoragePool) Proxy.newProxyInstance(
            KVMStoragePool.class.getClassLoader(),
            new Class<?>[] {KVMStoragePool.class},
            (proxy, method, arguments) -> {
                switch (method.getName()) {
                    case "getLocalPath":
                        return folder.toString();
                    case "getUuid":
                        return "p&q";
                    case "getSourceHost":
                        return "192.0.2.1,[2001:db8::1]";
                    case "getSourcePort":
                        return 6789;
                    case "getSourceDir":
                        return "cloud";
                    case "getAuthUserName":
                        return user;
                    case "getDefaultFormat":
                        return PhysicalDiskFormat.RAW;
                    case "createPhysicalDisk":
                        asked.add("create " + arguments[0] + " " + arguments[1] + " " + arguments[3]);
                        there = makes;
                        if (breaks) {
                            throw new IllegalStateException("it is not available here");
                        }
                        return makes ? disk((String) arguments[0]) : null;
                    case "getPhysicalDisk":
                        if (!there) {
                            throw new IllegalStateException("there is none");
                        }
                        return has ? disk((String) arguments[0]) : null;
                    default:
                        asked.add(method.getName().replace("PhysicalDisk", "") + " " + arguments[0]);
                        return true;
                }
            });

    private static KVMPhysicalDisk disk(String name) {
        return new KVMPhysicalDisk(null, null, null) {
            @Override
            public String getPath() {
                return "/dev/" + name;
            }

            @Override
            public PhysicalDiskFormat getFormat() {
                return PhysicalDiskFormat.RAW;
            }
        };
    }

    private final PoolPlaces places = new PoolPlaces(
            new KVMStoragePoolManager(null, null) {
                @Override
                public boolean connectPhysicalDisk(
                        StoragePoolType type, String poolUuid, String volPath, Map<String, String> details) {
                    asked.add("connect " + volPath + " of " + type + " " + poolUuid);
                    return connects;
                }

                @Override
                public KVMStoragePool getStoragePool(StoragePoolType type, String uuid) {
                    return uuid.equals("elsewhere") ? null : pool;
                }
            },
            new Guests(null) {
                @Override
                boolean have(String device) {
                    if (guestsHave == null) {
                        throw new HostFailure("LIBVIRT: gone", null);
                    }
                    return guestsHave.contains(device);
                }
            },
            (pool, image) -> "rbd:" + image + " at " + pool.getSourceHost());

    private static RestorePlan.Item item(String type, String pool, String volumePath) {
        RestoreBackupCommand command = RestorePlanTest.read("\"disks\":[{\"backupFile\":\"f\",\"path\":\"cloud/v\","
                + "\"volumePath\":\"" + volumePath + "\",\"size\":8,\"pool\":{\"uuid\":\"" + pool + "\",\"poolType\":\""
                + type
                + "\"}}]");
        return RestorePlan.of(command).items().get(0);
    }

    private Place open(String type, boolean fresh) {
        return places.open(item(type, "p", "v"), fresh);
    }

    @ParameterizedTest
    @ValueSource(strings = {"NetworkFilesystem", "Filesystem", "SharedMountPoint"})
    void a_file_lies_in_the_folder_of_its_pool_whether_it_is_there_or_not(String type) throws IOException {
        Place place = open(type, false);
        assertThat(place.path()).isEqualTo(folder.resolve("v").toString());
        assertThat(place.format()).isEqualTo(OutputFormat.QCOW2);
        assertThat(place.source()).isEqualTo("<source file='" + folder.resolve("v") + "'/>");
        Files.createFile(folder.resolve("v"));
        assertThat(open(type, false).path()).isEqualTo(place.path());
        place.close();
        place.remove();
        assertThat(folder.resolve("v")).exists();
        assertThat(asked).isEmpty();
    }

    @ParameterizedTest
    @ValueSource(strings = {"../v", "/etc/passwd", ".", "a/../../v"})
    void a_file_that_lies_elsewhere_is_refused(String volumePath) {
        assertThatThrownBy(() -> places.open(item("NetworkFilesystem", "p", volumePath), false))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("it does not lie in the folder of its pool");
    }

    @ParameterizedTest
    @ValueSource(strings = {"link", "link/v", "link/new", "way", "gone", "none/v"})
    void a_file_that_a_link_puts_elsewhere_is_refused(String volumePath, @TempDir Path elsewhere) throws IOException {
        Files.createFile(elsewhere.resolve("v"));
        Files.createSymbolicLink(folder.resolve("link"), elsewhere);
        Files.createSymbolicLink(folder.resolve("way"), elsewhere.resolve("v"));
        Files.createSymbolicLink(folder.resolve("gone"), elsewhere.resolve("gone"));
        assertThatThrownBy(() -> places.open(item("NetworkFilesystem", "p", volumePath), false))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("lie");
    }

    @Test
    void links_that_stay_in_the_folder_are_followed(@TempDir Path elsewhere) throws IOException {
        Path inner = Files.createDirectory(folder.resolve("inner"));
        Files.createFile(inner.resolve("v"));
        Files.createSymbolicLink(folder.resolve("link"), inner);
        Path own = folder;
        folder = Files.createSymbolicLink(elsewhere.resolve("pool"), own);
        assertThat(places.open(item("NetworkFilesystem", "p", "link/v"), false).path())
                .isEqualTo(folder.resolve("link/v").toString());
    }

    @Test
    void a_new_file_is_removed_after_a_restore_that_failed_and_one_that_was_there_is_not_taken_for_it()
            throws IOException {
        Place place = open("NetworkFilesystem", true);
        Files.createFile(folder.resolve("v"));
        assertThatThrownBy(() -> open("NetworkFilesystem", true)).hasMessageContaining("it is there already");
        place.close();
        assertThat(folder.resolve("v")).exists();
        place.remove();
        assertThat(folder.resolve("v")).doesNotExist();
    }

    @ParameterizedTest
    @ValueSource(strings = {"Linstor", "CLVM", "StorPool", "PowerFlex", "FiberChannel"})
    void the_host_is_connected_to_a_device_as_long_as_it_is_written(String type) {
        Place place = open(type, false);
        assertThat(place.kind()).isEqualTo(Place.Kind.BLOCK);
        assertThat(place.path()).isEqualTo("/dev/v");
        assertThat(place.format()).isEqualTo(OutputFormat.RAW);
        assertThat(asked).containsExactly("connect v of " + type + " p");
        place.close();
        place.remove();
        assertThat(asked).containsExactly("connect v of " + type + " p", "disconnect v");
        asked.clear();
        place = open(type, false);
        place.keep();
        place.close();
        assertThat(asked).containsExactly("connect v of " + type + " p");
    }

    /** FiberChannel's script deletes the paths of a device that is open, too. */
    @ParameterizedTest
    @CsvSource({"/dev/v,connect", "/dev/w,connect disconnect", ",connect"})
    void the_device_of_a_guest_that_runs_stays_connected_whatever_came_of_the_restore(String guest, String expected) {
        guestsHave = guest == null ? null : Set.of(guest);
        open("FiberChannel", false).close();
        assertThat(asked).extracting(each -> each.split(" ")[0]).containsExactly(expected.split(" "));
    }

    @Test
    void a_device_whose_name_is_not_known_stays_connected() {
        has = false;
        assertThatThrownBy(() -> open("FiberChannel", false)).hasMessageContaining("does not have it");
        assertThat(asked).containsExactly("connect v of FiberChannel p");
    }

    @Test
    void a_guest_s_device_is_known_by_whatever_link() throws IOException {
        Path device = Files.createFile(folder.resolve("dm-1"));
        Path link = Files.createSymbolicLink(folder.resolve("link"), device);
        Path other = Files.createFile(folder.resolve("dm-2"));
        String domain = "<domain><devices><disk type='file'><source file='" + other + "'/></disk>"
                + "<disk type='block'><source dev='/gone'/></disk><disk type='block'><source dev='" + link
                + "'/></disk></devices></domain>";
        assertThat(Guests.has(domain, device.toString())).isTrue();
        assertThat(Guests.has(domain, link.toString())).isTrue();
        assertThat(Guests.has(domain, "/gone")).isTrue();
        assertThat(Guests.has(domain, other.toString())).isFalse();
    }

    /** Of libvirt's own driver for tests, whose state lasts as long as a connection. */
    @Test
    void libvirt_is_asked_for_the_devices_of_all_that_runs() throws LibvirtException {
        Connect.setErrorCallback(UNPRINTED);
        Connect connection = new Connect("test:///default");
        try {
            Guests guests = new Guests("test:///default");
            assertThat(guests.have("/dev/v")).isFalse();
            connection.domainCreateXML(
                    "<domain type='test'><name>g</name><memory>1024</memory><os><type>hvm</type></os><devices>"
                            + "<disk type='block'><source dev='/dev/v'/><target dev='vda'/></disk></devices></domain>",
                    0);
            assertThat(guests.have("/dev/v")).isTrue();
            Place v = new Place(Place.Kind.BLOCK, "/dev/v", OutputFormat.RAW, "<source dev='/dev/v'/>");
            Place w = new Place(Place.Kind.BLOCK, "/dev/w", OutputFormat.RAW, "<source dev='/dev/w'/>");
            assertThat(guests.lacks("g", v)).isFalse();
            assertThat(guests.lacks("g", w)).isTrue();
            assertThat(guests.lacks("gone", v)).isTrue();
            assertThat(new Guests("none:///").lacks("g", w)).isFalse();
        } finally {
            connection.close();
        }
        assertThatThrownBy(() -> new Guests("none:///").have("/dev/v")).isInstanceOf(HostFailure.class);
    }

    @Test
    void a_new_device_is_made_and_goes_again_after_a_restore_that_failed() {
        there = false;
        Place place = open("Linstor", true);
        place.close();
        place.remove();
        assertThat(asked).containsExactly("create v RAW 8", "connect v of Linstor p", "disconnect v", "delete v");
    }

    @ParameterizedTest
    @CsvSource({
        "true,false,true,can't be connected,create v RAW 8;connect v of Linstor p;delete v",
        "true,true,false,does not have it,create v RAW 8;connect v of Linstor p;disconnect v;delete v",
        "false,true,true,hosts make no volumes in its pool,create v RAW 8",
    })
    void of_a_device_that_can_t_be_opened_nothing_is_left(
            boolean makes, boolean connects, boolean has, String why, String expected) {
        there = false;
        this.makes = makes;
        this.connects = connects;
        this.has = has;
        assertThatThrownBy(() -> open("Linstor", true)).hasMessageContaining(why);
        assertThat(asked).containsExactly(expected.split(";"));
    }

    @Test
    void a_device_that_is_made_and_not_available_goes_again() {
        there = false;
        breaks = true;
        assertThatThrownBy(() -> open("Linstor", true)).hasMessage("it is not available here");
        assertThat(asked).containsExactly("create v RAW 8", "delete v");
    }

    @Test
    void an_image_in_ceph_is_named_as_qemu_names_it_and_as_libvirt_does() {
        Place place = open("RBD", false);
        assertThat(place.kind()).isEqualTo(Place.Kind.NETWORK);
        assertThat(place.path()).isEqualTo("rbd:cloud/v at 192.0.2.1,[2001:db8::1]");
        assertThat(place.format()).isEqualTo(OutputFormat.RAW);
        String source = "<source protocol='rbd' name='cloud/v'><host name='192.0.2.1' port='6789'/>"
                + "<host name='2001:db8::1' port='6789'/></source>";
        assertThat(place.source())
                .isEqualTo(source + "<auth username='o&apos;neil'><secret type='ceph' uuid='p&amp;q'/></auth>");
        user = null;
        assertThat(open("RBD", false).source()).isEqualTo(source);
        place.close();
        place.remove();
        assertThat(asked).isEmpty();
        has = false;
        assertThatThrownBy(() -> open("RBD", false)).hasMessageContaining("its pool does not have it");
    }

    @Test
    void a_new_image_in_ceph_is_made_and_goes_again_after_a_restore_that_failed() {
        there = false;
        Place place = open("RBD", true);
        place.close();
        place.remove();
        assertThat(asked).containsExactly("create v RAW 8", "delete v");
    }

    @Test
    void a_device_that_is_there_is_not_taken_for_a_new_one() {
        assertThatThrownBy(() -> open("Linstor", true)).hasMessageContaining("it is there already");
        assertThat(asked).isEmpty();
    }

    @ParameterizedTest
    @CsvSource({"Gluster,p,is not known", "NetworkFilesystem,elsewhere,this host does not have its pool"})
    void what_this_host_can_t_write_is_refused(String type, String pool, String why) {
        assertThatThrownBy(() -> places.open(item(type, pool, "v"), false))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining(why);
        assertThat(asked).isEmpty();
    }
}
