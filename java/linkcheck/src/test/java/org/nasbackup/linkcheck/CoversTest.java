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

import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A class of ours that stands before CloudStack's of the same name, and CloudStack's that our stub stands for. */
class CoversTest {
    @TempDir
    Path folder;

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            nullValues = "GOOD",
            value = {
                "class A { public void m() {} }           | class A { public void m() {} public void n() {} } | GOOD",
                "class A { public void m() {} }           | class A {}                                        | no such member",
                "class A { protected void m() {} }        | class A {}                                        | no such member",
                "class A { void m() {} private int n; }   | class A { void m() {} }                           | GOOD",
                "class A { public Object m(int i) {return 1;} } | class A { public String m(int i) {return \"\";} } | no such member",
                "class A { public A(int i) {} }           | class A { public A() {} }                         | no such member",
                "class A { public int n; }                | class A { public static int n; }                  | is static",
                "class A { public static void m() {} }    | class A { public void m() {} }                    | is not static",
                "class A { public void m() {} }           | class A { protected void m() {} }                 | is less accessible",
                "class A { protected void m() {} }        | class A { void m() {} }                           | is less accessible",
                "class A { protected void m() {} }        | class A { public void m() {} }                    | GOOD",
                "class A { public int n; }                | class A { public final int n = 1; }               | is final",
                "class A { public void m() {} }           | class A { public final void m() {} }              | is final",
                "class A { public void m() {} }           | abstract class A { public abstract void m(); }    | is abstract",
                "class A {}                               | final class A {}                                  | is final",
                "class A {}                               | interface A {}                                    | is an interface",
                "interface A {}                           | class A {}                                        | is a class",
                "interface A { void m(); }                | interface A { default void m() {} }               | GOOD",
                "interface A { default void m() {} }      | interface A { void m(); }                         | is abstract",
                "class A implements Runnable { public void run() {} } | class A { public void run() {} }     | does not inherit from java.lang.Runnable",
                "class A { public String toString() {return \"\";} } | class A {}                             | GOOD",
                "enum A { B }                             | enum A { C, B }                                   | GOOD",
                "enum A { B }                             | enum A { C }                                      | no such member",
                "class A { public static final int N = 1; } | class A { public static final int N = 2; }      | is 2, not 1",
                "class A { public static final int N = 1; } | class A { public static final int N = 1; }      | GOOD",
                "interface A { String N = \"a\"; }          | interface A { String N = String.valueOf(1); }     | GOOD",
            })
    void what_others_may_use_is_missed(String promised, String given, String wrong) throws Exception {
        Report report = new Report();
        try (ClassPath old = compile("old", promised);
                ClassPath now = compile("now", given)) {
            new Covers(Types.firstOf(now, ClassPath.jdk()), report).check(old.find("p/A"));
        }
        assertThat(report.notChecked()).isEmpty();
        if (wrong == null) {
            assertThat(report.faults()).isEmpty();
        } else {
            assertThat(report.faults().keySet())
                    .anySatisfy(fault -> assertThat(fault).endsWith(wrong));
        }
    }

    private ClassPath compile(String name, String type) throws Exception {
        return new ClassPath(List.of(Compiled.compile(folder.resolve(name), null, "package p; public " + type)));
    }
}
