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
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.libvirt.Connect;
import org.libvirt.LibvirtException;

/**
 * Tells what a host or a management server lacks: {@code java -cp <its class path> org.nasbackup.Doctor [libvirt URI]}.
 * Changes nothing. Its exit status is 0 when nothing is missing and everything could be checked.
 */
public final class Doctor {
    /** The releases that have backups by checkpoints, as libvirt numbers them: major * 1,000,000 + minor * 1,000 + micro. */
    private static final long LIBVIRT_NEEDED = 7_002_000;

    private static final long QEMU_NEEDED = 4_002_000;
    /** qemu-img makes bitmaps in the disks of stopped guests (5.1), and copies disks that it alone can read (5.0). */
    private static final long QEMU_IMG_NEEDED = 5_001_000;

    private static final Pattern QEMU_IMG_VERSION = Pattern.compile("version (\\d+)\\.(\\d+)(?:\\.(\\d+))?");
    /** The folders in which the library looks for tools (process.rs). */
    private static final List<String> TOOLS = List.of("/usr/bin", "/usr/sbin", "/bin", "/sbin");

    private static final String INCREMENTAL = "incremental backups";

    private final Findings findings;

    private Doctor(Findings findings) {
        this.findings = findings;
    }

    public static void main(String[] arguments) {
        Findings findings = new Findings(System.out);
        ClassLoader loader = Doctor.class.getClassLoader();
        DoctorOfClasses.look(findings, loader);
        if (!DoctorOfClasses.onServer(loader)) {
            new Doctor(findings).host(arguments.length > 0 ? arguments[0] : "qemu:///system");
        }
        System.exit(findings.good() ? 0 : 1);
    }

    private void host(String uri) {
        library();
        libvirt(uri);
        qemuImg();
        mount();
    }

    /** Checks the library without opening it: an open clears up behind a killed agent, which the next agent has to do. */
    private void library() {
        try {
            Configuration settings = HostSettings.read(HostSettings.FILE).build();
            findings.good("libnasbackup.so " + NasBackup.check(settings));
            key(settings.keyFile());
            links(settings.engine());
        } catch (RuntimeException | LinkageError e) {
            findings.missing(e.getMessage());
            findings.notChecked("nosymfollow: the library is asked for it");
        }
    }

    /** Without nosymfollow libvirt and QEMU follow, in a push, a link that somebody puts on the NAS. */
    private void links(Engine engine) {
        try {
            links(findings, NasBackup.knowsNosymfollow(), engine);
        } catch (NasBackupException e) {
            findings.notChecked("nosymfollow: " + e.getMessage());
        }
    }

    /** By pull the library alone opens files on the NAS, and it follows no link on any kernel. */
    static void links(Findings findings, boolean known, Engine engine) {
        if (known) {
            findings.good("nosymfollow: no link in a repository is followed");
        } else if (engine == Engine.PULL) {
            findings.note("nosymfollow (Linux 5.14) is not there: by pull nothing needs it, a push would");
        } else {
            findings.missing("nosymfollow (Linux 5.14): a push may follow a link on the NAS; 'engine = pull' does not");
        }
    }

    /** The library's check has just refused a file that others may read, or that holds no keys. */
    private void key(String file) {
        if (file == null) {
            findings.note("keyFile is not set: whoever may write on the NAS can forge restore points");
        } else {
            findings.good("keyFile " + file + ", which nobody else may read");
        }
    }

    private void libvirt(String uri) {
        try {
            Hypervisor.ask(this, uri);
        } catch (LinkageError e) {
            findings.missing("libvirt's Java binding, which the agent brings along: " + e);
        }
    }

    /** A class of its own, so that Doctor works without it where the class path lacks libvirt's binding. */
    private static final class Hypervisor {
        static void ask(Doctor doctor, String uri) {
            try {
                Connect connection = new Connect(uri, true);
                try {
                    doctor.version("libvirt", connection.getLibVersion(), LIBVIRT_NEEDED, INCREMENTAL);
                    doctor.version(connection.getType(), connection.getVersion(), QEMU_NEEDED, INCREMENTAL);
                } finally {
                    connection.close();
                }
            } catch (LibvirtException e) {
                doctor.findings.missing("libvirt at " + uri + ": " + e.getMessage());
            }
        }
    }

    private void version(String name, long found, long needed, String what) {
        if (found >= needed) {
            findings.good(name + " " + text(found));
        } else {
            findings.missing(name + " " + text(needed) + " for " + what + "; this is " + text(found));
        }
    }

    private static String text(long version) {
        return version / 1_000_000 + "." + version / 1_000 % 1_000 + "." + version % 1_000;
    }

    private void qemuImg() {
        Path tool = tool("qemu-img");
        if (tool == null) {
            return;
        }
        try {
            ProcessBuilder command = new ProcessBuilder(tool.toString(), "--version").redirectErrorStream(true);
            command.environment().clear();
            Process process = command.start();
            String text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            Matcher version = QEMU_IMG_VERSION.matcher(text);
            if (version.find()) {
                this.version("qemu-img", number(version), QEMU_IMG_NEEDED, "backups of stopped guests");
            } else {
                findings.missing("qemu-img: it does not tell its version: " + text.strip());
            }
        } catch (IOException e) {
            findings.missing("qemu-img: " + e.getMessage());
        }
    }

    private static long number(Matcher version) {
        String micro = version.group(3);
        return Long.parseLong(version.group(1)) * 1_000_000
                + Long.parseLong(version.group(2)) * 1_000
                + (micro == null ? 0 : Long.parseLong(micro));
    }

    private void mount() {
        Path tool = tool("mount");
        if (tool != null) {
            findings.good(tool.toString());
        }
    }

    private Path tool(String name) {
        return tool(findings, name);
    }

    /** The path that the library runs the tool from, whatever {@code PATH} says; null, and a finding, if it is missing. */
    static Path tool(Findings findings, String name) {
        for (String folder : TOOLS) {
            Path file = Path.of(folder, name);
            if (Files.isExecutable(file)) {
                return file;
            }
        }
        findings.missing(name + " in " + String.join(", ", TOOLS));
        return null;
    }
}
