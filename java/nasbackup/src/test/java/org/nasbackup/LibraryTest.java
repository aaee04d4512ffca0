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

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Finding, loading and leaving the library, each in a JVM of its own. */
@Tag("lab")
class LibraryTest {
    private static final Path LIBRARY = Path.of(System.getProperty("java.library.path"), "libnasbackup.so");

    @TempDir
    Path folder;

    private Path folder(String name) throws Exception {
        return Files.createDirectories(folder.resolve(name));
    }

    /** A class path entry with the library where the jar has it. */
    private Path bundle() throws Exception {
        Path bundle = folder("bundle");
        Path place = Files.createDirectories(bundle.resolve("org/nasbackup/native/linux-x86_64"));
        Files.copy(LIBRARY, place.resolve("libnasbackup.so"));
        return bundle;
    }

    private static void noWarning(String output) {
        assertThat(output).doesNotContain("WARNING");
    }

    @Test
    void it_is_found_on_the_library_path() throws Exception {
        String output = new ChildJvm().run("open-twice");
        assertThat(output).contains("version " + NasBackup.javaVersion());
        noWarning(output);
    }

    @Test
    void a_missing_library_is_said_in_one_line_each_time() throws Exception {
        String output = new ChildJvm()
                .withoutBundledLibrary(folder("classes"))
                .option("-Djava.library.path=" + folder("empty"))
                .run("open-twice");
        assertThat(output.lines()).hasSize(3);
        String first = output.lines().findFirst().orElseThrow();
        assertThat(output).isEqualTo(first + "\n" + first + "\nowner null\n");
        assertThat(first)
                .startsWith("INTERNAL: load the native library: from java.library.path: no nasbackup in ")
                .contains(folder("empty").toString())
                .endsWith("; from the jar: it has no /org/nasbackup/native/linux-x86_64/libnasbackup.so");
    }

    @Test
    void a_broken_library_is_said_in_one_line() throws Exception {
        Files.writeString(folder("broken").resolve("libnasbackup.so"), "this is no ELF file ".repeat(100));
        String output = new ChildJvm()
                .withoutBundledLibrary(folder("classes"))
                .firstOnClassPath(classesWithoutHash())
                .option("-Djava.library.path=" + folder("broken"))
                .run("open-twice");
        assertThat(output.lines().filter(line -> line.startsWith("INTERNAL: load the native library: ")))
                .hasSize(2)
                .allMatch(line -> line.contains("invalid ELF header") && line.contains("from the jar: it has no"));
    }

