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

/** A host's answer about a point that it has put onto another one. */
public final class Rebased {
    private final Long size;
    private final String mac;

    public Rebased(Long size, String mac) {
        this.size = size;
        this.mac = mac;
    }

    /** The size in bytes; null: the host did not tell. */
    public Long size() {
        return size;
    }

    /** The MAC that vouches for the point from now on; null: there is none, or the host did not tell. */
    public String mac() {
        return mac;
    }
}
