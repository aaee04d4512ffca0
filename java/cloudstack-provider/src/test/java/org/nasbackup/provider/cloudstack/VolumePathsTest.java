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

import com.cloud.storage.ScopeType;
import com.cloud.storage.Storage.StoragePoolType;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class VolumePathsTest {
    @ParameterizedTest
    @CsvSource({
        "NetworkFilesystem,CLUSTER,/mnt/u-1/v",
        "NetworkFilesystem,ZONE,/mnt/u-1/v",
        "Filesystem,HOST,/pool/v",
        "SharedMountPoint,CLUSTER,/pool/v",
        "RBD,ZONE,/pool/v",
        "Linstor,ZONE,/dev/drbd/by-res/cs-v/0",
    })
    void volumes_are_where_hosts_have_their_pools(StoragePoolType type, ScopeType scope, String path) {
        assertThat(VolumePaths.path(type, scope, "/pool", "u-1", "v")).isEqualTo(path);
    }
}
