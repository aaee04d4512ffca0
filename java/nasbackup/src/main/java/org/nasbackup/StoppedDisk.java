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

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** A disk of a virtual machine that does not run. */
public final class StoppedDisk {
    private final String path;
    private final String format;
    private final List<BackingFile> backing;

    private StoppedDisk(Builder builder) {
        this.path = builder.path;
        this.format = builder.format;
        this.backing = builder.backing;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Absolute path of its file or device, or {@code rbd:pool/image:option=value:...} as CloudStack names an image in
     * Ceph. This text may hold a key.
     */
    public String path() {
        return path;
    }

    /** {@code qcow2} or {@code raw}; never probed. */
    public String format() {
        return format;
    }

    /**
     * All files that the disk may stand on; empty: none. A header that names another file is refused. Null: the disk may stand on
     * any qcow2 or raw file in the folders of the disks.
     */
    public List<BackingFile> backing() {
        return backing;
    }

    @Override
    public String toString() {
        return Rbd.withoutOptions(path) + " (" + format + ")";
    }

    /** Builds a {@link StoppedDisk}; what is not set stays at its default. */
    public static final class Builder {
        private String path;
        private String format;
        private List<BackingFile> backing;

        private Builder() {}

        /** @see StoppedDisk#path */
        public Builder path(String path) {
            this.path = path;
            return this;
        }

        /** @see StoppedDisk#format */
        public Builder format(String format) {
            this.format = format;
            return this;
        }

        /** @see StoppedDisk#backing */
        public Builder backing(List<BackingFile> backing) {
            this.backing = backing == null ? null : Collections.unmodifiableList(new ArrayList<>(backing));
            return this;
        }

        /** The disk; its fields are checked when it is used. */
        public StoppedDisk build() {
            return new StoppedDisk(this);
        }
    }
}
