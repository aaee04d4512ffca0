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

package org.nasbackup.provider.cloudstack;

import com.cloud.utils.db.Transaction;
import com.cloud.utils.db.TransactionLegacy;
import com.cloud.utils.exception.CloudRuntimeException;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;

/** Runs work on the database that is done altogether or not at all. */
public interface Transactions {
    /** Reads one row. */
    interface Reader<T> {
        T read(ResultSet row) throws SQLException;
    }

    void run(Runnable work);

    /**
     * Within {@link #run}, for what CloudStack's own access to its rows can't write.
     *
     * @return how many rows it changed
     */
    long write(String sql, Object... values);

    /** Reads what CloudStack's own access to its rows would read by a statement for each, or by looking at a whole table. */
    <T> List<T> read(Reader<T> reader, String sql, Object... values);

    static Transactions cloudStack() {
        return new Transactions() {
            @Override
            public void run(Runnable work) {
                Transaction.<Void>execute(status -> {
                    work.run();
                    return null;
                });
            }

            @Override
            public long write(String sql, Object... values) {
                try {
                    return prepared(sql, values).executeUpdate();
                } catch (SQLException e) {
                    throw new CloudRuntimeException("unable to write to the database - " + e.getMessage(), e);
                }
            }

            @Override
            public <T> List<T> read(Reader<T> reader, String sql, Object... values) {
                return Transaction.execute(status -> {
                    List<T> rows = new ArrayList<>();
                    try (ResultSet result = prepared(sql, values).executeQuery()) {
                        while (result.next()) {
                            rows.add(reader.read(result));
                        }
                    } catch (SQLException e) {
                        throw new CloudRuntimeException("unable to read from the database - " + e.getMessage(), e);
                    }
                    return rows;
                });
            }

            private PreparedStatement prepared(String sql, Object... values) throws SQLException {
                PreparedStatement statement = TransactionLegacy.currentTxn().prepareAutoCloseStatement(sql);
                for (int i = 0; i < values.length; i++) {
                    statement.setObject(i + 1, values[i]);
                }
                return statement;
            }
        };
    }
}
