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

import java.util.List;

/** The settings of {@link NasBackup#open}. Null fields take the default. */
public final class Configuration {
    private final String connectionUri;
    private final String stateDir;
    private final String mountDir;
    private final String scratchDir;
    private final Engine engine;
    private final long rateLimit;
    private final long hostRateLimit;
    private final long parallelBackups;
    private final long scratchPerVm;
    private final long scratchPerHost;
    private final String logConfig;
    private final String logLevel;
    private final QuiesceFailure quiesceFailure;
    private final long freezeSeconds;
    private final List<String> freezeMountPoints;
    private final long mountKeepSeconds;
    private final String fileMode;
    private final String folderMode;
    private final String keyFile;
    private final String metricsFile;

    private Configuration(Builder builder) {
        this.connectionUri = builder.connectionUri;
        this.stateDir = builder.stateDir;
        this.mountDir = builder.mountDir;
        this.scratchDir = builder.scratchDir;
        this.engine = builder.engine;
        this.rateLimit = builder.rateLimit;
        this.hostRateLimit = builder.hostRateLimit;
        this.parallelBackups = builder.parallelBackups;
        this.scratchPerVm = builder.scratchPerVm;
        this.scratchPerHost = builder.scratchPerHost;
        this.logConfig = builder.logConfig;
        this.logLevel = builder.logLevel;
        this.quiesceFailure = builder.quiesceFailure;
        this.freezeSeconds = builder.freezeSeconds;
        this.freezeMountPoints = builder.freezeMountPoints;
        this.mountKeepSeconds = builder.mountKeepSeconds;
        this.fileMode = builder.fileMode;
        this.folderMode = builder.folderMode;
        this.keyFile = builder.keyFile;
        this.metricsFile = builder.metricsFile;
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

    /** Bytes a second that a backup reads at most, for requests that leave it open; 0: no limit. */
    public long rateLimit() {
        return rateLimit;
    }

    /** Bytes a second that all backups of this process read at most, together; 0: no limit. */
    public long hostRateLimit() {
        return hostRateLimit;
    }

    /** Backups that run at the same time; more of them are refused ({@link ErrorCode#BUSY}). 0: 4. */
    public long parallelBackups() {
        return parallelBackups;
    }

    /** Bytes of old blocks that a pull backup may keep; 0: as much as there is room for. */
    public long scratchPerVm() {
        return scratchPerVm;
    }

    /** Bytes of old blocks that all pull backups on this host may keep together; 0: as much as there is room for. */
    public long scratchPerHost() {
        return scratchPerHost;
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

    /** Seconds that the guest's agent may take for one answer, a freeze or a thaw among them. Default 20; 300 at most. */
    public long freezeSeconds() {
        return freezeSeconds;
    }

    /** The mount points, in the guest, of the file systems to freeze. Default, and when empty: all file systems. */
    public List<String> freezeMountPoints() {
        return freezeMountPoints;
    }

    /** Seconds that a repository stays mounted after its last use, for the next. Default 60; 0: it is unmounted at once. */
    public long mountKeepSeconds() {
        return mountKeepSeconds;
    }

    /** Permissions of files made in a repository, in octal digits. Default {@code 600}. */
    public String fileMode() {
        return fileMode;
    }

    /** Permissions of folders made in a repository. Default {@code 711}: QEMU runs as another user, and has to reach the files. */
    public String folderMode() {
        return folderMode;
    }

    /**
     * A file of keys that vouch for restore points, 64 hexadecimal digits a line, of mode 0600 and outside of the NAS: the library
     * signs with the first key and accepts all of them. Null: no key vouches for restore points.
     */
    public String keyFile() {
        return keyFile;
    }

    /**
     * A file, written anew after each operation, that tells Prometheus' textfile collector what operations of this host have come to.
     * Null: nobody is told.
     */
    public String metricsFile() {
        return metricsFile;
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
        private long rateLimit;
        private long hostRateLimit;
        private long parallelBackups;
        private long scratchPerVm;
        private long scratchPerHost;
        private String logConfig;
        private String logLevel;
        private QuiesceFailure quiesceFailure;
        private long freezeSeconds = 20;
        private List<String> freezeMountPoints = List.of();
        private long mountKeepSeconds = 60;
        private String fileMode;
        private String folderMode;
        private String keyFile;
        private String metricsFile;

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

        /** @see Configuration#rateLimit */
        public Builder rateLimit(long rateLimit) {
            this.rateLimit = rateLimit;
            return this;
        }

        /** @see Configuration#hostRateLimit */
        public Builder hostRateLimit(long hostRateLimit) {
            this.hostRateLimit = hostRateLimit;
            return this;
        }

        /** @see Configuration#parallelBackups */
        public Builder parallelBackups(long parallelBackups) {
            this.parallelBackups = parallelBackups;
            return this;
        }

        /** @see Configuration#scratchPerVm */
        public Builder scratchPerVm(long scratchPerVm) {
            this.scratchPerVm = scratchPerVm;
            return this;
        }

        /** @see Configuration#scratchPerHost */
        public Builder scratchPerHost(long scratchPerHost) {
            this.scratchPerHost = scratchPerHost;
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

        /** @see Configuration#freezeSeconds */
        public Builder freezeSeconds(long freezeSeconds) {
            this.freezeSeconds = freezeSeconds;
            return this;
        }

        /** @see Configuration#freezeMountPoints */
        public Builder freezeMountPoints(List<String> freezeMountPoints) {
            this.freezeMountPoints = freezeMountPoints;
            return this;
        }

        /** @see Configuration#mountKeepSeconds */
        public Builder mountKeepSeconds(long mountKeepSeconds) {
            this.mountKeepSeconds = mountKeepSeconds;
            return this;
        }

        /** @see Configuration#fileMode */
        public Builder fileMode(String fileMode) {
            this.fileMode = fileMode;
            return this;
        }

        /** @see Configuration#folderMode */
        public Builder folderMode(String folderMode) {
            this.folderMode = folderMode;
            return this;
        }

        /** @see Configuration#keyFile */
        public Builder keyFile(String keyFile) {
            this.keyFile = keyFile;
            return this;
        }

        /** @see Configuration#metricsFile */
        public Builder metricsFile(String metricsFile) {
            this.metricsFile = metricsFile;
            return this;
        }

        /** The configuration; its fields are checked when it is used. */
        public Configuration build() {
            return new Configuration(this);
        }
    }
}
