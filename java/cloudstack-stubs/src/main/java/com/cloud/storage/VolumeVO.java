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

package com.cloud.storage;

import com.cloud.storage.Storage.ImageFormat;
import com.cloud.storage.Storage.ProvisioningType;
import com.cloud.storage.Storage.StoragePoolType;
import java.util.Date;

public class VolumeVO implements Volume {
    private ImageFormat format;

    public VolumeVO(
            Type type,
            String name,
            long dcId,
            long domainId,
            long accountId,
            long diskOfferingId,
            ProvisioningType provisioningType,
            long size,
            Long minIops,
            Long maxIops,
            String iscsiName) {}

    @Override
    public long getId() {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getUuid() {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getName() {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getPath() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Long getSize() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Long getDeviceId() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Long getPoolId() {
        throw new UnsupportedOperationException();
    }

    @Override
    public State getState() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Type getVolumeType() {
        throw new UnsupportedOperationException();
    }

    public Long getPassphraseId() {
        throw new UnsupportedOperationException();
    }

    public Long getTemplateId() {
        throw new UnsupportedOperationException();
    }

    public String getChainInfo() {
        throw new UnsupportedOperationException();
    }

    public void setName(String name) {}

    public void setProvisioningType(ProvisioningType provisioningType) {}

    public void setUpdated(Date updated) {}

    public void setUuid(String uuid) {}

    public void setDisplayVolume(boolean displayVolume) {}

    public void setPoolId(Long poolId) {}

    public void setPoolType(StoragePoolType poolType) {}

    public void setPath(String path) {}

    public void setState(State state) {}

    public void setSize(Long size) {}

    public void setDiskOfferingId(long diskOfferingId) {}

    public void setFormat(ImageFormat format) {
        this.format = format;
    }

    public ImageFormat getFormat() {
        return format;
    }
}
