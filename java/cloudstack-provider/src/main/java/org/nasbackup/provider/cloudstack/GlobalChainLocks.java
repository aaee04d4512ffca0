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

import com.cloud.utils.db.GlobalLock;
import com.cloud.utils.exception.CloudRuntimeException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import org.nasbackup.provider.ChainLocks;

/** CloudStack's own locks. */
public final class GlobalChainLocks implements ChainLocks {
    private static final int LINE_PATIENCE_SECONDS = 60;
    /** The shortest wait: CloudStack takes 0 for no limit when a thread of the same server has the lock. */
    private static final int AT_ONCE_SECONDS = 1;

    @Override
    public boolean ifFree(long vmId, Runnable work) {
        return within(AT_ONCE_SECONDS, "nas.backup.chain.vm." + vmId, work);
    }

    @Override
    public <T> T lockedLine(long hostId, Supplier<T> work) {
        List<T> results = new ArrayList<>(1);
        if (!within(LINE_PATIENCE_SECONDS, "nas.backup.line.host." + hostId, () -> results.add(work.get()))) {
            throw new CloudRuntimeException("the line of backups for host " + hostId + " was locked for "
                    + LINE_PATIENCE_SECONDS + " seconds; it is for moments: does the database answer?");
        }
        return results.get(0);
    }

    private static boolean within(int seconds, String name, Runnable work) {
        GlobalLock lock = GlobalLock.getInternLock(name);
        try {
            if (!lock.lock(seconds)) {
                return false;
            }
            try {
                work.run();
                return true;
            } finally {
                lock.unlock();
            }
        } finally {
            lock.releaseRef();
        }
    }
}
