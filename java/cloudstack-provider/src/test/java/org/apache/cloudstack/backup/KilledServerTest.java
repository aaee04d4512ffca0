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
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.nasbackup.ChildJvm;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/** The management server is killed between any two of its steps; the next one goes on. */
@Tag("lab")
class KilledServerTest {
    private static final int MOST_STOPS = 10;

    @TempDir
    Path folder;

    @BeforeAll
    static void databases() throws Exception {
        for (int number = 0; number <= MOST_STOPS; number++) {
            MariaDb.shared().create(KilledServer.database(number));
        }
    }

    /**
     * Gives each of these works to a server, and kills them all.
     *
     * @return of each: was it killed? Else it was done
     */
    private List<Boolean> run(boolean forced, List<String> works) throws Exception {
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
                folder.toString(),
                String.valueOf(forced)));
        command.addAll(works);
        Process servers = new ProcessBuilder(command)
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
        // generous: one that hangs ends the test, and not the night
        CompletableFuture.delayedExecutor(180, TimeUnit.SECONDS).execute(servers::destroyForcibly);
        List<Boolean> killed = new ArrayList<>();
        try (BufferedReader out =
                new BufferedReader(new InputStreamReader(servers.getInputStream(), StandardCharsets.UTF_8))) {
            while (killed.size() < works.size()) {
                String line = out.readLine();
                assertThat(line).as("it stopped or was done").isNotNull();
                if (line.equals("stopped") || line.equals("done")) {
                    killed.add(line.equals("stopped"));
                }
            }
            return killed;
        } finally {
            servers.destroyForcibly().waitFor();
        }
    }

    private interface Scene {
        void play(Site site, List<Backup> taken, int stop, boolean killed) throws Exception;
    }

    /** @param target the backup to delete; null: another is taken */
    private void atEveryStop(int backups, int stops, Integer target, boolean forced, Scene after) throws Exception {
        List<Database> databases = new ArrayList<>();
        try {
            List<Site> sites = new ArrayList<>();
            List<List<Backup>> taken = new ArrayList<>();
            List<String> works = new ArrayList<>();
            for (int stop = 0; stop <= stops; stop++) {
                databases.add(new Database(MariaDb.shared().socket(), KilledServer.database(stop)));
                Site site = Site.fresh(databases.get(stop));
                sites.add(site);
                taken.add(Stream.generate(site::take).limit(backups).collect(Collectors.toList()));
                works.add(
                        target == null
                                ? "take"
                                : String.valueOf(taken.get(stop).get(target).getId()));
                site.nas.save(KilledServer.nas(folder, stop));
            }
            List<Boolean> killed = run(forced, works);
            for (int stop = 0; stop <= stops; stop++) {
                assertThat(killed.get(stop)).as("killed at stop %s", stop).isEqualTo(stop < stops);
                databases.get(stop).awaitUnlocked(Site.VM);
                sites.get(stop).nas.load(KilledServer.nas(folder, stop));
                after.play(sites.get(stop), taken.get(stop), stop, stop < stops);
            }
        } finally {
            for (Database database : databases) {
                database.close();
            }
        }
    }

    private void delete(int backups, int target, boolean forced, int stops) throws Exception {
        atEveryStop(backups, stops, target, forced, (site, taken, stop, killed) -> {
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
        atEveryStop(2, 4, null, false, (site, taken, stop, killed) -> {
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
