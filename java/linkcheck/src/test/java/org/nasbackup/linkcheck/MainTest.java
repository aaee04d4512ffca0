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
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class MainTest {
    private static final String S = "public class stock.S\n  public stock.S()\t()V\n  public void m()\t()V\n";

    @TempDir
    Path folder;

    private Path stubs;
    private Path ours;
    private Path versions;
    private boolean good;

    @BeforeEach
    void compile() throws Exception {
        stubs = Compiled.compile(folder.resolve("stubs"), null, "package stock; public class S { public void m() {} }");
        ours = Compiled.compile(
                folder.resolve("ours"), stubs, "package ours; class Ours { void f(stock.S s) { s.m(); } }");
        versions = Files.createDirectories(folder.resolve("versions"));
    }

    private String run(String... more) throws Exception {
        List<String> arguments = new ArrayList<>(List.of("--ours", ours.toString()));
        arguments.addAll(List.of(more));
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        good = Main.run(new PrintStream(bytes, true, StandardCharsets.UTF_8), arguments.toArray(new String[0]));
        return bytes.toString(StandardCharsets.UTF_8);
    }

    private void version(String name, String text) throws Exception {
        Files.writeString(versions.resolve(name), text);
    }

    @Test
    void each_version_is_told_and_one_fault_is_enough() throws Exception {
        version("1", S);
        assertThat(run("--signatures", versions.toString()))
                .startsWith("linkcheck: 1: ")
                .contains(", 0 wrong\n");
        assertThat(good).isTrue();
        version("2", "public class stock.S\n");
        assertThat(run("--signatures", versions.toString()))
                .contains("linkcheck: 1: ")
                .contains("linkcheck: 2: ")
                .endsWith(", 1 wrong\n  void stock.S.m(): there is no such member [ours.Ours]\n");
        assertThat(good).isFalse();
    }

    @Test
    void a_type_that_one_version_has_is_missed_in_another_and_one_that_none_has_is_not_checked() throws Exception {
        version("1", "public class stock.T\n");
        assertThat(run("--signatures", versions.toString()))
                .contains(", 0 wrong, NOT CHECKED 2 of types that are not known: stock.S\n");
        assertThat(good).isTrue();
        version("2", S);
        assertThat(run("--signatures", versions.toString()))
                .contains(", 1 wrong\n  stock.S: there is no such type [ours.Ours]\n");
        assertThat(good).isFalse();
    }

    @Test
    void a_class_path_has_to_have_all() throws Exception {
        assertThat(run("--libraries", stubs.toString())).contains("linkcheck: class path: ", ", 0 wrong\n");
        assertThat(good).isTrue();
        assertThat(run()).contains("  stock.S: there is no such type [ours.Ours]\n");
        assertThat(good).isFalse();
    }

    @Test
    void a_stub_that_promises_more_than_a_version_has_is_wrong() throws Exception {
        version("1", S);
        String[] all = {"--stubs", stubs.toString(), "--signatures", versions.toString()};
        run(all);
        assertThat(good).isTrue();
        version("2", S.replace("void m()\t()V", "java.lang.Object m()\t()Ljava/lang/Object;"));
        assertThat(run(all)).contains("void stock.S.m(): there is no such member [ours.Ours, stock.S]\n");
        assertThat(good).isFalse();
    }

    @Test
    void stubs_of_one_version_are_held_against_it_alone() throws Exception {
        version("1.0", S);
        version("2.0", S.replace("void m()", "void n()"));
        Path later =
                Compiled.compile(folder.resolve("later"), null, "package stock; public class S { public void n() {} }");
        String[] all = {
            "--stubs-1", stubs.toString(), "--stubs-2.0", later.toString(), "--signatures", versions.toString()
        };
        assertThat(run(all)).contains("linkcheck: 2.0: ", "void stock.S.m(): there is no such member [ours.Ours]\n");
        version("1.0", S.replace("void m()", "void n()"));
        assertThat(run(all)).contains("void stock.S.m(): there is no such member [ours.Ours, stock.S]\n");
    }

    @Test
    void a_class_of_ours_that_hides_theirs_has_to_have_its_members() throws Exception {
        version("1", S + "public class ours.Ours\n  public void shown()\t()V\n");
        assertThat(run("--signatures", versions.toString()))
                .contains("  ours.Ours: is not public [ours.Ours]\n")
                .contains("  void ours.Ours.shown(): there is no such member [ours.Ours]\n");
        assertThat(good).isFalse();
    }

    @Test
    void what_can_t_be_read_is_no_good_answer() {
        assertThatThrownBy(() -> run("--signatures", versions.toString())).hasMessageContaining("no signature file in");
        assertThatThrownBy(() -> run("--libraries", "/nowhere.jar")).hasMessageContaining("there is no '/nowhere.jar'");
        assertThatThrownBy(() -> run("--other", "x")).isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> run("--stubs")).isInstanceOf(IllegalArgumentException.class);
    }
}
