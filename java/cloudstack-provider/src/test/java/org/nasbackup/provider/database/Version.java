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

package org.nasbackup.provider.database;

import java.util.Arrays;
import org.apache.cloudstack.backup.Backup;

/** The version of CloudStack whose types are on the class path, as far as its database is another. */
public final class Version {
    /** Is it 4.23 or later? */
    public static final boolean LATER = Arrays.stream(Backup.Status.values())
            .anyMatch(status -> status.name().equals("Hidden"));

    static {
        String meant = System.getProperty("cloudstack.stubs", LATER ? "4.23" : "4.22");
        if (!meant.equals(LATER ? "4.23" : "4.22")) {
            throw new IllegalStateException("the types on the class path are not those of " + meant);
        }
    }

    private Version() {}
}
