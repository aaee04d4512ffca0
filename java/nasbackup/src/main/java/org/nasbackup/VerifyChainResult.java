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

/** What {@link NasBackup#verifyChain} or {@link NasBackup#verifyData} answers. */
public final class VerifyChainResult {
    private final Verdict verdict;
    private final List<VerifiedFile> files;

    VerifyChainResult(Reply reply) {
        this.verdict = Verdict.of(reply.text("verdict"));
        this.files = reply.list("files", VerifiedFile::new);
    }

    /** Bad if any file is bad, else aborted if any file is aborted. */
    public Verdict verdict() {
        return verdict;
    }

    /**
     * The images of each disk's chain from the newest on, and then the manifest if the point has one; for {@code verifyData} all files
     * that were compared.
     */
    public List<VerifiedFile> files() {
        return files;
    }

    @Override
    public String toString() {
        return verdict + " " + files;
    }
}
