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

import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.provider.database.Database;
import org.nasbackup.provider.database.MariaDb;

/** What one job asks of the database, however many machines and points there are. */
@Tag("each-version")
@Tag("lab")
class StatementsTest {
    private Database database;

    @BeforeEach
    void connect() throws Exception {
        database = new Database(MariaDb.shared().socket());
    }

    @AfterEach
    void close() throws Exception {
        Fleet.removeOthers(database);
        database.close();
    }

    @Test
    void ten_times_the_machines_and_three_times_the_points_cost_a_job_no_more_statements() {
        Map<String, Fleet.Asked> few = new Fleet(database, 20, 10).asked();
        Map<String, Fleet.Asked> many = new Fleet(database, 200, 30).asked();
        assertThat(many.keySet()).containsExactly("take", "delete", "sync").isEqualTo(few.keySet());
        many.forEach((job, asked) -> assertThat(asked.statements).as(job).isEqualTo(few.get(job).statements));
    }

    @Test
    void ten_times_the_machines_have_no_backup_or_deletion_read_more_rows() {
        Map<String, Fleet.Asked> few = new Fleet(database, 20, 10).asked();
        Map<String, Fleet.Asked> many = new Fleet(database, 200, 10).asked();
        for (String job : new String[] {"take", "delete"}) {
            // a plan may be another one; a table that is read in full has ten times the rows
            assertThat(many.get(job).rows).as(job).isLessThan(2 * few.get(job).rows);
        }
    }
}
