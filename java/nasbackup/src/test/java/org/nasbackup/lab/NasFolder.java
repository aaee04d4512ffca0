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
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.nasbackup.Repository;

/** A repository of type {@code dir}. */
public final class NasFolder implements AutoCloseable {
    private final Path root = Lab.folder("nas");
    private final Process slowing;

    /** A plain folder. */
    public NasFolder() {
        this.slowing = null;
    }

    private NasFolder(int mibPerSecond) {
        Path under = Lab.folder("under");
        String rate = "--write-rate=" + mibPerSecond + "M";
        try {
            slowing = new ProcessBuilder("bindfs", "-f", rate, "" + under, "" + root)
                    .inheritIO()
                    .start();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        Lab.until("bindfs mounts", () -> Lab.outcome("mountpoint", "-q", "" + root).status == 0);
    }

    /** A folder with the files that this one has now. */
    NasFolder copy() {
        NasFolder copy = new NasFolder();
        Lab.run("cp", "--archive", root + "/.", "" + copy.root);
        return copy;
    }

    /** One that takes no more than this. */
    static NasFolder slow(int mibPerSecond) {
        return new NasFolder(mibPerSecond);
    }

    /** From now on a slow one does not answer at all. */
    void hang() {
        Lab.run("kill", "-STOP", "" + slowing.pid());
    }

    /** It answers again. */
    void goOn() {
        Lab.run("kill", "-CONT", "" + slowing.pid());
    }

    public Repository repository() {
        return Repository.builder().type("dir").address(root.toString()).build();
    }

    /** The host path of a file or folder that is named as in requests and results. */
    public Path at(String relative) {
        return root.resolve(relative);
    }

    /** Every restore point, and what an unfinished or half-removed one left. */
    public List<String> points() {
        try (Stream<Path> paths = Files.walk(root, 2)) {
            return paths.filter(path ->
                            Files.isDirectory(path) && root.relativize(path).getNameCount() == 2)
                    .map(path -> root.relativize(path).toString())
                    .sorted()
                    .collect(Collectors.toList());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Override
    public void close() {
        if (slowing != null) {
            Lab.run("umount", "-l", "" + root);
            slowing.destroy();
        }
    }
}
