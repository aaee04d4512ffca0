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

/** Where a disk goes, and how. */
public final class Output {
    private final String path;
    private final OutputFormat format;

    private Output(Builder builder) {
        this.path = builder.path;
        this.format = builder.format;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Absolute path on this host: a file, which is made or replaced, or a block device, which is overwritten. Or an image in
     * Ceph, which is, too: {@code rbd:pool/image:option=value:...} as CloudStack names it; that may hold a key.
     */
    public String path() {
        return path;
    }

    /** How it is written. */
    public OutputFormat format() {
        return format;
    }

    @Override
    public String toString() {
        return Rbd.withoutOptions(path);
    }

    /** Builds an {@link Output}; what is not set stays at its default. */
    public static final class Builder {
        private String path;
        private OutputFormat format;

        private Builder() {}

        /** @see Output#path */
        public Builder path(String path) {
            this.path = path;
            return this;
        }

        /** @see Output#format */
        public Builder format(OutputFormat format) {
            this.format = format;
            return this;
        }

        /** The output; its fields are checked when it is used. */
        public Output build() {
            return new Output(this);
        }
    }
}
