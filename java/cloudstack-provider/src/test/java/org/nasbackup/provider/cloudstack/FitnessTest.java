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

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.cloud.utils.exception.CloudRuntimeException;
import java.util.ArrayList;
import java.util.List;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupVO;
import org.junit.jupiter.api.Test;
import org.nasbackup.cloudstack.LibraryUnusable;

class FitnessTest {
    interface Asking {
        Object get(int i);

        void more();

        default void given() {}
    }

    /** Its method is another one than asked for. */
    abstract static class Other implements Asking {
        public Object get(long i) {
            return null;
        }
    }

    abstract static class Lacking implements Asking {
        @Override
        public Object get(int i) {
            return null;
        }
    }

    private final List<String> logged = new ArrayList<>();

    @Test
    void methods_that_a_later_version_asks_for_are_told() {
        assertThat(ServerClasses.owed(Lacking.class, Asking.class))
                .singleElement()
                .asString()
                .endsWith("Asking.more()");
        assertThat(ServerClasses.owed(Other.class, Asking.class)).hasSize(2);
    }

    @Test
    void classes_that_hide_ours_are_told() {
        assertThat(ServerClasses.hidden()).isEmpty();
        assertThat(ServerClasses.hidden(LibraryUnusable.class, BackupAnswer.class, BackupVO.class, String.class))
                .satisfiesExactly(
                        vo -> assertThat(vo).startsWith("org.apache.cloudstack.backup.BackupVO comes from /"),
                        string -> assertThat(string).startsWith("java.lang.String comes from the JVM: put /"));
    }

    @Test
    void nothing_of_the_provider_is_unlinked_before_either_version() throws Exception {
        assertThat(ServerClasses.unlinked()).isEmpty();
    }

    @Test
    void a_look_that_fails_is_a_misfit_and_no_more() {
        Fitness fitness = new Fitness(
                () -> {
                    throw new NoClassDefFoundError("gone");
                },
                logged::add);
        assertThat(fitness.wrong()).containsExactly("java.lang.NoClassDefFoundError: gone");
        assertThat(logged).hasSize(1);
        assertThatThrownBy(() -> fitness.guarded(() -> 1))
                .isInstanceOf(CloudRuntimeException.class)
                .hasMessageEndingWith("gone");
        assertThat(logged).hasSize(1);
    }

    @Test
    void what_fits_runs_and_its_failures_pass() {
        Fitness fitness = new Fitness(List::of, logged::add);
        assertThat(fitness.guarded(() -> 1)).isEqualTo(1);
        assertThatThrownBy(() -> fitness.guarded(() -> {
                    throw new IllegalStateException("x");
                }))
                .isInstanceOf(IllegalStateException.class);
        assertThat(logged).isEmpty();
    }
}
