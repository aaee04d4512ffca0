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

package org.nasbackup.provider;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Tells which hosts restore an incremental backup right by CloudStack's own code: before 4.23 that copies one file alone and
 * answers that all went well, but the disk can't be read.
 */
public final class IncrementalRestore {
    /** A version in the manifest of the agent's jar, such as 4.22.1.0 or 4.23.0.0-SNAPSHOT. */
    private static final Pattern VERSION = Pattern.compile("(\\d{1,3})\\.(\\d{1,3})([.-].*)?");

    private static final int MAJOR = 4;
    private static final int MINOR = 23;

    private IncrementalRestore() {}

    /** @param version of CloudStack, as the host tells it; one that can't be understood is not taken for a right one */
    public static boolean right(String version) {
        Matcher matcher = VERSION.matcher(version == null ? "" : version.strip());
        if (!matcher.matches()) {
            return false;
        }
        int major = Integer.parseInt(matcher.group(1));
        return major > MAJOR || major == MAJOR && Integer.parseInt(matcher.group(2)) >= MINOR;
    }

    /**
     * The same text for the same hosts, whatever their order.
     *
     * @param versions of hosts that do not restore incremental backups right, by their names
     * @return what is wrong with them; null: there are none
     */
    public static String obstacle(Map<String, String> versions) {
        List<Map.Entry<String, String>> wrong = new ArrayList<>(new TreeMap<>(versions).entrySet());
        if (wrong.isEmpty()) {
            return null;
        }
        String version = wrong.get(0).getValue();
        boolean told = version != null && !version.isBlank();
        return "host " + wrong.get(0).getKey()
                + (told ? " has CloudStack " + version.strip() : " tells no version of CloudStack")
                + (wrong.size() == 1 ? "" : ", and " + (wrong.size() - 1) + " more like it")
                + "; hosts restore incremental backups since " + MAJOR + "." + MINOR
                + ", earlier ones with nasbackup's wrapper";
    }
}
