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

import com.cloud.agent.api.Command;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.jar.Attributes;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.jar.JarOutputStream;
import java.util.jar.Manifest;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.nasbackup.linkcheck.InForce;

/** What Doctor says of class paths: the JDK's, ours, and jars that stand for those of a CloudStack. */
class DoctorOfClassesTest {
    private static final String WRAPPERS = "com/cloud/hypervisor/kvm/resource/wrapper/";
    private static final String RESTORE = WRAPPERS + "LibvirtRestoreBackupCommandWrapper";
    private static final String CHAINS = "boolean hasBackingChain(String file) { return true; }";
    private static final String COPIES = "";
    private static final String SERVER = "org/apache/cloudstack/ServerDaemon";
    private static final String PROVIDER = "org/nasbackup/provider/cloudstack/ServerClasses";
    private static final String MODULE = "META-INF/cloudstack/nas/module.properties";
    private static final Path STUBS = InForce.places(
                    DoctorOfClassesTest.class.getClassLoader(), InForce.file(Command.class.getName()))
            .get(0);

    /** In the entry, be it a folder or a jar. */
    private static Path stubs;

    @TempDir
    Path folder;

    private boolean good;

    @BeforeAll
    static void open() throws IOException {
        stubs = Files.isDirectory(STUBS)
                ? STUBS
                : FileSystems.newFileSystem(STUBS, (ClassLoader) null).getPath("/");
    }

    @AfterAll
    static void close() throws IOException {
        if (stubs != STUBS) {
            stubs.getFileSystem().close();
        }
    }

