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

package org.nasbackup.provider;

import org.nasbackup.cloudstack.OneLine;

/** A host did not do what it was asked, or did not say so. The reason is in its words, and in one line. */
public final class AgentFailure extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** What is known. */
    public enum Kind {
        /** It said no. */
        REFUSED,
        /** It said that as many backups as may are under way: nothing was touched, and it can be asked again. */
        NO_PLACE,
        /** It does not know such a command: nothing was done. */
        UNSUPPORTED,
        /** Nothing came, or nothing that can be understood: it may have been done, be under way, or not. */
        UNKNOWN
    }

    private final Kind kind;
    private final boolean leftovers;

    public AgentFailure(Kind kind, String reason, boolean leftovers) {
        this(kind, reason, leftovers, null);
    }

    /** @param cause null: the host's answer is all there is */
    public AgentFailure(Kind kind, String reason, boolean leftovers, Throwable cause) {
        super(OneLine.of(reason), cause);
        this.kind = kind;
        this.leftovers = leftovers;
    }

    public Kind kind() {
        return kind;
    }

    /** May there be something on the NAS that nobody knows? */
    public boolean leftovers() {
        return leftovers;
    }
}
