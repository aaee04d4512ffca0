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

/** The outcome of a verification, of one file or of a whole restore point. */
public enum Verdict {
    /** Nothing that was checked is wrong. */
    GOOD,
    /** Whether the file is good could not be found out. */
    ABORTED,
    /** The file does not, or may not, read as it should. */
    BAD;

    /**
     * The constant that the text names in lower case; null for null.
     *
     * @throws NasBackupException with {@link ErrorCode#INVALID_ARGUMENT} for any other text
     */
    public static Verdict of(String text) {
        return Texts.constant(Verdict.class, text);
    }

    /** The text of this constant in results. */
    public String text() {
        return Texts.of(this);
    }
}
