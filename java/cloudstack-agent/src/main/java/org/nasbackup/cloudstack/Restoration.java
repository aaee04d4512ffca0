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

package org.nasbackup.cloudstack;

import com.cloud.vm.VirtualMachine;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.nasbackup.ErrorCode;
import org.nasbackup.NasBackupException;
import org.nasbackup.Repository;

/** Restores what a command asks for: all its volumes in one call of the library, which replaces all or none. */
public final class Restoration {
    /** The library fails with these when somebody else has a volume, which then is not to be disconnected. */
    private static final Set<ErrorCode> OTHERS = Set.of(ErrorCode.DOMAIN_STATE, ErrorCode.BUSY);

    private final Operations library;
    private final Places places;
    private final Guests guests;

    public Restoration(Operations library, Places places, Guests guests) {
        this.library = library;
        this.places = places;
        this.guests = guests;
    }

    /** @param defaultWait seconds for a command that names none */
    public Restored run(RestoreBackupCommand command, RestorePlan plan, int defaultWait) {
        int seconds = command.getWait() > 0 ? Requests.jobSeconds(command.getWait()) : defaultWait;
        List<Place> opened = new ArrayList<>();
        boolean good = false;
        try {
            plan.items().forEach(item -> opened.add(places.open(item, plan.fresh())));
            Restored restored = library.restorePoint(order(command, plan, opened, seconds));
            if (plan.fresh() && command.getVmState() == VirtualMachine.State.Running) {
                attach(command.getVmName(), opened.get(0), plan.items().get(0).uuid());
            }
            good = true;
            return restored;
        } catch (NasBackupException e) {
            if (!plan.fresh() && OTHERS.contains(e.code())) {
                opened.forEach(Place::keep);
            }
            throw e;
        } finally {
            opened.forEach(Place::close);
            if (!good) {
                opened.forEach(Place::remove);
            }
        }
    }

    private void attach(String name, Place place, String uuid) {
        try {
            guests.attach(name, place, uuid);
            place.keep();
        } catch (RuntimeException e) {
            if (!guests.lacks(name, place)) {
                place.leave();
                throw new HostFailure(e.getMessage() + "; the guest may have got it, and it is not removed", e);
            }
            throw e;
        }
    }

    private static RestoreOrder order(RestoreBackupCommand command, RestorePlan plan, List<Place> opened, int seconds) {
        List<RestoreOrder.Image> images = new ArrayList<>();
        for (int i = 0; i < opened.size(); i++) {
            RestorePlan.Item item = plan.items().get(i);
            Place place = opened.get(i);
            images.add(new RestoreOrder.Image(
                    item.file() == null ? item.volume() : null,
                    item.serial(),
                    item.file(),
                    place.path(),
                    place.format(),
                    plan.fresh() || place.kind() != Place.Kind.FILE ? null : item.size()));
        }
        Repository repository = Repository.builder()
                .type(command.getBackupRepoType())
                .address(command.getBackupRepoAddress())
                .options(command.getMountOptions())
                .build();
        return new RestoreOrder(repository, command.getBackupPath(), command.getPointId(), images, seconds);
    }
}
