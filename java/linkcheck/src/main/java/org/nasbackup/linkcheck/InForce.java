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

package org.nasbackup.linkcheck;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.URL;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * Classes of ours in what a class loader finds: its class files are read, and no class of them is loaded. A method that can't
 * read one throws; what could not be looked at is not good.
 */
public final class InForce {
    private final ClassLoader loader;
    private final Types types;
    private final List<Path> places;
    private final List<CompiledClass> ours;

    /** @param places jars and folders with classes of ours */
    public InForce(ClassLoader loader, Collection<Path> places) throws IOException {
        this.loader = loader;
        this.types = ClassPath.of(loader);
        this.places = List.copyOf(places);
        try (ClassPath own = new ClassPath(this.places)) {
            this.ours = own.all();
        }
    }

    /** The jars and folders in which a class loader finds a file, the one that wins first. */
    public static List<Path> places(ClassLoader loader, String file) {
        List<Path> places = new ArrayList<>();
        try {
            for (URL url : Collections.list(loader.getResources(file))) {
                places.add(place(url, file));
            }
        } catch (IOException e) {
            throw new UncheckedIOException("unable to read the class path", e);
        }
        return places;
    }

    private static Path place(URL url, String file) {
        String text = url.toString();
        String place = text.substring(0, text.length() - file.length() - 1);
        return Path.of(URI.create(place.replaceFirst("^jar:", "").replaceFirst("!$", "")));
    }

    public static String file(String className) {
        return className.replace('.', '/') + ".class";
    }

    /** The names of our classes that no other holds. */
    public List<String> names() {
        return ours.stream()
                .map(each -> Reference.dots(each.type.name))
                .filter(name -> !name.contains("$"))
                .sorted()
                .collect(Collectors.toList());
    }

    /** Does the class that would be loaded declare a method of that name? */
    public boolean declares(String className, String method) {
        TypeInfo type = types.find(className.replace('.', '/'));
        return type != null && type.members.stream().anyMatch(member -> member.name.equals(method));
    }

    /** Where the types come from that ours refer to and that are not ours. */
    public Set<Path> sources(Collection<String> packages) {
        return ours.stream()
                .flatMap(each -> each.references.stream())
                .map(reference -> reference.owner)
                .filter(owner -> packages.stream().anyMatch(each -> owner.startsWith(each.replace('.', '/') + "/")))
                .distinct()
                .flatMap(owner -> places(loader, owner + ".class").stream().limit(1))
                .filter(place -> !places.contains(place))
                .collect(Collectors.toCollection(TreeSet::new));
    }

    /** Whether ours link here. */
    public Report links() {
        Report report = new Report();
        new LinkCheck(types, report).check(ours);
        report.missing(any -> true);
        return report;
    }

    /**
     * Whether ours can take the place of the classes that they hide: in all that others in these packages use of those.
     * The classes that ours hide are no users: they are gone.
     */
    public Report hiding(Collection<String> packages) {
        Users users = new Users(packages);
        Report report = new Report();
        Covers covers = new Covers(types, report, users::use);
        for (CompiledClass each : ours) {
            TypeInfo hidden = hidden(each.type.name);
            if (hidden != null) {
                covers.check(hidden);
            }
        }
        report.missing(any -> true);
        return report;
    }

    /** Null: there is none but ours. */
    private TypeInfo hidden(String name) {
        String file = name + ".class";
        try {
            for (URL url : Collections.list(loader.getResources(file))) {
                if (!places.contains(place(url, file))) {
                    return read(url).type;
                }
            }
            return null;
        } catch (IOException e) {
            throw new UncheckedIOException("unable to read " + file, e);
        }
    }

    private static CompiledClass read(URL url) throws IOException {
        try (InputStream in = url.openStream()) {
            return ClassReading.read(in.readAllBytes());
        }
    }

    /** What the classes beside ours refer to of those that ours hide; read when it is asked for the first time. */
    private final class Users {
        private final Collection<String> packages;
        private Set<String> used;

        Users(Collection<String> packages) {
            this.packages = packages;
        }

        boolean use(TypeInfo hidden, Member member) {
            if (used == null) {
                Set<String> names = ours.stream().map(each -> each.type.name).collect(Collectors.toSet());
                try (ClassPath theirs = new ClassPath(beside())) {
                    used = theirs.mentioning(names, packages).stream()
                            .filter(each -> !names.contains(each.type.outermost()))
                            .flatMap(each -> each.references.stream())
                            .filter(reference -> names.contains(reference.owner))
                            .map(reference -> key(reference.owner, reference.name, reference.descriptor))
                            .collect(Collectors.toSet());
                } catch (IOException e) {
                    throw new UncheckedIOException("unable to close a jar", e);
                }
            }
            return used.contains(key(hidden.name, member.name, member.descriptor));
        }

        private List<Path> beside() {
            Set<Path> beside = sources(packages);
            ours.forEach(each -> beside.addAll(places(loader, each.type.name + ".class")));
            beside.removeAll(places);
            return List.copyOf(beside);
        }
    }

    private static String key(String owner, String name, String descriptor) {
        return owner + "." + name + descriptor;
    }
}
