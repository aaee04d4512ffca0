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

import java.util.Arrays;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Which image goes onto which volume, of what each version of a management server puts on the wire. */
class RestorePlanTest {
    static final String NFS = "{\"uuid\":\"pool-1\",\"poolType\":\"NetworkFilesystem\"}";

    static RestoreBackupCommand read(String fields) {
        return (RestoreBackupCommand)
                Wire.read("[{\"org.apache.cloudstack.backup.RestoreBackupCommand\":{\"vmName\":\"i-2-10-VM\","
                        + "\"backupPath\":\"i-2-10-VM/T1\",\"backupRepoType\":\"nfs\",\"backupRepoAddress\":\"nas:/b\","
                        + fields + "}}]");
    }

    private static String list(String words, String format) {
        return Arrays.stream(words.split(" "))
                .map(word -> String.format(format, word))
                .collect(Collectors.joining(",", "[", "]"));
    }

    /** CloudStack's own, of a whole machine. */
    private static RestoreBackupCommand stock(String field, String images, String volumes) {
        return read("\"vmExists\":true,\"" + field + "\":" + list(images, "\"%s\"") + ",\"restoreVolumePaths\":"
                + list(volumes, "\"/mnt/pool-1/%s\"") + ",\"restoreVolumePools\":"
                + list(volumes.replaceAll("\\S+", NFS), "%s"));
    }

    private static String text(RestoreBackupCommand command) {
        return RestorePlan.of(command).items().stream()
                .map(item -> (item.file() == null ? item.volume() : item.file()) + ">" + item.volumePath())
                .collect(Collectors.joining(" "));
    }

    @ParameterizedTest
    @CsvSource({
        "r a b, r a b, r>r a>a b>b, as it was",
        "r a b, r b a, r>r b>b a>a, CS#13922: renumbered by restores",
        "r a b, r2 b a, root.r.qcow2>r2 b>b a>a, reinstalled",
        "r, r2, root.r.qcow2>r2, a root alone",
        "r a, x y, root.r.qcow2>x a>y, made from the backup with one data volume",
        "/p/r /p/a, r a, r>r a>a, paths that are more than names",
    })
    void of_a_stock_server_a_volume_gets_the_image_that_bears_its_name(
            String images, String volumes, String paired, String why) {
        assertThat(text(stock("backupFiles", images, volumes))).as(why).isEqualTo(paired);
        assertThat(text(stock("backupVolumesUUIDs", images, volumes)))
                .as("4.22.0: " + why)
                .isEqualTo(paired);
    }

    /** Their order is that of device numbers, which restores change. */
    @ParameterizedTest
    @CsvSource({
        "r a b, r x y, 'which of the images a, b is for which of the volumes /mnt/pool-1/x, /mnt/pool-1/y'",
        "r a b, r b c, 'which of the images a is for which of the volumes /mnt/pool-1/c'",
        "r a, r c, 'which of the images a is for which of the volumes /mnt/pool-1/c'",
        "r a b, r2 b c, 'which of the images a is for which of the volumes /mnt/pool-1/c'",
        "r a b, x y z, 'which of the images a, b is for which of the volumes /mnt/pool-1/y, /mnt/pool-1/z'",
        "r a b, b x y, 'which of the images r, a is for which of the volumes /mnt/pool-1/x, /mnt/pool-1/y'",
        "r a b, r a, '3 images are named, and 2 volumes'",
        "r a, r a b, '2 images are named, and 3 volumes'",
        "r r, r x, 'image r is named twice'",
        "r a, r r, 'volume /mnt/pool-1/r is named twice'",
    })
    void of_a_stock_server_what_can_t_be_told_is_refused(String images, String volumes, String refused) {
        assertThatThrownBy(() -> text(stock("backupFiles", images, volumes)))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageStartingWith("INVALID_ARGUMENT: check the request: ")
                .hasMessageContaining(refused);
    }

