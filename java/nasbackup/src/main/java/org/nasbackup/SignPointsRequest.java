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

/** What {@link NasBackup#signPoints} is asked. */
public final class SignPointsRequest implements Request {
    private final String job;
    private final Repository repository;
    private final String instance;
    private final boolean trustUnsigned;

    private SignPointsRequest(Builder builder) {
        this.job = builder.job;
        this.repository = builder.repository;
        this.instance = builder.instance;
        this.trustUnsigned = builder.trustUnsigned;
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
        builder.instance = instance;
        builder.trustUnsigned = trustUnsigned;
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

    /** The folder of the one machine whose points are signed; null: the points of all machines. */
    public String instance() {
        return instance;
    }

    /** Whether points without a MAC are signed too: the caller believes that nobody has changed them. Default: no. */
    public boolean trustUnsigned() {
        return trustUnsigned;
    }

    @Override
    public String toString() {
        return "signPoints " + (instance == null ? "of all machines" : instance) + " on " + repository;
    }

    /** Builds a {@link SignPointsRequest}; what is not set stays at its default. */
    public static final class Builder {
        private String job;
        private Repository repository;
        private String instance;
        private boolean trustUnsigned;

        private Builder() {}

        /** @see SignPointsRequest#job */
        public Builder job(String job) {
            this.job = job;
            return this;
        }

        /** @see SignPointsRequest#repository */
        public Builder repository(Repository repository) {
            this.repository = repository;
            return this;
        }

        /** @see SignPointsRequest#instance */
        public Builder instance(String instance) {
            this.instance = instance;
            return this;
        }

        /** @see SignPointsRequest#trustUnsigned */
        public Builder trustUnsigned(boolean trustUnsigned) {
            this.trustUnsigned = trustUnsigned;
            return this;
        }

        /** The request; its fields are checked when it is used. */
        public SignPointsRequest build() {
            return new SignPointsRequest(this);
        }
    }
}
