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

import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.exception.OperationTimedoutException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import org.nasbackup.cloudstack.Agent;
import org.nasbackup.cloudstack.Wire;

/** A host with the wrappers, the library, libvirt and QEMU as they are; commands and answers cross as JSON. */
final class RealHost implements Agents {
    private final List<Command> asked = Collections.synchronizedList(new ArrayList<>());
    private Class<? extends Command> unheard;
    /** Does it restore with our wrapper, and not with CloudStack's own? */
    boolean restores;

    /** The next answer to such a command is lost: the host finishes, the server hears of a timeout. */
    void losesAnswer(Class<? extends Command> command) {
        unheard = command;
    }

    /** What the deletions so far named. */
    List<String> deleted() {
        return asked.stream()
                .filter(DeleteBackupCommand.class::isInstance)
                .map(command -> ((DeleteBackupCommand) command).getBackupPath())
                .collect(Collectors.toList());
    }

    @Override
    public Answer send(Long hostId, Command command) throws OperationTimedoutException {
        asked.add(command);
        String answer = command instanceof RestoreBackupCommand && !restores
                ? StockRestore.execute(Wire.write(command))
                : Agent.execute(Wire.write(command));
        if (command.getClass() == unheard) {
            unheard = null;
            throw new OperationTimedoutException(null, hostId, 1, 1, false);
        }
        return (Answer) Wire.read(answer);
    }
}
