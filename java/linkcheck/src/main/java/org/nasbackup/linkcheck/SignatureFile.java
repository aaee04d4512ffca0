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
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.objectweb.asm.Opcodes;

/**
 * Types from a list of declarations as {@code javap} prints them: each type begins in the first column, its public and
 * protected members follow, indented, each with a tab and its descriptor. Lines that begin with {@code #} are comments.
 */
final class SignatureFile implements Types {
    private static final String OBJECT = "java/lang/Object";
    private static final Map<String, Integer> FLAGS = Map.ofEntries(
            Map.entry("public", Modifier.PUBLIC),
            Map.entry("protected", Modifier.PROTECTED),
            Map.entry("private", Modifier.PRIVATE),
            Map.entry("static", Modifier.STATIC),
            Map.entry("final", Modifier.FINAL),
            Map.entry("abstract", Modifier.ABSTRACT),
            Map.entry("synchronized", Modifier.SYNCHRONIZED),
            Map.entry("native", Modifier.NATIVE),
            Map.entry("transient", Modifier.TRANSIENT),
            Map.entry("volatile", Modifier.VOLATILE),
            Map.entry("default", 0));

    private final Map<String, TypeInfo> types = new HashMap<>();

    /** @throws IllegalArgumentException when a line is none of those */
    static SignatureFile parse(List<String> lines) {
        SignatureFile file = new SignatureFile();
        List<Member> members = null;
        String header = null;
        for (String line : lines) {
            if (line.startsWith("#") || line.isBlank()) {
                continue;
            }
            if (line.startsWith(" ")) {
                if (members == null) {
                    throw new IllegalArgumentException("a member before any type: " + line);
                }
                members.add(member(line));
            } else {
                file.add(header, members);
                header = line;
                members = new ArrayList<>();
            }
        }
        file.add(header, members);
        return file;
    }

    @Override
    public TypeInfo find(String name) {
        return types.get(name);
    }

    private void add(String header, List<Member> members) {
        if (header != null) {
            TypeInfo type = type(header, members);
            types.put(type.name, type);
        }
    }

    private static TypeInfo type(String header, List<Member> members) {
        List<String> words = words(withoutTypeArguments(header));
        int access = 0;
        int at = 0;
        while (at < words.size() && FLAGS.containsKey(words.get(at))) {
            access |= FLAGS.get(words.get(at++));
        }
        if (at + 1 >= words.size() || !words.get(at).matches("class|interface")) {
            throw new IllegalArgumentException("not a type: " + header);
        }
        boolean isInterface = words.get(at).equals("interface");
        String name = slashes(words.get(at + 1));
        String superclass = OBJECT;
        List<String> interfaces = new ArrayList<>();
        String list = "";
        for (String word : words.subList(at + 2, words.size())) {
            if (word.matches("extends|implements")) {
                list = word;
            } else if (list.equals("extends") && !isInterface) {
                superclass = slashes(word);
            } else {
                interfaces.add(slashes(word));
            }
        }
        if (isInterface) {
            access |= Opcodes.ACC_INTERFACE | Opcodes.ACC_ABSTRACT;
        }
        if (interfaces.contains("java/lang/annotation/Annotation")) {
            access |= Opcodes.ACC_ANNOTATION;
        }
        if (superclass.equals("java/lang/Enum")) {
            access |= Opcodes.ACC_ENUM;
        }
        return new TypeInfo(name, access, superclass, interfaces, members);
    }

    private static Member member(String line) {
        int tab = line.indexOf('\t');
        if (tab < 0) {
            throw new IllegalArgumentException("a member without descriptor: " + line);
        }
        String descriptor = line.substring(tab + 1).strip();
        String declaration = withoutTypeArguments(line.substring(0, tab));
        int parameters = declaration.indexOf('(');
        if (descriptor.startsWith("(") != parameters >= 0) {
            throw new IllegalArgumentException("declaration and descriptor do not belong together: " + line);
        }
        List<String> words = words(parameters < 0 ? declaration : declaration.substring(0, parameters));
        int access = 0;
        for (String word : words) {
            access |= FLAGS.getOrDefault(word, 0);
        }
        String name = words.get(words.size() - 1);
        boolean isType = name.contains(".");
        return new Member(isType ? Member.CONSTRUCTOR : name, descriptor, access);
    }

    private static List<String> words(String text) {
        return List.of(text.strip().split("[\\s,]+"));
    }

    private static String slashes(String name) {
        return name.replace('.', '/');
    }

    private static String withoutTypeArguments(String text) {
        StringBuilder result = new StringBuilder();
        int depth = 0;
        for (char c : text.toCharArray()) {
            depth += c == '<' ? 1 : 0;
            if (depth == 0) {
                result.append(c);
            }
            depth -= c == '>' ? 1 : 0;
        }
        return result.toString();
    }
}
