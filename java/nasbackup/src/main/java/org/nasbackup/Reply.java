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

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;

/** An object of the library's reply, with the fields that the C ABI documents. */
final class Reply {
    private final Map<?, ?> fields;

    Reply(Map<?, ?> fields) {
        this.fields = fields;
    }

    static Reply of(String json) {
        return new Reply((Map<?, ?>) JsonReader.read(json));
    }

    static <T> List<T> listOf(String json, Function<Reply, T> make) {
        return each((List<?>) JsonReader.read(json), make);
    }

    /** May be null. */
    String text(String field) {
        return (String) given(field);
    }

    long number(String field) {
        return (Long) given(field);
    }

    /** Null while it is not known. */
    Long numberOrNull(String field) {
        return (Long) given(field);
    }

    boolean flag(String field) {
        return (Boolean) given(field);
    }

    <T> List<T> list(String field, Function<Reply, T> make) {
        return each((List<?>) given(field), make);
    }

    List<String> texts(String field) {
        return ((List<?>) given(field)).stream().map(String.class::cast).collect(Collectors.toUnmodifiableList());
    }

    Map<String, String> textsByName(String field) {
        Map<String, String> texts = new LinkedHashMap<>();
        ((Map<?, ?>) given(field)).forEach((name, text) -> texts.put((String) name, (String) text));
        return Collections.unmodifiableMap(texts);
    }

    private static <T> List<T> each(List<?> elements, Function<Reply, T> make) {
        return elements.stream()
                .map(element -> make.apply(new Reply((Map<?, ?>) element)))
                .collect(Collectors.toUnmodifiableList());
    }

    /** Null is an answer of the library; a field that is not there is a defect. */
    private Object given(String field) {
        if (!fields.containsKey(field)) {
            throw new IllegalStateException("the library's reply has no " + field + ": " + fields.keySet());
        }
        return fields.get(field);
    }
}
