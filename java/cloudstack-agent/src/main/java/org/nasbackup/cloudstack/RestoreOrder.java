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

/** Images of a restore point and their outputs: all of them are restored, or none. */
public final class RestoreOrder {
    /** An image and its output. */
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

        /** The name of the volume that was backed up; null: {@link #file} names the image. */
        public String volume() {
            return volume;
        }

        /** The serial of the disk that was backed up, by which it is found when no disk has the name; null: none. */
        public String serial() {
            return serial;
        }

        /** The name of the image; null: {@link #volume} names it. */
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

        /** The size of the disk in the output, in bytes; null: the image's. */
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

    /** The id that the point has to have; null: any point of that path is restored. */
    public String pointId() {
        return pointId;
    }

    public List<Image> images() {
        return images;
    }

    /**
     * Seconds after which the restore is given up, so that the management server still hears of it: a machine that the server starts
     * meanwhile would run on volumes that are being replaced.
     */
    public int seconds() {
        return seconds;
    }
}
