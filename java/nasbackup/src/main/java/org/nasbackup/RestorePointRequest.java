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

/** What {@link NasBackup#restorePoint} is asked. */
public final class RestorePointRequest implements Request {
    private final String job;
    private final Repository repository;
    private final String backupPath;
    private final String pointId;
    private final List<RestoreVolume> volumes;
    private final String nvramPath;
    private final String tpmPath;
    private final Verify verify;
    private final boolean keepOld;
    private final String keepOldIn;
    private final long rateLimit;

    private RestorePointRequest(Builder builder) {
        this.job = builder.job;
        this.repository = builder.repository;
        this.backupPath = builder.backupPath;
        this.pointId = builder.pointId;
        this.volumes = builder.volumes;
        this.nvramPath = builder.nvramPath;
        this.tpmPath = builder.tpmPath;
        this.verify = builder.verify;
        this.keepOld = builder.keepOld;
        this.keepOldIn = builder.keepOldIn;
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
        builder.volumes = volumes;
        builder.nvramPath = nvramPath;
        builder.tpmPath = tpmPath;
        builder.verify = verify;
        builder.keepOld = keepOld;
        builder.keepOldIn = keepOldIn;
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

    /** The id that the point had when it was made ({@link TakeBackupResult#pointId}): another point under its name is refused. Null: not asked. */
    public String pointId() {
        return pointId;
    }

    /** The disks to restore, each with its output. */
    public List<RestoreVolume> volumes() {
        return volumes;
    }

    /** Absolute path of the file that the UEFI variables go to; null: they are not wanted. */
    public String nvramPath() {
        return nvramPath;
    }

    /** Absolute path of the file that the TPM's state goes to; null: it is not wanted. */
    public String tpmPath() {
        return tpmPath;
    }

    /** What the data are compared with; null: with the fingerprints if all images of the disk have them. */
    public Verify verify() {
        return verify;
    }

    /** Whether a file that is replaced is kept, under the name that {@link RestoredVolume#kept} tells. */
    public boolean keepOld() {
        return keepOld;
    }

    /**
     * Absolute path of a folder of this host. With {@link #keepOld} the old content of devices and of images in Ceph, which are
     * overwritten in place, is copied into it. Null: no such folder.
     */
    public String keepOldIn() {
        return keepOldIn;
    }

    /** Bytes a second that are read from the NAS at most; 0: no limit. */
    public long rateLimit() {
        return rateLimit;
    }

    @Override
    public String toString() {
        return "restore " + volumes + " of " + backupPath + " on " + repository;
    }

    /** Builds a {@link RestorePointRequest}; what is not set stays at its default. */
    public static final class Builder {
        private String job;
        private Repository repository;
        private String backupPath;
        private String pointId;
        private List<RestoreVolume> volumes;
        private String nvramPath;
        private String tpmPath;
        private Verify verify;
        private boolean keepOld;
        private String keepOldIn;
        private long rateLimit;

        private Builder() {}

        /** @see RestorePointRequest#job */
        public Builder job(String job) {
            this.job = job;
            return this;
        }

        /** @see RestorePointRequest#repository */
        public Builder repository(Repository repository) {
            this.repository = repository;
            return this;
        }

        /** @see RestorePointRequest#backupPath */
        public Builder backupPath(String backupPath) {
            this.backupPath = backupPath;
            return this;
        }

        /** @see RestorePointRequest#pointId */
        public Builder pointId(String pointId) {
            this.pointId = pointId;
            return this;
        }

        /** @see RestorePointRequest#volumes */
        public Builder volumes(List<RestoreVolume> volumes) {
            this.volumes = volumes == null ? null : Collections.unmodifiableList(new ArrayList<>(volumes));
            return this;
        }

        /** @see RestorePointRequest#nvramPath */
        public Builder nvramPath(String nvramPath) {
            this.nvramPath = nvramPath;
            return this;
        }

        /** @see RestorePointRequest#tpmPath */
        public Builder tpmPath(String tpmPath) {
            this.tpmPath = tpmPath;
            return this;
        }

        /** @see RestorePointRequest#verify */
        public Builder verify(Verify verify) {
            this.verify = verify;
            return this;
        }

        /** @see RestorePointRequest#keepOld */
        public Builder keepOld(boolean keepOld) {
            this.keepOld = keepOld;
            return this;
        }

        /** @see RestorePointRequest#keepOldIn */
        public Builder keepOldIn(String keepOldIn) {
            this.keepOldIn = keepOldIn;
            return this;
        }

        /** @see RestorePointRequest#rateLimit */
        public Builder rateLimit(long rateLimit) {
            this.rateLimit = rateLimit;
            return this;
        }

        /** The request; its fields are checked when it is used. */
        public RestorePointRequest build() {
            return new RestorePointRequest(this);
        }
    }
}
