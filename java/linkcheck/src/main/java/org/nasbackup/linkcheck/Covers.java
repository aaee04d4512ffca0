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
import java.util.List;
import java.util.function.BiPredicate;
import org.nasbackup.linkcheck.Lineage.Declaration;

/**
 * Whether one type can take the place of another of the same name: what that lets others do, this lets them do as well. So
 * for a class of ours that hides CloudStack's, and for CloudStack's that our stub stands for when we compile.
 */
final class Covers {
    private final Types types;
    private final Report report;
    private final BiPredicate<TypeInfo, Member> used;

    /** @param types where the types are that take the place */
    Covers(Types types, Report report) {
        this(types, report, (type, member) -> true);
    }

    /** @param used tells of a member that is not covered whether anyone would miss it */
    Covers(Types types, Report report, BiPredicate<TypeInfo, Member> used) {
        this.types = types;
        this.report = report;
        this.used = used;
    }

    /** @param promised the type whose place is taken */
    void check(TypeInfo promised) {
        TypeInfo given = types.find(promised.name);
        if (given == null) {
            report.notChecked(promised.name, promised.name);
            return;
        }
        Lineage lineage = Lineage.of(given, types);
        type(promised, lineage);
        for (Member member : promised.members) {
            if (!member.isPrivate() && !member.isSynthetic() && !member.name.equals("<clinit>")) {
                report.checked();
                member(promised, member, lineage);
            }
        }
    }

    private void type(TypeInfo promised, Lineage lineage) {
        TypeInfo given = lineage.type();
        String name = Reference.dots(promised.name);
        if (promised.isInterface() != given.isInterface()) {
            fault(promised, name, given.isInterface() ? "is an interface" : "is a class");
        }
        if (promised.isPublic() && !given.isPublic()) {
            fault(promised, name, "is not public");
        }
        if (!promised.isFinal() && given.isFinal()) {
            fault(promised, name, "is final");
        }
        if (!promised.isAbstract() && given.isAbstract()) {
            fault(promised, name, "is abstract");
        }
        List<String> above = new ArrayList<>(promised.interfaces);
        if (promised.superclass != null) {
            above.add(promised.superclass);
        }
        for (String ancestor : above) {
            if (!lineage.has(ancestor)) {
                missing(promised, lineage, name, "does not inherit from " + Reference.dots(ancestor));
            }
        }
    }

    private void member(TypeInfo promised, Member member, Lineage lineage) {
        String name = Reference.member(promised.name, member.name, member.descriptor);
        Declaration found = lineage.resolve(member.name, member.descriptor);
        List<String> wrong = found == null ? List.of("there is no such member") : wrong(member, found.member);
        if (wrong.isEmpty() || !used.test(promised, member)) {
            return;
        }
        if (found == null) {
            missing(promised, lineage, name, wrong.get(0));
        } else {
            wrong.forEach(each -> fault(promised, name, each));
        }
    }

    private static List<String> wrong(Member promised, Member given) {
        List<String> wrong = new ArrayList<>();
        if (given.isStatic() != promised.isStatic()) {
            wrong.add(given.isStatic() ? "is static" : "is not static");
        }
        if (promised.isPublic() && !given.isPublic()
                || promised.isProtected() && !given.isPublic() && !given.isProtected()) {
            wrong.add("is less accessible");
        }
        if (!promised.isFinal() && given.isFinal()) {
            wrong.add("is final");
        }
        if (!promised.isAbstract() && given.isAbstract()) {
            wrong.add("is abstract");
        }
        if (promised.constant != null && given.constant != null && !promised.constant.equals(given.constant)) {
            wrong.add("is " + given.constant + ", not " + promised.constant);
        }
        return wrong;
    }

    private void missing(TypeInfo promised, Lineage lineage, String name, String text) {
        if (lineage.unknown.isEmpty()) {
            fault(promised, name, text);
        } else {
            lineage.unknown.forEach(type -> report.notChecked(promised.name, type));
        }
    }

    private void fault(TypeInfo promised, String name, String text) {
        report.fault(promised.name, name + ": " + text);
    }
}
