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

import java.util.Collection;
import java.util.List;
import java.util.stream.Collectors;
import org.nasbackup.linkcheck.Lineage.Declaration;
import org.nasbackup.linkcheck.Reference.Use;
import org.objectweb.asm.Opcodes;

/** Whether classes of ours link: each reference as the JVM resolves it, and the methods that they owe. */
final class LinkCheck {
    /** Their methods take any descriptor. */
    private static final List<String> POLYMORPHIC =
            List.of("java/lang/invoke/MethodHandle", "java/lang/invoke/VarHandle");

    private final Types types;
    private final Report report;

    /** @param types all that is there when the classes run, themselves included */
    LinkCheck(Types types, Report report) {
        this.types = types;
        this.report = report;
    }

    void check(Collection<CompiledClass> ours) {
        for (CompiledClass each : ours) {
            each.references.forEach(reference -> check(each.type, reference));
            Lineage lineage = Lineage.of(each.type, types);
            boolean complete = !unknown(each.type, lineage);
            if (!each.type.isAbstract()) {
                owed(lineage, complete);
            }
            overridden(lineage);
        }
    }

    private void check(TypeInfo from, Reference reference) {
        TypeInfo owner = types.find(reference.owner);
        if (owner == null) {
            report.notChecked(from.name, reference.owner);
            return;
        }
        report.checked();
        String wrong = reference.name == null ? wrongType(from, reference, owner) : wrongMember(from, reference, owner);
        if (wrong != null) {
            report.fault(from.name, reference + ": " + wrong);
        }
    }

    /** Null: nothing. */
    private String wrongType(TypeInfo from, Reference reference, TypeInfo type) {
        if (reference.use == Use.MENTION) {
            return null;
        }
        if (!type.isPublic() && !type.packageName().equals(from.packageName())) {
            return "is not public";
        }
        switch (reference.use) {
            case SUPERCLASS:
                return type.isInterface() ? "is an interface" : type.isFinal() ? "is final" : null;
            case INTERFACE:
                return type.isInterface() ? null : "is a class";
            case INSTANTIATION:
                return type.isInterface() ? "is an interface" : type.isAbstract() ? "is abstract" : null;
            case CATCH:
                return inherits(from, type, "java/lang/Throwable", "is no Throwable");
            case ANNOTATION:
                return (type.access & Opcodes.ACC_ANNOTATION) == 0 ? "is no annotation" : null;
            default:
                return null;
        }
    }

    private String inherits(TypeInfo from, TypeInfo type, String ancestor, String otherwise) {
        Lineage lineage = Lineage.of(type, types);
        return lineage.has(ancestor) || unknown(from, lineage) ? null : otherwise;
    }

    /** Whatever is missing may be in there. */
    private boolean unknown(TypeInfo from, Lineage lineage) {
        lineage.unknown.forEach(type -> report.notChecked(from.name, type));
        return !lineage.unknown.isEmpty();
    }

    private String wrongMember(TypeInfo from, Reference reference, TypeInfo owner) {
        Lineage lineage = Lineage.of(owner, types);
        if (reference.use == Use.ANNOTATION_ELEMENT) {
            return owner.members.stream().anyMatch(member -> member.name.equals(reference.name))
                    ? null
                    : "there is no such element";
        }
        if (reference.use == Use.FUNCTION) {
            return wrongFunction(from, reference, lineage);
        }
        if (POLYMORPHIC.contains(owner.name)) {
            return null;
        }
        Declaration found = lineage.resolve(reference.name, reference.descriptor);
        if (found == null) {
            return unknown(from, lineage) ? null : "there is no such member";
        }
        if (found.member.isMethod() && reference.inInterface != owner.isInterface()) {
            return owner.isInterface()
                    ? "its type is an interface, not a class"
                    : "its type is a class, not an interface";
        }
        if (found.member.isStatic() != reference.isStatic()) {
            return found.member.isStatic() ? "is static" : "is not static";
        }
        if (reference.use == Use.DIRECT_CALL && found.member.isAbstract()) {
            return "is abstract";
        }
        if (reference.writes() && found.member.isFinal() && !found.place.name.equals(from.name)) {
            return "is final";
        }
        return visible(from, found, reference.use) ? null : "is not accessible";
    }

