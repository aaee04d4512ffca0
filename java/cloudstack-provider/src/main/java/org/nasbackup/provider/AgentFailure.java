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

/** A host did not do what it was asked, or did not say that it did. The message is the host's reason in one line. */
public final class AgentFailure extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** What is known of the outcome. */
    public enum Kind {
        /** The host refused, or failed. */
        REFUSED,
        /** The host runs as many backups as it may: nothing was touched, and it can be asked again. */
        NO_PLACE,
        /** The host does not know the command: nothing was done. */
        UNSUPPORTED,
        /** The host sent no answer, or one that makes no sense: the work may be done, under way, or not begun. */
        UNKNOWN
    }

    private final Kind kind;
    private final boolean leftovers;

    public AgentFailure(Kind kind, String reason, boolean leftovers) {
        this(kind, reason, leftovers, null);
    }

    /** @param cause null: there is no other cause than the host's answer */
    public AgentFailure(Kind kind, String reason, boolean leftovers, Throwable cause) {
        super(OneLine.of(reason), cause);
        this.kind = kind;
        this.leftovers = leftovers;
    }

    public Kind kind() {
        return kind;
    }

    /** Whether something may be left on the NAS that no record names. */
    public boolean leftovers() {
        return leftovers;
    }
}
