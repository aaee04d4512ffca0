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

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** A server of the tests' own, on a socket, one for all of them. It and its data folder go with their process. */
public final class MariaDb {
    private static final long PATIENCE_NANOS = TimeUnit.SECONDS.toNanos(180);
    private static final long RETRY_MILLIS = 50;

    private static MariaDb shared;

    private final Path folder;
    private final Process server;

    public static synchronized MariaDb shared() throws IOException, InterruptedException {
        if (shared == null) {
            shared = new MariaDb();
        }
        return shared;
    }

    private MariaDb() throws IOException, InterruptedException {
        folder = Files.createTempDirectory("nasbackup-mariadb");
        Path data = folder.resolve("data");
        Path log = folder.resolve("log");
        Files.createDirectory(data);
        server = start(log, data);
        Runtime.getRuntime().addShutdownHook(new Thread(this::end));
        awaitStart(log);
        create("cloud");
    }

    /** A database of this name, with CloudStack's tables. */
    public void create(String database) throws IOException {
        execute("create database " + database);
        run("schema.sql", database);
        if (Version.LATER) {
            run("schema-4.23.sql", database);
        }
    }

    /**
     * On an empty folder: without tables of users and rights, which the tests need none of, nothing has to be installed there.
     * Management servers are killed here, and the database's server is not, so that nothing has to be flushed.
     */
    private Process start(Path log, Path data) throws IOException {
        ProcessBuilder builder = new ProcessBuilder(
                        "/usr/sbin/mariadbd",
                        "--no-defaults",
                        "--user=root",
                        "--skip-networking",
                        "--skip-grant-tables",
                        "--innodb-flush-log-at-trx-commit=0",
                        "--datadir=" + data,
                        "--socket=" + socket(),
                        "--pid-file=" + folder.resolve("pid"))
                .redirectErrorStream(true)
                .redirectOutput(ProcessBuilder.Redirect.appendTo(log.toFile()));
        // At its start a server removes all temporary tables of its folder for these, be they another server's.
        builder.environment().put("TMPDIR", folder.toString());
        return builder.start();
    }

    private void run(String script, String database) throws IOException {
        List<String> statements = new ArrayList<>(List.of("use " + database));
        Path file = Path.of(MariaDb.class.getResource(script).getPath());
        for (String statement : Files.readString(file).split(";")) {
            if (!statement.isBlank()) {
                statements.add(statement);
            }
        }
        execute(statements.toArray(new String[0]));
    }

    private void awaitStart(Path log) throws IOException, InterruptedException {
        long deadline = System.nanoTime() + PATIENCE_NANOS;
        while (true) {
            try {
                open("").close();
                return;
            } catch (SQLException e) {
                if (!server.isAlive() || System.nanoTime() > deadline) {
                    throw new IOException("mariadbd: " + Files.readString(log), e);
                }
                Thread.sleep(RETRY_MILLIS);
            }
        }
    }

    private void execute(String... statements) throws IOException {
        try (Connection connection = open("");
                var statement = connection.createStatement()) {
            for (String sql : statements) {
                statement.execute(sql);
            }
        } catch (SQLException e) {
            throw new IOException(String.join(";", statements), e);
        }
    }

    public Path socket() {
        return folder.resolve("socket");
    }

    private Connection open(String database) throws SQLException {
        return connect(socket(), database);
    }

    /** The server reads the text of each statement once: the tests ask the same hundreds of times. */
    public static Connection connect(Path socket, String database) throws SQLException {
        return DriverManager.getConnection(
                "jdbc:mariadb://localhost/" + database + "?user=root&useServerPrepStmts=true&localSocket=" + socket);
    }

    private void end() {
        server.destroyForcibly().onExit().join();
        try (var files = Files.walk(folder)) {
            for (Path path : (Iterable<Path>) files.sorted(Comparator.reverseOrder())::iterator) {
                Files.delete(path);
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
