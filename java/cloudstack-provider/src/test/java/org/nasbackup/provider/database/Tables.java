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

package org.nasbackup.provider.database;

import com.cloud.configuration.Resource.ResourceType;
import com.cloud.user.ResourceLimitService;
import com.cloud.vm.dao.VMInstanceDetailsDao;
import org.apache.cloudstack.backup.dao.BackupDetailsDao;

/** The tables that the provider writes. */
public final class Tables implements ResourceLimitService {
    private final Database database;
    private final Backups backups;
    private final BackupDetailsDao backupDetails;
    private final VMInstanceDetailsDao vmDetails;

    public Tables(Database database) {
        this.database = database;
        this.backups = new Backups(database);
        this.backupDetails = Details.ofBackups(database);
        this.vmDetails = Details.ofMachines(database);
    }

    public Database database() {
        return database;
    }

    public Backups backups() {
        return backups;
    }

    public BackupDetailsDao backupDetails() {
        return backupDetails;
    }

    public VMInstanceDetailsDao vmDetails() {
        return vmDetails;
    }

    public void clear() {
        for (String table : new String[] {"backup_details", "backups", "vm_instance_details", "resource_count"}) {
            database.write("delete from " + table);
        }
    }

    /** Writes what a backup holds, as another version might have. */
    public void describeVolumes(long backupId, String json) {
        database.write("update backups set backed_volumes = ? where id = ?", json, backupId);
    }

    public long count(ResourceType type) {
        return database.read(
                        row -> row.getLong(1),
                        "select coalesce(sum(count), 0) from resource_count where type = ?",
                        type.name())
                .get(0);
    }

    @Override
    public void incrementResourceCount(long accountId, ResourceType type, Long... delta) {
        add(accountId, type, delta.length == 0 ? 1 : delta[0]);
    }

    @Override
    public void decrementResourceCount(long accountId, ResourceType type, Long... delta) {
        add(accountId, type, delta.length == 0 ? -1 : -delta[0]);
    }

    private void add(long accountId, ResourceType type, long delta) {
        database.write(
                "insert into resource_count (account_id, type, count) values (?, ?, ?)"
                        + " on duplicate key update count = count + ?",
                accountId,
                type.name(),
                delta,
                delta);
    }
}
