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

/** UEFI variables, or the state of a TPM, that were restored. */
public final class RestoredState {
    private final String file;
    private final String output;
    private final String kept;

    RestoredState(Reply reply) {
        this.file = reply.text("file");
        this.output = reply.text("output");
        this.kept = reply.text("kept");
    }

    /** The file's name in the restore point. */
    public String file() {
        return file;
    }

    /** The path of its output, as it was given. */
    public String output() {
        return output;
    }

    /** Path of what was replaced; null if nothing was, or it was not kept. */
    public String kept() {
        return kept;
    }

    @Override
    public String toString() {
        return file + " in " + output;
    }
}
