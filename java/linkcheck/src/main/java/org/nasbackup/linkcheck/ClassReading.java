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
import org.nasbackup.linkcheck.Reference.Use;
import org.objectweb.asm.AnnotationVisitor;
import org.objectweb.asm.ClassReader;
import org.objectweb.asm.ClassVisitor;
import org.objectweb.asm.ConstantDynamic;
import org.objectweb.asm.FieldVisitor;
import org.objectweb.asm.Handle;
import org.objectweb.asm.Label;
import org.objectweb.asm.MethodVisitor;
import org.objectweb.asm.Opcodes;
import org.objectweb.asm.Type;
import org.objectweb.asm.TypePath;

/** Reads a class file: what it declares, and what it refers to. */
final class ClassReading extends ClassVisitor {
    private static final int API = Opcodes.ASM9;
    private static final String LAMBDAS = "java/lang/invoke/LambdaMetafactory";

    private final List<Member> members = new ArrayList<>();
    private final Set<Reference> references = new LinkedHashSet<>();
    private TypeInfo head;

    private ClassReading() {
        super(API);
    }

    static CompiledClass read(byte[] bytes) {
        ClassReading reading = new ClassReading();
        new ClassReader(bytes).accept(reading, ClassReader.SKIP_DEBUG | ClassReader.SKIP_FRAMES);
        TypeInfo head = reading.head;
        return new CompiledClass(
                new TypeInfo(head.name, head.access, head.superclass, head.interfaces, reading.members),
                reading.references);
    }

    @Override
    public void visit(int version, int access, String name, String signature, String superclass, String[] interfaces) {
        head = new TypeInfo(name, access, superclass, List.of(interfaces), List.of());
        if (superclass != null) {
            references.add(new Reference(Use.SUPERCLASS, superclass));
        }
        for (String each : interfaces) {
            references.add(new Reference(Use.INTERFACE, each));
        }
    }

    @Override
    public FieldVisitor visitField(int access, String name, String descriptor, String signature, Object value) {
        members.add(new Member(name, descriptor, access, value));
        mention(descriptor);
        return new FieldVisitor(API) {
            @Override
            public AnnotationVisitor visitAnnotation(String annotation, boolean visible) {
                return annotation(annotation);
            }
        };
    }

    @Override
    public MethodVisitor visitMethod(
            int access, String name, String descriptor, String signature, String[] exceptions) {
        members.add(new Member(name, descriptor, access));
        mention(descriptor);
        if (exceptions != null) {
            for (String exception : exceptions) {
                references.add(new Reference(Use.MENTION, exception));
            }
        }
        return new Code();
    }

    @Override
    public AnnotationVisitor visitAnnotation(String descriptor, boolean visible) {
        return annotation(descriptor);
    }

    @Override
    public AnnotationVisitor visitTypeAnnotation(int type, TypePath path, String descriptor, boolean visible) {
        return annotation(descriptor);
    }

    private AnnotationVisitor annotation(String descriptor) {
        String type = Type.getType(descriptor).getInternalName();
        references.add(new Reference(Use.ANNOTATION, type));
        return new Elements(type);
    }

    /** All types that the descriptor of a member or of a class names. */
    private void mention(String descriptor) {
        Type type = Type.getType(descriptor);
        if (type.getSort() == Type.METHOD) {
            for (Type argument : type.getArgumentTypes()) {
                use(Use.MENTION, argument);
            }
            use(Use.MENTION, type.getReturnType());
        } else {
            use(Use.MENTION, type);
        }
    }

    private void use(Use use, Type type) {
        Type element = type.getSort() == Type.ARRAY ? type.getElementType() : type;
        if (element.getSort() == Type.OBJECT) {
            references.add(new Reference(use, element.getInternalName()));
        }
    }

    private void member(Use use, String owner, String name, String descriptor, boolean inInterface) {
        mention(descriptor);
        if (owner.startsWith("[")) {
            use(Use.TYPE, Type.getObjectType(owner)); // its methods are Object's
        } else {
            references.add(new Reference(use, owner, name, descriptor, inInterface));
        }
    }

    private void constant(Object value) {
        if (value instanceof Type) {
            Type type = (Type) value;
            if (type.getSort() == Type.METHOD) {
                mention(type.getDescriptor());
            } else {
                use(Use.TYPE, type);
            }
        } else if (value instanceof Handle) {
            handle((Handle) value);
        } else if (value instanceof ConstantDynamic) {
            ConstantDynamic dynamic = (ConstantDynamic) value;
            mention(dynamic.getDescriptor());
            handle(dynamic.getBootstrapMethod());
            for (int i = 0; i < dynamic.getBootstrapMethodArgumentCount(); i++) {
                constant(dynamic.getBootstrapMethodArgument(i));
            }
        }
    }

