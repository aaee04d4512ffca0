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

package org.nasbackup.provider;

import java.util.List;
import java.util.stream.Collectors;

/**
 * Carries out a repair step by step: first the files, then the records. The begin of a rebase is recorded before the files
 * change: else nobody could tell, after a crash, what the images stand on.
 */
public final class RepairExecutor {
    private final Catalogue catalogue;
    private final RemoteRepository repository;

    public RepairExecutor(Catalogue catalogue, RemoteRepository repository) {
        this.catalogue = catalogue;
        this.repository = repository;
    }

    /** @throws RepairFailed at the first step that fails, naming what is left */
    public void execute(List<Step> steps) {
        for (int i = 0; i < steps.size(); i++) {
            try {
                execute(steps.get(i));
            } catch (AgentFailure e) {
                String left = steps.subList(i, steps.size()).stream()
                        .map(Step::toString)
                        .collect(Collectors.joining(", "));
                throw new RepairFailed(
                        "unable to " + steps.get(i) + " - " + e.getMessage() + "; left to do: " + left, e);
            }
        }
    }

    private void execute(Step step) {
        Point point = step.point();
        if (step.kind() == Step.Kind.REBASE) {
            catalogue.begun(step);
            catalogue.rebased(step, repository.rebase(point, step.newParent(), step.going()));
        } else {
            repository.delete(point);
            catalogue.deleted(step);
        }
    }
}
