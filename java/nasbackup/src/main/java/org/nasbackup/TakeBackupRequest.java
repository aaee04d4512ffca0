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

/** What {@link NasBackup#takeBackup} is asked. */
public final class TakeBackupRequest implements Request {
    private final String job;
    private final String vmName;
    private final String backupPath;
    private final Repository repository;
    private final Mode mode;
    private final String bitmapNew;
    private final String bitmapParent;
    private final List<String> parentPaths;
    private final List<StoppedDisk> disks;
    private final boolean quiesce;
    private final long waitSeconds;
    private final Engine engine;
    private final long rateLimit;
    private final List<String> excludeDisks;

    private TakeBackupRequest(Builder builder) {
        this.job = builder.job;
        this.vmName = builder.vmName;
        this.backupPath = builder.backupPath;
        this.repository = builder.repository;
        this.mode = builder.mode;
        this.bitmapNew = builder.bitmapNew;
        this.bitmapParent = builder.bitmapParent;
        this.parentPaths = builder.parentPaths;
        this.disks = builder.disks;
        this.quiesce = builder.quiesce;
        this.waitSeconds = builder.waitSeconds;
        this.engine = builder.engine;
        this.rateLimit = builder.rateLimit;
        this.excludeDisks = builder.excludeDisks;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /** A builder with the fields of this request set. */
    public Builder toBuilder() {
        Builder builder = new Builder();
        builder.job = job;
        builder.vmName = vmName;
        builder.backupPath = backupPath;
        builder.repository = repository;
        builder.mode = mode;
        builder.bitmapNew = bitmapNew;
        builder.bitmapParent = bitmapParent;
        builder.parentPaths = parentPaths;
        builder.disks = disks;
        builder.quiesce = quiesce;
        builder.waitSeconds = waitSeconds;
        builder.engine = engine;
        builder.rateLimit = rateLimit;
        builder.excludeDisks = excludeDisks;
        return builder;
    }

    /** An id for {@link NasBackup#jobs} and {@link NasBackup#cancel}; null: one is made. */
    @Override
    public String job() {
        return job;
    }

    /** The domain's name. */
    public String vmName() {
        return vmName;
    }

    /** The restore point to make, {@code <vmName>/<yyyy.MM.dd.HH.mm.ss>}. */
    public String backupPath() {
        return backupPath;
    }

    /** The NAS export. */
    public Repository repository() {
        return repository;
    }

    /** Null: {@link Mode#LEGACY}. */
    public Mode mode() {
        return mode;
    }

    /** Name of the bitmap that is made, and records the changes from now on. */
    public String bitmapNew() {
        return bitmapNew;
    }

    /** Name of the bitmap that records the changes since the parent. */
    public String bitmapParent() {
        return bitmapParent;
    }

    /** Files of the parent point, relative to the repository's root. */
    public List<String> parentPaths() {
        return parentPaths;
    }

    /** The disks of a stopped virtual machine, which must not run meanwhile. Null: the domain must run, or be paused. */
    public List<StoppedDisk> disks() {
        return disks;
    }

    /** Whether the guest's file systems are frozen while the backup begins. */
    public boolean quiesce() {
        return quiesce;
    }

    /** Seconds that the job may take; 0: 7200. */
    public long waitSeconds() {
        return waitSeconds;
    }

    /** Null: the configured one. */
    public Engine engine() {
        return engine;
    }

    /** Bytes a second that are read from the guest's disks at most; 0: the configured limit. */
    public long rateLimit() {
        return rateLimit;
    }

    /** Disks to leave out. Each is named by its target, serial or volume, one of a stopped guest by its path or volume. */
    public List<String> excludeDisks() {
        return excludeDisks;
    }

    @Override
    public String toString() {
        return "takeBackup " + mode + " of " + vmName + " to " + backupPath + " on " + repository;
    }

    /** Builds a {@link TakeBackupRequest}; what is not set stays at its default. */
    public static final class Builder {
        private String job;
        private String vmName;
        private String backupPath;
        private Repository repository;
        private Mode mode;
        private String bitmapNew;
        private String bitmapParent;
        private List<String> parentPaths;
        private List<StoppedDisk> disks;
        private boolean quiesce;
        private long waitSeconds;
        private Engine engine;
        private long rateLimit;
        private List<String> excludeDisks;

        private Builder() {}

        /** @see TakeBackupRequest#job */
        public Builder job(String job) {
            this.job = job;
            return this;
        }

        /** @see TakeBackupRequest#vmName */
        public Builder vmName(String vmName) {
            this.vmName = vmName;
            return this;
        }

        /** @see TakeBackupRequest#backupPath */
        public Builder backupPath(String backupPath) {
            this.backupPath = backupPath;
            return this;
        }

        /** @see TakeBackupRequest#repository */
        public Builder repository(Repository repository) {
            this.repository = repository;
            return this;
        }

        /** @see TakeBackupRequest#mode */
        public Builder mode(Mode mode) {
            this.mode = mode;
            return this;
        }

        /** @see TakeBackupRequest#bitmapNew */
        public Builder bitmapNew(String bitmapNew) {
            this.bitmapNew = bitmapNew;
            return this;
        }

        /** @see TakeBackupRequest#bitmapParent */
        public Builder bitmapParent(String bitmapParent) {
            this.bitmapParent = bitmapParent;
            return this;
        }

        /** @see TakeBackupRequest#parentPaths */
        public Builder parentPaths(List<String> parentPaths) {
            this.parentPaths = parentPaths == null ? null : Collections.unmodifiableList(new ArrayList<>(parentPaths));
            return this;
        }

        /** @see TakeBackupRequest#disks */
        public Builder disks(List<StoppedDisk> disks) {
            this.disks = disks == null ? null : Collections.unmodifiableList(new ArrayList<>(disks));
            return this;
        }

        /** @see TakeBackupRequest#quiesce */
        public Builder quiesce(boolean quiesce) {
            this.quiesce = quiesce;
            return this;
        }

        /** @see TakeBackupRequest#waitSeconds */
        public Builder waitSeconds(long waitSeconds) {
            this.waitSeconds = waitSeconds;
            return this;
        }

        /** @see TakeBackupRequest#engine */
        public Builder engine(Engine engine) {
            this.engine = engine;
            return this;
        }

        /** @see TakeBackupRequest#rateLimit */
        public Builder rateLimit(long rateLimit) {
            this.rateLimit = rateLimit;
            return this;
        }

        /** @see TakeBackupRequest#excludeDisks */
        public Builder excludeDisks(List<String> excludeDisks) {
            this.excludeDisks =
                    excludeDisks == null ? null : Collections.unmodifiableList(new ArrayList<>(excludeDisks));
            return this;
        }

        /** The request; its fields are checked when it is used. */
        public TakeBackupRequest build() {
            return new TakeBackupRequest(this);
        }
    }
}
