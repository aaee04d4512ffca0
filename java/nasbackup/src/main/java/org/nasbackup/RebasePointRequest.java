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

/** What {@link NasBackup#rebasePoint} is asked. */
public final class RebasePointRequest implements Request {
    private final String job;
    private final Repository repository;
    private final String backupPath;
    private final String newParent;
    private final String goingPoint;

    private RebasePointRequest(Builder builder) {
        this.job = builder.job;
        this.repository = builder.repository;
        this.backupPath = builder.backupPath;
        this.newParent = builder.newParent;
        this.goingPoint = builder.goingPoint;
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
        builder.backupPath = backupPath;
        builder.newParent = newParent;
        builder.goingPoint = goingPoint;
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

    /** The restore point, {@code <instance>/<timestamp>}. */
    public String backupPath() {
        return backupPath;
    }

    /** A restore point that it stands on, next or further down; null: it is to stand alone. */
    public String newParent() {
        return newParent;
    }

    /**
     * A restore point that is deleted next, whatever comes of this call. If it is the one that this one stands on, and that is less to
     * write, its images take the places of those of this one: it can't be restored any more then, not even after a failure.
     */
    public String goingPoint() {
        return goingPoint;
    }

    @Override
    public String toString() {
        return "rebasePoint " + backupPath + " onto " + newParent + " on " + repository;
    }

    /** Builds a {@link RebasePointRequest}; what is not set stays at its default. */
    public static final class Builder {
        private String job;
        private Repository repository;
        private String backupPath;
        private String newParent;
        private String goingPoint;

        private Builder() {}

        /** @see RebasePointRequest#job */
        public Builder job(String job) {
            this.job = job;
            return this;
        }

        /** @see RebasePointRequest#repository */
        public Builder repository(Repository repository) {
            this.repository = repository;
            return this;
        }

        /** @see RebasePointRequest#backupPath */
        public Builder backupPath(String backupPath) {
            this.backupPath = backupPath;
            return this;
        }

        /** @see RebasePointRequest#newParent */
        public Builder newParent(String newParent) {
            this.newParent = newParent;
            return this;
        }

        /** @see RebasePointRequest#goingPoint */
        public Builder goingPoint(String goingPoint) {
            this.goingPoint = goingPoint;
            return this;
        }

        /** The request; its fields are checked when it is used. */
        public RebasePointRequest build() {
            return new RebasePointRequest(this);
        }
    }
}