    @ParameterizedTest
    @CsvSource({"'\"restoreVolumeUUID\":\"d1\"'", "'\"backupFiles\":[\"d1\"],\"restoreVolumeSizes\":[8]'"})
    void of_a_stock_server_one_volume_has_one_image(String fields) {
        RestorePlan plan =
                RestorePlan.of(read(fields + ",\"diskType\":\"datadisk\",\"restoreVolumePaths\":[\"/mnt/pool-1/n-1\"],"
                        + "\"restoreVolumePools\":[" + NFS + "]"));
        assertThat(plan.fresh()).isTrue();
        assertThat(plan.items()).singleElement().satisfies(item -> {
            assertThat(item.volume()).isEqualTo("d1");
            assertThat(item.volumePath()).isEqualTo("n-1");
            assertThat(item.uuid()).isEqualTo("n-1");
            assertThat(item.size()).isEqualTo(fields.contains("Sizes") ? 8L : null);
        });
    }

    @ParameterizedTest
    @CsvSource({
        "NetworkFilesystem, /mnt/pool-1/v, v",
        "CLVM, /mnt/pool-1/v, v",
        "StorPool, /mnt/pool-1//dev/storpool-byid/v, /dev/storpool-byid/v",
        "FiberChannel, /mnt/pool-1/type=FIBERWWN; address=6a; connid.h=1;, type=FIBERWWN; address=6a; connid.h=1;",
        "Filesystem, /var/lib/images/v, v",
        "RBD, cloud/v, v",
        "Linstor, /dev/drbd/by-res/cs-v/0, v",
    })
    void of_a_stock_server_a_volume_is_known_without_what_was_put_around_it(String type, String path, String volume) {
        RestorePlan plan = RestorePlan.of(read("\"backupFiles\":[\"v\"],\"restoreVolumePaths\":[\"" + path + "\"],"
                + "\"restoreVolumePools\":[{\"uuid\":\"pool-1\",\"poolType\":\"" + type + "\"}]"));
        assertThat(plan.items()).singleElement().satisfies(item -> assertThat(item.volumePath())
                .isEqualTo(volume));
    }

    /** Whatever the lists beside them say. */
    @Test
    void of_our_server_the_pairs_are_as_they_are_named() {
        String disk =
                "{\"backupFile\":\"%s\",\"backedUpUuid\":\"0a1b2c3d-0000-4000-8000-00000000000a\",\"volumeUuid\":\"u-%s\",\"path\":\"/mnt/pool-1/%s\",\"volumePath\":\"%s\","
                        + "\"size\":9,\"pool\":" + NFS + "}";
        RestoreBackupCommand command = read("\"vmExists\":true,\"backupFiles\":[\"x\",\"y\"],\"disks\":["
                + String.format(disk, "a", "b", "b", "b") + "," + String.format(disk, "b", "a", "a", "a") + "]");
        assertThat(text(command)).isEqualTo("a>b b>a");
        assertThat(RestorePlan.of(command).items().get(0).uuid()).isEqualTo("u-b");
        assertThat(RestorePlan.of(command).items().get(0).serial()).isEqualTo("0a1b2c3d000040008000");
        assertThat(RestorePlan.of(command).fresh()).isFalse();
    }

    @ParameterizedTest
    @CsvSource({
        "'\"disks\":[]', no volume is named",
        "'\"disks\":[null]', a volume among 'disks' is null",
        "'\"disks\":[{\"path\":\"/p\",\"pool\":{\"uuid\":\"p\"}}]', image null is named twice",
        "'\"disks\":[{\"backupFile\":\"a\",\"path\":\"/p\"}]', the pool of '/p' is not named",
        "'\"backupFiles\":[\"a\"],\"restoreVolumePaths\":[\"/p\"],\"restoreVolumePools\":[null]', the pool of '/p' is not named",
        "'\"backupFiles\":[\"a\"],\"restoreVolumePaths\":[\"/p\"]', the pools of the volumes are not named",
        "'\"backupFiles\":[\"a\"]', the pools of the volumes are not named",
        "'\"restoreVolumePaths\":[\"/p\"],\"restoreVolumePools\":[null]', no image is named",
        "'\"vmExists\":true', the pools of the volumes are not named",
    })
    void what_lacks_something_is_refused(String fields, String refused) {
        assertThatThrownBy(() -> RestorePlan.of(read(fields)))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining(refused);
    }
}
