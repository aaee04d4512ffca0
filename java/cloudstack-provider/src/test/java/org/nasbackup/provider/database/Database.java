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

import java.nio.file.Path;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.function.Supplier;
import org.nasbackup.provider.ChainLocks;
import org.nasbackup.provider.cloudstack.Transactions;

/** One connection, as a management server's thread has it, and what goes over it. */
public final class Database implements Transactions, ChainLocks, AutoCloseable {
    private static final int PATIENCE_SECONDS = 60;

    private final Path socket;
    private final String name;
    private final Connection connection;
    /** Connections that hold no lock now. To open one takes the time of many statements. */
    private final Deque<Database> spare = new ConcurrentLinkedDeque<>();

    private Runnable beforeCommit = () -> {};
    private Runnable whileItWaits = () -> {};

    public Database(Path socket) throws SQLException {
        this(socket, "cloud");
    }

    public Database(Path socket, String name) throws SQLException {
        this.socket = socket;
        this.name = name;
        this.connection = MariaDb.connect(socket, name);
    }

    /** What happens to the process when it has written and not committed. */
    public void beforeCommit(Runnable work) {
        beforeCommit = work;
    }

    /** What happens while a machine's lock is waited for the next time. */
    public void whileItWaits(Runnable work) {
        whileItWaits = () -> {
            whileItWaits = () -> {};
            work.run();
        };
    }

    /** @return the key that was made, else how many rows it changed */
    @Override
    public synchronized long write(String sql, Object... values) {
        if (sql.contains("cloud.")) {
            throw new IllegalStateException("the database can have another name: " + sql);
        }
        try (PreparedStatement statement = connection.prepareStatement(sql, PreparedStatement.RETURN_GENERATED_KEYS)) {
            bind(statement, values);
            int changed = statement.executeUpdate();
            try (ResultSet keys = statement.getGeneratedKeys()) {
                return keys.next() ? keys.getLong(1) : changed;
            }
        } catch (SQLException e) {
            throw new IllegalStateException(sql, e);
        }
    }

    @Override
    public synchronized <T> List<T> read(Reader<T> reader, String sql, Object... values) {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            bind(statement, values);
            List<T> rows = new ArrayList<>();
            try (ResultSet result = statement.executeQuery()) {
                while (result.next()) {
                    rows.add(reader.read(result));
                }
            }
            return rows;
        } catch (SQLException e) {
            throw new IllegalStateException(sql, e);
        }
    }

    private static void bind(PreparedStatement statement, Object... values) throws SQLException {
        for (int i = 0; i < values.length; i++) {
            statement.setObject(i + 1, values[i]);
        }
    }

    @Override
    public synchronized void run(Runnable work) {
        try {
            if (!connection.getAutoCommit()) {
                work.run();
                return;
            }
            connection.setAutoCommit(false);
            try {
                work.run();
                beforeCommit.run();
                connection.commit();
            } catch (RuntimeException | Error e) {
                connection.rollback();
                throw e;
            } finally {
                connection.setAutoCommit(true);
            }
        } catch (SQLException e) {
            throw new IllegalStateException("transaction", e);
        }
    }

    /** As somebody who works on that virtual machine. */
    public void locked(long vmId, Runnable work) {
        if (!within(0, chain(vmId), work)) {
            throw new IllegalStateException("locked");
        }
    }

    /** Waits until nobody works on that virtual machine: the server takes a moment to see that a process was killed. */
    public void awaitUnlocked(long vmId) {
        if (!within(PATIENCE_SECONDS, chain(vmId), () -> {})) {
            throw new IllegalStateException("locked");
        }
    }

    /** As CloudStack's global locks: a connection of its own holds the lock. */
    @Override
    public boolean ifFree(long vmId, Runnable work) {
        whileItWaits.run();
        return within(0, chain(vmId), work);
    }

    private static String chain(long vmId) {
        return "nas.backup.chain.vm." + vmId;
    }

    @Override
    public <T> T lockedLine(long hostId, Supplier<T> work) {
        List<T> results = new ArrayList<>(1);
        if (!within(PATIENCE_SECONDS, "nas.backup.line.host." + hostId, () -> results.add(work.get()))) {
            throw new IllegalStateException("line locked");
        }
        return results.get(0);
    }

    private boolean within(int seconds, String lock, Runnable work) {
        try {
            Database free = spare.poll();
            Database own = free == null ? new Database(socket, name) : free;
            try {
                return own.lockedWithin(seconds, lock, work);
            } finally {
                spare.push(own);
            }
        } catch (SQLException e) {
            throw new IllegalStateException("lock", e);
        }
    }

    /** The server's locks are those of all its databases. */
    private boolean lockedWithin(int seconds, String lock, Runnable work) {
        Integer got = read(row -> row.getInt(1), "select get_lock(concat(database(), ?), ?)", lock, seconds)
                .get(0);
        if (got != 1) {
            return false;
        }
        try {
            work.run();
            return true;
        } finally {
            release(lock);
        }
    }

    /** Once it returns nobody finds the lock held; the end of a connection is carried out after {@code close} has returned. */
    private void release(String lock) {
        read(row -> row.getInt(1), "select release_lock(concat(database(), ?))", lock);
    }

    /** How many tickets stand aside now. */
    public long aside() {
        return read(
                        row -> row.getLong(1),
                        "select count(*) from user_details where name like 'nas.backup.slot.%'"
                                + " and value like '% aside %'")
                .get(0);
    }

    @Override
    public void close() throws SQLException {
        for (Database own = spare.poll(); own != null; own = spare.poll()) {
            own.close();
        }
        connection.close();
    }
}
