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
import static org.junit.jupiter.params.provider.Arguments.arguments;

import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Classes compiled against one version of others, and checked against another. */
class LinkCheckTest {
    private static final String GOOD = null;

    @TempDir
    Path folder;

    private static String[] types(String... types) {
        return types;
    }

    private static String stock(String type) {
        return "package stock; public " + type;
    }

    private static String ours(String body) {
        return "package ours; public class Ours { " + body + " }";
    }

    /** One type as it is compiled against, and as it is there; what uses it; what is wrong then. */
    private static Arguments row(String compiled, String there, String uses, String wrong) {
        return arguments(types(stock(compiled)), there == null ? types() : types(stock(there)), uses, wrong);
    }

    static Stream<Arguments> rows() {
        String call = ours("void f(stock.S s) { s.m(); }");
        String callStatic = ours("void f() { stock.S.m(); }");
        String read = ours("int f(stock.S s) { return s.n; }");
        String cast = ours("Object f(Object o) { return (stock.S) o; }");
        String lambda = ours("stock.S f() { return () -> {}; }");
        String heir =
                "package ours; public class Ours extends stock.S { public void m() {} public void f() { super.m(); } }";
        String implementing = "package ours; public class Ours implements stock.S { public void m() {} }";
        String marked = "package ours; @stock.S(v = stock.S.E.A) public class Ours {}";
        String method = "class S { public void m() {} }";
        String asked = "interface S { void m(); }";
        String mark = "@interface S { E v(); enum E { A, B } }";
        String noMember = "there is no such member";
        return Stream.of(
                // methods
                row(method, method, call, GOOD),
                row(method, "class S {}", call, "void stock.S.m(): " + noMember),
                row(method, "class S { public int m() { return 1; } }", call, noMember),
                row(method, "class S { public void m(int i) {} }", call, noMember),
                row(method, "class S { public static void m() {} }", call, "is static"),
                row("class S { public static void m() {} }", "class S { public static void m() {} }", callStatic, GOOD),
                row("class S { public static void m() {} }", method, callStatic, "is not static"),
                row(method, "class S { protected void m() {} }", call, "is not accessible"),
                row(method, "class S { void m() {} }", call, "is not accessible"),
                row(method, "class S { private void m() {} }", call, "is not accessible"),
                row(method, asked, call, "its type is an interface, not a class"),
                row(asked, method, call, "its type is a class, not an interface"),
                row(asked, "interface S extends Runnable { void m(); }", call, GOOD),
                row(method, "class S { public void m() {} }", ours("Runnable f(stock.S s) { return s::m; }"), GOOD),
                row(method, "class S {}", ours("Runnable f(stock.S s) { return s::m; }"), noMember),
                row(
                        "class S {}",
                        "class S { S() {} }",
                        ours("Object f() { return new stock.S(); }"),
                        "is not accessible"),
                row(
                        "class S {}",
                        "class S { public S(int i) {} }",
                        ours("Object f() { return new stock.S(); }"),
                        noMember),
                row(
                        "class S {}",
                        "class S { protected S() {} }",
                        ours("Object f() { return new stock.S(); }"),
                        "is not accessible"),
                row(
                        "class S {}",
                        "class S { protected S() {} }",
                        "package ours; public class Ours extends stock.S {}",
                        GOOD),
                row(
                        "class S { public S(Object o) {} public S() {} }",
                        "class S { public S(Object o) {} protected S() {} }",
                        "package ours; public class Ours extends stock.S { Ours() { super(new stock.S()); } }",
                        "void stock.S.<init>(): is not accessible"),
                row(
                        "class S { public S(Object o) {} public S() {} }",
                        "class S { protected S(Object o) {} public S() {} }",
                        "package ours; public class Ours extends stock.S { Ours() { super(new stock.S()); } }",
                        GOOD),
                row(
                        "class S {}",
                        "class S { protected S() {} }",
                        ours("java.util.function.Supplier<?> f() { return stock.S::new; }"),
                        "is not accessible"),
                // fields
                row("class S { public int n; }", "class S { public int n; }", read, GOOD),
                row("class S { public int n; }", "class S {}", read, "int stock.S.n: " + noMember),
                row("class S { public int n; }", "class S { public long n; }", read, noMember),
                row("class S { public int n; }", "class S { public static int n; }", read, "is static"),
                row("class S { public int n; }", "class S { int n; }", read, "is not accessible"),
                row("class S { public int n; }", "class S { public final int n = 1; }", read, GOOD),
                row(
                        "class S { public int n; }",
                        "class S { public final int n = 1; }",
                        ours("void f(stock.S s) { s.n = 2; }"),
                        "is final"),
                // types
                row("class S {}", "class S {}", cast, GOOD),
                row("class S {}", "interface S {}", cast, GOOD),
                arguments(
                        types(stock("class S {}")), types("package stock; class S {}"), cast, "stock.S: is not public"),
                arguments(
                        types(stock("class S {}")),
                        types("package stock; class S {}"),
                        ours("boolean f(Object o) { return o instanceof stock.S; }"),
                        "is not public"),
                arguments(
                        types(stock("class S {}")),
                        types("package stock; class S {}"),
                        ours("Object f() { return stock.S.class; }"),
                        "is not public"),
                row("class S {}", "abstract class S {}", ours("Object f() { return new stock.S(); }"), "is abstract"),
                row("class S {}", "interface S {}", ours("Object f() { return new stock.S(); }"), "is an interface"),
                row(
                        "class S extends RuntimeException {}",
                        "class S extends Error {}",
                        ours("void f() { try { g(); } catch (stock.S s) { g(); } } void g() {}"),
                        GOOD),
                row(
                        "class S extends RuntimeException {}",
                        "class S {}",
                        ours("void f() { try { g(); } catch (stock.S s) { g(); } } void g() {}"),
                        "stock.S: is no Throwable"),
                row(mark, mark, marked, GOOD),
                row(mark, "interface S { E v(); enum E { A, B } }", marked, "stock.S: is no annotation"),
                row(mark, "@interface S { E w(); enum E { A, B } }", marked, "stock.S.v: there is no such element"),
                row(mark, "@interface S { E v(); enum E { B } }", marked, "stock.S$E stock.S$E.A: " + noMember),
                // what is inherited
                row(method, method, heir, GOOD),
                row(method, "final class S { public void m() {} }", heir, "stock.S: is final"),
                row(method, "class S { public final void m() {} }", heir, "can't be overridden (final)"),
                row(
                        method,
                        "class S { public static void m() {} }",
                        heir,
                        "can't be overridden (static against instance)"),
                row(method, "abstract class S { public abstract void m(); }", heir, "is abstract"),
                row(method, asked, heir, "stock.S: is an interface"),
                row(method, "abstract class S { public void m() {} protected abstract void n(); }", heir, "is owed"),
                row(
                        "class S { protected int n; }",
                        "class S { protected int n; }",
                        "package ours; class Ours extends stock.S { int f() { return n; } }",
                        GOOD),
                row(asked, asked, implementing, GOOD),
                row(asked, method, implementing, "stock.S: is a class"),
                row(asked, "interface S { void m(); void n(); }", implementing, "void stock.S.n(): is owed"),
                row(asked, "interface S { void m(); default void n() {} }", implementing, GOOD),
                row(asked, "interface S { Object m(); }", implementing, "java.lang.Object stock.S.m(): is owed"),
                row(asked, "interface S { void m(); String toString(); }", implementing, GOOD),
                row(
                        asked,
                        "interface S { void m(); Object clone(); }",
                        implementing,
                        "java.lang.Object stock.S.clone(): has to be public"),
                // lambdas
                row(asked, asked, lambda, GOOD),
                row(asked, "interface S { void m(); default void n() {} boolean equals(Object o); }", lambda, GOOD),
                row(asked, "interface S { void m(); void n(); }", lambda, "its lambda owes void stock.S.n()"),
                row(asked, "interface S { void n(); }", lambda, "its lambda owes void stock.S.n()"),
                row(asked, "interface S {}", lambda, noMember),
                row(
                        asked,
                        "abstract class S { public abstract void m(); }",
                        lambda,
                        "is a class, and can't be a lambda"),
                // what is found above
                arguments(
                        types(stock(method)),
                        types(stock("class S extends T {}"), stock("class T { public void m() {} }")),
                        call,
                        GOOD),
                arguments(
                        types(stock(asked)),
                        types(stock("interface S extends T {}"), stock("interface T { void m(); }")),
                        call,
                        GOOD),
                arguments(
                        types(stock(asked)),
                        types(stock("interface S extends T<String> {}"), stock("interface T<X> { X m(); }")),
                        call,
                        noMember));
    }

