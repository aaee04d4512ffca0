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

package org.nasbackup.lab;

import java.util.List;
import org.nasbackup.Configuration;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.Repository;
import org.nasbackup.TakeBackupRequest;

/** An incremental backup of a running guest, for a JVM that does not live to its end. */
final class TakeMain {
    private TakeMain() {}

    /** The host that both JVMs are agents of. */
    static Configuration host(String state, String mounts) {
        return Configuration.builder()
                .stateDir(state)
                .mountDir(mounts)
                .logLevel("warn")
                .build();
    }

    static String[] arguments(String state, String mounts, TakeBackupRequest request) {
        return new String[] {
            state,
            mounts,
            request.vmName(),
            request.backupPath(),
            request.repository().address(),
            request.bitmapNew(),
            request.bitmapParent(),
            String.join(",", request.parentPaths())
        };
    }

    public static void main(String[] arguments) {
        NasBackup.open(host(arguments[0], arguments[1]))
                .takeBackup(TakeBackupRequest.builder()
                        .vmName(arguments[2])
                        .backupPath(arguments[3])
                        .repository(Repository.builder()
                                .type("dir")
                                .address(arguments[4])
                                .build())
                        .mode(Mode.INCREMENTAL)
                        .bitmapNew(arguments[5])
                        .bitmapParent(arguments[6])
                        .parentPaths(List.of(arguments[7].split(",")))
                        .build());
    }
}