    private void handle(Handle handle) {
        if (handle.getTag() == Opcodes.H_NEWINVOKESPECIAL) {
            references.add(new Reference(Use.INSTANTIATION, handle.getOwner()));
        }
        member(use(handle.getTag()), handle.getOwner(), handle.getName(), handle.getDesc(), handle.isInterface());
    }

    private static Use use(int tag) {
        switch (tag) {
            case Opcodes.H_GETFIELD:
                return Use.GET_FIELD;
            case Opcodes.H_GETSTATIC:
                return Use.GET_STATIC;
            case Opcodes.H_PUTFIELD:
                return Use.PUT_FIELD;
            case Opcodes.H_PUTSTATIC:
                return Use.PUT_STATIC;
            case Opcodes.H_INVOKESTATIC:
                return Use.STATIC_CALL;
            case Opcodes.H_INVOKESPECIAL:
                return Use.DIRECT_CALL;
            case Opcodes.H_NEWINVOKESPECIAL:
                return Use.CONSTRUCTION;
            default:
                return Use.CALL;
        }
    }

    private final class Elements extends AnnotationVisitor {
        private final String type;

        /** @param type null: the elements of an array, which have no names */
        Elements(String type) {
            super(API);
            this.type = type;
        }

        private void element(String name) {
            if (type != null) {
                references.add(new Reference(Use.ANNOTATION_ELEMENT, type, name, null, true));
            }
        }

        @Override
        public void visit(String name, Object value) {
            element(name);
            constant(value);
        }

        @Override
        public void visitEnum(String name, String descriptor, String value) {
            element(name);
            member(Use.GET_STATIC, Type.getType(descriptor).getInternalName(), value, descriptor, false);
        }

        @Override
        public AnnotationVisitor visitAnnotation(String name, String descriptor) {
            element(name);
            return annotation(descriptor);
        }

        @Override
        public AnnotationVisitor visitArray(String name) {
            element(name);
            return new Elements(null);
        }
    }

    private final class Code extends MethodVisitor {
        /** Made, and not yet constructed: tells {@code new} from a constructor's call of its superclass's. */
        private final List<String> made = new ArrayList<>();

        Code() {
            super(API);
        }

        @Override
        public AnnotationVisitor visitAnnotation(String descriptor, boolean visible) {
            return annotation(descriptor);
        }

        @Override
        public AnnotationVisitor visitParameterAnnotation(int parameter, String descriptor, boolean visible) {
            return annotation(descriptor);
        }

        @Override
        public void visitTypeInsn(int opcode, String type) {
            use(opcode == Opcodes.NEW ? Use.INSTANTIATION : Use.TYPE, Type.getObjectType(type));
            if (opcode == Opcodes.NEW) {
                made.add(type);
            }
        }

        @Override
        public void visitMultiANewArrayInsn(String descriptor, int dimensions) {
            use(Use.TYPE, Type.getType(descriptor));
        }

        @Override
        public void visitTryCatchBlock(Label start, Label end, Label handler, String type) {
            if (type != null) {
                references.add(new Reference(Use.CATCH, type));
            }
        }

        @Override
        public void visitFieldInsn(int opcode, String owner, String name, String descriptor) {
            member(field(opcode), owner, name, descriptor, false);
        }

        @Override
        public void visitMethodInsn(int opcode, String owner, String name, String descriptor, boolean inInterface) {
            boolean constructs = name.equals(Member.CONSTRUCTOR) && made.remove(owner);
            member(constructs ? Use.CONSTRUCTION : method(opcode), owner, name, descriptor, inInterface);
        }

        @Override
        public void visitLdcInsn(Object value) {
            constant(value);
        }

        @Override
        public void visitInvokeDynamicInsn(String name, String descriptor, Handle bootstrap, Object... arguments) {
            mention(descriptor);
            constant(bootstrap);
            for (Object argument : arguments) {
                constant(argument);
            }
            if (bootstrap.getOwner().equals(LAMBDAS)) {
                String type = Type.getReturnType(descriptor).getInternalName();
                references.add(new Reference(Use.FUNCTION, type, name, arguments[0].toString(), true));
            }
        }

        private Use field(int opcode) {
            switch (opcode) {
                case Opcodes.GETFIELD:
                    return Use.GET_FIELD;
                case Opcodes.PUTFIELD:
                    return Use.PUT_FIELD;
                case Opcodes.GETSTATIC:
                    return Use.GET_STATIC;
                default:
                    return Use.PUT_STATIC;
            }
        }

        private Use method(int opcode) {
            switch (opcode) {
                case Opcodes.INVOKESTATIC:
                    return Use.STATIC_CALL;
                case Opcodes.INVOKESPECIAL:
                    return Use.DIRECT_CALL;
                default:
                    return Use.CALL;
            }
        }
    }
}
