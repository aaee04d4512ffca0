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
import java.util.Map;
import org.nasbackup.Repository;

/** A NAS that is a file system of its own on a loop device, so that what reaches it can be counted. */
final class NasImage implements AutoCloseable {
    private static final Map<String, String[]> MKFS = Map.of(
            "xfs", new String[] {"mkfs.xfs", "-q", "-m", "reflink=1"},
            "btrfs", new String[] {"mkfs.btrfs", "-q"},
            "ext4", new String[] {"mkfs.ext4", "-q"});
    /** Of /sys/block/.../stat (kernel, Documentation/block/stat.rst). */
    private static final int SECTORS_WRITTEN = 6;

    private static final int SECTOR = 512;

    private final String fileSystem;
    private final Path image = Lab.folder("image").resolve("nas");
    private final NasFolder folder = new NasFolder();
    private final String device;

    /** A fresh one of that many GiB, which takes as much room on the host as is written to it. */
    NasImage(String fileSystem, int gib) {
        this.fileSystem = fileSystem;
        try (RandomAccessFile file = new RandomAccessFile(image.toFile(), "rw")) {
            file.setLength((long) gib << 30);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        String[] mkfs = MKFS.get(fileSystem);
        String[] command = java.util.Arrays.copyOf(mkfs, mkfs.length + 1);
        command[mkfs.length] = "" + image;
        Lab.run(command);
        Lab.run("mount", "-o", "loop", "" + image, "" + root());
        device = Lab.run("findmnt", "--noheadings", "--output", "SOURCE", "" + root())
                .strip();
    }

    String fileSystem() {
        return fileSystem;
    }

    /** Where it is mounted all the time. */
    Path root() {
        return folder.at("");
    }

    NasFolder folder() {
        return folder;
    }

    /** For who finds it mounted. */
    Repository warm() {
        return folder.repository();
    }

    /** For who mounts it. */
    Repository cold() {
        return Repository.builder().type(fileSystem).address(device).build();
    }

    /** Bytes that anybody may still write. */
    long free() {
        try {
            return Files.getFileStore(root()).getUsableSpace();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Bytes that reached the device so far. */
    long bytesWritten() {
        Lab.run("sync");
        Path stat = Path.of("/sys/block", Path.of(device).getFileName().toString(), "stat");
        try {
            String[] fields = Files.readString(stat).strip().split("\\s+");
            return Long.parseLong(fields[SECTORS_WRITTEN]) * SECTOR;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Undoes the mounts that the shell path leaves behind. */
    void unmountLeftovers() {
        Lab.run("findmnt", "--noheadings", "--output", "TARGET", "--source", device)
                .lines()
                .map(String::strip)
                .filter(target -> target.contains("/csbackup."))
                .forEach(target -> {
                    Lab.run("umount", target);
                    Lab.run("rmdir", target);
                });
    }

    @Override
    public void close() {
        unmountLeftovers();
        Lab.run("umount", "" + root());
        try {
            Files.delete(image);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
