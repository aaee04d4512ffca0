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

/** What the configuration keys of a zone say about backups. */
public final class Policy {
    private final int fullEvery;
    private final String noIncrementals;

    /** @param fullEvery how many points a chain has at most; 0: as many as come; null or 1: every backup is a full one */
    public Policy(boolean incrementals, Integer fullEvery) {
        this(
                fullEvery == null || fullEvery < 0 ? 1 : fullEvery,
                incrementals ? null : "incremental backups are switched off");
    }

    private Policy(int fullEvery, String noIncrementals) {
        this.fullEvery = fullEvery;
        this.noIncrementals = noIncrementals;
    }

    /** This policy without incrementals. */
    public Policy withoutIncrementals(String reason) {
        return new Policy(fullEvery, reason);
    }

    public boolean incrementals() {
        return noIncrementals == null;
    }

    /** Why there are no incrementals; null: incrementals are taken. */
    String noIncrementals() {
        return noIncrementals;
    }

    boolean everyOneFull() {
        return fullEvery == 1;
    }

    /** Whether a chain may have so many points. */
    boolean allows(int points) {
        return fullEvery == 0 || points <= fullEvery;
    }
}
