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
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.cloud.storage.ScopeType;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.exception.CloudRuntimeException;
import java.util.List;
import org.apache.cloudstack.engine.subsystem.api.storage.DataStoreManager;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.junit.jupiter.api.Test;
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

    /** Its path would end in "null", and a file of that name lie in the pool. */
    @Test
    void a_volume_that_was_not_made_yet_is_nowhere() {
        VolumeVO volume = mock(VolumeVO.class);
        when(volume.getUuid()).thenReturn("u-v");
        when(volume.getPoolId()).thenReturn(1L);
        PrimaryDataStoreDao pools = mock(PrimaryDataStoreDao.class);
        StoragePoolVO pool = mock(StoragePoolVO.class);
        when(pools.findById(1L)).thenReturn(pool);
        assertThatThrownBy(() -> VolumePaths.of(List.of(volume), pools, mock(DataStoreManager.class)))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessage("volume u-v was not made yet");
    }
}
