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

package org.nasbackup.provider.cloudstack;

import com.cloud.utils.exception.CloudRuntimeException;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.Supplier;

/**
 * Tells whether the provider fits the server that it runs in. A server may end if making its provider fails, and catches no
 * linkage error later: so what is wrong is looked for once, logged once, and told by each operation.
 */
public final class Fitness {
    private static final String UNFIT = "nasbackup does not fit this management server - ";

    private final Supplier<List<String>> look;
    private final Consumer<String> log;
    private List<String> wrong;

    /** @param look tells what is wrong */
    public Fitness(Supplier<List<String>> look, Consumer<String> log) {
        this.look = look;
        this.log = log;
    }

    /** Never throws. */
    public synchronized List<String> wrong() {
        if (wrong == null) {
            wrong = looked();
            wrong.forEach(each -> log.accept(UNFIT + each));
        }
        return wrong;
    }

    private List<String> looked() {
        try {
            return look.get();
        } catch (RuntimeException | LinkageError e) {
            return List.of(e.toString());
        }
    }

    /** @throws CloudRuntimeException also when the provider does not fit the server */
    public <T> T guarded(Supplier<T> work) {
        if (!wrong().isEmpty()) {
            throw new CloudRuntimeException(UNFIT + String.join("; ", wrong()));
        }
        try {
            return work.get();
        } catch (LinkageError e) {
            throw new CloudRuntimeException(UNFIT + e, e);
        }
    }
}
