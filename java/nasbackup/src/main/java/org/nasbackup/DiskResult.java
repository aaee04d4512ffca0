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

/** One disk of a restore point. */
public final class DiskResult {
    private final String target;
    private final String volume;
    private final String serial;
    private final String file;
    private final Kind kind;
    private final String parent;
    private final long size;
    private final long virtualSize;
    private final String bitmap;

    DiskResult(Reply reply) {
        this.target = reply.text("target");
        this.volume = reply.text("volume");
        this.serial = reply.text("serial");
        this.file = reply.text("file");
        this.kind = Kind.of(reply.text("kind"));
        this.parent = reply.text("parent");
        this.size = reply.number("size");
        this.virtualSize = reply.number("virtualSize");
        this.bitmap = reply.text("bitmap");
    }

    /** The disk's name in the domain ({@code vda}); null for a stopped virtual machine. */
    public String target() {
        return target;
    }

    /** The last component of the disk's source path. */
    public String volume() {
        return volume;
    }

    /** The disk's serial; null if it has none. */
    public String serial() {
        return serial;
    }

    /** The disk's file in the restore point, relative to the repository's root. */
    public String file() {
        return file;
    }

    /** Full or incremental. */
    public Kind kind() {
        return kind;
    }

    /** The file that an incremental stands on, relative to the repository's root; null for a full. */
    public String parent() {
        return parent;
    }

    /** Length of the disk's file, in bytes. */
    public long size() {
        return size;
    }

    /** Size that the guest sees, in bytes. */
    public long virtualSize() {
        return virtualSize;
    }

    /** The bitmap that the disk carries from now on; null if none. */
    public String bitmap() {
        return bitmap;
    }

    @Override
    public String toString() {
        return kind + " " + file + ", " + size + " bytes";
    }
}
