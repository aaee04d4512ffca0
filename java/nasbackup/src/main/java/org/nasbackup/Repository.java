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

/** A NAS export. Its options may hold a password and are never shown. */
public final class Repository {
    private final String type;
    private final String address;
    private final String options;

    private Repository(Builder builder) {
        this.type = builder.type;
        this.address = builder.address;
        this.options = builder.options;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /** {@code dir} for a host folder that is already mounted, else a type that {@code mount -t} knows. */
    public String type() {
        return type;
    }

    /** Where it is: a host path for {@code dir}, else what {@code mount} takes as source. */
    public String address() {
        return address;
    }

    /** Mount options; null or empty for none. */
    public String options() {
        return options;
    }

    @Override
    public String toString() {
        return type + " " + address;
    }

    /** Builds a {@link Repository}; what is not set stays at its default. */
    public static final class Builder {
        private String type;
        private String address;
        private String options;

        private Builder() {}

        /** @see Repository#type */
        public Builder type(String type) {
            this.type = type;
            return this;
        }

        /** @see Repository#address */
        public Builder address(String address) {
            this.address = address;
            return this;
        }

        /** @see Repository#options */
        public Builder options(String options) {
            this.options = options;
            return this;
        }

        /** The repository; its fields are checked when it is used. */
        public Repository build() {
            return new Repository(this);
        }
    }
}
