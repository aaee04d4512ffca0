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
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.nasbackup.cloudstack.CloudStackVersion;
import org.nasbackup.linkcheck.InForce;
import org.nasbackup.linkcheck.Report;

/**
 * Tells whether our jars fit the class path that Doctor runs with: which entry each class comes from, which CloudStack is there,
 * whether our classes link to it, and which restore is in force. Reads class files, and loads none of CloudStack's.
 */
final class DoctorOfClasses {
    private static final List<String> CLOUDSTACK = List.of("com.cloud", "org.apache.cloudstack");
    /** A class that every host and every server has. */
    private static final String COMMAND = "com.cloud.agent.api.Command";

    private static final String SERVER = "org.apache.cloudstack.ServerDaemon";
    /** A class that CloudStack does not have; its provider has the same name as ours. */
    private static final String PROVIDER = "org.nasbackup.provider.cloudstack.ServerClasses";

    private static final String MODULE = "META-INF/cloudstack/nas/module.properties";
    private static final String RESTORE =
            "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtRestoreBackupCommandWrapper";
    /** A method that the restore has since 4.23, which converts a file that stands on others; earlier ones copy that file alone. */
    private static final String RESTORES_CHAINS = "hasBackingChain";

    private final Findings findings;
    private final ClassLoader loader;
    private final List<Path> ours;
    private final InForce inForce;

    private DoctorOfClasses(Findings findings, ClassLoader loader, List<Path> ours) throws IOException {
        this.findings = findings;
        this.loader = loader;
        this.ours = ours;
        this.inForce = new InForce(loader, ours);
    }

    /** Is the class path that of a management server? */
    static boolean onServer(ClassLoader loader) {
        return !places(loader, SERVER).isEmpty() || !places(loader, PROVIDER).isEmpty();
    }

    static void look(Findings findings, ClassLoader loader) {
        try {
            List<Path> ours = new ArrayList<>(
                    places(loader, DoctorOfClasses.class.getName()).subList(0, 1));
            boolean onServer = onServer(loader);
            if (onServer && places(loader, PROVIDER).isEmpty()) {
                findings.missing("nasbackup-cloudstack-provider.jar is on no entry of the class path");
            } else if (onServer) {
                ours.add(places(loader, PROVIDER).get(0));
            }
            new DoctorOfClasses(findings, loader, ours).look(onServer);
        } catch (IOException | RuntimeException e) {
            findings.notChecked("whether our classes fit what is on the class path - " + e);
        }
    }

    private void look(boolean onServer) throws IOException {
        inForce.names().stream()
                .filter(name -> CLOUDSTACK.stream().anyMatch(each -> name.startsWith(each + ".")))
                .forEach(this::winner);
        if (onServer) {
            module();
        }
        if (places(loader, COMMAND).isEmpty()) {
            findings.missing("CloudStack: " + COMMAND + " is on no entry of the class path");
            return;
        }
        version();
        links();
        restore(onServer);
    }

    /** Tells which entry a class comes from: the first one on the class path that has it. */
    private void winner(String name) {
        List<Path> places = places(loader, name);
        if (ours.contains(places.get(0))) {
            findings.good(name + " from " + places.get(0) + hidden(places));
        } else {
            Path own = places.stream().filter(ours::contains).findFirst().orElse(null);
            findings.missing(name + " comes from " + places.get(0) + ": put " + own + " before it on the class path");
        }
    }

    private static String hidden(List<Path> places) {
        return places.size() == 1 ? "" : " (hides " + list(places.subList(1, places.size())) + ")";
    }

    /** CloudStack's own jar defines the module; a second definition ends the server's search for modules, and with it the server. */
    private void module() {
        List<Path> places = InForce.places(loader, MODULE);
        if (places.size() == 1) {
            findings.good("the module nas from " + places.get(0));
        } else if (places.isEmpty()) {
            findings.missing("the module nas: " + MODULE + ", which is CloudStack's, is on no entry of the class path");
        } else {
            findings.missing(
                    "the module nas is defined more than once, and the server would answer every call with HTTP 503: "
                            + "take all but CloudStack's from the class path: " + list(places));
        }
    }

    private void version() throws IOException {
        Map<String, List<Path>> versions = new TreeMap<>();
        for (Path place : inForce.sources(CLOUDSTACK)) {
            String version = CloudStackVersion.of(place);
            versions.computeIfAbsent(version == null ? "" : version, none -> new ArrayList<>())
                    .add(place);
        }
        List<Path> silent = versions.remove("");
        if (silent != null) {
            findings.notChecked("which version of CloudStack this is: no manifest tells it in " + list(silent));
        }
        versions.forEach((version, places) -> {
            String line = CloudStackVersion.describe(version) + " (" + list(places) + ")";
            if (CloudStackVersion.isChecked(version)) {
                findings.good(line);
            } else {
                findings.notChecked(line + "; what does not link is told here, what acts otherwise is not");
            }
        });
        if (versions.size() > 1) {
            findings.missing("one version of CloudStack: these are " + String.join(", ", versions.keySet()));
        }
    }

    private void links() {
        tell(inForce.links(), "what our classes need of CloudStack");
        tell(inForce.hiding(CLOUDSTACK), "what CloudStack needs of the classes that ours hide");
    }

    private void tell(Report report, String what) {
        if (report.lines().isEmpty()) {
            findings.good(what + ": " + report.count() + " references and members are right");
        }
        report.lines().forEach(line -> findings.missing(what + ": " + line));
    }

    /** Tells whose restore is in force: CloudStack's class and ours have one name. */
    private void restore(boolean onServer) {
        Path from = places(loader, RESTORE).get(0);
        if (onServer) {
            findings.good("restores: each host is asked whether it has nasbackup's; incremental backups are restored by"
                    + " those that have, and by CloudStack's own since 4.23");
        } else if (ours.contains(from)) {
            findings.good("restores: nasbackup's, of incremental backups too, from " + from);
        } else if (inForce.declares(RESTORE, RESTORES_CHAINS)) {
            findings.note("restores: CloudStack's own, of incremental backups too, from " + from);
        } else {
            findings.note(
                    "restores: CloudStack's own, which spoils what it restores of incremental backups, from " + from);
        }
    }

    private static List<Path> places(ClassLoader loader, String className) {
        return InForce.places(loader, InForce.file(className));
    }

    private static String list(List<Path> places) {
        return places.stream().map(Path::toString).collect(Collectors.joining(", "));
    }
}
