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
import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.agent.api.UnsupportedAnswer;
import com.cloud.exception.AgentUnavailableException;
import com.cloud.exception.OperationTimedoutException;
import com.cloud.host.Host;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupStorageStatsAnswer;
import org.nasbackup.provider.AgentFailure;

/** Sends commands to a host, and accepts only answers of the right type. */
public final class TypedAgent {
    private final AgentManager agents;
    private final Host host;

    public TypedAgent(AgentManager agents, Host host) {
        this.agents = agents;
        this.host = host;
    }

    /** @throws AgentFailure when no answer of that type comes, or one that says that the command failed */
    public <A extends Answer> A ask(Command command, Class<A> type) {
        Answer answer = send(command);
        if (!type.isInstance(answer)) {
            String got = answer == null ? "no answer" : answer.getClass().getSimpleName() + " " + answer.getDetails();
            String reason = "host " + host.getName() + " gave " + got;
            if (answer instanceof UnsupportedAnswer) {
                throw new AgentFailure(AgentFailure.Kind.UNSUPPORTED, reason, false);
            }
            throw unknown(reason, null);
        }
        if (!answer.getResult() && !tellsSizes(answer)) {
            boolean leftovers = answer instanceof BackupAnswer && ((BackupAnswer) answer).getNeedsCleanup();
            boolean noPlace = answer instanceof BackupAnswer && ((BackupAnswer) answer).getNoPlace();
            throw new AgentFailure(
                    noPlace ? AgentFailure.Kind.NO_PLACE : AgentFailure.Kind.REFUSED,
                    "host " + host.getName() + ": " + answer.getDetails(),
                    leftovers);
        }
        return type.cast(answer);
    }

    /** Hosts with CloudStack's own script say false even when they tell the sizes. */
    private static boolean tellsSizes(Answer answer) {
        if (!(answer instanceof BackupStorageStatsAnswer)) {
            return false;
        }
        Long total = ((BackupStorageStatsAnswer) answer).getTotalSize();
        return total != null && total > 0;
    }

    private Answer send(Command command) {
        try {
            return agents.send(host.getId(), command);
        } catch (AgentUnavailableException e) {
            throw unknown("host " + host.getName() + " can't be reached: " + e.getMessage(), e);
        } catch (OperationTimedoutException e) {
            throw unknown("host " + host.getName() + " did not answer in time; it may still finish", e);
        }
    }

    private static AgentFailure unknown(String reason, Exception cause) {
        return new AgentFailure(AgentFailure.Kind.UNKNOWN, reason, true, cause);
    }
}
