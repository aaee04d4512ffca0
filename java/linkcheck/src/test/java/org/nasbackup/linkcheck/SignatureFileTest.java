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

import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.objectweb.asm.Opcodes;

class SignatureFileTest {
    private static final SignatureFile FILE = SignatureFile.parse(List.of(
            "# A comment",
            "public class p.A<T extends p.B<T>, U> extends p.B<p.A<T, U>> implements java.util.Map<T, U>,p.I",
            "  protected transient java.util.Map<java.lang.String, T> map\tLjava/util/Map;",
            "  public static final int N\tI",
            "  public p.A(java.util.List<? extends T>, U) throws p.X, java.io.IOException\t(Ljava/util/List;Ljava/lang/Object;)V",
            "  public static <V extends p.I> V make(V...)\t([Lp/I;)Lp/I;",
            "  protected abstract T get()\t()Lp/B;",
            "public interface p.I extends p.J<java.lang.String>, p.K",
            "  public default void m()\t()V",
            "  public abstract void n()\t()V",
            "final class p.A$Inner",
            "public final class p.E extends java.lang.Enum<p.E>",
            "public interface p.Mark extends java.lang.annotation.Annotation"));

    private static Member member(String type, String name, String descriptor) {
        Member member = FILE.find(type).find(name, descriptor);
        assertThat(member).as(name).isNotNull();
        return member;
    }

    @Test
    void types_have_their_ancestors_without_type_arguments() {
        TypeInfo a = FILE.find("p/A");
        assertThat(a.superclass).isEqualTo("p/B");
        assertThat(a.interfaces).containsExactly("java/util/Map", "p/I");
        assertThat(a.isPublic() && !a.isInterface() && !a.isFinal()).isTrue();
        TypeInfo i = FILE.find("p/I");
        assertThat(i.superclass).isEqualTo("java/lang/Object");
        assertThat(i.interfaces).containsExactly("p/J", "p/K");
        assertThat(i.isInterface() && i.isAbstract()).isTrue();
        assertThat(FILE.find("p/A$Inner").isPublic()).isFalse();
        assertThat(FILE.find("p/A$Inner").outermost()).isEqualTo("p/A");
        assertThat(FILE.find("p/E").access & Opcodes.ACC_ENUM).isNotZero();
        assertThat(FILE.find("p/Mark").access & Opcodes.ACC_ANNOTATION).isNotZero();
        assertThat(FILE.find("p/Z")).isNull();
    }

    @Test
    void members_have_their_flags_and_descriptors() {
        assertThat(member("p/A", "map", "Ljava/util/Map;").isProtected()).isTrue();
        Member constant = member("p/A", "N", "I");
        assertThat(constant.isStatic() && constant.isFinal() && !constant.isMethod())
                .isTrue();
        assertThat(member("p/A", "<init>", "(Ljava/util/List;Ljava/lang/Object;)V")
                        .isPublic())
                .isTrue();
        assertThat(member("p/A", "make", "([Lp/I;)Lp/I;").isStatic()).isTrue();
        assertThat(member("p/A", "get", "()Lp/B;").isAbstract()).isTrue();
        assertThat(member("p/I", "m", "()V").isAbstract()).isFalse();
        assertThat(member("p/I", "n", "()V").isAbstract()).isTrue();
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "  public int before\tI",
                "public class p.A\n  public int none",
                "public class p.A\n  public int n\t()V",
                "public class p.A\n  public int n()\tI",
                "public p.A",
                "package p;"
            })
    void a_line_that_says_nothing_is_no_signature(String text) {
        assertThatThrownBy(() -> SignatureFile.parse(List.of(text.split("\n"))))
                .isInstanceOf(IllegalArgumentException.class);
    }
}