    private boolean visible(TypeInfo from, Declaration found, Use use) {
        Member member = found.member;
        if (member.isPublic()) {
            return true;
        }
        if (member.isPrivate()) {
            return found.place.outermost().equals(from.outermost());
        }
        return found.place.packageName().equals(from.packageName())
                || member.isProtected()
                        && use != Use.CONSTRUCTION
                        && Lineage.of(from, types).has(found.place.name);
    }

    /** A lambda gives one method: all others of its interface have to be defaults. */
    private String wrongFunction(TypeInfo from, Reference reference, Lineage lineage) {
        if (!lineage.type().isInterface()) {
            return "is a class, and can't be a lambda";
        }
        List<String> more = lineage.all().stream()
                .filter(TypeInfo::isInterface)
                .flatMap(place -> place.members.stream()
                        .filter(member -> member.isMethod() && member.isAbstract())
                        .filter(member ->
                                !member.name.equals(reference.name) || !member.descriptor.equals(reference.descriptor))
                        .filter(member -> implementation(lineage, member) == null)
                        .filter(member -> !ofObject(member))
                        .map(member -> Reference.member(place.name, member.name, member.descriptor)))
                .collect(Collectors.toList());
        if (!more.isEmpty()) {
            return "its lambda owes " + String.join(", ", more);
        }
        boolean complete = !unknown(from, lineage);
        Declaration found = lineage.resolve(reference.name, reference.descriptor);
        return found == null && complete ? "there is no such member" : null;
    }

    private boolean ofObject(Member member) {
        return types.find("java/lang/Object").find(member.name, member.descriptor) != null;
    }

    /** The methods that the type's superclasses and interfaces ask for, and it does not have. */
    private void owed(Lineage lineage, boolean complete) {
        for (TypeInfo place : lineage.all()) {
            for (Member member : place.members) {
                if (!member.isMethod() || !member.isAbstract()) {
                    continue;
                }
                Declaration found = implementation(lineage, member);
                String name = Reference.member(place.name, member.name, member.descriptor);
                if (found == null && complete) {
                    report.fault(lineage.type().name, name + ": is owed");
                } else if (found != null && place.isInterface() && !found.member.isPublic()) {
                    report.fault(lineage.type().name, name + ": has to be public");
                }
            }
        }
    }

    /** What runs when the method is called; null: nothing. */
    private static Declaration implementation(Lineage lineage, Member method) {
        for (TypeInfo type : lineage.classes) {
            Member own = type.find(method.name, method.descriptor);
            if (own != null && !own.isPrivate() && !own.isStatic()) {
                return own.isAbstract() ? null : new Declaration(type, own);
            }
        }
        for (TypeInfo type : lineage.interfaces) {
            Member own = type.find(method.name, method.descriptor);
            if (own != null && !own.isPrivate() && !own.isStatic() && !own.isAbstract()) {
                return new Declaration(type, own);
            }
        }
        return null;
    }

    /** Methods that a superclass does not let be overridden. */
    private void overridden(Lineage lineage) {
        TypeInfo type = lineage.type();
        for (TypeInfo above : lineage.classes.subList(1, lineage.classes.size())) {
            for (Member member : above.members) {
                boolean theirs = member.isMethod() && !member.isConstructor() && !member.isPrivate();
                Member own = theirs ? type.find(member.name, member.descriptor) : null;
                if (own != null && !own.isPrivate() && (member.isFinal() || own.isStatic() != member.isStatic())) {
                    report.fault(
                            type.name,
                            Reference.member(above.name, member.name, member.descriptor) + ": can't be overridden "
                                    + (member.isFinal() ? "(final)" : "(static against instance)"));
                }
            }
        }
    }
}
