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

import com.cloud.storage.Volume;
import com.google.gson.Gson;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.backup.Backup;
import org.apache.cloudstack.backup.BackupVO;
import org.apache.cloudstack.backup.dao.BackupDao;

/** The table of backups, with what CloudStack's own access to it does to details. */
public final class Backups implements BackupDao {
    /** A row as it was read. */
    private static final class Row extends BackupVO {
        private final long id;
        private final String uuid;
        private final Date removed;
        private String volumes;

        Row(ResultSet row) throws SQLException {
            id = row.getLong("id");
            uuid = row.getString("uuid");
            removed = row.getTimestamp("removed");
            setVmId(row.getLong("vm_id"));
            setExternalId(row.getString("external_id"));
            setType(row.getString("type"));
            setDate(row.getTimestamp("date"));
            setSize(row.getObject("size") == null ? null : row.getLong("size"));
            setProtectedSize(row.getLong("protected_size"));
            setStatus(known(row.getString("status")));
            setBackupOfferingId(row.getLong("backup_offering_id"));
            setAccountId(row.getLong("account_id"));
            setDomainId(row.getLong("domain_id"));
            setZoneId(row.getLong("zone_id"));
            setName(row.getString("name"));
            volumes = row.getString("backed_volumes");
        }

        /** CloudStack reads a status that it does not know as null. */
        private static Status known(String name) {
            return Arrays.stream(Status.values())
                    .filter(status -> status.name().equals(name))
                    .findFirst()
                    .orElse(null);
        }

        @Override
        public long getId() {
            return id;
        }

        @Override
        public String getUuid() {
            return uuid;
        }

        @Override
        public void setBackedUpVolumes(String text) {
            volumes = text;
        }

        @Override
        public List<VolumeInfo> getBackedUpVolumes() {
            return volumes == null ? null : Arrays.asList(new Gson().fromJson(volumes, VolumeInfo[].class));
        }
    }

    private final Database database;

    public Backups(Database database) {
        this.database = database;
    }

    /** As the manager describes volumes; all in the first pool. */
    public static String describe(List<? extends Volume> volumes) {
        List<String> texts = new ArrayList<>();
        volumes.forEach(volume -> texts.add(String.format(
                "{\"uuid\":\"%s\",\"type\":\"%s\",\"size\":%d,\"path\":\"%s\",\"deviceId\":%d}",
                volume.getUuid(), volume.getVolumeType(), volume.getSize(), volume.getPath(), volume.getDeviceId())));
        return texts.toString();
    }

    private List<Row> rows(String where, Object... values) {
        return database.read(Row::new, "select * from backups where " + where + " order by id", values);
    }

    @Override
    public BackupVO findById(Long id) {
        return rows("id = ? and removed is null", id).stream().findFirst().orElse(null);
    }

    @Override
    public BackupVO findByIdIncludingRemoved(Long id) {
        return rows("id = ?", id).stream().findFirst().orElse(null);
    }

    public boolean removed(long id) {
        return rows("id = ?", id).get(0).removed != null;
    }

    @Override
    public BackupVO findByUuid(String uuid) {
        return rows("uuid = ? and removed is null", uuid).stream().findFirst().orElse(null);
    }

    @Override
    public List<Backup> listByVmId(Long zoneId, Long vmId) {
        return new ArrayList<>(rows("vm_id = ? and removed is null", vmId));
    }

    @Override
    public List<Long> listVmIdsWithBackupsInZone(Long zoneId) {
        return database.read(
                row -> row.getLong(1), "select distinct vm_id from backups where zone_id = ? order by vm_id", zoneId);
    }

    /** As other versions of CloudStack, and other plugins, do it: what this version knows is of no matter. */
    public void setStatus(long id, String status) {
        database.write("update backups set status = ? where id = ?", status, id);
    }

    public String status(long id) {
        return database.read(row -> row.getString(1), "select status from backups where id = ?", id)
                .get(0);
    }

    @Override
    public BackupVO persist(BackupVO backup) {
        long id = database.write(
                "insert into backups (uuid, vm_id, external_id, type, date, size, protected_size, status,"
                        + " backup_offering_id, account_id, domain_id, zone_id, name)"
                        + " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                backup.getUuid(),
                backup.getVmId(),
                backup.getExternalId(),
                backup.getType(),
                new Timestamp(backup.getDate().getTime()),
                backup.getSize(),
                backup.getProtectedSize(),
                backup.getStatus().name(),
                backup.getBackupOfferingId(),
                backup.getAccountId(),
                backup.getDomainId(),
                backup.getZoneId(),
                backup.getName());
        saveDetails(id, backup.getDetails());
        BackupVO stored = findById(id);
        stored.setDetails(backup.getDetails());
        return stored;
    }

    @Override
    public boolean update(Long id, BackupVO backup) {
        String volumes = ((Row) backup).volumes;
        database.write(
                "update backups set type = ?, date = ?, size = ?, status = coalesce(?, status), backed_volumes = ?"
                        + " where id = ?",
                backup.getType(),
                new Timestamp(backup.getDate().getTime()),
                backup.getSize(),
                backup.getStatus() == null ? null : backup.getStatus().name(),
                volumes,
                id);
        saveDetails(id, backup.getDetails());
        return true;
    }

    /** Expunges all of them before it writes. */
    private void saveDetails(long id, Map<String, String> details) {
        if (details != null && !details.isEmpty()) {
            database.write("delete from backup_details where backup_id = ?", id);
            details.forEach((name, value) -> database.write(
                    "insert into backup_details (backup_id, name, value) values (?, ?, ?)", id, name, value));
        }
    }

    @Override
    public boolean remove(Long id) {
        return database.write("update backups set removed = now() where id = ?", id) > 0;
    }
}
