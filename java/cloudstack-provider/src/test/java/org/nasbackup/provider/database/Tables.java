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
import org.apache.cloudstack.backup.dao.BackupDao;
import org.apache.cloudstack.backup.dao.BackupDetailsDao;
import org.apache.cloudstack.resourcedetail.dao.UserDetailsDao;

/** The tables that the provider writes. */
public final class Tables {
    private final Database database;
    private final Backups backups;
    private final BackupDetailsDao backupDetails;
    private final VMInstanceDetailsDao vmDetails;
    private final UserDetailsDao userDetails;

    public Tables(Database database) {
        this.database = database;
        this.backups = new Backups(database);
        this.backupDetails = Details.ofBackups(database);
        this.vmDetails = Details.ofMachines(database);
        this.userDetails = Details.ofUsers(database);
    }

    public Database database() {
        return database;
    }

    public Backups backups() {
        return backups;
    }

    /** The same, as CloudStack has it. */
    public BackupDao backupDao() {
        return Calls.to(backups, BackupDao.class);
    }

    public BackupDetailsDao backupDetails() {
        return backupDetails;
    }

    public VMInstanceDetailsDao vmDetails() {
        return vmDetails;
    }

    public UserDetailsDao userDetails() {
        return userDetails;
    }

    public ResourceLimitService limits() {
        return Calls.to(this, ResourceLimitService.class);
    }

    public void clear() {
        for (String table : new String[] {"backups", "vm_instance_details", "user_details", "backup_schedule"}) {
            database.write("delete from " + table);
        }
        database.write("update resource_count set count = 0");
    }

    /** Writes what a backup holds, as another version might have. */
    public void describeVolumes(long backupId, String json) {
        database.write("update backups set backed_volumes = ? where id = ?", json, backupId);
    }

    /** @return its id */
    public long schedule(long vmId, int maxBackups) {
        return database.write(
                "insert into backup_schedule (vm_id, schedule_type, max_backups, uuid) values (?, 1, ?, uuid())",
                vmId,
                maxBackups);
    }

    public void removeSchedules(long vmId) {
        database.write("delete from backup_schedule where vm_id = ?", vmId);
    }

    public void keep(long scheduleId, int maxBackups) {
        database.write("update backup_schedule set max_backups = ? where id = ?", maxBackups, scheduleId);
    }

    /** How many backups it keeps; null: there is no such schedule. */
    public Integer maxBackups(long scheduleId) {
        return database
                .read(row -> row.getInt(1), "select max_backups from backup_schedule where id = ?", scheduleId)
                .stream()
                .findFirst()
                .orElse(null);
    }

    /** The owner's. */
    public long count(ResourceType type) {
        return database.read(
                        row -> row.getLong(1),
                        "select count from resource_count where type = ? and account_id is not null",
                        type.name())
                .get(0);
    }

    /** As the server does it every five minutes, from rows in all states but these. */
    public void recount() {
        for (String[] each : new String[][] {{"backup", "count(*)"}, {"backup_storage", "coalesce(sum(size), 0)"}}) {
            database.write(
                    "update resource_count set count = (select " + each[1] + " from backups where removed is null"
                            + " and status not in ('Failed', 'Removed', 'Expunged')) where type = ?",
                    each[0]);
        }
    }

    public void incrementResourceCount(long accountId, ResourceType type, Long... delta) {
        add(accountId, type, delta.length == 0 ? 1 : delta[0].longValue(), 1);
    }

    public void decrementResourceCount(long accountId, ResourceType type, Long... delta) {
        add(accountId, type, delta.length == 0 ? 1 : delta[0].longValue(), -1);
    }

    /** The owner's and his domains'; what is not above zero is passed over. */
    private void add(long accountId, ResourceType type, long delta, int sign) {
        if (delta > 0) {
            database.write("update resource_count set count = count + ? where type = ?", sign * delta, type.name());
        }
    }
}
