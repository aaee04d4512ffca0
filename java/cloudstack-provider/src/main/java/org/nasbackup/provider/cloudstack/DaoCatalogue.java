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

package org.nasbackup.provider.cloudstack;

import com.cloud.configuration.Resource.ResourceType;
import com.cloud.user.ResourceLimitService;
import com.cloud.vm.VMInstanceDetailVO;
import com.cloud.vm.dao.VMInstanceDetailsDao;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.Date;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.Backup;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupVO;
import org.apache.cloudstack.backup.NASBackupChainKeys;
import org.apache.cloudstack.backup.dao.BackupDao;
import org.apache.cloudstack.backup.dao.BackupDetailsDao;
import org.nasbackup.provider.Catalogue;
import org.nasbackup.provider.ChainLink;
import org.nasbackup.provider.Point;
import org.nasbackup.provider.Rebased;
import org.nasbackup.provider.Step;
import org.nasbackup.provider.Volume;

/**
 * Keeps the catalogue in CloudStack's tables. A row that was just inserted carries its details along, and an update of it would
 * remove the details that were added since: so every change reads the row anew.
 */
public final class DaoCatalogue implements Catalogue {
    private static final String FULL = "FULL";
    /** 4.23's name of the status; earlier versions have no such constant. */
    private static final String HIDDEN = "Hidden";

    /** The states that CloudStack leaves out when it counts anew, every few minutes. */
    private static final Set<Backup.Status> UNCOUNTED =
            EnumSet.of(Backup.Status.Failed, Backup.Status.Removed, Backup.Status.Expunged);

    private final BackupDao backups;
    private final Ownership ownership;
    private final BackupDetailsDao details;
    private final VMInstanceDetailsDao vmDetails;
    private final ResourceLimitService limits;
    private final Transactions transactions;

    public DaoCatalogue(
            BackupDao backups,
            Ownership ownership,
            BackupDetailsDao details,
            VMInstanceDetailsDao vmDetails,
            ResourceLimitService limits,
            Transactions transactions) {
        this.backups = backups;
        this.ownership = ownership;
        this.details = details;
        this.vmDetails = vmDetails;
        this.limits = limits;
        this.transactions = transactions;
    }

    @Override
    public List<Point> points(long vmId) {
        Map<Long, Map<String, String>> keys = keys(vmId);
        List<Point> points = rows(vmId).stream()
                .map(row -> point(row, keys.getOrDefault(row.getId(), Map.of())))
                .collect(Collectors.toList());
        keys.forEach((id, pairs) -> {
            BackupVO row =
                    pairs.containsKey(NASBackupChainKeys.DELETE_PENDING) ? backups.findByIdIncludingRemoved(id) : null;
            if (row != null && row.getRemoved() != null) {
                points.add(point(row, pairs));
            }
        });
        return points;
    }

    /**
     * The details of the backups that are on the NAS. The table of details has no index by name: whoever looks for one looks at the
     * details of all machines.
     */
    private Map<Long, Map<String, String>> keys(long vmId) {
        Map<Long, Map<String, String>> keys = new TreeMap<>();
        transactions.read(
                row -> keys.computeIfAbsent(row.getLong(1), id -> new HashMap<>())
                        .put(row.getString(2), row.getString(3)),
                "select backup_id, backup_details.name, value from backups"
                        + " join backup_details on backup_id = backups.id where vm_id = ? and (removed is null or exists"
                        + " (select 1 from backup_details pending where pending.backup_id = backups.id and pending.name = ?))",
                vmId,
                NASBackupChainKeys.DELETE_PENDING);
        return keys;
    }

    /** The rows of this provider's backups: a machine can have backups of other providers too. */
    private List<Backup> rows(long vmId) {
        return ownership.ours(backups.listByVmId(null, vmId));
    }

    /** The backups that their owner deleted and CloudStack's own provider kept, the newest first. */
    public List<Backup> hidden(long vmId) {
        return rows(vmId).stream()
                .filter(DaoCatalogue::hidden)
                .sorted(Comparator.comparing(Backup::getDate, Comparator.nullsFirst(Comparator.naturalOrder()))
                        .thenComparing(Backup::getId)
                        .reversed())
                .collect(Collectors.toList());
    }

    /** The machines that have hidden backups. */
    public List<Long> machinesWithHidden(long zoneId) {
        return transactions.read(
                row -> row.getLong(1),
                "select distinct vm_id from backups where zone_id = ? and status = ? and removed is null order by vm_id",
                zoneId,
                HIDDEN);
    }

