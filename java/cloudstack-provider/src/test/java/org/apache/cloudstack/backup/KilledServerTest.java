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

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.nasbackup.ChildJvm;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/** The management server is killed between any two of its steps; the next one goes on. */
@Tag("lab")
class KilledServerTest {
    @TempDir
    Path folder;

    private Path nas() {
        return folder.resolve("nas.json");
    }

    /** @return was it killed? Else it came to its end. */
    private boolean run(int stop, String... work) throws Exception {
        List<String> command = new ArrayList<>(
                List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(ChildJvm.SHORT_LIVED);
        String quiet = "log4j2.loggerContextFactory";
        command.addAll(List.of(
                "-D" + quiet + "=" + System.getProperty(quiet),
                "-cp",
                System.getProperty("java.class.path"),
                KilledServer.class.getName(),
                MariaDb.shared().socket().toString(),
                nas().toString(),
                String.valueOf(stop)));
        command.addAll(List.of(work));
        Process server = new ProcessBuilder(command)
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
        // generous: one that hangs ends the test, and not the night
        CompletableFuture.delayedExecutor(180, TimeUnit.SECONDS).execute(server::destroyForcibly);
        try (BufferedReader out =
                new BufferedReader(new InputStreamReader(server.getInputStream(), StandardCharsets.UTF_8))) {
            String line = out.readLine();
            while (line != null && !line.equals("stopped") && !line.equals("done")) {
                line = out.readLine();
            }
            assertThat(line).as("it stopped or was done").isNotNull();
            return line.equals("stopped");
        } finally {
            server.destroyForcibly().waitFor();
        }
    }

    private interface Scene {
        void play(Site site, List<Backup> taken, int stop, boolean killed) throws Exception;
    }

    private void atEveryStop(int backups, int stops, String[] work, Scene after) throws Exception {
        boolean killed = true;
        for (int stop = 0; killed; stop++) {
            try (Database database = new Database(MariaDb.shared().socket())) {
                Site site = Site.fresh(database);
                List<Backup> taken = new ArrayList<>();
                for (int i = 0; i < backups; i++) {
                    taken.add(site.take());
                }
                site.nas.save(nas());
                String[] arguments = work.clone();
                if (!arguments[0].equals("take")) {
                    arguments[0] = String.valueOf(
                            taken.get(Integer.parseInt(arguments[0])).getId());
                }
                killed = run(stop, arguments);
                site.nas.load(nas());
                after.play(site, taken, stop, killed);
                assertThat(killed).as("killed at stop %s", stop).isEqualTo(stop < stops);
            }
        }
    }

    private void delete(int backups, int target, boolean forced, int stops) throws Exception {
        atEveryStop(
                backups,
                stops,
                new String[] {String.valueOf(target), String.valueOf(forced)},
                (site, taken, stop, killed) -> {
                    if (killed) {
                        site.mergesFull = true;
                        site.delete(taken.get(target), forced);
                    }
                    site.agrees();
                });
    }

    /**
     * A stop before the commit of its ticket; two commands, each with one before and after it, and before the commit of its
     * record; and the first one's beginning.
     */
    @Tag("each-version")
    @Test
    void during_the_repair_of_a_chain() throws Exception {
        delete(4, 1, false, 8);
    }

    @Test
    void while_a_full_one_merges() throws Exception {
        delete(3, 0, false, 8);
    }

    @Test
    void during_a_forced_deletion() throws Exception {
        delete(3, 0, true, 10);
    }

    @Test
    void during_a_backup() throws Exception {
        atEveryStop(2, 4, new String[] {"take"}, (site, taken, stop, killed) -> {
            if (!killed) {
                return;
            }
            // Once the host was through, its disks have another bitmap than the catalogue knows.
            site.host.bitmap = stop <= 1 ? site.activeCheckpoint() : "backup-of-the-dead";
            site.now = site.now.plusSeconds(7200);
            site.slotsPerHost = 1;
            site.waitsNoTime();
            Backup next = site.take();
            assertThat(site.position(next)).isEqualTo(stop <= 1 ? 2 : 0);
            if (stop == 0) {
                site.agrees();
                return;
            }
            Backup dead = site.rows().get(2);
            assertThat(dead.getStatus()).isEqualTo(Backup.Status.Error);
            site.tables.recount();
            site.delete(dead, false);
            site.agrees();
        });
    }
}
