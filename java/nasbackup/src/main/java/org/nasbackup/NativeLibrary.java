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

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;

/** Loads {@code libnasbackup.so} once: from {@code java.library.path}, else the copy in the jar. */
final class NativeLibrary {
    /** Names the class loader that has the library: the only state that two copies of this class share. */
    private static final String OWNER = "org.nasbackup.library.owner";

    private static boolean loaded;
    private static NasBackupException failure;

    private NativeLibrary() {}

    /**
     * Loads the library, the first time.
     *
     * @throws NasBackupException why it could not be loaded, the same at every call
     */
    static synchronized void load() {
        if (failure != null) {
            throw new NasBackupException(
                    failure.code().name(), LibraryFile.STEP, null, failure.getMessage(), false, failure);
        }
        if (!loaded) {
            try {
                claim();
                Shutdown.register();
                loaded = true;
            } catch (NasBackupException e) {
                failure = e;
                throw e;
            }
        }
    }

    /** The library has one state per process, so a second class loader must not map it again, as a copy either. */
    private static void claim() {
        String owner = describe(NativeLibrary.class.getClassLoader());
        Object other = System.getProperties().putIfAbsent(OWNER, owner);
        if (other != null) {
            throw NasBackupException.of(
                    ErrorCode.INTERNAL,
                    LibraryFile.STEP,
                    "another class loader of this JVM has it: " + other + "; put nasbackup on one class path only",
                    null);
        }
        boolean mapped = false;
        try {
            loadAny();
            mapped = true;
        } finally {
            if (!mapped) {
                System.getProperties().remove(OWNER);
            }
        }
    }

    private static void loadAny() {
        try {
            load(LibraryFile.onPath());
        } catch (LinkageError | SecurityException | InvalidPathException | IOException onPath) {
            try {
                loadBundled();
            } catch (LinkageError | SecurityException | InvalidPathException | IOException bundled) {
                NasBackupException e = NasBackupException.of(
                        ErrorCode.INTERNAL,
                        LibraryFile.STEP,
                        "from java.library.path: " + onPath.getMessage() + "; from the jar: " + bundled.getMessage(),
                        onPath);
                e.addSuppressed(bundled);
                throw e;
            }
        }
    }

    private static void load(Path file) throws IOException {
        LibraryFile.check(file, Built.read("library.length"), Built.read("library.sha256"));
        System.load(file.toString());
    }

    private static void loadBundled() throws IOException {
        String resource = "/org/nasbackup/native/linux-" + arch() + "/libnasbackup.so";
        try (InputStream bundled = NativeLibrary.class.getResourceAsStream(resource)) {
            if (bundled == null) {
                throw new IOException("it has no " + resource);
            }
            Path folder = Files.createTempDirectory(
                    "nasbackup", PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
            Path file = folder.resolve("libnasbackup.so");
            try {
                Files.copy(bundled, file);
                load(file);
            } finally {
                // The mapping outlives the file.
                Files.deleteIfExists(file);
                Files.delete(folder);
            }
        }
    }

    private static String arch() {
        String arch = System.getProperty("os.arch");
        return "amd64".equals(arch) ? "x86_64" : arch;
    }

    private static String describe(ClassLoader loader) {
        if (loader == null) {
            return "the boot class loader";
        }
        return loader.getName() == null ? loader.toString() : loader.getName();
    }
}