    /** Its own class path with the stubs' entry taken out, behind some entries and before others. */
    private String look(List<Path> before, Path... after) throws Exception {
        List<Path> entries = new ArrayList<>(before);
        Stream.of(System.getProperty("java.class.path").split(":"))
                .map(Path::of)
                .filter(entry -> !entry.equals(STUBS))
                .forEach(entries::add);
        entries.addAll(List.of(after));
        URL[] urls = new URL[entries.size()];
        for (int i = 0; i < urls.length; i++) {
            urls[i] = entries.get(i).toUri().toURL();
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        Findings findings = new Findings(new PrintStream(bytes, true, StandardCharsets.UTF_8));
        try (URLClassLoader loader = new URLClassLoader(urls, ClassLoader.getPlatformClassLoader())) {
            DoctorOfClasses.look(findings, loader);
        }
        good = findings.good();
        return bytes.toString(StandardCharsets.UTF_8);
    }

    private Path jar(String name, String version, Path... folders) throws IOException {
        Manifest manifest = new Manifest();
        manifest.getMainAttributes().put(Attributes.Name.MANIFEST_VERSION, "1.0");
        if (version != null) {
            manifest.getMainAttributes().put(Attributes.Name.IMPLEMENTATION_VERSION, version);
        }
        Path jar = folder.resolve(name + ".jar");
        try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar), manifest)) {
            for (Path each : folders) {
                for (Path file : files(each)) {
                    String entry = each.relativize(file).toString();
                    if (!entry.equals(JarFile.MANIFEST_NAME)) {
                        out.putNextEntry(new JarEntry(entry));
                        Files.copy(file, out);
                    }
                }
            }
        }
        return jar;
    }

    private static List<Path> files(Path folder) throws IOException {
        try (Stream<Path> files = Files.walk(folder)) {
            return files.filter(Files::isRegularFile).collect(Collectors.toList());
        }
    }

    /** A folder with one class. */
    private Path type(String name, String body) throws IOException {
        Path sources = Files.createTempDirectory(folder, "source");
        Path classes = Files.createTempDirectory(folder, "classes");
        String simple = name.substring(name.lastIndexOf('/') + 1);
        String text = "package " + name.substring(0, name.lastIndexOf('/')).replace('/', '.') + "; public class "
                + simple + " { " + body + " }";
        Path file = Files.writeString(sources.resolve(simple + ".java"), text);
        String[] arguments = {"-proc:none", "-d", classes.toString(), file.toString()};
        assertThat(ToolProvider.getSystemJavaCompiler().run(null, null, null, arguments))
                .as(text)
                .isZero();
        return classes;
    }

    private Path cloudStack(String version, String restore) throws IOException {
        return jar("cloudstack-" + version, version, stubs, type(RESTORE, restore));
    }

    @Test
    void a_host_of_4_23_has_all() throws Exception {
        Path jar = cloudStack("4.23.0.0", CHAINS);
        assertThat(look(List.of(), jar))
                .doesNotContain("MISSING", "NOT CHECKED", "NOTE")
                .contains("ok       org.apache.cloudstack.backup.TakeBackupCommand from ")
                .contains("ok       CloudStack 4.23.0.0, which this build was checked against (" + jar + ")\n")
                .containsPattern(
                        "ok       what our classes need of CloudStack: \\d+ references and members are right\n")
                .containsPattern("ok       what CloudStack needs of the classes that ours hide: \\d+ references")
                .contains("ok       restores: nasbackup's, of incremental backups too, from ");
        assertThat(good).isTrue();
    }

    @Test
    void which_restore_is_in_force_is_told() throws Exception {
        Path jar = cloudStack("4.22.0.0", COPIES);
        assertThat(look(List.of(), jar))
                .contains("LibvirtRestoreBackupCommandWrapper from ")
                .contains("ok       restores: nasbackup's, of incremental backups too, from ");
        assertThat(good).isTrue();
        assertThat(look(List.of(jar)))
                .contains("LibvirtRestoreBackupCommandWrapper comes from " + jar + ": put ")
                .contains(
                        "NOTE     restores: CloudStack's own, which spoils what it restores of incremental backups, from "
                                + jar + "\n");
        assertThat(good).isFalse();
        Path later = cloudStack("4.23.0.0", CHAINS);
        assertThat(look(List.of(later)))
                .contains("NOTE     restores: CloudStack's own, of incremental backups too, from " + later + "\n");
    }

    @Test
    void what_could_not_be_looked_at_is_not_good() throws Exception {
        assertThat(look(List.of(), cloudStack("4.24.0.0", CHAINS)))
                .contains(
                        "NOT CHECKED  CloudStack 4.24.0.0, while this build was checked against 4.22.0, 4.22.1, 4.23 (");
        assertThat(good).isFalse();
        Path silent = jar("silent", null, stubs);
        assertThat(look(List.of(), silent))
                .contains("NOT CHECKED  which version of CloudStack this is: no manifest tells it in " + silent + "\n")
                .doesNotContain("MISSING");
        assertThat(good).isFalse();
        Path broken = Files.createDirectories(folder.resolve("broken/com/cloud/agent/api"));
        Files.writeString(broken.resolve("Command.class"), "this is no class file");
        assertThat(look(List.of(folder.resolve("broken")), silent))
                .contains("NOT CHECKED  whether our classes fit what is on the class path - ");
        assertThat(good).isFalse();
    }

    @Test
    void jars_of_two_versions_are_told() throws Exception {
        Path left = jar("left", "4.22.0.0", type("com/cloud/agent/api/LogLevel", ""));
        assertThat(look(List.of(left), cloudStack("4.23.0.0", CHAINS)))
                .contains("MISSING  one version of CloudStack: these are 4.22.0.0, 4.23.0.0\n");
        assertThat(good).isFalse();
    }

    @Test
    void what_does_not_link_is_told_with_the_classes_that_need_it() throws Exception {
        Path lacking = folder.resolve("lacking");
        for (Path file : files(stubs)) {
            if (!file.endsWith("PrimaryDataStoreTO.class")) {
                Path copy = lacking.resolve(stubs.relativize(file).toString());
                Files.createDirectories(copy.getParent());
                Files.copy(file, copy);
            }
        }
        assertThat(look(List.of(), jar("lacking", "4.23.0.0", lacking)))
                .contains("MISSING  what our classes need of CloudStack: "
                        + "org.apache.cloudstack.storage.to.PrimaryDataStoreTO: there is no such type [")
                .doesNotContain("ok       what our classes need");
        assertThat(good).isFalse();
    }

    @Test
    void a_class_path_without_cloudstack_is_told_in_one_line() throws Exception {
        assertThat(look(List.of()).lines().filter(line -> !line.startsWith("ok ")))
                .containsExactly("MISSING  CloudStack: com.cloud.agent.api.Command is on no entry of the class path");
        assertThat(good).isFalse();
    }

    @Test
    void cloudstack_s_class_before_ours_is_told() throws Exception {
        Path first = type("org/apache/cloudstack/backup/BackupAnswer", "");
        assertThat(look(List.of(first), cloudStack("4.23.0.0", CHAINS)))
                .contains("MISSING  org.apache.cloudstack.backup.BackupAnswer comes from " + first + ": put ");
        assertThat(good).isFalse();
    }

    @Test
    void a_management_server_needs_the_provider_and_one_definition_of_its_module() throws Exception {
        Path cloudStack = cloudStack("4.22.1.0", COPIES);
        Path server = type(SERVER, "");
        Path module = server.resolve(MODULE);
        Files.createDirectories(module.getParent());
        Files.writeString(module, "name=nas\n");
        assertThat(look(List.of(), cloudStack, server))
                .contains("MISSING  nasbackup-cloudstack-provider.jar is on no entry of the class path\n");
        assertThat(good).isFalse();

        Path ours = type(PROVIDER, "");
        assertThat(look(List.of(ours), cloudStack, server))
                .contains("ok       the module nas from " + server + "\n")
                .contains("ok       restores: each host is asked whether it has nasbackup's; ")
                .doesNotContain("MISSING", "NOT CHECKED");
        assertThat(good).isTrue();

        Path second = ours.resolve(MODULE);
        Files.createDirectories(second.getParent());
        Files.writeString(second, "name=nas\n");
        assertThat(look(List.of(ours), cloudStack, server))
                .contains("MISSING  the module nas is defined more than once")
                .contains(ours + ", " + server + "\n");
        assertThat(good).isFalse();
    }
}
