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

package org.nasbackup.cloudstack;

import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Makes a text that others wrote (a host, a tool, a name on the NAS) safe for a log, an error or the database: one line of
 * characters that are only shown. Characters that act on a terminal, or on a reader of a log, are escaped.
 */
public final class OneLine {
    /** Characters that a text may have; a longer one is cut. */
    static final int LONGEST = 16 * 1024;

    /** Causes that are told of one failure: a chain of causes may be a circle. */
    private static final int MOST_CAUSES = 8;

    private static final Pattern LINE_BREAK = Pattern.compile("\\R");
    /** Control characters, characters without a width such as those that turn the direction, and halves of surrogate pairs. */
    private static final Pattern ACTS = Pattern.compile("[\\p{Cc}\\p{Cf}\\p{Cs}\\p{Zl}\\p{Zp}]");

    private OneLine() {}

    /** @param text null gives null */
    public static String of(String text) {
        return text == null
                ? null
                : LINE_BREAK
                        .splitAsStream(cut(text))
                        .map(String::strip)
                        .filter(Predicate.not(String::isEmpty))
                        .map(OneLine::escaped)
                        .collect(Collectors.joining("; "));
    }

    private static String cut(String text) {
        return text.length() <= LONGEST ? text : text.substring(0, LONGEST) + " ...";
    }

    private static String escaped(String line) {
        return ACTS.matcher(line)
                .replaceAll(acts -> Matcher.quoteReplacement(
                        "\\u{" + Integer.toHexString(acts.group().codePointAt(0)) + "}"));
    }

    /** For a log: the same failure, with the places in the code, and with such texts. */
    public static Throwable of(Throwable failure) {
        return of(failure, MOST_CAUSES);
    }

    private static Throwable of(Throwable failure, int causes) {
        Throwable cause = causes == 0 ? null : failure.getCause();
        Throwable plain = new Throwable(of(failure.toString()), cause == null ? null : of(cause, causes - 1));
        plain.setStackTrace(failure.getStackTrace());
        return plain;
    }
}