    /** Whether this version of CloudStack hides backups. It does not know the status of backups that another version has hidden. */
    public static boolean knowsHidden() {
        return Arrays.stream(Backup.Status.values())
                .anyMatch(status -> status.name().equals(HIDDEN));
    }

    /** Whether this version of CloudStack has hidden the backup, or a later one, whose status reads as null. */
    public static boolean deletedBefore(Backup backup) {
        return backup.getStatus() == null || hidden(backup);
    }

    private static boolean hidden(Backup backup) {
        return backup.getStatus() != null && backup.getStatus().name().equals(HIDDEN);
    }

    /** Backups that the manager takes for deleted: they are on the NAS, and in none of its lists any more. */
    public List<Backup> pendingDeletions(long zoneId) {
        return transactions
                .read(
                        row -> row.getLong(1),
                        // in this order: the database would begin with the removed backups, which only get more
                        "select straight_join backups.id from backup_details join backups on backups.id = backup_id"
                                + " where backup_details.name = ? and zone_id = ? and removed is not null"
                                + " order by backups.id desc",
                        NASBackupChainKeys.DELETE_PENDING,
                        zoneId)
                .stream()
                .map(backups::findByIdIncludingRemoved)
                .filter(Objects::nonNull)
                .collect(Collectors.toList());
    }

    /**
     * Records that the manager is told that a backup is deleted which is not deleted yet, so that it is found later. The row leaves
     * the manager's lists here: a server that dies before the manager removes it would leave a row that nobody ends.
     */
    public void promiseDeletion(long id) {
        transactions.run(() -> {
            BackupVO row = backups.findById(id);
            if (row != null) {
                put(id, NASBackupChainKeys.DELETE_PENDING, String.valueOf(row.getVmId()));
                backups.remove(id);
                takeOff(row);
            }
        });
    }

    /** Whether the deletion is still to be done. */
    public boolean pends(Backup deletion) {
        return details.listDetailsKeyPairs(deletion.getId()).containsKey(NASBackupChainKeys.DELETE_PENDING);
    }

    /** Records that the backup's folder need not be deleted any more. */
    public void forgetDeletion(Backup backup) {
        details.removeDetail(backup.getId(), NASBackupChainKeys.DELETE_PENDING);
    }

    private Point point(Backup backup, Map<String, String> keys) {
        return Point.builder(backup.getId(), backup.getUuid(), backup.getExternalId())
                .created(backup.getDate() == null ? 0 : backup.getDate().getTime())
                .good(backup.getStatus() == Backup.Status.BackedUp && !removed(backup))
                .volumes(backedUpVolumes(backup).stream()
                        .map(volume -> new Volume(volume.getUuid(), volume.getPath()))
                        .collect(Collectors.toList()))
                .chain(keys.get(NASBackupChainKeys.CHAIN_ID))
                .parent(keys.get(NASBackupChainKeys.PARENT_BACKUP_ID))
                .position(position(keys.get(NASBackupChainKeys.CHAIN_POSITION)))
                .bitmap(keys.get(NASBackupChainKeys.BITMAP_NAME))
                .size(backup.getSize())
                .goals(goals(keys.get(NASBackupChainKeys.REBASE_BEGUN)))
                .build();
    }

    /** Whether any record says that the backup stands on another: a host that takes it for a full one would spoil the disks. */
    public boolean standsOnAnother(Backup backup) {
        Point point = point(backup, details.listDetailsKeyPairs(backup.getId()));
        return "INCREMENTAL".equalsIgnoreCase(backup.getType())
                || point.parent() != null
                || point.position() != null && point.position() > 0;
    }

    /** The id of the restore point, which no other point has; null: its host gave it none. */
    public String pointId(Backup backup) {
        return details.listDetailsKeyPairs(backup.getId()).get(NASBackupChainKeys.POINT_ID);
    }

    /** The MAC that vouched for the restore point when a host wrote it last; null: none. */
    public String mac(Backup backup) {
        return details.listDetailsKeyPairs(backup.getId()).get(NASBackupChainKeys.MAC);
    }

    private static boolean removed(Backup backup) {
        return backup instanceof BackupVO && ((BackupVO) backup).getRemoved() != null;
    }

    private static List<String> goals(String text) {
        return text == null || text.isBlank() ? List.of() : List.of(text.split(" "));
    }

    private static Integer position(String text) {
        return text != null && text.matches("\\d{1,9}") ? Integer.valueOf(text) : null;
    }

