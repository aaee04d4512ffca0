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

package com.cloud.vm;

import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.utils.fsm.StateObject;
import java.util.Date;
import java.util.List;
import org.apache.cloudstack.backup.Backup;

public interface VirtualMachine extends StateObject<VirtualMachine.State> {
    enum State {
        Starting,
        Running,
        Stopping,
        Stopped,
        Destroyed,
        Expunging,
        Migrating,
        Restoring,
        Error,
        Unknown,
        Shutdown
    }

    long getId();

    String getUuid();

    String getName();

    String getHostName();

    String getInstanceName();

    Long getHostId();

    Long getLastHostId();

    long getDataCenterId();

    long getAccountId();

    long getDomainId();

    long getTemplateId();

    Long getBackupOfferingId();

    List<Backup.VolumeInfo> getBackupVolumeList();

    HypervisorType getHypervisorType();

    Date getRemoved();
}
