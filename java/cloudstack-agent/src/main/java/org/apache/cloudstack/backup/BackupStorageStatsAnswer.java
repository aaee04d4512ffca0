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

import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import org.nasbackup.cloudstack.OneLine;

/** A host's answer about a repository. The sizes are in bytes; a host wrote the text, so it is read as one line. */
public class BackupStorageStatsAnswer extends Answer {
    private Long totalSize;
    private Long usedSize;

    public BackupStorageStatsAnswer(Command command, boolean success, String details) {
        super(command, success, details);
        this.totalSize = 0L;
        this.usedSize = 0L;
    }

    @Override
    public String getDetails() {
        return OneLine.of(super.getDetails());
    }

    public Long getTotalSize() {
        return totalSize;
    }

    public void setTotalSize(Long totalSize) {
        this.totalSize = totalSize;
    }

    public Long getUsedSize() {
        return usedSize;
    }

    public void setUsedSize(Long usedSize) {
        this.usedSize = usedSize;
    }
}
