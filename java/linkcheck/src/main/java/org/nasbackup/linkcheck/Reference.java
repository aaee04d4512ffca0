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

import java.util.Arrays;
import java.util.Objects;
import java.util.stream.Collectors;
import org.objectweb.asm.Type;

/** One thing that a class wants of a type. */
final class Reference {
    /** How it is used: the JVM wants something else for each. */
    enum Use {
        /** In the descriptor of a member: nothing is wanted of it before it is used. */
        MENTION,
        /** A cast, an instanceof, a literal, an array. */
        TYPE,
        SUPERCLASS,
        INTERFACE,
        INSTANTIATION,
        CATCH,
        ANNOTATION,
        /** By its name alone. */
        ANNOTATION_ELEMENT,
        /** A lambda or a method reference: the only method that its interface may ask for. */
        FUNCTION,
        GET_FIELD,
        PUT_FIELD,
        GET_STATIC,
        PUT_STATIC,
        CALL,
        /** Of a private method, a superclass's, or its constructor's. */
        DIRECT_CALL,
        /** By {@code new}. */
        CONSTRUCTION,
        STATIC_CALL
    }

    final Use use;
    final String owner;
    /** Null: the type itself is meant. */
    final String name;

    final String descriptor;
    /** What the caller takes the owner for; for members alone. */
    final boolean inInterface;

    Reference(Use use, String owner) {
        this(use, owner, null, null, false);
    }

    Reference(Use use, String owner, String name, String descriptor, boolean inInterface) {
        this.use = use;
        this.owner = owner;
        this.name = name;
        this.descriptor = descriptor;
        this.inInterface = inInterface;
    }

    boolean isStatic() {
        return use == Use.GET_STATIC || use == Use.PUT_STATIC || use == Use.STATIC_CALL;
    }

    boolean writes() {
        return use == Use.PUT_FIELD || use == Use.PUT_STATIC;
    }

    @Override
    public boolean equals(Object other) {
        if (!(other instanceof Reference)) {
            return false;
        }
        Reference that = (Reference) other;
        return use == that.use
                && owner.equals(that.owner)
                && Objects.equals(name, that.name)
                && Objects.equals(descriptor, that.descriptor)
                && inInterface == that.inInterface;
    }

    @Override
    public int hashCode() {
        return Objects.hash(use, owner, name, descriptor, inInterface);
    }

    /** As a reader of Java knows it. */
    @Override
    public String toString() {
        return name == null ? dots(owner) : member(owner, name, descriptor);
    }

    static String dots(String name) {
        return name.replace('/', '.');
    }

    /** @param descriptor null: it is not known */
    static String member(String owner, String name, String descriptor) {
        String path = dots(owner) + "." + name;
        if (descriptor == null) {
            return path;
        }
        if (!descriptor.startsWith("(")) {
            return Type.getType(descriptor).getClassName() + " " + path;
        }
        String parameters = Arrays.stream(Type.getArgumentTypes(descriptor))
                .map(Type::getClassName)
                .collect(Collectors.joining(", ", "(", ")"));
        return Type.getReturnType(descriptor).getClassName() + " " + path + parameters;
    }
}
