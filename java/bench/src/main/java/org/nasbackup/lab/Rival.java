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

package org.nasbackup.lab;

/** Who carries an operation out. The names are those of the samples. */
enum Rival {
    /** The library, which mounts the repository as the script does. */
    NATIVE,
    /** The library on a repository that is mounted already. */
    WARM,
    /** The library by its pull engine, mounting as the script does. */
    PULL,
    /** The same on a repository that is mounted already. */
    WARM_PULL,
    /** The script. */
    SHELL,
    /** The bare calls. */
    FLOOR;

    boolean isNative() {
        return this != SHELL && this != FLOOR;
    }

    boolean isMounted() {
        return this == WARM || this == WARM_PULL;
    }

    boolean isPull() {
        return this == PULL || this == WARM_PULL;
    }

    @Override
    public String toString() {
        return name().toLowerCase(java.util.Locale.ROOT);
    }
}
