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

import java.lang.reflect.Modifier;
import org.objectweb.asm.Opcodes;

/** A field or a method as it is compiled. */
final class Member {
    static final String CONSTRUCTOR = "<init>";

    final String name;
    /** The JVM's, which tells a field from a method. */
    final String descriptor;
    /** The JVM's flags. */
    final int access;
    /** Of a constant, what compilers copy into the classes that use it; null: it is none, or not known. */
    final Object constant;

    Member(String name, String descriptor, int access) {
        this(name, descriptor, access, null);
    }

    Member(String name, String descriptor, int access, Object constant) {
        this.name = name;
        this.descriptor = descriptor;
        this.access = access;
        this.constant = constant;
    }

    boolean isMethod() {
        return descriptor.startsWith("(");
    }

    boolean isConstructor() {
        return name.equals(CONSTRUCTOR);
    }

    boolean isPublic() {
        return Modifier.isPublic(access);
    }

    boolean isProtected() {
        return Modifier.isProtected(access);
    }

    boolean isPrivate() {
        return Modifier.isPrivate(access);
    }

    boolean isStatic() {
        return Modifier.isStatic(access);
    }

    boolean isFinal() {
        return Modifier.isFinal(access);
    }

    boolean isAbstract() {
        return Modifier.isAbstract(access);
    }

    boolean isSynthetic() {
        return (access & Opcodes.ACC_SYNTHETIC) != 0;
    }
}
