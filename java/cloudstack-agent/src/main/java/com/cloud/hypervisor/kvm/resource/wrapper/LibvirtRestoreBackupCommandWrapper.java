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
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.nasbackup.cloudstack.Answers;
import org.nasbackup.cloudstack.Guests;
import org.nasbackup.cloudstack.Library;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.cloudstack.Operations;
import org.nasbackup.cloudstack.PoolPlaces;
import org.nasbackup.cloudstack.Restoration;
import org.nasbackup.cloudstack.RestorePlan;
import org.nasbackup.cloudstack.Restored;
import org.nasbackup.cloudstack.RestoresChains;

/** Restores the volumes of a virtual machine, or one of them to a new one. Takes the place of CloudStack's own. */
@ResourceWrapper(handles = RestoreBackupCommand.class)
public class LibvirtRestoreBackupCommandWrapper
        extends CommandWrapper<RestoreBackupCommand, Answer, LibvirtComputingResource> implements RestoresChains {
    private final Supplier<Operations> operations;

    public LibvirtRestoreBackupCommandWrapper() {
        this(Library::operations);
    }

    LibvirtRestoreBackupCommandWrapper(Supplier<Operations> operations) {
        this.operations = operations;
    }

    @Override
    public Answer execute(RestoreBackupCommand command, LibvirtComputingResource resource) {
        try {
            RestorePlan plan = RestorePlan.of(command);
            Operations library = operations.get();
            Guests guests = new Guests(library.connectionUri());
            PoolPlaces places = new PoolPlaces(resource.getStoragePoolMgr(), guests);
            int defaultWait = resource.getCmdsTimeout() / 1000;
            Restored restored = new Restoration(library, places, guests).run(command, plan, defaultWait);
            logger.info("Restored {}: {}", OneLine.of(command.getBackupPath()), Answers.told(restored));
            return Answers.restored(command, plan, restored);
        } catch (Throwable e) {
            // The management server gets an exception that leaves this method as an answer of another type.
            logger.warn("Unable to restore {}", OneLine.of(command.getBackupPath()), OneLine.of(e));
            return Answers.failed(command, e);
        }
    }
}
