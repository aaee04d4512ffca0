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

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The SQL of our texts, on CloudStack's tables. */
@Tag("each-version")
@Tag("lab")
class DocsTest {
    @Test
    void the_sql_of_cloudstack_md_has_the_server_forget_a_point_and_then_all_marks_of_keys() throws Exception {
        List<String> told = Pattern.compile("```sql\n(.*?)```", Pattern.DOTALL)
                .matcher(Files.readString(Path.of("../../docs/cloudstack.md")))
                .results()
                .map(block -> block.group(1).replace("ID", "1"))
                .collect(Collectors.toList());
        assertThat(told).hasSize(2);
        try (Connection connection = MariaDb.connect(MariaDb.shared().socket(), "cloud");
                Statement statement = connection.createStatement()) {
            // other tests use these tables
            connection.setAutoCommit(false);
            statement.execute("set foreign_key_checks = 0");
            statement.execute("delete from backup_details");
            statement.execute("insert into backup_details (backup_id, name, value) values (1, 'nas.point_id', ''),"
                    + " (1, 'nas.mac', ''), (1, 'other', ''), (2, 'nas.point_id', ''), (2, 'nas.mac', '')");
            statement.execute(told.get(0));
            assertThat(details(statement)).containsExactly("1 other", "2 nas.mac", "2 nas.point_id");
            statement.execute(told.get(1));
            assertThat(details(statement)).containsExactly("1 other", "2 nas.point_id");
            connection.rollback();
        }
    }

    private static List<String> details(Statement statement) throws Exception {
        List<String> found = new ArrayList<>();
        try (ResultSet rows = statement.executeQuery(
                "select concat(backup_id, ' ', name) from backup_details order by backup_id, name")) {
            while (rows.next()) {
                found.add(rows.getString(1));
            }
        }
        return found;
    }
}
