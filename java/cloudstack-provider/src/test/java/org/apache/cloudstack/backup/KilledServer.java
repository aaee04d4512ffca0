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
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.Tables;

/**
 * Management servers in a process of their own, each with a database and a NAS. Each stops before and after each command, and
 * before each commit: the first stays at the first of its stops, the second at the second, until the process is killed. One
 * start of a JVM, which takes seconds of a core, does for all of them.
 */
final class KilledServer {
    private final Path socket;
    private final Path nas;
    private final int number;
    private final CompletableFuture<String> end = new CompletableFuture<>();

    private KilledServer(Path socket, Path folder, int number) {
        this.socket = socket;
        this.nas = nas(folder, number);
        this.number = number;
    }

    static String database(int number) {
        return "server" + number;
    }

    static Path nas(Path folder, int number) {
        return folder.resolve(number + ".json");
    }

    /**
     * Arguments: the databases' socket, the folder of the NASes, is a deletion forced, and, for each server, the backup to
     * delete, or "take".
     */
    public static void main(String[] arguments) throws Exception {
        boolean forced = Boolean.parseBoolean(arguments[2]);
        for (int number = 0; number < arguments.length - 3; number++) {
            KilledServer server = new KilledServer(Path.of(arguments[0]), Path.of(arguments[1]), number);
            String work = arguments[number + 3];
            Thread thread = new Thread(() -> server.run(work, forced));
            thread.setDaemon(true);
            thread.start();
            System.out.println(server.end.get());
        }
        stay();
    }

    private void run(String work, boolean forced) {
        try (Database database = new Database(socket, database(number))) {
            Site site = new Site(new Tables(database));
            site.mergesFull = true;
            site.now = site.now.plusSeconds(3600);
            site.nas.load(nas);
            AtomicInteger stops = new AtomicInteger();
            Runnable stop = () -> {
                save(site);
                if (stops.getAndIncrement() == number) {
                    end.complete("stopped");
                    stay();
                }
            };
            site.host.gate = stop;
            database.beforeCommit(stop);
            if (work.equals("take")) {
                site.host.bitmap = site.activeCheckpoint();
                site.manager.take();
            } else {
                site.manager.delete(Long.parseLong(work), forced);
            }
            end.complete("done");
        } catch (Exception | Error e) {
            end.completeExceptionally(e);
        }
    }

    private void save(Site site) {
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
