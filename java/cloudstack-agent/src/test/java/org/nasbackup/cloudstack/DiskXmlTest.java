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

import java.util.Arrays;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.nasbackup.OutputFormat;

class DiskXmlTest {
    private static final Place FILE =
            new Place(Place.Kind.FILE, "/mnt/p/v", OutputFormat.QCOW2, "<source file='/mnt/p/v'/>");

    /** @param disks each its device, bus and target */
    private static String domain(String... disks) {
        return "<domain><devices><interface type='bridge'><target dev='vda'/></interface>"
                + Arrays.stream(disks)
                        .map(disk -> disk.split(" "))
                        .map(disk -> "<disk type='file' device='" + disk[0] + "'><source file='/x'/><target dev='"
                                + disk[2] + "' bus='" + disk[1] + "'/></disk>")
                        .collect(Collectors.joining())
                + "</devices></domain>";
    }

    @ParameterizedTest
    @CsvSource({
        "disk virtio vda,vdb,virtio",
        "disk virtio vda;disk virtio vdc,vdb,virtio",
        "disk virtio vda;cdrom ide hdc,vdb,virtio",
        "disk virtio vda;cdrom scsi sda,vdb,virtio",
        "disk scsi sda;cdrom sata sdb,sdc,scsi",
        "disk ide hda,vda,virtio",
    })
    void a_disk_gets_a_free_name_on_a_bus_that_the_domain_has(String disks, String name, String bus) {
        assertThat(DiskXml.of(domain(disks.split(";")), FILE, null))
                .isEqualTo("<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>"
                        + "<source file='/mnt/p/v'/><target dev='" + name + "' bus='" + bus + "'/></disk>");
    }

    @Test
    void after_z_comes_aa() {
        String[] disks = IntStream.range(0, 26)
                .mapToObj(i -> "disk virtio vd" + (char) ('a' + i))
                .toArray(String[]::new);
        assertThat(DiskXml.of(domain(disks), FILE, null)).contains("<target dev='vdaa' ");
    }

    /** By it a later backup knows the volume. */
    @Test
    void the_serial_is_the_one_that_cloudstack_gives_it() {
        assertThat(DiskXml.of(domain(), FILE, "01234567-89ab-cdef-0123-456789abcdef"))
                .endsWith("<serial>0123456789abcdef0123</serial></disk>");
        assertThat(DiskXml.of(domain(), FILE, "short")).contains("<serial>short</serial>");
    }

    /** As libvirt tells it: with more than it was told. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "<source file='/p/v' index='4'/>|<source file='/p/v'/>|true",
                "<source file='/p/v2' index='4'/>|<source file='/p/v'/>|false",
                "<source dev='/p/v'/>|<source file='/p/v'/>|false",
                "<source dev='/dev/v' index='1'/><backingStore/>|<source dev='/dev/v'/>|true",
                "<source protocol='rbd' name='p/v'><host name='h' port='1'/></source>|<source protocol='rbd' name='p/v'/>|true",
                "<source protocol='rbd' name='p/w'/>|<source protocol='rbd' name='p/v'/>|false",
                "|<source file='/p/v'/>|false",
            })
    void a_domain_is_known_to_have_what_it_was_given(String disk, String given, boolean has) {
        String domain = "<domain><devices><disk type='file' device='cdrom'><target dev='hdc'/></disk>"
                + "<disk type='file'>" + (disk == null ? "" : disk) + "<target dev='vda'/></disk></devices></domain>";
        assertThat(DiskXml.has(domain, new Place(Place.Kind.FILE, "/x", OutputFormat.RAW, given)))
                .isEqualTo(has);
    }

    @Test
    void a_name_stays_a_name() {
        assertThat(DiskXml.escaped("a'/><b x=\"&\">")).isEqualTo("a&apos;/&gt;&lt;b x=\"&amp;\"&gt;");
    }
}
