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
import java.util.List;

/** A class or an interface as it is compiled: what others can link to. All names are the JVM's, with slashes. */
final class TypeInfo {
    final String name;
    /** The JVM's flags. */
    final int access;
    /** Null: this is {@code java.lang.Object}. */
    final String superclass;

    final List<String> interfaces;
    final List<Member> members;

    TypeInfo(String name, int access, String superclass, List<String> interfaces, List<Member> members) {
        this.name = name;
        this.access = access;
        this.superclass = superclass;
        this.interfaces = List.copyOf(interfaces);
        this.members = List.copyOf(members);
    }

    boolean isInterface() {
        return Modifier.isInterface(access);
    }

    boolean isPublic() {
        return Modifier.isPublic(access);
    }

    boolean isFinal() {
        return Modifier.isFinal(access);
    }

    boolean isAbstract() {
        return Modifier.isAbstract(access);
    }

    String packageName() {
        return name.substring(0, Math.max(name.lastIndexOf('/'), 0));
    }

    /** The class that it is nested in, at the top: private members are shared below it. */
    String outermost() {
        int nested = name.indexOf('$', name.lastIndexOf('/') + 2);
        return nested < 0 ? name : name.substring(0, nested);
    }

    /** Null: it declares none. */
    Member find(String member, String descriptor) {
        return members.stream()
                .filter(m -> m.name.equals(member) && m.descriptor.equals(descriptor))
                .findFirst()
                .orElse(null);
    }
}
