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

import static org.assertj.core.api.Assertions.assertThat;

import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Function;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Ours hides {@code stock.Shared}, and uses {@code stock.Used}; whatever is loaded of them ends the test. */
class InForceTest {
    private static final String ENDS = " static { if (true) throw new Error(\"loaded\"); } ";

    @TempDir
    Path folder;

    private Path ours;

    private Path stock(String name, String shared, String used) throws Exception {
        return Compiled.compile(
                folder.resolve(name),
                null,
                "package stock; public class Shared {" + ENDS + shared + "}",
                "package stock; public class Used {" + ENDS + used + "}");
    }

    /** The class path as it is in force, the first entry wins. */
    private URLClassLoader loader(Path... entries) throws Exception {
        URL[] urls = new URL[entries.length];
        for (int i = 0; i < entries.length; i++) {
            urls[i] = entries[i].toUri().toURL();
        }
        return new URLClassLoader(urls, ClassLoader.getPlatformClassLoader());
    }

    @BeforeEach
    void compile() throws Exception {
        Path compiled = stock("compiled", "", "public void m() {}");
        ours = Compiled.compile(
                folder.resolve("ours"),
                compiled,
                "package stock; public class Shared { public void own(stock.Used used) { used.m(); } static class Nested {} }");
    }

    private List<String> wrong(Function<InForce, Report> check, Path... entries) throws Exception {
        try (URLClassLoader loader = loader(entries)) {
            Report report = check.apply(new InForce(loader, List.of(ours)));
            assertThat(report.count()).isPositive();
            return report.lines();
        }
    }

    @Test
    void what_does_not_link_is_told() throws Exception {
        assertThat(wrong(InForce::links, ours, stock("good", "", "public void m() {}")))
                .isEmpty();
        assertThat(wrong(InForce::links, ours, stock("changed", "", "")))
                .containsExactly("void stock.Used.m(): there is no such member [stock.Shared]");
        assertThat(wrong(InForce::links, ours)).containsExactly("stock.Used: there is no such type [stock.Shared]");
    }

    @Test
    void what_others_use_of_a_hidden_class_is_missed_and_what_it_alone_uses_is_not() throws Exception {
        Function<InForce, Report> hiding = inForce -> inForce.hiding(List.of("stock"));
        String more = "public void more() {} void self() { more(); new Object() { void f() { self(); } }; }";
        assertThat(wrong(hiding, ours, stock("alone", more, ""))).isEmpty();
        Path used = stock("used", more, "public void m() { new Shared().more(); }");
        assertThat(wrong(hiding, ours, used))
                .containsExactly("void stock.Shared.more(): there is no such member [stock.Shared]");
    }

    @Test
    void the_order_of_the_class_path_is_told_and_where_types_come_from() throws Exception {
        Path stock = stock("a folder with a +, a % and an ä", "public void more() {}", "public void m() {}");
        Path jar = folder.resolve("a jar +%41ä.jar");
        try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar))) {
            for (String name : List.of("stock/Shared.class", "stock/Used.class")) {
                out.putNextEntry(new JarEntry(name));
                Files.copy(stock.resolve(name), out);
            }
        }
        try (URLClassLoader loader = loader(jar, ours, stock)) {
            InForce inForce = new InForce(loader, List.of(ours));
            assertThat(InForce.places(loader, InForce.file("stock.Shared"))).containsExactly(jar, ours, stock);
            assertThat(InForce.places(loader, "nowhere")).isEmpty();
            assertThat(inForce.names()).containsExactly("stock.Shared");
            assertThat(inForce.sources(List.of("stock"))).containsExactly(jar);
            assertThat(inForce.sources(List.of("sto"))).isEmpty();
            assertThat(inForce.declares("stock.Shared", "more")).isTrue();
            assertThat(inForce.declares("stock.Shared", "own")).isFalse();
            assertThat(inForce.declares("stock.None", "own")).isFalse();
        }
    }
}
