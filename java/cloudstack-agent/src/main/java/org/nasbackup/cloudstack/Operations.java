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

package org.nasbackup.cloudstack;

import org.nasbackup.BackupStatsRequest;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.DeleteBackupResult;
import org.nasbackup.RebaseResult;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.VerifyChainRequest;
import org.nasbackup.VerifyChainResult;

/** What the wrappers ask of the library. All throw {@link org.nasbackup.NasBackupException}. */
public interface Operations {
    TakeBackupResult takeBackup(TakeBackupRequest request);

    RebaseResult rebase(RebaseOrder order);

    DeleteBackupResult deleteBackup(DeleteBackupRequest request);

    VerifyChainResult verifyChain(VerifyChainRequest request);

    Restored restorePoint(RestoreOrder order);

    /** The URI of the libvirt whose domains are backed up and restored. */
    String connectionUri();

    /** Whether this host has a key, by which it tells forged points from those that hosts made. */
    boolean hasKey();

    BackupStatsResult backupStats(BackupStatsRequest request);
}
