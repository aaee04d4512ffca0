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

/** Where types are looked up by the JVM's names. */
interface Types {
    /** Null: it is not known here. */
    TypeInfo find(String name);

    /** Asks one after the other, as a class path does. */
    static Types firstOf(Types... all) {
        return name -> {
            for (Types types : all) {
                TypeInfo found = types.find(name);
                if (found != null) {
                    return found;
                }
            }
            return null;
        };
    }
}
