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

package org.nasbackup;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.Properties;

/** The properties that the build has written into the jar. */
final class Built {
    private Built() {}

    /** The property of this name; empty if the build wrote none. */
    static String read(String key) {
        String name = "nasbackup.properties";
        try (InputStream in = Built.class.getResourceAsStream(name)) {
            if (in == null) {
                throw new FileNotFoundException("the jar lacks it");
            }
            Properties properties = new Properties();
            properties.load(in);
            return properties.getProperty(key, "");
        } catch (IOException e) {
            throw NasBackupException.of(ErrorCode.INTERNAL, "read " + name, e.getMessage(), e);
        }
    }
}
