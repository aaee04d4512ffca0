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

/** What {@link NasBackup#verifyChain} or {@link NasBackup#verifyData} is asked. */
public final class VerifyChainRequest implements Request {
    private final String job;
    private final Repository repository;
    private final String backupPath;
    private final String pointId;
    private final long rateLimit;

    private VerifyChainRequest(Builder builder) {
        this.job = builder.job;
        this.repository = builder.repository;
        this.backupPath = builder.backupPath;
        this.pointId = builder.pointId;
        this.rateLimit = builder.rateLimit;
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
        builder.pointId = pointId;
        builder.rateLimit = rateLimit;
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

    /**
     * The id that the point had when it was made ({@link TakeBackupResult#pointId}): another point under its name is bad.
     * Null: not asked.
     */
    public String pointId() {
        return pointId;
    }

    /** Bytes a second that {@link NasBackup#verifyData} reads at most; 0: no limit. */
    public long rateLimit() {
        return rateLimit;
    }

    @Override
    public String toString() {
        return "verification of " + backupPath + " on " + repository;
    }

    /** Builds a {@link VerifyChainRequest}; what is not set stays at its default. */
    public static final class Builder {
        private String job;
        private Repository repository;
        private String backupPath;
        private String pointId;
        private long rateLimit;

        private Builder() {}

        /** @see VerifyChainRequest#job */
        public Builder job(String job) {
            this.job = job;
            return this;
        }

        /** @see VerifyChainRequest#repository */
        public Builder repository(Repository repository) {
            this.repository = repository;
            return this;
        }

        /** @see VerifyChainRequest#backupPath */
        public Builder backupPath(String backupPath) {
            this.backupPath = backupPath;
            return this;
        }

        /** @see VerifyChainRequest#pointId */
        public Builder pointId(String pointId) {
            this.pointId = pointId;
            return this;
        }

        /** @see VerifyChainRequest#rateLimit */
        public Builder rateLimit(long rateLimit) {
            this.rateLimit = rateLimit;
            return this;
        }

        /** The request; its fields are checked when it is used. */
        public VerifyChainRequest build() {
            return new VerifyChainRequest(this);
        }
    }
}
