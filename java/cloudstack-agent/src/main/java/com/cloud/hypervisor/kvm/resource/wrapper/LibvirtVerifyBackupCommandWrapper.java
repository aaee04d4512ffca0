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
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.nasbackup.cloudstack.Answers;
import org.nasbackup.cloudstack.Library;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.cloudstack.Operations;
import org.nasbackup.cloudstack.Requests;
import org.nasbackup.cloudstack.RestoresChains;

/** Tells whether what is on the NAS is the restore point that was made. */
@ResourceWrapper(handles = VerifyBackupCommand.class)
public class LibvirtVerifyBackupCommandWrapper
        extends CommandWrapper<VerifyBackupCommand, Answer, LibvirtComputingResource> {
    private static final String NO_KEY =
            "INVALID_ARGUMENT: check the restore point: a key vouches for it, and this host has none:"
                    + " set keyFile in its settings, with the keys of the other hosts";

    private final Supplier<Operations> operations;

    public LibvirtVerifyBackupCommandWrapper() {
        this(Library::operations);
    }

    LibvirtVerifyBackupCommandWrapper(Supplier<Operations> operations) {
        this.operations = operations;
    }

    @Override
    public Answer execute(VerifyBackupCommand command, LibvirtComputingResource resource) {
        try {
            Operations library = operations.get();
            if (command.getMac() != null && !library.hasKey()) {
                throw new IllegalArgumentException(NO_KEY);
            }
            if (command.getBackupRepoAddress() == null) {
                BackupAnswer answer = new BackupAnswer(command, true, null);
                // CloudStack's class of that name may be the first on the class path
                answer.setRestoresChains(
                        RestoresChains.class.isAssignableFrom(LibvirtRestoreBackupCommandWrapper.class));
                return answer;
            }
            return Answers.verified(command, library.verifyChain(Requests.verify(command)));
        } catch (Throwable e) {
            // The management server gets an exception that leaves this method as an answer of another type.
            logger.warn("Unable to verify {}", OneLine.of(command.getBackupPath()), OneLine.of(e));
            return Answers.notVerified(command, e);
        }
    }
}
