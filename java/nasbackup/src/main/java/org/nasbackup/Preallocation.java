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

/** Room that a file takes from the start. */
public enum Preallocation {
    /** None. */
    OFF,
    /** A qcow2 has room for the metadata of all its clusters. */
    METADATA,
    /** All of it is reserved. */
    FALLOC,
    /** As {@link #FALLOC}: what is reserved reads as zeroes. */
    FULL;

    /** The text of this constant in requests and results. */
    public String text() {
        return Texts.of(this);
    }
}
