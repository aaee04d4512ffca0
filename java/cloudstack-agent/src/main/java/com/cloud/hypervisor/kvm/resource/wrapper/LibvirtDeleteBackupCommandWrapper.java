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

package com.cloud.hypervisor.kvm.resource.wrapper;

import com.cloud.agent.api.Answer;
import com.cloud.hypervisor.kvm.resource.LibvirtComputingResource;
import com.cloud.resource.CommandWrapper;
import com.cloud.resource.ResourceWrapper;
import java.util.function.Supplier;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.nasbackup.cloudstack.Answers;
import org.nasbackup.cloudstack.Library;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.cloudstack.Operations;
import org.nasbackup.cloudstack.Requests;

/** Removes a restore point. */
@ResourceWrapper(handles = DeleteBackupCommand.class)
public class LibvirtDeleteBackupCommandWrapper
        extends CommandWrapper<DeleteBackupCommand, Answer, LibvirtComputingResource> {
    private final Supplier<Operations> operations;

    public LibvirtDeleteBackupCommandWrapper() {
        this(Library::operations);
    }

    LibvirtDeleteBackupCommandWrapper(Supplier<Operations> operations) {
        this.operations = operations;
    }

    @Override
    public Answer execute(DeleteBackupCommand command, LibvirtComputingResource resource) {
        try {
            operations.get().deleteBackup(Requests.delete(command));
            return Answers.deleted(command);
        } catch (Throwable e) {
            // The management server gets an exception that leaves this method as an answer of another type.
            logger.warn("Unable to delete {}", OneLine.of(command.getBackupPath()), OneLine.of(e));
            return Answers.failed(command, e);
        }
    }
}
