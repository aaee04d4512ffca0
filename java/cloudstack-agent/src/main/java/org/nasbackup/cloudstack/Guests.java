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

import org.libvirt.Connect;
import org.libvirt.Domain;
import org.libvirt.LibvirtException;

/** The domains of this host, by libvirt's Java binding, which the agent brings along. */
public class Guests {
    private final String uri;

    public Guests(String uri) {
        this.uri = uri;
    }

    /**
     * Adds a disk to a domain while it runs.
     *
     * @param uuid of the volume; null: it is not told
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
