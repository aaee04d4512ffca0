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

import com.cloud.vm.VMInstanceDetailVO;
import com.cloud.vm.dao.VMInstanceDetailsDao;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.backup.BackupDetailVO;
import org.apache.cloudstack.backup.dao.BackupDetailsDao;
import org.apache.cloudstack.resourcedetail.dao.UserDetailsDao;

/** A table of details: names and values of some resource. */
final class Details {
    private final Database database;
    private final String table;
    private final String resource;

    private Details(Database database, String table, String resource) {
        this.database = database;
        this.table = table;
        this.resource = resource;
    }

    static BackupDetailsDao ofBackups(Database database) {
        return Calls.to(new OfBackups(new Details(database, "backup_details", "backup_id")), BackupDetailsDao.class);
    }

    static VMInstanceDetailsDao ofMachines(Database database) {
        return Calls.to(
                new OfMachines(new Details(database, "vm_instance_details", "vm_id")), VMInstanceDetailsDao.class);
    }

    static UserDetailsDao ofUsers(Database database) {
        return Calls.to(new OfUsers(new Details(database, "user_details", "user_id")), UserDetailsDao.class);
    }

    private List<String> find(long id, String name) {
        return database.read(
                row -> row.getString(1),
                "select value from " + table + " where " + resource + " = ? and name = ?",
                id,
                name);
    }

    private Map<String, String> pairs(long id) {
        Map<String, String> pairs = new HashMap<>();
        database.read(
                row -> pairs.put(row.getString(1), row.getString(2)),
                "select name, value from " + table + " where " + resource + " = ?",
                id);
        return pairs;
    }

    private void add(long id, String name, String value, boolean display) {
        remove(id, name);
        database.write(
                "insert into " + table + " (" + resource + ", name, value, display) values (?, ?, ?, ?)",
                id,
                name,
                value,
                display);
    }

    private void remove(long id, String name) {
        database.write("delete from " + table + " where " + resource + " = ? and name = ?", id, name);
    }

    private void remove(long id, String name, String value) {
        database.write(
                "delete from " + table + " where " + resource + " = ? and name = ? and value = ?", id, name, value);
    }

    private static final class OfBackups {
        private final Details details;

        OfBackups(Details details) {
            this.details = details;
        }

        public BackupDetailVO findDetail(long id, String name) {
            List<String> values = details.find(id, name);
            return values.isEmpty() ? null : new BackupDetailVO(id, name, values.get(0), false);
        }

        public Map<String, String> listDetailsKeyPairs(long id) {
            return details.pairs(id);
        }

        public void addDetail(long id, String name, String value, boolean display) {
            details.add(id, name, value, display);
        }

        public void removeDetail(long id, String name) {
            details.remove(id, name);
        }
    }

    private static final class OfMachines {
        private final Details details;

        OfMachines(Details details) {
            this.details = details;
        }

        public VMInstanceDetailVO findDetail(long id, String name) {
            List<String> values = details.find(id, name);
            return values.isEmpty() ? null : new VMInstanceDetailVO(id, name, values.get(0), false);
        }

        public Map<String, String> listDetailsKeyPairs(long id) {
            return details.pairs(id);
        }

        public void addDetail(long id, String name, String value, boolean display) {
            details.add(id, name, value, display);
        }

        public void removeDetail(long id, String name) {
            details.remove(id, name);
        }
    }

    private static final class OfUsers {
        private final Details details;

        OfUsers(Details details) {
            this.details = details;
        }

        public Map<String, String> listDetailsKeyPairs(long id) {
            return details.pairs(id);
        }

        public void addDetail(long id, String name, String value, boolean display) {
            details.add(id, name, value, display);
        }

        public void removeDetail(long id, String name) {
            details.remove(id, name);
        }

        public void removeDetail(long id, String name, String value) {
            details.remove(id, name, value);
        }
    }
}
