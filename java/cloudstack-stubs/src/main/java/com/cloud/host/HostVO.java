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

package com.cloud.host;

import com.cloud.hypervisor.Hypervisor.HypervisorType;

public class HostVO implements Host {
    protected HostVO() {}

    @Override
    public long getId() {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getName() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Status getStatus() {
        throw new UnsupportedOperationException();
    }

    @Override
    public Long getClusterId() {
        throw new UnsupportedOperationException();
    }

    @Override
    public long getDataCenterId() {
        throw new UnsupportedOperationException();
    }

    @Override
    public String getVersion() {
        throw new UnsupportedOperationException();
    }

    @Override
    public boolean isInMaintenanceStates() {
        throw new UnsupportedOperationException();
    }

    @Override
    public HypervisorType getHypervisorType() {
        throw new UnsupportedOperationException();
    }
}
