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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.cloudstack.backup.Backup;
import org.apache.cloudstack.backup.BackupVO;

/** The table of backups, with what CloudStack's own access to it does: to details, and to columns that nothing was set of. */
public final class Backups {
    /** A row as it was read, and what was set since: an update writes nothing else. */
    private static final class Row extends BackupVO {
        private static final long serialVersionUID = 1L;

        private final long id;
        private final String uuid;
        private String volumes;
        private final Map<String, Object> changes = new LinkedHashMap<>();

        Row(ResultSet row) throws SQLException {
            id = row.getLong("id");
            uuid = row.getString("uuid");
            setRemoved(row.getTimestamp("removed"));
            setVmId(row.getLong("vm_id"));
            setExternalId(row.getString("external_id"));
            super.setType(row.getString("type"));
            setDate(row.getTimestamp("date"));
            setSize(row.getObject("size") == null ? null : row.getLong("size"));
            setProtectedSize(row.getLong("protected_size"));
            setStatus(known(row.getString("status")));
            setBackupOfferingId(row.getLong("backup_offering_id"));
            setAccountId(row.getLong("account_id"));
            setDomainId(row.getLong("domain_id"));
            setZoneId(row.getLong("zone_id"));
            setName(row.getString("name"));
            setBackupScheduleId(row.getObject("backup_schedule_id") == null ? null : row.getLong("backup_schedule_id"));
            volumes = row.getString("backed_volumes");
            changes.clear();
        }

        /** CloudStack reads a status that it does not know as null. */
        private static Status known(String name) {
            return Arrays.stream(Status.values())
                    .filter(status -> status.name().equalsIgnoreCase(name))
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

        /** Setters are taken for columns by the names of fields: until 4.23 the field of this one has another name. */
        @Override
        public void setType(String type) {
            super.setType(type);
            if (Version.LATER) {
                changes.put("type", type);
            }
        }

        @Override
        public void setDate(Date date) {
            super.setDate(date);
            changes.put("date", time(date));
        }

        @Override
        public void setSize(Long size) {
            super.setSize(size);
            changes.put("size", size);
        }

        @Override
        public void setStatus(Status status) {
            super.setStatus(status);
            changes.put("status", status == null ? null : status.name());
        }

        @Override
        public void setExternalId(String externalId) {
            super.setExternalId(externalId);
            changes.put("external_id", externalId);
        }

        @Override
        public void setName(String name) {
            super.setName(name);
            changes.put("name", name);
        }

        @Override
        public void setBackupScheduleId(Long schedule) {
            super.setBackupScheduleId(schedule);
            changes.put("backup_schedule_id", schedule);
        }

        @Override
        public void setBackedUpVolumes(String text) {
            volumes = text;
            changes.put("backed_volumes", text);
        }

        @Override
        public List<VolumeInfo> getBackedUpVolumes() {
            return volumes == null || volumes.isEmpty()
                    ? List.of()
                    : Arrays.asList(new Gson().fromJson(volumes, VolumeInfo[].class));
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

    private static Timestamp time(Date date) {
        return date == null ? null : new Timestamp(date.getTime());
    }

    private List<Row> rows(String where, Object... values) {
        return database.read(Row::new, "select * from backups where " + where + " order by id", values);
    }

    public BackupVO findById(Long id) {
        return rows("id = ? and removed is null", id).stream().findFirst().orElse(null);
    }

    public BackupVO findByIdIncludingRemoved(Long id) {
        return rows("id = ?", id).stream().findFirst().orElse(null);
    }

    public boolean removed(long id) {
        return rows("id = ?", id).get(0).getRemoved() != null;
    }

    public BackupVO findByUuid(String uuid) {
        return rows("uuid = ? and removed is null", uuid).stream().findFirst().orElse(null);
    }

    public List<Backup> listByVmId(Long zoneId, Long vmId) {
        return new ArrayList<>(rows("vm_id = ? and removed is null", vmId));
    }

    public List<Backup> listByVmIdAndOffering(Long zoneId, Long vmId, Long offeringId) {
        return new ArrayList<>(rows(
                "zone_id = ? and vm_id = ? and backup_offering_id = ? and removed is null", zoneId, vmId, offeringId));
    }

    /** Those that were taken well, the oldest first. */
    public List<BackupVO> listBySchedule(Long scheduleId) {
        return new ArrayList<>(database.read(
                Row::new,
                "select * from backups where backup_schedule_id = ? and status = 'BackedUp' and removed is null"
                        + " order by date",
                scheduleId));
    }

    /** As other versions of CloudStack, and other plugins, do it: what this version knows is of no matter. */
    public void setStatus(long id, String status) {
        database.write("update backups set status = ? where id = ?", status, id);
    }

    public String status(long id) {
        return database.read(row -> row.getString(1), "select status from backups where id = ?", id)
                .get(0);
    }

    public BackupVO persist(BackupVO backup) {
        long id = database.write(
                "insert into backups (uuid, vm_id, external_id, type, date, size, protected_size, status,"
                        + " backup_offering_id, account_id, domain_id, zone_id, name)"
                        + " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                backup.getUuid(),
                backup.getVmId(),
                backup.getExternalId(),
                backup.getType(),
                time(backup.getDate()),
                backup.getSize(),
                backup.getProtectedSize(),
                backup.getStatus() == null ? null : backup.getStatus().name(),
                backup.getBackupOfferingId(),
                backup.getAccountId(),
                backup.getDomainId(),
                backup.getZoneId(),
                backup.getName());
        saveDetails(id, backup.getDetails());
        BackupVO stored = findByIdIncludingRemoved(id);
        stored.setDetails(backup.getDetails());
        return stored;
    }

    /** @return was anything set, and is there such a row? */
    public boolean update(Long id, BackupVO backup) {
        Map<String, Object> changes = ((Row) backup).changes;
        if (changes.isEmpty()) {
            return false;
        }
        List<Object> values = new ArrayList<>(changes.values());
        values.add(id);
        long changed = database.write(
                "update backups set " + String.join(" = ?, ", changes.keySet()) + " = ? where id = ?",
                values.toArray());
        changes.clear();
        if (changed > 0) {
            saveDetails(id, backup.getDetails());
        }
        return changed > 0;
    }

    /** Expunges all of them before it writes. */
    private void saveDetails(long id, Map<String, String> details) {
        if (details != null && !details.isEmpty()) {
            database.write("delete from backup_details where backup_id = ?", id);
            details.forEach((name, value) -> database.write(
                    "insert into backup_details (backup_id, name, value) values (?, ?, ?)", id, name, value));
        }
    }

    public boolean expunge(Long id) {
        return database.write("delete from backups where id = ?", id) > 0;
    }

    public boolean remove(Long id) {
        return database.write("update backups set removed = now() where id = ?", id) > 0;
    }
}
