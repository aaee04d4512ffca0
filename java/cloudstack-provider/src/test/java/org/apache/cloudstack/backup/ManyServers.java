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

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.Tables;

/** Management servers with one database, each with a thread and a connection of its own. */
final class ManyServers {
    private static final int PATIENCE_SECONDS = 180;

    private final Path socket;
    private final Function<Tables, Site> server;

    ManyServers(Path socket, Function<Tables, Site> server) {
        this.socket = socket;
        this.server = server;
    }

    /** Does each work on a server. None of them begins before all stand aside for who has the virtual machine's lock. */
    void atOnce(List<Consumer<Site>> work) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(work.size());
        try (Database first = new Database(socket)) {
            List<Future<?>> begun = new ArrayList<>();
            first.locked(Site.VM, () -> {
                work.forEach(one -> begun.add(threads.submit(() -> on(one))));
                awaitAllAside(first, begun);
            });
            for (Future<?> one : begun) {
                one.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
            }
        } finally {
            threads.shutdownNow();
        }
    }

    private Void on(Consumer<Site> work) throws SQLException {
        try (Database own = new Database(socket)) {
            Site site = server.apply(new Tables(own));
            site.looksOften();
            work.accept(site);
        }
        return null;
    }

    private static void awaitAllAside(Database database, List<Future<?>> begun) {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        while (database.aside() < begun.size()) {
            assertThat(begun).as("stand aside").noneMatch(Future::isDone);
            assertThat(System.nanoTime()).as("all stand aside").isLessThan(deadline);
        }
    }
}
