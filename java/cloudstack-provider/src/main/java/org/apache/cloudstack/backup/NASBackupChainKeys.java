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

/** Names of the details that hold chains of backups together. */
public final class NASBackupChainKeys {
    /** The uuid of the backup that this one stands on; absent for a full one. */
    public static final String PARENT_BACKUP_ID = "nas.parent_backup_id";
    /** The bitmap that was begun with the backup. */
    public static final String BITMAP_NAME = "nas.bitmap_name";
    /** What all backups on one full share. */
    public static final String CHAIN_ID = "nas.chain_id";
    /** 0 is the full. */
    public static final String CHAIN_POSITION = "nas.chain_position";

    public static final String TYPE = "nas.type";
    public static final String TYPE_FULL = "full";
    public static final String TYPE_INCREMENTAL = "incremental";
    /** The parent's bitmap, when its checkpoint was lost: made again from it, or the disks compared instead. */
    public static final String BITMAP_RECREATED = "nas.bitmap_recreated";
    /** The uuids of what rebases were begun to put it onto, or "none", in their order; absent: none is unfinished. */
    public static final String REBASE_BEGUN = "nas.rebase_begun";
    /** Of a removed row whose files are still on the NAS: the virtual machine's id, for which it is looked up. */
    public static final String DELETE_PENDING = "nas.delete_pending";
    /** By which the restore point is told from any other that takes its place. */
    public static final String POINT_ID = "nas.point_id";
    /**
     * What vouched for the restore point, with the hosts' key, by their last answer. It is compared with nothing, for they sign
     * anew without one: that there is one says that a host without a key can't tell whether the point is what was made.
     */
    public static final String MAC = "nas.mac";
    /** Of the virtual machine: the bitmap that its disks have since its last backup. */
    public static final String VM_ACTIVE_CHECKPOINT_ID = "nas.active_checkpoint_id";

    private NASBackupChainKeys() {}
}
