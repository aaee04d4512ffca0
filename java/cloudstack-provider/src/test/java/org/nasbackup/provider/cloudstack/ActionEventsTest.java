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
import static org.mockito.Mockito.mockStatic;
import static org.mockito.Mockito.withSettings;

import com.cloud.event.ActionEventUtils;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;
import org.mockito.MockMakers;
import org.mockito.MockedStatic;

class ActionEventsTest {
    @Test
    void an_event_is_of_the_machine_and_its_account_by_the_system_s_user() {
        // a subclass can't stand in for a static method
        try (MockedStatic<ActionEventUtils> cloudStack =
                mockStatic(ActionEventUtils.class, withSettings().mockMaker(MockMakers.INLINE))) {
            ActionEvents.add(ActionEvents.Type.TAKE, true, "done", 2, 10);
            ActionEvents.add(ActionEvents.Type.DELETE, false, "not done", 2, 10);
            cloudStack.verify(() -> ActionEventUtils.onCompletedActionEvent(
                    1L, 2L, "INFO", "BACKUP.CREATE", "done", 10L, "VirtualMachine", 0));
            cloudStack.verify(() -> ActionEventUtils.onCompletedActionEvent(
                    1L, 2L, "ERROR", "BACKUP.DELETE", "not done", 10L, "VirtualMachine", 0));
        }
    }

    @Test
    void a_text_fits_its_column_and_the_column_s_character_set() {
        assertThat(ActionEvents.fitting(" a\n\u0007b  c ")).isEqualTo("a; \\u{7}b  c");
        assertThat(ActionEvents.fitting("disk \ud83d\ude00 \u20ac")).isEqualTo("disk ? \u20ac");
        String lone = ActionEvents.fitting("x\ud83dy");
        assertThat(new String(lone.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8))
                .isEqualTo(lone);
        assertThat(ActionEvents.fitting("x".repeat(1024))).hasSize(1024).doesNotEndWith("...");
        assertThat(ActionEvents.fitting("x".repeat(1025))).hasSize(1024).endsWith("x ...");
    }
}
