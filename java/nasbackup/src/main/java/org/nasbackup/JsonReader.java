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

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Reads the JSON that the library writes, into maps, lists, {@link String}, {@link Long}, {@link Boolean} and null. */
final class JsonReader {
    /** As many characters are told of a reply that can't be read. */
    private static final int SHOWN = 100;

    private final String json;
    private int at;

    private JsonReader(String json) {
        this.json = json;
    }

    static Object read(String json) {
        JsonReader reader = new JsonReader(json);
        Object value = reader.value();
        if (reader.at < json.length()) {
            throw reader.unreadable();
        }
        return value;
    }

    private Object value() {
        switch (json.charAt(at)) {
            case '{':
                return object();
            case '[':
                return list();
            case '"':
                return text();
            case 'n':
                return word("null", null);
            case 't':
                return word("true", true);
            case 'f':
                return word("false", false);
            default:
                return number();
        }
    }

    private Map<String, Object> object() {
        Map<String, Object> fields = new LinkedHashMap<>();
        for (boolean more = begins('}'); more; more = goesOn('}')) {
            String name = text();
            take(':');
            fields.put(name, value());
        }
        return fields;
    }

    private List<Object> list() {
        List<Object> elements = new ArrayList<>();
        for (boolean more = begins(']'); more; more = goesOn(']')) {
            elements.add(value());
        }
        return elements;
    }

    /** Takes the bracket that opens; whether there is more than the one that closes. */
    private boolean begins(char close) {
        at++;
        if (json.charAt(at) != close) {
            return true;
        }
        at++;
        return false;
    }

    private boolean goesOn(char close) {
        char c = json.charAt(at);
        take(c == close ? close : ',');
        return c != close;
    }

    private String text() {
        take('"');
        StringBuilder text = new StringBuilder();
        while (json.charAt(at) != '"') {
            char c = json.charAt(at++);
            text.append(c == '\\' ? escaped() : c);
        }
        at++;
        return text.toString();
    }

    private char escaped() {
        char c = json.charAt(at++);
        switch (c) {
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                at += 4;
                return (char) Integer.parseInt(json.substring(at - 4, at), 16);
            default:
                return c;
        }
    }

    private Object word(String word, Object value) {
        if (!json.startsWith(word, at)) {
            throw unreadable();
        }
        at += word.length();
        return value;
    }

    /** The library has no other numbers than whole ones from 0 on; what is too much for a long becomes the largest long. */
    private Long number() {
        int start = at;
        while (at < json.length() && Character.isDigit(json.charAt(at))) {
            at++;
        }
        if (at == start) {
            throw unreadable();
        }
        try {
            return Long.valueOf(json.substring(start, at));
        } catch (NumberFormatException e) {
            return Long.MAX_VALUE;
        }
    }

    private void take(char c) {
        if (json.charAt(at) != c) {
            throw unreadable();
        }
        at++;
    }

    private IllegalStateException unreadable() {
        String start = json.substring(0, Math.min(SHOWN, json.length()));
        return new IllegalStateException("the library's reply can't be read from character " + at + " on: " + start);
    }
}
