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

import com.cloud.agent.AgentManager;
import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.exception.AgentUnavailableException;
import com.cloud.exception.OperationTimedoutException;
import java.lang.reflect.Proxy;

/** What carries commands to hosts; CloudStack's own interface for it has many more methods, others in each version. */
interface Agents {
    Answer send(Long hostId, Command command) throws AgentUnavailableException, OperationTimedoutException;

    default AgentManager manager() {
        return (AgentManager) Proxy.newProxyInstance(
                AgentManager.class.getClassLoader(),
                new Class<?>[] {AgentManager.class},
                (manager, method, arguments) -> {
                    if (method.getName().equals("send") && arguments[1] instanceof Command) {
                        return send((Long) arguments[0], (Command) arguments[1]);
                    }
                    throw new UnsupportedOperationException(method.toString());
                });
    }
}
