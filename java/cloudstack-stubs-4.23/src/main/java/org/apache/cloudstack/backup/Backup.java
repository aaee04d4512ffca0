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

package org.apache.cloudstack.backup;

import com.cloud.storage.Volume;
import java.util.Date;
import java.util.List;

/** As in {@code cloudstack-stubs}, with 4.23's states. */
public interface Backup {
    enum Status {
        Allocated,
        Queued,
        BackingUp,
        BackedUp,
        Error,
        Failed,
        Restoring,
        Removed,
        Expunged,
        ReadyForImageTransfer,
        FinalizingImageTransfer,
        Hidden
    }

    class RestorePoint {
        private RestorePoint() {}
    }

    /** What is stored needs its fields here. */
    class VolumeInfo {
        private String uuid;
        private Volume.Type type;
        private Long size;
        private String path;
        private Long deviceId;
        private String diskOfferingId;

        private VolumeInfo() {}

        public String getUuid() {
            return uuid;
        }

        public Volume.Type getType() {
            return type;
        }

        public Long getSize() {
            return size;
        }

        public String getPath() {
            return path;
        }

        public Long getDeviceId() {
            return deviceId;
        }

        public String getDiskOfferingId() {
            return diskOfferingId;
        }
    }

    long getId();

    String getUuid();

    Long getVmId();

    long getBackupOfferingId();

    String getExternalId();

    Date getDate();

    String getType();

    Status getStatus();

    Long getSize();

    List<VolumeInfo> getBackedUpVolumes();

    long getZoneId();

    Long getBackupScheduleId();

    long getAccountId();

    long getDomainId();
}
