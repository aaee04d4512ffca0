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

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import org.libvirt.Connect;
import org.libvirt.Domain;
import org.libvirt.Error;
import org.libvirt.LibvirtException;

/** The domains of this host, by libvirt's Java binding, which the agent brings along. */
public class Guests {
    private final String uri;

    public Guests(String uri) {
        this.uri = uri;
    }

    /**
     * Whether a running domain has the block device.
     *
     * @throws HostFailure when libvirt does not tell
     */
    boolean have(String device) {
        try {
            Connect connection = new Connect(uri);
            try {
                for (int id : connection.listDomains()) {
                    if (has(connection.domainLookupByID(id).getXMLDesc(0), device)) {
                        return true;
                    }
                }
                return false;
            } finally {
                connection.close();
            }
        } catch (LibvirtException | IOException e) {
            throw new HostFailure("LIBVIRT: ask which guest has '" + device + "': " + e.getMessage(), e);
        }
    }

    /** Compares devices and not their names: pools link to devices. */
    static boolean has(String domain, String device) throws IOException {
        for (String source : DiskXml.devices(domain)) {
            try {
                if (source.equals(device) || Files.isSameFile(Path.of(source), Path.of(device))) {
                    return true;
                }
            } catch (NoSuchFileException e) {
                // a name that does not exist is no name of a device that is open
                continue;
            }
        }
        return false;
    }

    /** Whether a domain certainly lacks the disk, whatever became of the call that was to add it. */
    boolean lacks(String name, Place place) {
        try {
            Connect connection = new Connect(uri);
            try {
                return !DiskXml.has(connection.domainLookupByName(name).getXMLDesc(0), place);
            } finally {
                connection.close();
            }
        } catch (LibvirtException e) {
            // then no running domain has the disk
            return e.getError() != null && e.getError().getCode() == Error.ErrorNumber.VIR_ERR_NO_DOMAIN;
        }
    }

    /**
     * Adds a disk to a domain while it runs.
     *
     * @param uuid the volume's; null: it is not known
     */
    void attach(String name, Place place, String uuid) {
        try {
            Connect connection = new Connect(uri);
            try {
                Domain domain = connection.domainLookupByName(name);
                domain.attachDevice(DiskXml.of(domain.getXMLDesc(0), place, uuid));
            } finally {
                connection.close();
            }
        } catch (LibvirtException e) {
            throw new HostFailure("LIBVIRT: attach the restored volume to '" + name + "': " + e.getMessage(), e);
        }
    }
}