    /** The library with its last {@code missing} bytes cut off, and {@code changed} bytes in the middle of another value. */
    private Path damaged(String name, long missing, int changed) throws Exception {
        Path file = folder(name).resolve("libnasbackup.so");
        Files.copy(LIBRARY, file, StandardCopyOption.REPLACE_EXISTING);
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
            channel.truncate(channel.size() - missing);
            channel.write(ByteBuffer.wrap("changed ".repeat(changed / 8).getBytes()), channel.size() / 2);
        }
        return file;
    }

    /** What a build writes down that knows its library. */
    private Path classesWithHash() throws Exception {
        return classes("hash", Long.toString(Files.size(LIBRARY)), LibraryFile.sha256(LIBRARY));
    }

    /** What a build writes down that was told of no library. */
    private Path classesWithoutHash() throws Exception {
        return classes("no-hash", "", "");
    }

    private Path classes(String name, String length, String sha256) throws Exception {
        Path classes = folder(name);
        Path made = Files.createDirectories(classes.resolve("org/nasbackup")).resolve("nasbackup.properties");
        Files.writeString(
                made,
                "version=" + NasBackup.javaVersion() + "\nlibrary.length=" + length + "\nlibrary.sha256=" + sha256
                        + "\n");
        return classes;
    }

    @Test
    void a_library_that_was_cut_off_is_an_error_and_does_not_end_the_jvm() throws Exception {
        long length = Files.size(LIBRARY);
        Path file = damaged("cut", length - 1_048_576, 0);
        String unknown = new ChildJvm()
                .firstOnClassPath(classesWithoutHash())
                .option("-Djava.library.path=" + file.getParent())
                .run("open-twice");
        String cut = "INTERNAL: load the native library: '" + file
                + "' was cut off: it has 1048576 bytes, and by its own" + " header it reaches to " + length;
        assertThat(unknown.lines().filter(line -> line.startsWith(cut))).hasSize(2);
        String known = new ChildJvm()
                .firstOnClassPath(classesWithHash())
                .option("-Djava.library.path=" + file.getParent())
                .run("open-twice");
        String other = "VERSION_MISMATCH: load the native library: '" + file + "' has 1048576 bytes and SHA-256 "
                + LibraryFile.sha256(file) + ", the library of this jar has " + length + " bytes and SHA-256 "
                + LibraryFile.sha256(LIBRARY);
        assertThat(known.lines().filter(line -> line.startsWith(other))).hasSize(2);
        String whole = new ChildJvm().firstOnClassPath(classesWithHash()).run("open-twice");
        assertThat(whole).contains("version " + NasBackup.javaVersion());
    }

    @Test
    void a_library_is_whole_up_to_its_last_byte() throws Exception {
        LibraryFile.check(LIBRARY, "", "");
        for (long missing : new long[] {1, 4_096, Files.size(LIBRARY) - 4_096, Files.size(LIBRARY) - 64}) {
            Path file = damaged("cut", missing, 0);
            assertThatThrownBy(() -> LibraryFile.check(file, "", "")).hasMessageContaining("was cut off");
        }
        String length = Long.toString(Files.size(LIBRARY));
        String hash = LibraryFile.sha256(LIBRARY);
        LibraryFile.check(LIBRARY, length, hash);
        for (Path file :
                new Path[] {damaged("cut", 1, 0), damaged("changed", 0, 64), damaged("empty", Files.size(LIBRARY), 0)
                }) {
            assertThatThrownBy(() -> LibraryFile.check(file, length, hash)).hasMessageContaining("VERSION_MISMATCH");
        }
    }

    @Test
    void another_library_of_that_name_is_a_mismatch() throws Exception {
        Path other = Path.of(System.getProperty("java.home"), "lib", "libjimage.so");
        Files.copy(other, folder("other").resolve("libnasbackup.so"));
        String output = new ChildJvm()
                .firstOnClassPath(classesWithoutHash())
                .option("-Djava.library.path=" + folder("other"))
                .run("open-twice");
        assertThat(output.lines().filter(line -> line.startsWith("VERSION_MISMATCH: start the native library: ")))
                .hasSize(2)
                .allMatch(line -> line.contains("install libnasbackup.so and nasbackup.jar of one version"));
    }

    @Test
    void the_bundled_library_is_the_second_choice_and_leaves_no_file() throws Exception {
        String output = new ChildJvm()
                .withoutBundledLibrary(folder("classes"))
                .onClassPath(bundle())
                .option("-Djava.library.path=" + folder("empty"))
                .option("-Djava.io.tmpdir=" + folder("tmp"))
                .run("open-twice");
        assertThat(output).contains("version " + NasBackup.javaVersion());
        assertThat(folder("tmp")).isEmptyDirectory();
        noWarning(output);
    }

    /** An option for a JVM, from a file of bytes: this JVM's own locale may lack the letter. */
    private String withLetter(String option, String rest) throws Exception {
        Path file = Files.createTempFile(folder, "option", "");
        return "@" + Files.write(file, (option + "\u00fc" + rest).getBytes(StandardCharsets.UTF_8));
    }

    @Test
    void a_folder_without_a_name_in_the_locale_is_passed_over_and_keeps_no_owner() throws Exception {
        String found = new ChildJvm()
                .environment("LC_ALL", "C")
                .option(withLetter("-Djava.library.path=" + folder, ":" + LIBRARY.getParent()))
                .run("open-twice");
        assertThat(found).contains("version " + NasBackup.javaVersion());

        String first = refused(folder("nothing"), withLetter("-Djava.library.path=" + folder, ""));
        assertThat(first).contains("' is no path in this locale, set LC_ALL; from the jar: it has no ");
        assertThat(refused(bundle(), withLetter("-Djava.io.tmpdir=" + folder, "")))
                .contains("; from the jar: ");
    }

    /** The one line with which each attempt ends where the locale has ASCII only. */
    private String refused(Path bundle, String option) throws Exception {
        String output = new ChildJvm()
                .environment("LC_ALL", "C")
                .withoutBundledLibrary(Files.createTempDirectory(folder, "classes"))
                .onClassPath(bundle)
                .option("-Djava.library.path=" + folder("empty"))
                .option(option)
                .run("open-twice");
        String first = output.lines().findFirst().orElseThrow();
        assertThat(first).startsWith("INTERNAL: load the native library: from java.library.path: no nasbackup in ");
        assertThat(output).isEqualTo(first + "\n" + first + "\nowner null\n");
        return first;
    }

    @Test
    void a_second_class_loader_is_refused_and_maps_nothing() throws Exception {
        for (String path : new String[] {
            System.getProperty("java.library.path"), folder("empty").toString()
        }) {
            String output = new ChildJvm()
                    .option("-Djava.library.path=" + path)
                    .run(
                            "two-loaders",
                            ChildJvm.folderOf(NasBackup.class),
                            bundleOnce().toString());
            String refusal = "loader 1: INTERNAL: load the native library: another class loader of this JVM has it:"
                    + " loader 0; put nasbackup on one class path only";
            assertThat(output.lines().filter(line -> line.startsWith("loader ")))
                    .containsExactly("loader 0 opened", refusal, "loader 0 opened", refusal);
            assertThat(output).contains("mapped 1\n");
        }
    }

    private Path bundleOnce() throws Exception {
        Path bundle = folder.resolve("bundle");
        return Files.exists(bundle) ? bundle : bundle();
    }

    @Test
    void a_native_thread_does_not_keep_the_jvm() throws Exception {
        String output = new ChildJvm().run("keep-thread");
        assertThat(output).contains("main ends").contains("kept");
        noWarning(output);
    }

    @Test
    void a_shutdown_cancels_the_running_jobs_and_waits_for_them() throws Exception {
        String output = new ChildJvm().run("shut-down");
        assertThat(output).contains("job ended: CANCELLED");
        noWarning(output);
    }

    @Test
    void a_warning_of_check_jni_would_be_seen() throws Exception {
        assertThat(new ChildJvm().run("provoke")).contains("WARNING");
        Path log = folder.resolve("vm.log");
        new ChildJvm()
                .option("-XX:+UnlockDiagnosticVMOptions")
                .option("-XX:+LogVMOutput")
                .option("-XX:LogFile=" + log)
                .run("provoke");
        assertThat(Files.readString(log)).contains("WARNING");
    }
}
