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

/** The settings of {@link NasBackup#open}. Null fields take the default. */
public final class Configuration {
    private final String connectionUri;
    private final String stateDir;
    private final String mountDir;
    private final String scratchDir;
    private final Engine engine;
    private final String logConfig;
    private final String logLevel;
    private final QuiesceFailure quiesceFailure;

    private Configuration(Builder builder) {
        this.connectionUri = builder.connectionUri;
        this.stateDir = builder.stateDir;
        this.mountDir = builder.mountDir;
        this.scratchDir = builder.scratchDir;
        this.engine = builder.engine;
        this.logConfig = builder.logConfig;
        this.logLevel = builder.logLevel;
        this.quiesceFailure = builder.quiesceFailure;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /** libvirt connection URI. Default {@code qemu:///system}. */
    public String connectionUri() {
        return connectionUri;
    }

    /** Folder for what must survive a restart of the process. Default {@code /var/lib/nasbackup}. */
    public String stateDir() {
        return stateDir;
    }

    /** Folder for mount points. Default {@code /run/nasbackup}. */
    public String mountDir() {
        return mountDir;
    }

    /** Folder on a fast local disk for the old blocks of a pull backup. Default {@code scratch} below the state folder. */
    public String scratchDir() {
        return scratchDir;
    }

    /** The engine for requests that leave it open. */
    public Engine engine() {
        return engine;
    }

    /** A log4rs YAML file; without it log lines go to {@link System.Logger}. */
    public String logConfig() {
        return logConfig;
    }

    /** {@code off}, {@code error}, {@code warn}, {@code info} (default), {@code debug} or {@code trace}; ignored when {@code logConfig} is given. */
    public String logLevel() {
        return logLevel;
    }

    /** What a failed freeze does. Default {@link QuiesceFailure#ERROR}. */
    public QuiesceFailure quiesceFailure() {
        return quiesceFailure;
    }

    @Override
    public String toString() {
        return "connectionUri " + connectionUri + ", stateDir " + stateDir + ", mountDir " + mountDir;
    }

    /** Builds a {@link Configuration}; what is not set stays at its default. */
    public static final class Builder {
        private String connectionUri;
        private String stateDir;
        private String mountDir;
        private String scratchDir;
        private Engine engine;
        private String logConfig;
        private String logLevel;
        private QuiesceFailure quiesceFailure;

        private Builder() {}

        /** @see Configuration#connectionUri */
        public Builder connectionUri(String connectionUri) {
            this.connectionUri = connectionUri;
            return this;
        }

        /** @see Configuration#stateDir */
        public Builder stateDir(String stateDir) {
            this.stateDir = stateDir;
            return this;
        }

        /** @see Configuration#mountDir */
        public Builder mountDir(String mountDir) {
            this.mountDir = mountDir;
            return this;
        }

        /** @see Configuration#scratchDir */
        public Builder scratchDir(String scratchDir) {
            this.scratchDir = scratchDir;
            return this;
        }

        /** @see Configuration#engine */
        public Builder engine(Engine engine) {
            this.engine = engine;
            return this;
        }

        /** @see Configuration#logConfig */
        public Builder logConfig(String logConfig) {
            this.logConfig = logConfig;
            return this;
        }

        /** @see Configuration#logLevel */
        public Builder logLevel(String logLevel) {
            this.logLevel = logLevel;
            return this;
        }

        /** @see Configuration#quiesceFailure */
        public Builder quiesceFailure(QuiesceFailure quiesceFailure) {
            this.quiesceFailure = quiesceFailure;
            return this;
        }

        /** The configuration; its fields are checked when it is used. */
        public Configuration build() {
            return new Configuration(this);
        }
    }
}
