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
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.CodeSource;
import java.util.ArrayList;
import java.util.List;
import java.util.jar.Attributes;
import java.util.jar.JarFile;
import java.util.jar.Manifest;
import java.util.stream.Collectors;

/** The version of the CloudStack on the class path, and the versions that this build was checked against. */
public final class CloudStackVersion {
    private CloudStackVersion() {}

    /** The versions in which each reference of our classes resolves. */
    public static List<String> checked() {
        try (InputStream file = CloudStackVersion.class.getResourceAsStream("versions")) {
            return new String(file.readAllBytes(), StandardCharsets.UTF_8)
                    .lines()
                    .collect(Collectors.toList());
        } catch (IOException e) {
            throw new UncheckedIOException(
                    "unable to read which versions of CloudStack this build was checked against", e);
        }
    }

    /** Compares the first three numbers of a version: the fourth changes with fixes alone. */
    public static boolean isChecked(String version) {
        return checked().stream().anyMatch(each -> release(each).equals(release(version)));
    }

    private static List<String> release(String version) {
        List<String> numbers = new ArrayList<>(List.of(version.split("-")[0].split("\\.")));
        while (numbers.size() < 3) {
            numbers.add("0");
        }
        return numbers.subList(0, 3);
    }

    /** The version in the manifest of a jar or folder; null if it has none. */
    public static String of(Path place) throws IOException {
        Attributes attributes = manifest(place).getMainAttributes();
        return attributes.getValue(Attributes.Name.IMPLEMENTATION_VERSION);
    }

    private static Manifest manifest(Path place) throws IOException {
        if (Files.isDirectory(place)) {
            Path file = place.resolve(JarFile.MANIFEST_NAME);
            try (InputStream in = Files.exists(file) ? Files.newInputStream(file) : InputStream.nullInputStream()) {
                return new Manifest(in);
            }
        }
        try (JarFile jar = new JarFile(place.toFile())) {
            Manifest manifest = jar.getManifest();
            return manifest == null ? new Manifest() : manifest;
        }
    }

    /** For a log: the version of the CloudStack that the class belongs to, and whether this build was checked against it. */
    public static String describe(Class<?> type) {
        try {
            CodeSource source = type.getProtectionDomain().getCodeSource();
            Path place = Path.of(source.getLocation().toURI());
            return describe(of(place)) + " (" + place + ")";
        } catch (IOException | URISyntaxException | RuntimeException e) {
            return "CloudStack of a version that can't be told - " + e;
        }
    }

    /** @param version null: it is not known */
    public static String describe(String version) {
        if (version == null) {
            return "CloudStack of a version that its jar does not tell, " + against();
        }
        return "CloudStack " + version + ", "
                + (isChecked(version) ? "which this build was checked against" : against());
    }

    private static String against() {
        return "while this build was checked against " + String.join(", ", checked());
    }
}
