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

import com.cloud.agent.AgentManager;
import com.cloud.host.Host;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.IncrementalRestore;

/** Tells which hosts restore with our wrapper. A host that can't be asked counts as one with CloudStack's own. */
public final class Restorers {
    /** Seconds for which a host that hangs may hold up the caller, which then does not ask again for a while. */
    private static final int WAIT_SECONDS = 30;

    private static final long KEPT = TimeUnit.MINUTES.toNanos(5);

    /** What a host said, and when it was asked. */
    private static final class Said {
        private final boolean ours;
        private final long at;

        Said(boolean ours, long at) {
            this.ours = ours;
            this.at = at;
        }
    }

    /** What hosts said, for as long as a server lives. */
    public static final class Memory {
        private final Map<Long, Said> said = new ConcurrentHashMap<>();
    }

    private final AgentManager agents;
    private final Memory memory;
    private final LongSupplier nanoTime;

    public Restorers(AgentManager agents, Memory memory, LongSupplier nanoTime) {
        this.agents = agents;
        this.memory = memory;
        this.nanoTime = nanoTime;
    }

    /** Whether the host restores incremental backups right, by what it said in the last minutes. */
    boolean restoredChains(Host host) {
        if (IncrementalRestore.right(host.getVersion())) {
            return true;
        }
        Said said = memory.said.get(host.getId());
        return said != null && nanoTime.getAsLong() - said.at < KEPT ? said.ours : ours(host);
    }

    /** Whether the host restores incremental backups right, asked now. */
    boolean restoresChains(Host host) {
        return IncrementalRestore.right(host.getVersion()) || ours(host);
    }

    /** Whether the host has our wrapper. */
    boolean ours(Host host) {
        Said said = new Said(asked(host), nanoTime.getAsLong());
        memory.said.put(host.getId(), said);
        return said.ours;
    }

    private boolean asked(Host host) {
        VerifyBackupCommand question = new VerifyBackupCommand(null, null, null, null, null, null);
        question.setWait(WAIT_SECONDS);
        try {
            return new TypedAgent(agents, host)
                    .ask(question, BackupAnswer.class)
                    .getRestoresChains();
        } catch (AgentFailure e) {
            return false;
        }
    }
}
