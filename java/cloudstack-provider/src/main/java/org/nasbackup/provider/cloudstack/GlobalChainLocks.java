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
import java.util.function.Supplier;
import org.nasbackup.provider.ChainLocks;

/** Locks that all management servers share. */
public final class GlobalChainLocks implements ChainLocks {
    private static final int PATIENCE_SECONDS = 300;

    @Override
    public <T> T locked(long vmId, Supplier<T> work) {
        GlobalLock lock = GlobalLock.getInternLock("nas.backup.chain.vm." + vmId);
        try {
            if (!lock.lock(PATIENCE_SECONDS)) {
                throw new CloudRuntimeException(
                        "another backup, deletion or restore of this virtual machine is under way; it"
                                + " did not end within " + PATIENCE_SECONDS + " seconds");
            }
            try {
                return work.get();
            } finally {
                lock.unlock();
            }
        } finally {
            lock.releaseRef();
        }
    }
}
