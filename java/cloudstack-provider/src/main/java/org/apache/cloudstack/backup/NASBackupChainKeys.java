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

/** Names of the details in which chains of backups are recorded. */
public final class NASBackupChainKeys {
    /** The uuid of the backup that this one stands on; absent for a full one. */
    public static final String PARENT_BACKUP_ID = "nas.parent_backup_id";
    /** The bitmap that was begun with the backup. */
    public static final String BITMAP_NAME = "nas.bitmap_name";
    /** The id that a full backup and all backups on it share. */
    public static final String CHAIN_ID = "nas.chain_id";
    /** The backup's place in its chain; 0 is the full one. */
    public static final String CHAIN_POSITION = "nas.chain_position";

    public static final String TYPE = "nas.type";
    public static final String TYPE_FULL = "full";
    public static final String TYPE_INCREMENTAL = "incremental";
    /** The parent's bitmap, if libvirt had lost its checkpoint: the host made the checkpoint again, or compared the disks. */
    public static final String BITMAP_RECREATED = "nas.bitmap_recreated";
    /** The uuids of the new parents of rebases that were begun, or "none", in their order; absent: no rebase is unfinished. */
    public static final String REBASE_BEGUN = "nas.rebase_begun";
    /** The virtual machine's id, by which a removed row is found whose files are still on the NAS. */
    public static final String DELETE_PENDING = "nas.delete_pending";
    /** The id of the restore point, which another point in its place does not have. */
    public static final String POINT_ID = "nas.point_id";
    /**
     * The MAC that vouched for the restore point, by the hosts' key, in their last answer. It is compared with nothing, for hosts
     * sign anew without an answer. If there is one, a host without a key can't tell whether the point is the one that was made.
     */
    public static final String MAC = "nas.mac";
    /** The bitmap that the virtual machine's disks have since its last backup; a detail of the machine. */
    public static final String VM_ACTIVE_CHECKPOINT_ID = "nas.active_checkpoint_id";

    private NASBackupChainKeys() {}
}
