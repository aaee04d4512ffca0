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

package com.cloud.hypervisor.kvm.storage;

import com.cloud.hypervisor.kvm.resource.KVMHAMonitor;
import com.cloud.storage.Storage.StoragePoolType;
import com.cloud.storage.StorageLayer;
import java.util.Map;

public class KVMStoragePoolManager {
    public KVMStoragePoolManager(StorageLayer storageLayer, KVMHAMonitor monitor) {}

    public boolean connectPhysicalDisk(
            StoragePoolType type, String poolUuid, String volPath, Map<String, String> details) {
        throw new UnsupportedOperationException();
    }

    public KVMStoragePool getStoragePool(StoragePoolType type, String uuid) {
        throw new UnsupportedOperationException();
    }
}