    /** The volumes by device number. The first version records no numbers: then as they are recorded. Empty: not known. */
    public static List<Backup.VolumeInfo> backedUpVolumes(Backup backup) {
        return described(backup).stream()
                .filter(Objects::nonNull)
                .sorted(Comparator.comparing(
                        Backup.VolumeInfo::getDeviceId, Comparator.nullsLast(Comparator.naturalOrder())))
                .collect(Collectors.toList());
    }

    /** The recorded volumes. None for a description that can't be read: the backup can still be deleted, and others still work. */
    private static List<Backup.VolumeInfo> described(Backup backup) {
        try {
            List<Backup.VolumeInfo> volumes = backup.getBackedUpVolumes();
            return volumes == null ? List.of() : volumes;
        } catch (RuntimeException e) {
            return List.of();
        }
    }

    /** The bitmap that the virtual machine's disks have since its last backup; null: none is known. */
    public String activeCheckpoint(long vmId) {
        VMInstanceDetailVO detail = vmDetails.findDetail(vmId, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID);
        return detail == null ? null : detail.getValue();
    }

    /** Records that the virtual machine's disks have no bitmap that a backup may build upon. */
    public void clearActiveCheckpoint(long vmId) {
        vmDetails.removeDetail(vmId, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID);
    }

    /** Ends the rows of backups whose server has died. The caller has the machine's lock, so no backup is under way. */
    public void endInterrupted(long vmId) {
        for (Backup backup : rows(vmId)) {
            if (backup.getStatus() == Backup.Status.BackingUp) {
                end(backup.getId(), Backup.Status.Error);
            }
        }
    }

    /**
     * Records that the backup is on the NAS.
     *
     * @param answer the host's; a size that it does not tell counts as 0
     * @param volumes as the manager describes them
     * @param tracked whether the host was asked to keep a bitmap
     * @param link null: the backup stands alone
     * @return the row, without details that an update would write
     */
    public BackupVO completed(
            long id, Date date, BackupAnswer answer, String volumes, boolean tracked, ChainLink link) {
        transactions.run(() -> {
            BackupVO row = backups.findById(id);
            boolean incremental = link != null && link.parent() != null;
            row.setDate(date);
            // the manager counts the size, and fails if there is none
            row.setSize(answer.getSize() == null ? 0 : answer.getSize());
            row.setBackedUpVolumes(volumes);
            row.setStatus(Backup.Status.BackedUp);
            update(row);
            setType(id, incremental ? "INCREMENTAL" : FULL);
            put(id, NASBackupChainKeys.POINT_ID, answer.getPointId());
            put(id, NASBackupChainKeys.MAC, answer.getMac());
            if (link != null) {
                record(id, link);
            }
            if (tracked) {
                activate(row.getVmId(), link);
            }
        });
        return backups.findById(id);
    }

    /**
     * Writes the type of a row: until 4.23 CloudStack's own access to a row silently leaves it out. The statement names no database,
     * which can have another name than cloud.
     */
    private void setType(long id, String type) {
        transactions.write("update backups set type = ? where id = ?", type, id);
    }

    private void record(long id, ChainLink link) {
        put(id, NASBackupChainKeys.CHAIN_ID, link.chainId());
        put(id, NASBackupChainKeys.CHAIN_POSITION, String.valueOf(link.position()));
        put(
                id,
                NASBackupChainKeys.TYPE,
                link.parent() == null ? NASBackupChainKeys.TYPE_FULL : NASBackupChainKeys.TYPE_INCREMENTAL);
        put(id, NASBackupChainKeys.PARENT_BACKUP_ID, link.parent());
        put(id, NASBackupChainKeys.BITMAP_NAME, link.bitmap());
        put(id, NASBackupChainKeys.BITMAP_RECREATED, link.recreated());
    }

    private void activate(long vmId, ChainLink link) {
        clearActiveCheckpoint(vmId);
        if (link != null && link.bitmap() != null) {
            vmDetails.addDetail(vmId, NASBackupChainKeys.VM_ACTIVE_CHECKPOINT_ID, link.bitmap(), false);
        }
    }

    /** Records that the backup failed, and may have left something on the NAS: an operator can delete the row. */
    public void failed(long id) {
        end(id, Backup.Status.Error);
    }

    /** Records that the backup failed and left nothing. */
    public void failedClean(long id) {
        transactions.run(() -> {
            end(id, Backup.Status.Failed);
            backups.remove(id);
        });
    }

    /** Removes the row of a backup for which its host had no place: the host is asked again, with another row. */
    public void neverBegan(long id) {
        backups.expunge(id);
    }

    private void end(long id, Backup.Status status) {
        BackupVO row = backups.findById(id);
        row.setStatus(status);
        update(row);
    }

