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

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.Tables;

/**
 * A management server in a process of its own. It stops before and after each command, and before each commit, and
 * stays there at the one that it is told: until it is killed.
 */
final class KilledServer {
    private KilledServer() {}

    /** Arguments: the database's socket, the NAS, the number of the stop, and the backup to delete, or "take". */
    public static void main(String[] arguments) throws Exception {
        Path nas = Path.of(arguments[1]);
        int last = Integer.parseInt(arguments[2]);
        try (Database database = new Database(Path.of(arguments[0]))) {
            Site site = new Site(new Tables(database));
            site.mergesFull = true;
            site.now = site.now.plusSeconds(3600);
            site.nas.load(nas);
            AtomicInteger stops = new AtomicInteger();
            Runnable stop = () -> {
                save(site, nas);
                if (stops.getAndIncrement() == last) {
                    System.out.println("stopped");
                    stay();
                }
            };
            site.host.gate = stop;
            database.beforeCommit(stop);
            if (arguments[3].equals("take")) {
                site.host.bitmap = site.activeCheckpoint();
                site.manager.take();
            } else {
                site.manager.delete(Long.parseLong(arguments[3]), Boolean.parseBoolean(arguments[4]));
            }
            System.out.println("done");
        }
    }

    private static void save(Site site, Path nas) {
        try {
            site.nas.save(nas);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static void stay() {
        try {
            new CountDownLatch(1).await();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }
}
