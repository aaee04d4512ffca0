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

package org.nasbackup.cloudstack;

import java.util.List;
import org.nasbackup.OutputFormat;
import org.nasbackup.Repository;

/** Images of a restore point, and where they go: all together, or none. */
public final class RestoreOrder {
    /** One of them. */
    public static final class Image {
        private final String volume;
        private final String serial;
        private final String file;
        private final String path;
        private final OutputFormat format;
        private final Long size;

        Image(String volume, String serial, String file, String path, OutputFormat format, Long size) {
            this.volume = volume;
            this.serial = serial;
            this.file = file;
            this.path = path;
            this.format = format;
            this.size = size;
        }

        /** As the backup names it; null: the file is named. */
        public String volume() {
            return volume;
        }

        /** By which it is known where nothing is named as the volume; null: by nothing else. */
        public String serial() {
            return serial;
        }

        /** Null: the volume is named. */
        public String file() {
            return file;
        }

        /** A file, a block device, or QEMU's name for a volume on RBD. */
        public String path() {
            return path;
        }

        public OutputFormat format() {
            return format;
        }

        /** That the disk is to have, in bytes; null: the image's. */
        public Long size() {
            return size;
        }
    }

    private final Repository repository;
    private final String backupPath;
    private final String pointId;
    private final List<Image> images;
    private final int seconds;

    RestoreOrder(Repository repository, String backupPath, String pointId, List<Image> images, int seconds) {
        this.repository = repository;
        this.backupPath = backupPath;
        this.pointId = pointId;
        this.images = images;
        this.seconds = seconds;
    }

    public Repository repository() {
        return repository;
    }

    /** {@code <instance>/<timestamp>}. */
    public String backupPath() {
        return backupPath;
    }

    /** Null: whatever point has the name. */
    public String pointId() {
        return pointId;
    }

    public List<Image> images() {
        return images;
    }

    /**
     * After which it is given up, so that whoever asked still hears of it: a machine that is started meanwhile would run on volumes
     * that are replaced.
     */
    public int seconds() {
        return seconds;
    }
}
