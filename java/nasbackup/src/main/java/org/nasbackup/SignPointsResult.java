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

/** What {@link NasBackup#signPoints} answers. */
public final class SignPointsResult {
    private final long signed;
    private final long kept;
    private final long refused;
    private final long busy;

    SignPointsResult(Reply reply) {
        this.signed = reply.number("signed");
        this.kept = reply.number("kept");
        this.refused = reply.number("refused");
        this.busy = reply.number("busy");
    }

    /** Points whose manifest was given a MAC by the first key. */
    public long signed() {
        return signed;
    }

    /** Points whose manifest had such a MAC already. */
    public long kept() {
        return kept;
    }

    /** Points that still no key vouches for: the log has a line for each. */
    public long refused() {
        return refused;
    }

    /** Machines whose points other jobs held: none of their points was looked at. */
    public long busy() {
        return busy;
    }

    @Override
    public String toString() {
        return signed + " signed, " + kept + " kept, " + refused + " refused, " + busy + " machines busy";
    }
}
