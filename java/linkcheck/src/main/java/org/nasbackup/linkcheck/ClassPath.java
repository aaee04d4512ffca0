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

import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Types from jars and folders of class files: the first entry that has one wins. */
final class ClassPath implements Types, Closeable {
    private final List<FileSystem> jars = new ArrayList<>();
    private final List<Path> roots = new ArrayList<>();
    private final Map<String, CompiledClass> read = new HashMap<>();

    /** @throws IllegalArgumentException when an entry is not there */
    ClassPath(List<Path> entries) {
        for (Path entry : entries) {
            if (!Files.exists(entry)) {
                throw new IllegalArgumentException("there is no '" + entry + "'");
            }
        }
        for (Path entry : entries) {
            roots.add(root(entry));
        }
    }

    private Path root(Path entry) {
        if (Files.isDirectory(entry)) {
            return entry;
        }
        try {
            FileSystem jar = FileSystems.newFileSystem(entry, (ClassLoader) null);
            jars.add(jar);
            return jar.getPath("/");
        } catch (IOException e) {
            throw new UncheckedIOException("unable to open '" + entry + "'", e);
        }
    }

    @Override
    public TypeInfo find(String name) {
        if (!read.containsKey(name)) {
            read.put(name, read(name));
        }
        CompiledClass found = read.get(name);
        return found == null ? null : found.type;
    }

    private CompiledClass read(String name) {
        for (Path root : roots) {
            Path file = root.resolve(name + ".class");
            if (Files.isRegularFile(file)) {
                return read(file);
            }
        }
        return null;
    }

    private static CompiledClass read(Path file) {
        try {
            return ClassReading.read(Files.readAllBytes(file));
        } catch (IOException e) {
            throw new UncheckedIOException("unable to read '" + file + "'", e);
        }
    }

    /** All that is here, but what is for later versions of Java, and for modules. */
    List<CompiledClass> all() {
        List<CompiledClass> all = new ArrayList<>();
        for (Path root : roots) {
            try (Stream<Path> files = Files.walk(root)) {
                all.addAll(files.filter(file -> file.toString().endsWith(".class"))
                        .filter(file -> !root.relativize(file).startsWith("META-INF"))
                        .filter(file -> !file.endsWith("module-info.class"))
                        .map(ClassPath::read)
                        .collect(Collectors.toList()));
            } catch (IOException e) {
                throw new UncheckedIOException("unable to read '" + root + "'", e);
            }
        }
        return all;
    }

    /** Those in the packages whose files hold one of the names. */
    List<CompiledClass> mentioning(Set<String> names, Collection<String> packages) {
        List<CompiledClass> found = new ArrayList<>();
        for (Path root : roots) {
            for (String each : packages) {
                Path folder = root.resolve(each.replace('.', '/'));
                try (Stream<Path> files = Files.exists(folder) ? Files.walk(folder) : Stream.empty()) {
                    for (Path file :
                            (Iterable<Path>) files.filter(any -> any.toString().endsWith(".class"))::iterator) {
                        byte[] bytes = Files.readAllBytes(file);
                        String text = new String(bytes, StandardCharsets.ISO_8859_1);
                        if (names.stream().anyMatch(text::contains)) {
                            found.add(ClassReading.read(bytes));
                        }
                    }
                } catch (IOException e) {
                    throw new UncheckedIOException("unable to read '" + root + "'", e);
                }
            }
        }
        return found;
    }

    /** The JVM that runs this. */
    static Types jdk() {
        return of(ClassLoader.getPlatformClassLoader());
    }

    /** What the class loader would load. */
    static Types of(ClassLoader loader) {
        Map<String, Optional<TypeInfo>> read = new HashMap<>();
        return name -> read.computeIfAbsent(name, any -> Optional.ofNullable(read(loader, any)))
                .orElse(null);
    }

    private static TypeInfo read(ClassLoader loader, String name) {
        try (InputStream file = loader.getResourceAsStream(name + ".class")) {
            return file == null ? null : ClassReading.read(file.readAllBytes()).type;
        } catch (IOException e) {
            throw new UncheckedIOException("unable to read " + name, e);
        }
    }

    @Override
    public void close() throws IOException {
        for (FileSystem jar : jars) {
            jar.close();
        }
    }
}