    @ParameterizedTest
    @MethodSource("rows")
    void what_does_not_link_is_told_and_nothing_else(String[] compiled, String[] there, String uses, String wrong)
            throws Exception {
        Report report = check(compiled, there, uses);
        assertThat(report.notChecked()).isEmpty();
        if (wrong == GOOD) {
            assertThat(report.faults()).isEmpty();
        } else {
            assertThat(report.faults().keySet())
                    .anySatisfy(fault -> assertThat(fault).endsWith(wrong));
            assertThat(report.faults().values())
                    .allSatisfy(places -> assertThat(places).containsExactly("ours.Ours"));
        }
    }

    private Report check(String[] compiled, String[] there, String uses) throws Exception {
        Path first = Compiled.compile(folder.resolve("first"), null, compiled);
        Path ours = Compiled.compile(folder.resolve("ours"), first, uses);
        Path second = Compiled.compile(folder.resolve("second"), null, there);
        Report report = new Report();
        try (ClassPath own = new ClassPath(List.of(ours));
                ClassPath others = new ClassPath(List.of(second))) {
            new LinkCheck(Types.firstOf(own, others, ClassPath.jdk()), report).check(own.all());
        }
        return report;
    }

    @Test
    void a_type_that_is_not_known_is_not_good() throws Exception {
        Report report =
                check(types(stock("class S { public void m() {} }")), types(), ours("void f(stock.S s) { s.m(); }"));
        assertThat(report.faults()).isEmpty();
        assertThat(report.notChecked().get("stock/S")).containsExactly("ours/Ours", "ours/Ours");
        report.missing(type -> type.equals("stock/S"));
        assertThat(report.notChecked()).isEmpty();
        assertThat(report.faults()).containsOnlyKeys("stock.S: there is no such type");
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "class Ours implements stock.S {}",
                "abstract class Ours implements stock.S {}",
                "class Ours { stock.S f() { return () -> {}; } }"
            })
    void what_an_unknown_ancestor_may_ask_for_is_not_checked(String uses) throws Exception {
        Path gone = Compiled.compile(folder.resolve("gone"), null, "package gone; public interface T {}");
        String asked =
                uses.contains("->") ? "interface S extends gone.T { void m(); }" : "interface S extends gone.T {}";
        Path stock = Compiled.compile(folder.resolve("stock"), gone, stock(asked));
        Path ours =
                Compiled.compile(folder.resolve("ours"), Path.of(stock + ":" + gone), "package ours; public " + uses);
        Report report = new Report();
        try (ClassPath own = new ClassPath(List.of(ours));
                ClassPath others = new ClassPath(List.of(stock))) {
            new LinkCheck(Types.firstOf(own, others, ClassPath.jdk()), report).check(own.all());
        }
        assertThat(report.faults()).isEmpty();
        assertThat(report.notChecked()).containsOnlyKeys("gone/T");
    }

    @Test
    void a_member_that_an_unknown_ancestor_may_have_is_not_checked() throws Exception {
        Path gone =
                Compiled.compile(folder.resolve("gone"), null, "package gone; public class T { public void m() {} }");
        Path stock = Compiled.compile(folder.resolve("stock"), gone, stock("class S extends gone.T {}"));
        Path ours = Compiled.compile(
                folder.resolve("ours"), Path.of(stock + ":" + gone), ours("void f(stock.S s) { s.m(); }"));
        Report report = new Report();
        try (ClassPath own = new ClassPath(List.of(ours));
                ClassPath others = new ClassPath(List.of(stock))) {
            new LinkCheck(Types.firstOf(own, others, ClassPath.jdk()), report).check(own.all());
        }
        assertThat(report.faults()).isEmpty();
        assertThat(report.notChecked()).containsOnlyKeys("gone/T");
    }
}
