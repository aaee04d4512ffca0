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

package org.nasbackup.lab;

import java.io.IOException;
import java.io.RandomAccessFile;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.nasbackup.DiskResult;
import org.nasbackup.TakeBackupResult;

/** A restore point, and what it has to hold. */
public final class Point {
    /** Offset of the virtual size in a qcow2 header (QEMU, docs/interop/qcow2.txt). */
    private static final int VIRTUAL_SIZE = 24;

    private final String path;
    private final TakeBackupResult result;
    private final List<Path> content;

    Point(String path, TakeBackupResult result, List<Path> content) {
        this.path = path;
        this.result = result;
        this.content = content;
    }

    /** As requests name it. */
    public String path() {
        return path;
    }

    /** What {@code takeBackup} answered. */
    public TakeBackupResult result() {
        return result;
    }

    /** Reads it back from the NAS: in what it differs from the guest's disks at its time. Empty: in nothing. */
    public List<String> differences(NasFolder nas) {
        List<String> differences = new ArrayList<>();
        if (result.disks().size() != content.size()) {
            differences.add(result.disks().size() + " disks, not " + content.size());
            return differences;
        }
        for (int disk = 0; disk < content.size(); disk++) {
            DiskResult found = result.disks().get(disk);
            String difference = difference(nas.at(found.file()), content.get(disk));
            if (difference != null) {
                differences.add(found.file() + ": " + difference);
            }
        }
        return differences;
    }

    /** In what an image differs from the guest's disk at that time; null: in nothing. */
    String difference(Path image, int disk) {
        return difference(image, content.get(disk));
    }

    /**
     * In what an image differs from a raw copy; null: in nothing. The image's own lock is taken: a writer left over is
     * found as well.
     */
    public static String difference(Path image, Path raw) {
        Lab.Outcome check = Lab.outcome("qemu-img", "check", "-f", "qcow2", "" + image);
        if (check.status != 0) {
            return check.toString();
        }
        try (RandomAccessFile header = new RandomAccessFile(image.toFile(), "r")) {
            header.seek(VIRTUAL_SIZE);
            if (header.readLong() != Files.size(raw)) {
                return "its virtual size is not " + Files.size(raw);
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        Lab.Outcome compare = Lab.outcome("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "" + raw, "" + image);
        return compare.status == 0 ? null : compare.output.strip();
    }

    /** Harms data that the image of one disk holds, and nothing that {@code qemu-img check} or the manifest looks at. */
    void spoil(NasFolder nas, int disk) {
        Path image = nas.at(result.disks().get(disk).file());
        Lab.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xee 5M 1", "" + image);
    }
}