    @Override
    public void begun(Step rebase) {
        Point point = rebase.point();
        transactions.run(() -> put(
                point.id(), NASBackupChainKeys.REBASE_BEGUN, String.join(" ", point.goalsWith(rebase.newParent()))));
    }

    @Override
    public void rebased(Step rebase, Rebased told) {
        long id = rebase.point().id();
        transactions.run(() -> {
            if (rebase.newParent() == null) {
                details.removeDetail(id, NASBackupChainKeys.PARENT_BACKUP_ID);
                put(id, NASBackupChainKeys.TYPE, NASBackupChainKeys.TYPE_FULL);
                setType(id, FULL);
            } else {
                put(id, NASBackupChainKeys.PARENT_BACKUP_ID, rebase.newParent().uuid());
            }
            details.removeDetail(id, NASBackupChainKeys.REBASE_BEGUN);
            move(rebase);
            put(id, NASBackupChainKeys.MAC, told.mac());
            if (told.size() != null) {
                grow(backups.findByIdIncludingRemoved(id), told.size());
            }
        });
    }

    /** Records the size, and what it adds to the owner's count. CloudStack reports an update that changes nothing as a failure. */
    private void grow(BackupVO row, long size) {
        if (row.getSize() != null && row.getSize() == size) {
            return;
        }
        if (!removed(row)) {
            account(row, size - size(row));
        }
        row.setSize(size);
        update(row);
    }

    private void account(Backup row, long growth) {
        if (growth > 0) {
            limits.incrementResourceCount(row.getAccountId(), ResourceType.backup_storage, growth);
        } else if (growth < 0) {
            limits.decrementResourceCount(row.getAccountId(), ResourceType.backup_storage, -growth);
        }
    }

    @Override
    public void deleted(Step delete) {
        Point point = delete.point();
        transactions.run(() -> {
            BackupVO row = backups.findByIdIncludingRemoved(point.id());
            move(delete);
            if (!removed(row)) {
                backups.remove(point.id());
                takeOff(row);
            }
            details.removeDetail(point.id(), NASBackupChainKeys.DELETE_PENDING);
            if (point.bitmap() != null && point.bitmap().equals(activeCheckpoint(row.getVmId()))) {
                clearActiveCheckpoint(row.getVmId());
            }
        });
    }

    /** Takes a row off the owner's count. A status that this version of CloudStack does not know reads as null, and was counted. */
    private void takeOff(BackupVO row) {
        if (row.getStatus() == null || !UNCOUNTED.contains(row.getStatus())) {
            limits.decrementResourceCount(row.getAccountId(), ResourceType.backup);
            if (row.getSize() != null) {
                limits.decrementResourceCount(row.getAccountId(), ResourceType.backup_storage, row.getSize());
            }
        }
    }

    /**
     * Adds to the owner's count what the manager is about to take off. Such a manager takes off each backup that it is told is
     * deleted, with the size that it read before the machine's lock, even one that another job has deleted meanwhile; but the backup
     * was taken off the count together with its record.
     */
    public void countForManager(Backup read) {
        limits.incrementResourceCount(read.getAccountId(), ResourceType.backup);
        account(read, size(read));
    }

    private static long size(Backup backup) {
        return backup.getSize() == null ? 0 : backup.getSize();
    }

    private void move(Step step) {
        put(NASBackupChainKeys.CHAIN_ID, step.chains());
        put(NASBackupChainKeys.CHAIN_POSITION, step.positions());
    }

    /** Of many points: CloudStack's own access would write them by a few statements each. */
    private void put(String key, Map<Long, ?> values) {
        if (values.isEmpty()) {
            return;
        }
        List<Object> old = new ArrayList<>(List.of(key));
        List<Object> rows = new ArrayList<>();
        old.addAll(values.keySet());
        values.forEach((id, value) -> Collections.addAll(rows, id, key, String.valueOf(value), false));
        transactions.write(
                "delete from backup_details where name = ? and backup_id in ("
                        + String.join(", ", Collections.nCopies(values.size(), "?")) + ")",
                old.toArray());
        transactions.write(
                "insert into backup_details (backup_id, name, value, display) values "
                        + String.join(", ", Collections.nCopies(values.size(), "(?, ?, ?, ?)")),
                rows.toArray());
    }

    private void put(long id, String key, String value) {
        if (value != null) {
            details.removeDetail(id, key);
            details.addDetail(id, key, value, false);
        }
    }

    private void update(BackupVO row) {
        if (!backups.update(row.getId(), row)) {
            throw new IllegalStateException("unable to update the record of backup " + row.getUuid());
        }
    }
}
