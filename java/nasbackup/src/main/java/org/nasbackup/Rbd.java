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

/** Names of images in Ceph, {@code rbd:pool/image:option=value:...}, as CloudStack and QEMU spell them. */
final class Rbd {
    private static final String PREFIX = "rbd:";

    private Rbd() {}

    /** What may be told to anybody: among the options is the key. */
    static String withoutOptions(String path) {
        if (path == null || !path.startsWith(PREFIX)) {
            return path;
        }
        int options = path.indexOf(':', PREFIX.length());
        return options < 0 ? path : path.substring(0, options);
    }
}
