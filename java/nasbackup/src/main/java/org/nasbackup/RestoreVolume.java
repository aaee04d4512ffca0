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

/** One disk that {@link NasBackup#restorePoint} is to restore. */
public final class RestoreVolume {
    private final String volume;
    private final String serial;
    private final String file;
    private final RestoreOutput output;

    private RestoreVolume(Builder builder) {
        this.volume = builder.volume;
        this.serial = builder.serial;
        this.file = builder.file;
        this.output = builder.output;
    }

    /** A builder with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /** The volume, as the backup's result names it. Either this or {@link #file}. */
    public String volume() {
        return volume;
    }

    /** The disk's serial, by which it is found when no disk of the point has {@link #volume}; null: none. */
    public String serial() {
        return serial;
    }

    /** The file name of its image in the restore point. */
    public String file() {
        return file;
    }

    /** The file, device or image that the disk is written into. */
    public RestoreOutput output() {
        return output;
    }

    @Override
    public String toString() {
        return (volume == null ? file : volume) + " into " + output;
    }

    /** Builds a {@link RestoreVolume}; what is not set stays at its default. */
    public static final class Builder {
        private String volume;
        private String serial;
        private String file;
        private RestoreOutput output;

        private Builder() {}

        /** @see RestoreVolume#volume */
        public Builder volume(String volume) {
            this.volume = volume;
            return this;
        }

        /** @see RestoreVolume#serial */
        public Builder serial(String serial) {
            this.serial = serial;
            return this;
        }

        /** @see RestoreVolume#file */
        public Builder file(String file) {
            this.file = file;
            return this;
        }

        /** @see RestoreVolume#output */
        public Builder output(RestoreOutput output) {
            this.output = output;
            return this;
        }

        /** The volume; its fields are checked when it is used. */
        public RestoreVolume build() {
            return new RestoreVolume(this);
        }
    }
}
