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

import static org.assertj.core.api.Assertions.assertThat;

import com.cloud.agent.api.Command;
import com.google.gson.Gson;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.jar.JarOutputStream;
import javassist.bytecode.ClassFile;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.GetBackupStorageStatsCommand;
import org.apache.logging.log4j.LogManager;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.libvirt.Connect;
import org.nasbackup.ChildJvm;
import org.reflections.Reflections;
import org.slf4j.LoggerFactory;

/** How the agent finds the wrappers of the shipped jar: the real scan, in JVMs of their own, beside the stock jar. */
@Tag("jar")
@Execution(ExecutionMode.CONCURRENT)
class DiscoveryTest {
    private static final String WRAPPER = "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtDeleteBackupCommandWrapper";

    private static final String DOCTOR = "org.nasbackup.Doctor";

    /** Of the jars, which all tests read. */
    @TempDir
    static Path jars;

    @TempDir
    Path folder;

    private static Path ours;
    private static Path stock;

    @BeforeAll
    static void jars() throws Exception {
        ours = jars.resolve("ours/nasbackup.jar");
        copyShipped(ours);
        stock = jars.resolve("lib/cloud-plugin-hypervisor-kvm.jar");
        jar(stock, compileStock());
    }

    private static Path placeOf(Class<?> type) {
        return Path.of(type.getProtectionDomain().getCodeSource().getLocation().getPath());
    }

    /** The jar that is shipped, without the library that a build may have put into it. */
    private static void copyShipped(Path copy) throws IOException {
        Files.createDirectories(copy.getParent());
        try (JarFile shipped = new JarFile(System.getProperty("agent.jar"));
                JarOutputStream out = new JarOutputStream(Files.newOutputStream(copy))) {
            for (JarEntry entry : Collections.list(shipped.entries())) {
                if (!entry.getName().endsWith(".so")) {
                    out.putNextEntry(new JarEntry(entry.getName()));
                    shipped.getInputStream(entry).transferTo(out);
                }
            }
        }
    }

