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

import java.util.List;

/** One file of a chain that was verified. */
public final class VerifiedFile {
    private final String file;
    private final Verdict verdict;
    private final List<String> reasons;

    VerifiedFile(Reply reply) {
        this.file = reply.text("file");
        this.verdict = Verdict.of(reply.text("verdict"));
        this.reasons = reply.texts("reasons");
    }

    /** The file's path, relative to the repository's root. */
    public String file() {
        return file;
    }

    /** The outcome for this file. */
    public Verdict verdict() {
        return verdict;
    }

    /** What is wrong with the file, or worth knowing: a good image may have leaked clusters. */
    public List<String> reasons() {
        return reasons;
    }

    @Override
    public String toString() {
        return file + " " + verdict + " " + reasons;
    }
}
