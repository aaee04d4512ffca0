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

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Predicate;

/** A type with all that it inherits from, as far as that is known. */
final class Lineage {
    /** The type, its superclasses, the nearest first. */
    final List<TypeInfo> classes = new ArrayList<>();

    final List<TypeInfo> interfaces = new ArrayList<>();
    /** What it inherits from and nobody knows. */
    final Set<String> unknown = new LinkedHashSet<>();

    private Lineage() {}

    static Lineage of(TypeInfo type, Types types) {
        Lineage lineage = new Lineage();
        for (TypeInfo each = type; each != null; each = lineage.superclass(each, types)) {
            lineage.classes.add(each);
        }
        lineage.classes.forEach(each -> lineage.addInterfaces(each, types));
        return lineage;
    }

    private TypeInfo superclass(TypeInfo type, Types types) {
        return type.superclass == null ? null : known(type.superclass, types);
    }

    private TypeInfo known(String name, Types types) {
        TypeInfo found = types.find(name);
        if (found == null) {
            unknown.add(name);
        }
        return found;
    }

    private void addInterfaces(TypeInfo type, Types types) {
        for (String name : type.interfaces) {
            TypeInfo found = known(name, types);
            if (found != null && interfaces.stream().noneMatch(each -> each.name.equals(found.name))) {
                interfaces.add(found);
                addInterfaces(found, types);
            }
        }
    }

    TypeInfo type() {
        return classes.get(0);
    }

    boolean has(String name) {
        return all().stream().anyMatch(type -> type.name.equals(name));
    }

    List<TypeInfo> all() {
        List<TypeInfo> all = new ArrayList<>(classes);
        all.addAll(interfaces);
        return all;
    }

    /** The declaration that a reference to the type leads to; null: there is none in what is known. */
    Declaration resolve(String name, String descriptor) {
        if (name.equals(Member.CONSTRUCTOR)) {
            return declaration(List.of(type()), name, descriptor, any -> true);
        }
        Declaration own = declaration(classes, name, descriptor, any -> true);
        return own != null
                ? own
                : declaration(
                        interfaces,
                        name,
                        descriptor,
                        member -> !member.isMethod() || !member.isPrivate() && !member.isStatic());
    }

    private static Declaration declaration(
            List<TypeInfo> places, String name, String descriptor, Predicate<Member> inherited) {
        for (TypeInfo place : places) {
            Member member = place.find(name, descriptor);
            if (member != null && inherited.test(member)) {
                return new Declaration(place, member);
            }
        }
        return null;
    }

    /** A member and the type that declares it. */
    static final class Declaration {
        final TypeInfo place;
        final Member member;

        Declaration(TypeInfo place, Member member) {
            this.place = place;
            this.member = member;
        }
    }
}
