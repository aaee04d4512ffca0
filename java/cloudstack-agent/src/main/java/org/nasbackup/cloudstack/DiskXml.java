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
import java.io.StringReader;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import javax.xml.XMLConstants;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.parsers.ParserConfigurationException;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;
import org.xml.sax.InputSource;
import org.xml.sax.SAXException;

/** Writes the XML of a disk that a running domain gets, and reads the disks of a domain. */
final class DiskXml {
    private static final int LETTERS = 26;
    /** Characters of the volume's uuid, without dashes, that CloudStack gives a disk as its serial. */
    private static final int SERIAL = 20;

    private DiskXml() {}

    /** @param uuid of the volume; null: the disk gets no serial */
    static String of(String domain, Place place, String uuid) {
        NodeList disks = disks(domain);
        Set<String> taken = new HashSet<>();
        boolean scsi = false;
        for (int i = 0; i < disks.getLength(); i++) {
            Element disk = (Element) disks.item(i);
            Element target = (Element) disk.getElementsByTagName("target").item(0);
            taken.add(target.getAttribute("dev"));
            scsi |= target.getAttribute("bus").equals("scsi")
                    && disk.getAttribute("device").equals("disk");
        }
        return "<disk type='" + place.kind().name().toLowerCase(Locale.ROOT) + "' device='disk'>"
                + "<driver name='qemu' type='" + place.format().text() + "' cache='none'/>"
                + place.source()
                + "<target dev='" + free(scsi ? "sd" : "vd", taken) + "' bus='" + (scsi ? "scsi" : "virtio") + "'/>"
                + (uuid == null ? "" : "<serial>" + escaped(serial(uuid)) + "</serial>")
                + "</disk>";
    }

    /** The block devices that the disks of a domain are on, and those that these stand on. */
    static Set<String> devices(String domain) {
        NodeList disks = disks(domain);
        Set<String> devices = new HashSet<>();
        for (int i = 0; i < disks.getLength(); i++) {
            NodeList sources = ((Element) disks.item(i)).getElementsByTagName("source");
            for (int j = 0; j < sources.getLength(); j++) {
                devices.add(((Element) sources.item(j)).getAttribute("dev"));
            }
        }
        // a source that is a file has no dev
        devices.remove("");
        return devices;
    }

    /** Whether one of the disks of a domain has this volume as its source. */
    static boolean has(String domain, Place place) {
        List<String> wanted = names(
                        (Element) disks("<disk>" + place.source() + "</disk>").item(0))
                .get(0);
        NodeList disks = disks(domain);
        for (int i = 0; i < disks.getLength(); i++) {
            if (names((Element) disks.item(i)).contains(wanted)) {
                return true;
            }
        }
        return false;
    }

    /** The names of each source of the disk: as a file, as a device, as an image elsewhere. */
    private static List<List<String>> names(Element disk) {
        NodeList sources = disk.getElementsByTagName("source");
        List<List<String>> names = new ArrayList<>();
        for (int i = 0; i < sources.getLength(); i++) {
            Element source = (Element) sources.item(i);
            names.add(List.of(source.getAttribute("file"), source.getAttribute("dev"), source.getAttribute("name")));
        }
        return names;
    }

    static String escaped(String text) {
        return text.replace("&", "&amp;")
                .replace("<", "&lt;")
                .replace(">", "&gt;")
                .replace("'", "&apos;");
    }

    /** The serial that CloudStack gives the disk of the volume with this uuid. */
    static String serial(String uuid) {
        String digits = uuid.replace("-", "");
        return digits.substring(0, Math.min(SERIAL, digits.length()));
    }

    private static String free(String prefix, Set<String> taken) {
        int i = 0;
        while (taken.contains(prefix + letters(i))) {
            i++;
        }
        return prefix + letters(i);
    }

    /** The name of the i-th disk behind its prefix: after z comes aa. */
    private static String letters(int i) {
        String last = String.valueOf((char) ('a' + i % LETTERS));
        return i < LETTERS ? last : letters(i / LETTERS - 1) + last;
    }

    private static NodeList disks(String domain) {
        try {
            DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
            factory.setFeature(XMLConstants.FEATURE_SECURE_PROCESSING, true);
            factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
            return factory.newDocumentBuilder()
                    .parse(new InputSource(new StringReader(domain)))
                    .getElementsByTagName("disk");
        } catch (ParserConfigurationException | SAXException | IOException e) {
            throw new IllegalStateException("what libvirt tells of the domain can't be read", e);
        }
    }
}
