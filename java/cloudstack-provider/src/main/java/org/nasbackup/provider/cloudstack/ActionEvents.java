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

/** Writes to CloudStack's list of events, in which users see how their requests ended. */
public final class ActionEvents {
    /** CloudStack's names for the work of a provider. */
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
    /** Characters that an event's description may have. */
    private static final int LONGEST = 1024;

    private static final String CUT = " ...";

    private ActionEvents() {}

    /** Adds an event of a virtual machine. */
    public static void add(Type type, boolean good, String text, long accountId, long vmId) {
        ActionEventUtils.onCompletedActionEvent(
                SYSTEM_USER, accountId, good ? "INFO" : "ERROR", type.name, fitting(text), vmId, "VirtualMachine", 0);
    }

    /** The text as one line of characters that the table's character set has: none of more than three bytes. */
    static String fitting(String text) {
        String line = OneLine.of(text)
                .replaceAll("[^\\x{0}-\\x{D7FF}\\x{E000}-\\x{FFFF}]", "?")
                .strip();
        return line.length() <= LONGEST ? line : line.substring(0, LONGEST - CUT.length()) + CUT;
    }
}
