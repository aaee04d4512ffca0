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
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Predicate;

/** What a check has found. */
public final class Report {
    Report() {}

    /** What does not resolve or is owed, with the classes that it concerns. */
    private final Map<String, Set<String>> faults = new TreeMap<>();
    /** Types that nobody knows, with the classes that use them, one for each use. */
    private final Map<String, List<String>> notChecked = new TreeMap<>();

    private int checked;

    void checked() {
        checked++;
    }

    void fault(String place, String text) {
        faults.computeIfAbsent(text, none -> new TreeSet<>()).add(Reference.dots(place));
    }

    void notChecked(String place, String type) {
        notChecked.computeIfAbsent(type, none -> new ArrayList<>()).add(place);
    }

    /** Types of which it is known that they are not there are no longer unchecked but wrong. */
    void missing(Predicate<String> absent) {
        notChecked.entrySet().removeIf(entry -> {
            String type = entry.getKey();
            if (absent.test(type)) {
                entry.getValue().forEach(place -> fault(place, Reference.dots(type) + ": there is no such type"));
                return true;
            }
            return false;
        });
    }

    /** How many references and members were checked. */
    public int count() {
        return checked;
    }

    /** What is wrong, with the classes that it concerns: a line for each. */
    public List<String> lines() {
        List<String> lines = new ArrayList<>();
        faults.forEach((fault, places) -> lines.add(fault + " [" + String.join(", ", places) + "]"));
        return lines;
    }

    Map<String, Set<String>> faults() {
        return faults;
    }

    Map<String, List<String>> notChecked() {
        return notChecked;
    }
}
