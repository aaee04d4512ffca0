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

package org.nasbackup.provider;

import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.NASBackupChainKeys;

/** A new backup's place in a chain. */
public final class ChainLink {
    private final String chainId;
    private final int position;
    private final String parent;
    private final String bitmap;
    private final String recreated;

    private ChainLink(String chainId, int position, String parent, String bitmap, String recreated) {
        this.chainId = chainId;
        this.position = position;
        this.parent = parent;
        this.bitmap = bitmap;
        this.recreated = recreated;
    }

    /**
     * The place of the backup that the host made; null: it is a full one that no other can stand on.
     *
     * @param newChain the id of the chain if the backup begins one
     */
    public static ChainLink of(BackupChoice choice, BackupAnswer answer, String newChain) {
        String bitmap = answer.getBitmapCreated();
        if (choice.incremental() && isIncremental(answer)) {
            Point parent = choice.parent();
            return new ChainLink(
                    parent.chainId(), parent.position() + 1, parent.uuid(), bitmap, answer.getBitmapRecreated());
        }
        return choice.mode() == null || bitmap == null ? null : new ChainLink(newChain, 0, null, bitmap, null);
    }

    /**
     * Hosts of ours say what they made. CloudStack's own don't: a host that made an incremental confirms its bitmap, and a host
     * that knows no incrementals made a full one, and confirms nothing.
     */
    private static boolean isIncremental(BackupAnswer answer) {
        return answer.getKind() == null
                ? !answer.getIncrementalFallback() && answer.getBitmapCreated() != null
                : answer.getKind().equals(NASBackupChainKeys.TYPE_INCREMENTAL);
    }

    public String chainId() {
        return chainId;
    }

    public int position() {
        return position;
    }

    /** The uuid of the backup that it stands on; null: it is a full one. */
    public String parent() {
        return parent;
    }

    /** The bitmap that was begun with the backup; null: none, and no other backup can stand on it. */
    public String bitmap() {
        return bitmap;
    }

    /** The parent's bitmap, if libvirt had lost its checkpoint: the host made it again, or compared the disks; else null. */
    public String recreated() {
        return recreated;
    }
}
