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

import com.cloud.event.ActionEventUtils;
import org.nasbackup.cloudstack.OneLine;

/** CloudStack's list of events, where users see what became of what they asked for. */
public final class ActionEvents {
    /** As CloudStack calls what a provider does. */
    public enum Type {
        TAKE("BACKUP.CREATE"),
        DELETE("BACKUP.DELETE"),
        RESTORE("BACKUP.RESTORE"),
        CREATE("VM.CREATE.FROM.BACKUP"),
        RESTORE_VOLUME("BACKUP.RESTORE.VOLUME.TO.VM");

        private final String name;

        Type(String name) {
            this.name = name;
        }
    }

    private static final long SYSTEM_USER = 1;
    /** What an event's description holds, in characters. */
    private static final int LONGEST = 1024;

    private static final String CUT = " ...";

    private ActionEvents() {}

    /** Adds an event of a virtual machine. */
    public static void add(Type type, boolean good, String text, long accountId, long vmId) {
        ActionEventUtils.onCompletedActionEvent(
                SYSTEM_USER, accountId, good ? "INFO" : "ERROR", type.name, fitting(text), vmId, "VirtualMachine", 0);
    }

    /** In one line of characters that the table's character set has: no more than three bytes each. */
    static String fitting(String text) {
        String line = OneLine.of(text)
                .replaceAll("[^\\x{0}-\\x{D7FF}\\x{E000}-\\x{FFFF}]", "?")
                .strip();
        return line.length() <= LONGEST ? line : line.substring(0, LONGEST - CUT.length()) + CUT;
    }
}