    /** With entries for folders too: the scan asks the class loader for the package's folder. */
    private static void jar(Path jar, Path folder) throws IOException {
        Files.createDirectories(jar.getParent());
        try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar));
                var paths = Files.walk(folder)) {
            for (Path path : (Iterable<Path>) paths.filter(p -> !p.equals(folder))::iterator) {
                boolean isFolder = Files.isDirectory(path);
                out.putNextEntry(new JarEntry(folder.relativize(path) + (isFolder ? "/" : "")));
                if (!isFolder) {
                    Files.copy(path, out);
                }
            }
        }
    }

    /** The stock jar: a wrapper of the same name, and one of another command that must go on working. */
    private static Path compileStock() throws IOException {
        Path sources = Files.createDirectories(jars.resolve("stock-src"));
        Path classes = Files.createDirectories(jars.resolve("stock-classes"));
        String shape = "package com.cloud.hypervisor.kvm.resource.wrapper;\n"
                + "import com.cloud.agent.api.*; import com.cloud.resource.*; import com.cloud.hypervisor.kvm.resource.*;\n"
                + "@ResourceWrapper(handles = %2$s.class)\n"
                + "public class %1$s extends CommandWrapper<%2$s, Answer, LibvirtComputingResource> {\n"
                + "  public Answer execute(%2$s command, LibvirtComputingResource resource) {\n"
                + "    return new Answer(command, true, \"stock\");\n  }\n}\n";
        List<String> files = new ArrayList<>();
        files.add(write(
                sources.resolve("LibvirtDeleteBackupCommandWrapper.java"),
                String.format(
                        shape,
                        "LibvirtDeleteBackupCommandWrapper",
                        "org.apache.cloudstack.backup.DeleteBackupCommand")));
        files.add(write(
                sources.resolve("LibvirtPingWrapper.java"), String.format(shape, "LibvirtPingWrapper", "PingCommand")));
        files.add(write(
                sources.resolve("PingCommand.java"),
                "package com.cloud.agent.api;\npublic class PingCommand extends Command {\n"
                        + "  public boolean executeInSequence() { return false; }\n}\n"));
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        List<String> arguments = new ArrayList<>(List.of(
                "-d",
                classes.toString(),
                "-cp",
                System.getProperty("java.class.path"),
                "-implicit:none",
                "-proc:none"));
        arguments.addAll(files);
        assertThat(compiler.run(null, null, System.err, arguments.toArray(new String[0])))
                .isZero();
        return classes;
    }

    private static String write(Path file, String text) throws IOException {
        return Files.writeString(file, text).toString();
    }

    /** The agent's other jars. */
    private static List<String> rest() {
        List<String> rest = new ArrayList<>();
        for (Class<?> type : new Class<?>[] {
            Agent.class,
            Command.class,
            Reflections.class,
            ClassFile.class,
            LoggerFactory.class,
            LogManager.class,
            Gson.class,
            Connect.class,
            com.sun.jna.Native.class
        }) {
            rest.add(placeOf(type).toString());
        }
        return rest;
    }

    private static String run(String libraryPath, String main, List<String> classPath, String... arguments)
            throws IOException, InterruptedException {
        return runAfter("true", libraryPath, main, classPath, arguments);
    }

    /** In mounts of its own, once the shell has made of them what the setup says. */
    private static String runAfter(
            String setup, String libraryPath, String main, List<String> classPath, String... arguments)
            throws IOException, InterruptedException {
        List<String> entries = new ArrayList<>(classPath);
        entries.addAll(rest());
        List<String> command = new ArrayList<>();
        command.addAll(List.of("unshare", "--mount", "sh", "-c", setup + " && exec \"$@\"", "sh"));
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(ChildJvm.SHORT_LIVED);
        command.add("-Djava.library.path=" + libraryPath);
        command.addAll(List.of("-cp", String.join(":", entries), main));
        command.addAll(List.of(arguments));
        Path output = Files.createTempFile(jars, "child", ".out");
        Path errors = Files.createTempFile(jars, "child", ".err");
        Process child = new ProcessBuilder(command)
                .redirectOutput(output.toFile())
                .redirectError(errors.toFile())
                .start();
        boolean ended = child.waitFor(180, TimeUnit.SECONDS);
        child.destroyForcibly().waitFor();
        String text = Files.readString(output);
        assertThat(ended)
                .as("ended by itself: %s%s", text, Files.readString(errors))
                .isTrue();
        return text;
    }

    private static String agent(String libraryPath, List<String> classPath, String... messages) throws Exception {
        return run(libraryPath, Agent.class.getName(), classPath, messages);
    }

    private static String doctor(String libraryPath, List<String> classPath) throws Exception {
        return run(libraryPath, DOCTOR, classPath, "test:///default");
    }

    private static String libraryPath() {
        return System.getProperty("java.library.path");
    }

    private static String delete(Path repository) {
        return Wire.write(new DeleteBackupCommand("i-2-9-VM/T1", "dir", repository.toString(), null));
    }

    private static final String PING = "[{\"com.cloud.agent.api.PingCommand\":{}}]";

    @Test
    void ours_wins_when_it_stands_first_and_the_stock_wrappers_go_on() throws Exception {
        List<String> classPath = List.of(ours.toString(), stock.toString());
        Path repository = Files.createDirectories(folder.resolve("nas/i-2-9-VM/T1"))
                .getParent()
                .getParent();
        String output = agent(libraryPath(), classPath, delete(repository), PING);
        assertThat(output)
                .contains("found 7\n")
                .contains("LibvirtDeleteBackupCommandWrapper from " + ours + "\nBackupAnswer true null\n")
                .contains("LibvirtPingWrapper from " + stock + "\nAnswer true stock\n");
        assertThat(repository.resolve("i-2-9-VM/T1")).doesNotExist();
        assertThat(doctor(libraryPath(), classPath))
                .contains("ok       " + WRAPPER + " from " + ours + " (hides " + stock + ")\n")
                .contains("ok       libnasbackup.so " + System.getProperty("project.version"));
    }

    @Test
    void doctor_works_without_the_agent_s_jars() throws Exception {
        Process doctor = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-cp",
                        ours.toString(),
                        "org.nasbackup.Doctor")
                .start();
        String output = new String(doctor.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(doctor.waitFor()).isEqualTo(1);
        assertThat(output)
                .contains("MISSING  libvirt's Java binding, which the agent brings along: ")
                .contains("MISSING  INTERNAL: load the native library: ");
    }

    @Test
    void doctor_finds_nothing_missing_on_a_host_that_has_all() throws Exception {
        String output = run(libraryPath(), DOCTOR, List.of(ours.toString(), stock.toString()), "qemu:///system");
        assertThat(output)
                .containsPattern("ok       libvirt: \\d+\\.\\d+\\.\\d+\n")
                .containsPattern("ok       QEMU: \\d+\\.\\d+\\.\\d+\n")
                .containsPattern("ok       qemu-img: \\d+\\.\\d+\\.\\d+\n")
                .doesNotContain("MISSING");
    }

    /** There is no such old one to be had: this only says so. */
    @Test
    void a_qemu_img_that_knows_no_bitmaps_is_missed() throws Exception {
        Path old = Files.createDirectories(folder.resolve("old"));
        String version = "qemu-img version 5.0.1 (qemu-5.0.1-3)";
        Path program = Files.writeString(old.resolve("qemu-img"), "#!/bin/sh\necho '" + version + "'\n");
        assertThat(program.toFile().setExecutable(true)).isTrue();
        String setup = "mount --bind " + program + " /usr/bin/qemu-img";
        assertThat(runAfter(setup, libraryPath(), DOCTOR, List.of(ours.toString()), "test:///default"))
                .contains("MISSING  qemu-img: 5.0.1 is older than 5.1.0; upgrade it\n");
    }

    /** The agent's log file may be one that whoever asks may not write. */
    @Test
    void doctor_writes_no_log_file() throws Exception {
        Path log = folder.resolve("log/nasbackup.log");
        Path config = Files.writeString(
                folder.resolve("log4rs.yaml"),
                "appenders:\n  file:\n    kind: file\n    path: " + log
                        + "\nroot:\n  level: info\n  appenders: [file]\n");
        String setup = onHostWith(config);
        List<String> classPath = List.of(ours.toString(), stock.toString());
        assertThat(runAfter(setup, libraryPath(), DOCTOR, classPath, "test:///default"))
                .contains("ok       libnasbackup.so ");
        assertThat(log).doesNotExist();
        assertThat(runAfter(setup, libraryPath(), Agent.class.getName(), classPath, delete(folder)))
                .contains("BackupAnswer true null\n");
        assertThat(log).exists();
    }

    /** What lays the file into the host's own folder, for one process. */
    private String onHostWith(Path file) throws IOException {
        Path layer = Files.createDirectories(folder.resolve("layer"));
        return "mount -t tmpfs none " + layer + " && mkdir " + layer + "/upper " + layer + "/work"
                + " && mount -t overlay -o lowerdir=/etc,upperdir=" + layer + "/upper,workdir=" + layer
                + "/work none /etc && mkdir -p /etc/nasbackup && cp " + file + " /etc/nasbackup/";
    }

    @Test
    void what_is_wrong_in_the_host_s_settings_is_named_by_doctor_and_by_the_agent() throws Exception {
        Path settings = Files.writeString(folder.resolve("nasbackup.properties"), "parallelbackups = 2\n");
        String setup = onHostWith(settings);
        String wrong = "/etc/nasbackup/nasbackup.properties: there is no setting 'parallelbackups'";
        List<String> classPath = List.of(ours.toString(), stock.toString());
        assertThat(runAfter(setup, libraryPath(), DOCTOR, classPath, "test:///default"))
                .contains("MISSING  " + wrong + "\n");
        assertThat(runAfter(setup, libraryPath(), Agent.class.getName(), classPath, delete(folder)))
                .contains("BackupAnswer false")
                .contains(wrong);
    }

    @ParameterizedTest
    @ValueSource(strings = {"rateLimit = 5", "logLevel = loud"})
    void so_is_a_value_that_the_library_refuses(String setting) throws Exception {
        String setup = onHostWith(Files.writeString(folder.resolve("nasbackup.properties"), setting));
        String wrong = "INVALID_ARGUMENT: check the request: " + setting.split(" ")[0] + ": ";
        List<String> classPath = List.of(ours.toString(), stock.toString());
        assertThat(runAfter(setup, libraryPath(), DOCTOR, classPath, "test:///default"))
                .contains("MISSING  " + wrong);
        assertThat(runAfter(setup, libraryPath(), Agent.class.getName(), classPath, delete(folder)))
                .contains(wrong);
    }

    /** What stands in the file is nobody's business: neither Doctor nor an answer shows it. */
    @Test
    void doctor_tells_whether_there_is_a_key_and_whether_it_is_one_s_own_secret() throws Exception {
        String key = "0123456789abcdef".repeat(4);
        String setup =
                onHostWith(Files.writeString(folder.resolve("nasbackup.properties"), "keyFile = /etc/nasbackup/key\n"));
        setup += " && echo " + key + " > /etc/nasbackup/key";
        List<String> classPath = List.of(ours.toString(), stock.toString());
        assertThat(doctor(libraryPath(), classPath)).contains("NOTE     keys: ");
        String open = runAfter(
                setup + " && chmod 644 /etc/nasbackup/key", libraryPath(), DOCTOR, classPath, "test:///default");
        assertThat(open)
                .contains("MISSING  INVALID_ARGUMENT: check the request: keyFile: ")
                .doesNotContain(key);
        String secret = runAfter(
                setup + " && chmod 600 /etc/nasbackup/key", libraryPath(), DOCTOR, classPath, "test:///default");
        assertThat(secret).contains("ok       keys: '/etc/nasbackup/key', ").doesNotContain(key);
        Path repository = Files.createDirectories(folder.resolve("unsigned"));
        assertThat(runAfter(
                        setup + " && chmod 600 /etc/nasbackup/key",
                        libraryPath(),
                        "org.nasbackup.SignPoints",
                        classPath,
                        "dir",
                        repository.toString()))
                .isEqualTo("0 signed, 0 kept, 0 refused, 0 machines busy\n");
    }

    /** That is for the agent's next start, or there would be two at it. */
    @Test
    void doctor_leaves_alone_what_a_killed_agent_has_left() throws Exception {
        Path scratch = Files.createDirectories(Path.of("/var/lib/nasbackup/scratch/4194305-0"));
        List<String> classPath = List.of(ours.toString(), stock.toString());
        assertThat(doctor(libraryPath(), classPath)).contains("ok       libnasbackup.so ");
        assertThat(scratch).exists();
        assertThat(agent(libraryPath(), classPath, delete(folder))).contains("BackupAnswer true null\n");
        assertThat(scratch).doesNotExist();
    }

    @Test
    void the_stock_jar_wins_when_it_stands_first_and_doctor_says_so() throws Exception {
        List<String> classPath = List.of(stock.toString(), ours.toString());
        assertThat(agent(libraryPath(), classPath, delete(folder)))
                .contains("LibvirtDeleteBackupCommandWrapper from " + stock + "\nAnswer true stock\n");
        assertThat(doctor(libraryPath(), classPath))
                .contains("MISSING  " + WRAPPER + " comes from " + stock + ": put " + ours
                        + " before it on the class path\n");
    }

    @Test
    void in_a_wildcard_chance_decides_and_doctor_says_how_it_fell() throws Exception {
        Path both = Files.createDirectories(folder.resolve("both"));
        Files.copy(ours, both.resolve("nasbackup.jar"));
        Files.copy(stock, both.resolve("cloud-plugin-hypervisor-kvm.jar"));
        List<String> classPath = List.of(both + "/*");
        boolean won = agent(libraryPath(), classPath, delete(folder)).contains("from " + both + "/nasbackup.jar");
        assertThat(doctor(libraryPath(), classPath).contains("ok       " + WRAPPER + " from"))
                .isEqualTo(won);
    }

    @Test
    void an_entry_before_the_wildcard_wins_over_it() throws Exception {
        List<String> classPath = List.of(ours.toString(), stock.getParent() + "/*");
        assertThat(agent(libraryPath(), classPath, delete(folder)))
                .contains("LibvirtDeleteBackupCommandWrapper from " + ours + "\n");
    }

    @Test
    void without_the_library_the_others_work_and_ours_says_why_in_one_line() throws Exception {
        Path empty = Files.createDirectories(folder.resolve("empty"));
        unusable(empty, "INTERNAL", "from java.library.path: no nasbackup in " + empty);
    }

    @Test
    void with_a_broken_library_too() throws Exception {
        Path broken = Files.createDirectories(folder.resolve("broken"));
        Files.writeString(broken.resolve("libnasbackup.so"), "this is no ELF file ".repeat(100));
        if (knowsItsLibrary()) {
            unusable(broken, "VERSION_MISMATCH", "'" + broken + "/libnasbackup.so' has 2000 bytes and SHA-256 ");
        } else {
            unusable(broken, "INTERNAL", "invalid ELF header");
        }
    }

    /** Was the jar built with the hash of a library? */
    private boolean knowsItsLibrary() throws Exception {
        Properties built = new Properties();
        try (JarFile jar = new JarFile(ours.toFile());
                InputStream in = jar.getInputStream(jar.getEntry("org/nasbackup/nasbackup.properties"))) {
            built.load(in);
        }
        return !built.getProperty("library.sha256").isEmpty();
    }

    private void unusable(Path libraryPath, String code, String reason) throws Exception {
        List<String> classPath = List.of(ours.toString(), stock.toString());
        String stats = Wire.write(new GetBackupStorageStatsCommand("dir", folder.toString(), null));
        String output = agent(libraryPath.toString(), classPath, delete(folder), stats, PING);
        String error = code + ": load the native library: ";
        String start = "nasbackup can't work on this host, and nothing takes its place: " + error;
        assertThat(output.lines().filter(line -> line.startsWith("BackupAnswer false " + start)))
                .singleElement()
                .asString()
                .contains(reason)
                .contains("org.nasbackup.Doctor");
        assertThat(output).contains("BackupStorageStatsAnswer false " + start).contains("Answer true stock\n");
        assertThat(doctor(libraryPath.toString(), classPath)).contains("MISSING  " + error);
    }

    @Test
    void without_libvirt_a_backup_is_refused_in_one_line_and_deletes_go_on() throws Exception {
        String take = "[{\"org.apache.cloudstack.backup.TakeBackupCommand\":{\"vmName\":\"i-2-9-VM\","
                + "\"backupPath\":\"i-2-9-VM/T7\",\"backupRepoType\":\"dir\",\"backupRepoAddress\":\"" + folder
                + "\"}}]";
        List<String> classPath = List.of(ours.toString(), stock.toString());
        String setup = "mount -t tmpfs none /run/libvirt";
        String output = runAfter(setup, libraryPath(), Agent.class.getName(), classPath, take, delete(folder));
        assertThat(output.lines().filter(line -> line.startsWith("BackupAnswer false ")))
                .singleElement()
                .asString()
                .startsWith("BackupAnswer false LIBVIRT: ");
        assertThat(output).contains("BackupAnswer true null\n");
        assertThat(runAfter(setup, libraryPath(), DOCTOR, classPath, "qemu:///system"))
                .contains("MISSING  libvirt: connect to libvirt: ")
                .contains("ok       libnasbackup.so ");
    }
}
