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

/** A volume in a restore point. */
public final class Volume {
    private final String uuid;
    private final String path;

    public Volume(String uuid, String path) {
        this.uuid = uuid;
        this.path = path;
    }

    /** The uuid, which stays when the path changes. */
    public String uuid() {
        return uuid;
    }

    /** Its path in its pool; the last component names its file in a restore point. */
    public String path() {
        return path;
    }

    @Override
    public String toString() {
        return uuid;
    }
}
