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
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * {@code --ours CLASSPATH --libraries CLASSPATH [--stubs CLASSPATH] [--stubs-VERSION CLASSPATH ...] [--signatures FOLDER]}: does
 * ours link to each version of CloudStack that the folder has a signature file of, and do the stubs agree with it? Those of a
 * version are for the files whose names begin with it. Without a folder: to the libraries, which have CloudStack's jars among
 * them then. Its exit status is 0 when they do.
 */
public final class Main {
    private static final int TYPES_NAMED = 10;
    private static final String STUBS = "--stubs";

    private final PrintStream out;
    private final ClassPath ours;
    private final List<CompiledClass> classes;
    private final Map<String, ClassPath> stubs;
    private final Types libraries;

    private Main(PrintStream out, ClassPath ours, Map<String, ClassPath> stubs, Types libraries) {
        this.out = out;
        this.ours = ours;
        this.classes = ours.all();
        this.stubs = stubs;
        this.libraries = libraries;
    }

    public static void main(String[] arguments) throws IOException {
        System.exit(run(System.out, arguments) ? 0 : 1);
    }

    static boolean run(PrintStream out, String... arguments) throws IOException {
        Map<String, String> options = options(arguments);
        Map<String, ClassPath> stubs = stubs(options);
        try (ClassPath ours = classPath(options.get("--ours"));
                ClassPath libraries = classPath(options.get("--libraries"))) {
            Main main = new Main(out, ours, stubs, Types.firstOf(libraries, ClassPath.jdk()));
            String folder = options.get("--signatures");
            return folder == null ? main.classPath(libraries) : main.signatures(read(Path.of(folder)));
        } finally {
            for (ClassPath each : stubs.values()) {
                each.close();
            }
        }
    }

    /** By the version that they are of; those of the empty one are of all. */
    private static Map<String, ClassPath> stubs(Map<String, String> options) throws IOException {
        Map<String, ClassPath> stubs = new TreeMap<>();
        for (Map.Entry<String, String> option : options.entrySet()) {
            if (option.getKey().startsWith(STUBS)) {
                String version = option.getKey().substring(STUBS.length());
                stubs.put(version.isEmpty() ? version : version.substring(1), classPath(option.getValue()));
            }
        }
        return stubs;
    }

    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new TreeMap<>();
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i], arguments[i + 1]);
        }
        if (arguments.length % 2 != 0
                || !options.keySet().stream()
                        .allMatch(name -> name.matches("--ours|--libraries|--stubs(-.+)?|--signatures"))
                || !options.containsKey("--ours")) {
            throw new IllegalArgumentException(
                    "--ours CLASSPATH --libraries CLASSPATH [--stubs CLASSPATH] [--stubs-VERSION CLASSPATH ...]"
                            + " [--signatures FOLDER]");
        }
        return options;
    }

    private static ClassPath classPath(String entries) {
        return new ClassPath(
                entries == null
                        ? List.of()
                        : Stream.of(entries.split(":"))
                                .filter(entry -> !entry.isEmpty())
                                .map(Path::of)
                                .collect(Collectors.toList()));
    }

    private static Map<String, SignatureFile> read(Path folder) throws IOException {
        Map<String, SignatureFile> versions = new TreeMap<>();
        try (Stream<Path> files = Files.list(folder)) {
            for (Path file : (Iterable<Path>) files::iterator) {
                versions.put(
                        file.getFileName().toString(),
                        SignatureFile.parse(Files.readAllLines(file, StandardCharsets.UTF_8)));
            }
        }
        if (versions.isEmpty()) {
            throw new IllegalArgumentException("there is no signature file in '" + folder + "'");
        }
        return versions;
    }

    private boolean signatures(Map<String, SignatureFile> versions) {
        Types any = Types.firstOf(versions.values().toArray(new Types[0]));
        boolean good = true;
        for (Map.Entry<String, SignatureFile> version : versions.entrySet()) {
            Report report = check(version.getKey(), version.getValue());
            hiding(version.getValue(), report);
            // What another version has is not merely unknown here.
            report.missing(type -> any.find(type) != null);
            good &= tell(version.getKey(), report);
        }
        return good;
    }

    /**
     * Against what a JVM would find, where an unknown type is one that is not there. What others use of the types that ours
     * hide {@link InForce} finds out: jars have members that nobody uses.
     */
    private boolean classPath(ClassPath theirs) {
        Report report = check("", theirs);
        report.missing(type -> true);
        return tell("class path", report);
    }

    private Report check(String version, Types theirs) {
        Report report = new Report();
        Types types = Types.firstOf(ours, theirs, libraries);
        new LinkCheck(types, report).check(classes);
        Covers compiled = new Covers(Types.firstOf(theirs, libraries), report);
        stubs.forEach((of, each) -> {
            if (version.startsWith(of)) {
                each.all().forEach(stub -> compiled.check(stub.type));
            }
        });
        return report;
    }

    private void hiding(Types theirs, Report report) {
        Covers hiding = new Covers(Types.firstOf(ours, theirs, libraries), report);
        for (CompiledClass each : classes) {
            TypeInfo hidden = theirs.find(each.type.name);
            if (hidden != null) {
                hiding.check(hidden);
            }
        }
    }

    private boolean tell(String what, Report report) {
        out.println("linkcheck: " + what + ": " + report.count() + " references and members checked, "
                + report.faults().size() + " wrong"
                + (report.notChecked().isEmpty() ? "" : ", NOT CHECKED " + notChecked(report)));
        report.lines().forEach(line -> out.println("  " + line));
        return report.faults().isEmpty();
    }

    private static String notChecked(Report report) {
        int uses = report.notChecked().values().stream().mapToInt(List::size).sum();
        return uses + " of types that are not known: "
                + report.notChecked().keySet().stream()
                        .limit(TYPES_NAMED)
                        .map(Reference::dots)
                        .collect(Collectors.joining(", "))
                + (report.notChecked().size() > TYPES_NAMED ? ", ..." : "");
    }
}
