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
import java.io.PrintStream;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.libvirt.Connect;
import org.libvirt.LibvirtException;

/**
 * Tells what a host lacks: {@code java -cp <the agent's class path> org.nasbackup.Doctor [libvirt URI]}. Changes
 * nothing. Its exit status is 0 when nothing is missing.
 */
public final class Doctor {
    private static final String[] CLASSES = {
        "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtTakeBackupCommandWrapper",
        "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtRebaseBackupCommandWrapper",
        "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtDeleteBackupCommandWrapper",
        "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtGetBackupStatsCommandWrapper",
        "org.apache.cloudstack.backup.TakeBackupCommand",
        "org.apache.cloudstack.backup.RebaseBackupCommand",
        "org.apache.cloudstack.backup.RestoreBackupCommand",
        "org.apache.cloudstack.backup.DeleteBackupCommand",
        "org.apache.cloudstack.backup.GetBackupStorageStatsCommand",
        "org.apache.cloudstack.backup.BackupAnswer",
        "org.apache.cloudstack.backup.BackupStorageStatsAnswer",
    };
    /** Incremental backups by checkpoints, in libvirt's and QEMU's releases: major * 1,000,000 + minor * 1,000 + micro. */
    private static final long LIBVIRT_NEEDED = 7_002_000;

    private static final long QEMU_NEEDED = 4_002_000;
    /** It gives the disks of stopped guests bitmaps (5.1), and copies those that it alone can read (5.0). */
    private static final long QEMU_IMG_NEEDED = 5_001_000;

    private static final Pattern QEMU_IMG_VERSION = Pattern.compile("version (\\d+)\\.(\\d+)(?:\\.(\\d+))?");
    private static final String INCREMENTAL = "incremental backups";

    private final PrintStream out;
    private int missing;

    private Doctor(PrintStream out) {
        this.out = out;
    }

    public static void main(String[] arguments) {
        Doctor doctor = new Doctor(System.out);
        doctor.classes();
        doctor.library();
        doctor.libvirt(arguments.length > 0 ? arguments[0] : "qemu:///system");
        doctor.qemuImg();
        doctor.mount();
        System.exit(doctor.missing == 0 ? 0 : 1);
    }

    private void good(String line) {
        out.println("ok       " + line);
    }

    private void missing(String line) {
        missing++;
        out.println("MISSING  " + line);
    }

    /** The class path decides by its order: the first one wins. */
    private void classes() {
        String ours = place(Doctor.class.getName(), Doctor.class.getResource("Doctor.class"));
        for (String name : CLASSES) {
            List<String> places = places(name);
            if (places.isEmpty()) {
                missing(name + " is on no entry of the class path");
            } else if (places.get(0).equals(ours)) {
                good(name + " from " + ours + others(places));
            } else {
                missing(name + " comes from " + places.get(0) + ": put " + ours + " before it on the class path");
            }
        }
    }

    private static String others(List<String> places) {
        List<String> rest = places.subList(1, places.size());
        return rest.isEmpty() ? "" : " (hides " + String.join(", ", rest) + ")";
    }

    private static List<String> places(String name) {
        List<String> places = new ArrayList<>();
        try {
            for (URL url :
                    Collections.list(Doctor.class.getClassLoader().getResources(name.replace('.', '/') + ".class"))) {
                places.add(place(name, url));
            }
        } catch (IOException e) {
            throw new IllegalStateException("unable to read the class path - " + e.getMessage(), e);
        }
        return places;
    }

    /** The jar or folder that a class lies in. */
    private static String place(String name, URL url) {
        String text = url.toString();
        String folder = text.substring(0, text.length() - name.length() - "/.class".length());
        return folder.replaceFirst("^jar:", "").replaceFirst("^file:", "").replaceFirst("!$", "");
    }

    /** Not opened: that would clear up behind a killed agent, which is for the next one to do. */
    private void library() {
        try {
            good("libnasbackup.so "
                    + NasBackup.check(HostSettings.read(HostSettings.FILE).build()));
        } catch (RuntimeException | LinkageError e) {
            missing(e.getMessage());
        }
    }

    private void libvirt(String uri) {
        try {
            Hypervisor.ask(this, uri);
        } catch (LinkageError e) {
            missing("libvirt's Java binding, which the agent brings along: " + e);
        }
    }

    /** Apart, so that the rest works where the class path lacks libvirt's binding. */
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
                doctor.missing("libvirt at " + uri + ": " + e.getMessage());
            }
        }
    }

    private void version(String name, long found, long needed, String what) {
        if (found >= needed) {
            good(name + " " + text(found));
        } else {
            missing(name + " " + text(needed) + " for " + what + "; this is " + text(found));
        }
    }

    private static String text(long version) {
        return version / 1_000_000 + "." + version / 1_000 % 1_000 + "." + version % 1_000;
    }

    private void qemuImg() {
        try {
            Process process = new ProcessBuilder("qemu-img", "--version")
                    .redirectErrorStream(true)
                    .start();
            String text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            Matcher version = QEMU_IMG_VERSION.matcher(text);
            if (version.find()) {
                this.version("qemu-img", number(version), QEMU_IMG_NEEDED, "backups of stopped guests");
            } else {
                missing("qemu-img: it does not tell its version: " + text.strip());
            }
        } catch (IOException e) {
            missing("qemu-img: " + e.getMessage());
        }
    }

    private static long number(Matcher version) {
        String micro = version.group(3);
        return Long.parseLong(version.group(1)) * 1_000_000
                + Long.parseLong(version.group(2)) * 1_000
                + (micro == null ? 0 : Long.parseLong(micro));
    }

    private void mount() {
        String path = System.getenv("PATH");
        for (String folder : path == null ? new String[0] : path.split(":")) {
            Path file = Path.of(folder, "mount");
            if (Files.isExecutable(file)) {
                good(file.toString());
                return;
            }
        }
        missing("mount in PATH");
    }
}
