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

import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.Storage.ProvisioningType;
import org.apache.cloudstack.utils.qemu.QemuImg.PhysicalDiskFormat;

public interface KVMStoragePool {
    KVMPhysicalDisk createPhysicalDisk(
            String volumeUuid,
            PhysicalDiskFormat format,
            ProvisioningType provisioningType,
            long size,
            byte[] passphrase);

    boolean disconnectPhysicalDisk(String volumeUuid);

    KVMPhysicalDisk getPhysicalDisk(String volumeUuid);

    boolean deletePhysicalDisk(String volumeUuid, ImageFormat format);

    String getUuid();

    String getLocalPath();

    String getSourceHost();

    String getSourceDir();

    int getSourcePort();

    String getAuthUserName();

    PhysicalDiskFormat getDefaultFormat();
}
