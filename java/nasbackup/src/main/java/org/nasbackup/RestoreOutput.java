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

/** Where {@link NasBackup#restorePoint} puts a disk, and how. */
public final class RestoreOutput {
    private final String path;
    private final OutputFormat format;
    private final long size;
    private final long clusterSize;
    private final Preallocation preallocation;

    private RestoreOutput(Builder builder) {
        this.path = builder.path;
        this.format = builder.format;
        this.size = builder.size;
        this.clusterSize = builder.clusterSize;
        this.preallocation = builder.preallocation;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Absolute path on this host: a file, which is made or replaced, or a block device, which is overwritten. Or an image in
     * Ceph, which is overwritten too: {@code rbd:pool/image:option=value:...} as CloudStack names it. This text may hold a key.
     */
    public String path() {
        return path;
    }

    /** How it is written. */
    public OutputFormat format() {
        return format;
    }

    /** Bytes of the disk in the output, with zeroes behind what was backed up; 0: as many as the disk has. */
    public long size() {
        return size;
    }

    /** Bytes in a cluster of a qcow2: 65536, or 0 for the same. */
    public long clusterSize() {
        return clusterSize;
    }

    /** Room that a file takes from the start; null: none. */
    public Preallocation preallocation() {
        return preallocation;
    }

    @Override
    public String toString() {
        return Rbd.withoutOptions(path);
    }

    /** Builds a {@link RestoreOutput}; what is not set stays at its default. */
    public static final class Builder {
        private String path;
        private OutputFormat format;
        private long size;
        private long clusterSize;
        private Preallocation preallocation;

        private Builder() {}

        /** @see RestoreOutput#path */
        public Builder path(String path) {
            this.path = path;
            return this;
        }

        /** @see RestoreOutput#format */
        public Builder format(OutputFormat format) {
            this.format = format;
            return this;
        }

        /** @see RestoreOutput#size */
        public Builder size(long size) {
            this.size = size;
            return this;
        }

        /** @see RestoreOutput#clusterSize */
        public Builder clusterSize(long clusterSize) {
            this.clusterSize = clusterSize;
            return this;
        }

        /** @see RestoreOutput#preallocation */
        public Builder preallocation(Preallocation preallocation) {
            this.preallocation = preallocation;
            return this;
        }

        /** The output; its fields are checked when it is used. */
        public RestoreOutput build() {
            return new RestoreOutput(this);
        }
    }
}
