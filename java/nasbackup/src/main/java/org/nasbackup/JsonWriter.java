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

package org.nasbackup;

import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Writes a request as the library reads it: JSON, with the fields of the Java class by their names. So a field is named once
 * in Java, and the library refuses one that it does not know.
 */
final class JsonWriter {
    private final StringBuilder json = new StringBuilder();

    private JsonWriter() {}

    /** Null for null. */
    static String write(Object request) {
        if (request == null) {
            return null;
        }
        JsonWriter writer = new JsonWriter();
        writer.value(request);
        return writer.json.toString();
    }

    /** The fields of an object by their names. */
    static Map<String, Object> fields(Object object) {
        Map<String, Object> fields = new LinkedHashMap<>();
        try {
            for (Field field : object.getClass().getDeclaredFields()) {
                if (!Modifier.isStatic(field.getModifiers())) {
                    field.setAccessible(true);
                    fields.put(field.getName(), field.get(object));
                }
            }
        } catch (IllegalAccessException e) {
            throw new IllegalStateException(e);
        }
        return fields;
    }

    private void value(Object value) {
        if (value == null || value instanceof Long || value instanceof Boolean) {
            json.append(value);
        } else if (value instanceof String) {
            text((String) value);
        } else if (value instanceof Enum) {
            text(Texts.of((Enum<?>) value));
        } else if (value instanceof List) {
            list((List<?>) value);
        } else if (value instanceof Map) {
            object((Map<?, ?>) value);
        } else {
            object(fields(value));
        }
    }

    private void list(List<?> elements) {
        String separator = "[";
        for (Object element : elements) {
            json.append(separator);
            value(element);
            separator = ",";
        }
        json.append(elements.isEmpty() ? "[]" : "]");
    }

    /** Leaves out what is null, for which the library has its default. */
    private void object(Map<?, ?> fields) {
        json.append('{');
        String separator = "";
        for (Map.Entry<?, ?> field : fields.entrySet()) {
            if (field.getValue() != null) {
                json.append(separator);
                text((String) field.getKey());
                json.append(':');
                value(field.getValue());
                separator = ",";
            }
        }
        json.append('}');
    }

    /** In ASCII alone: half a surrogate pair gets to the library as what it is, and is refused there. */
    private void text(String text) {
        json.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c < ' ' || c > '~') {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c == '"' || c == '\\' ? "\\" : "").append(c);
            }
        }
        json.append('"');
    }
}
