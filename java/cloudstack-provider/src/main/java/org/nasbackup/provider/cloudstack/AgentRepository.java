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

import com.cloud.agent.api.Command;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupRepository;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.nasbackup.provider.Point;
import org.nasbackup.provider.Rebased;
import org.nasbackup.provider.RemoteRepository;

/** A repository through the agent of one host. */
public final class AgentRepository implements RemoteRepository {
    private final TypedAgent agent;
    private final BackupRepository repository;
    private final int waitSeconds;

    public AgentRepository(TypedAgent agent, BackupRepository repository, int waitSeconds) {
        this.agent = agent;
        this.repository = repository;
        this.waitSeconds = waitSeconds;
    }

    /** Rebases the whole point by one command: the host knows the names of its images. */
    @Override
    public Rebased rebase(Point point, Point newParent, Point going) {
        BackupAnswer answer = ask(RebaseBackupCommand.ofPoint(
                point.path(),
                newParent == null ? null : newParent.path(),
                going.path(),
                repository.getType(),
                repository.getAddress(),
                repository.getMountOptions()));
        return new Rebased(answer.getSize(), answer.getMac());
    }

    @Override
    public void delete(Point point) {
        ask(new DeleteBackupCommand(
                point.path(), repository.getType(), repository.getAddress(), repository.getMountOptions()));
    }

    private BackupAnswer ask(Command command) {
        command.setWait(waitSeconds);
        return agent.ask(command, BackupAnswer.class);
    }
}
