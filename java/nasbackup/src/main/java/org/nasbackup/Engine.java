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

/** How the data of a running guest travels. */
public enum Engine {
    /** The library chooses what serves the guest best on this host. */
    AUTO,
    /** QEMU writes the target itself. */
    PUSH,
    /** QEMU exports the disks as they were when the backup began, and the library writes the target. */
    PULL;

    /**
     * The constant that the text names in lower case; null for null.
     *
     * @throws NasBackupException with {@link ErrorCode#INVALID_ARGUMENT} for any other text
     */
    public static Engine of(String text) {
        return Texts.constant(Engine.class, text);
    }

    /** The text of this constant in requests and results. */
    public String text() {
        return Texts.of(this);
    }
}
