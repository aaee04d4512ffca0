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

/** What {@link NasBackup#rebaseBackup} is asked. */
public final class RebaseBackupRequest implements Request {
    private final String job;
    private final Repository repository;
    private final String target;
    private final String newBacking;

    private RebaseBackupRequest(Builder builder) {
        this.job = builder.job;
        this.repository = builder.repository;
        this.target = builder.target;
        this.newBacking = builder.newBacking;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /** A builder with the fields of this request set. */
    public Builder toBuilder() {
        Builder builder = new Builder();
        builder.job = job;
        builder.repository = repository;
        builder.target = target;
        builder.newBacking = newBacking;
        return builder;
    }

    /** An id for {@link NasBackup#jobs} and {@link NasBackup#cancel}; null: one is made. */
    @Override
    public String job() {
        return job;
    }

    /** The NAS export. */
    public Repository repository() {
        return repository;
    }

    /** The image, {@code <instance>/<timestamp>/<file>}. */
    public String target() {
        return target;
    }

    /** An image that the target stands on, next or further down; null: it is to stand alone. */
    public String newBacking() {
        return newBacking;
    }

    @Override
    public String toString() {
        return "rebaseBackup " + target + " onto " + newBacking + " on " + repository;
    }

    /** Builds a {@link RebaseBackupRequest}; what is not set stays at its default. */
    public static final class Builder {
        private String job;
        private Repository repository;
        private String target;
        private String newBacking;

        private Builder() {}

        /** @see RebaseBackupRequest#job */
        public Builder job(String job) {
            this.job = job;
            return this;
        }

        /** @see RebaseBackupRequest#repository */
        public Builder repository(Repository repository) {
            this.repository = repository;
            return this;
        }

        /** @see RebaseBackupRequest#target */
        public Builder target(String target) {
            this.target = target;
            return this;
        }

        /** @see RebaseBackupRequest#newBacking */
        public Builder newBacking(String newBacking) {
            this.newBacking = newBacking;
            return this;
        }

        /** The request; its fields are checked when it is used. */
        public RebaseBackupRequest build() {
            return new RebaseBackupRequest(this);
        }
    }
}
