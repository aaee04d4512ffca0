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

package org.apache.cloudstack.backup.dao;

import com.cloud.utils.db.GenericDao;
import java.util.List;
import org.apache.cloudstack.backup.Backup;
import org.apache.cloudstack.backup.BackupVO;

public interface BackupDao extends GenericDao<BackupVO, Long> {
    List<Backup> listByVmId(Long zoneId, Long vmId);

    List<Backup> listByVmIdAndOffering(Long zoneId, Long vmId, Long offeringId);

    List<BackupVO> listBySchedule(Long backupScheduleId);
}
