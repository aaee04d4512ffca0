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

import java.util.LinkedHashMap;
import java.util.Map;
import org.nasbackup.provider.Policy;
import org.nasbackup.provider.database.Database;

/** Many machines' backups in the tables. One of the machines is worked on: it keeps so many points, in one chain. */
final class Fleet {
    /** What a job asked of the database. */
    static final class Asked {
        final long statements;
        /** Those that the database looked at. */
        final long rows;
        /** Of real time, the modelled host's included. */
        final double seconds;

        Asked(long statements, long rows, double seconds) {
            this.statements = statements;
            this.rows = rows;
            this.seconds = seconds;
        }
    }

    private static final long OTHERS = 1000;

    private final Database database;
    private final Site site;

    Fleet(Database database, int machines, int points) {
        this.database = database;
        site = Site.fresh(database);
        site.policy = new Policy(true, 0);
        for (int i = 0; i < points; i++) {
            site.take();
        }
        removeOthers(database);
        database.write(
                "insert into vm_instance (id, instance_name, account_id, domain_id, data_center_id, backup_offering_id)"
                        + " select ? + seq, 'other', 2, 3, 1, 5 from seq_1_to_" + machines,
                OTHERS);
        database.write("insert into backups (uuid, vm_id, external_id, type, date, size, protected_size, status,"
                + " backup_offering_id, account_id, domain_id, zone_id, name, backed_volumes)"
                + " select uuid(), vm_instance.id, external_id, type, date, size, protected_size, status, 5, 2, 3, 1,"
                + " name, backed_volumes from vm_instance join backups where instance_name = 'other'");
        database.write(
                "insert into backup_details (backup_id, name, value) select others.id, backup_details.name, value"
                        + " from backup_details join backups on backups.id = backup_id"
                        + " join backups others on others.external_id = backups.external_id and others.vm_id > ?"
                        + " where backups.vm_id = ?",
                OTHERS,
                Site.VM);
        for (String table : new String[] {"backups", "backup_details"}) {
            database.read(row -> row.getString(1), "analyze table " + table);
        }
    }

    static void removeOthers(Database database) {
        database.write("delete from vm_instance where id > ?", OTHERS);
    }

    /** By job; what the manager itself asks for is not in it. */
    Map<String, Asked> asked() {
        Map<String, Asked> asked = new LinkedHashMap<>();
        asked.put("take", asked(() -> site.provider.takeBackup(site.vm, false)));
        Backup second = site.rows().get(1);
        asked.put("delete", asked(() -> site.provider.deleteBackup(second, false)));
        asked.put("sync", asked(() -> site.provider.syncBackupStorageStats(Site.ZONE)));
        return asked;
    }

    private Asked asked(Runnable job) {
        Asked before = status();
        job.run();
        Asked after = status();
        // the question itself is one
        return new Asked(
                after.statements - before.statements - 1, after.rows - before.rows, after.seconds - before.seconds);
    }

    /** Of this connection. */
    private Asked status() {
        Map<String, Long> counters = new LinkedHashMap<>();
        database.read(
                row -> counters.put(row.getString(1), row.getLong(2)),
                "show session status where variable_name = 'Questions' or variable_name like 'Handler_read%'");
        long statements = counters.remove("Questions");
        long rows = counters.values().stream().mapToLong(Long::longValue).sum();
        return new Asked(statements, rows, System.nanoTime() / 1e9);
    }
}
