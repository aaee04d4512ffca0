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

import java.util.Date;

/** A repository, as an offering of a place for backups. */
public class NasBackupOffering implements BackupOffering {
    private static final long serialVersionUID = 1L;

    private final String name;
    private final String uuid;

    public NasBackupOffering(String name, String uuid) {
        this.name = name;
        this.uuid = uuid;
    }

    @Override
    public String getExternalId() {
        return uuid;
    }

    @Override
    public String getName() {
        return name;
    }

    @Override
    public String getDescription() {
        return "A NAS that backups go to";
    }

    @Override
    public long getZoneId() {
        return -1;
    }

    @Override
    public boolean isUserDrivenBackupAllowed() {
        return false;
    }

    @Override
    public String getProvider() {
        return "nas";
    }

    @Override
    public Date getCreated() {
        return null;
    }

    @Override
    public String getUuid() {
        return uuid;
    }

    @Override
    public long getId() {
        return -1;
    }
}
