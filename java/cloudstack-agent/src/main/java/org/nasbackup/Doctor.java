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

/**
 * Tells what a host or a management server lacks: {@code java -cp <its class path> org.nasbackup.Doctor [libvirt URI]}.
 * Puts nothing into force. Its exit status is 0 when nothing is missing and everything could be checked.
 */
public final class Doctor {
    private static final String LIBVIRT = "org.libvirt.Connect";

    private Doctor() {}

    public static void main(String[] arguments) {
        Findings findings = new Findings(System.out);
        ClassLoader loader = Doctor.class.getClassLoader();
        DoctorOfClasses.look(findings, loader);
        if (!DoctorOfClasses.onServer(loader)) {
            binding(findings, loader);
            host(findings, arguments.length > 0 ? arguments[0] : null);
        }
        System.exit(findings.good() ? 0 : 1);
    }

    /** The agent's own need: the library calls libvirt without it. */
    private static void binding(Findings findings, ClassLoader loader) {
        try {
            Class.forName(LIBVIRT, false, loader);
        } catch (ClassNotFoundException | LinkageError e) {
            findings.missing("libvirt's Java binding, which the agent brings along: " + e);
        }
    }

    /** Asks the library without opening it: an open clears up behind a killed agent, which the next agent has to do. */
    private static void host(Findings findings, String uri) {
        try {
            Configuration.Builder settings = HostSettings.read(HostSettings.FILE);
            Configuration configuration = (uri == null ? settings : settings.connectionUri(uri)).build();
            findings.good("libnasbackup.so " + NasBackup.check(configuration));
            NasBackup.doctor(configuration).forEach(finding -> tell(findings, finding));
        } catch (RuntimeException | LinkageError e) {
            findings.missing(e.getMessage());
        }
    }

    static void tell(Findings findings, Finding finding) {
        if (finding.state() == Finding.State.OK) {
            findings.good(finding.toString());
        } else if (!finding.stops()) {
            findings.note(finding.toString());
        } else if (finding.state() == Finding.State.UNTRIED) {
            findings.notChecked(finding.toString());
        } else {
            findings.missing(finding.toString());
        }
    }
}
