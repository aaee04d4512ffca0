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

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Gives the restore points of a repository a MAC by the first of this host's keys, when there is a new one:
 * {@code java -cp <its class path> org.nasbackup.SignPoints [--trust-unsigned] <type> <address> [<mount options> | -]}. Its exit
 * status is 0 when that key vouches for all of them.
 */
public final class SignPoints {
    private static final String TRUST_UNSIGNED = "--trust-unsigned";
    /** Says that the options are on standard input: every user of the host can read a command line, and a password in it. */
    private static final String ON_INPUT = "-";

    private SignPoints() {}

    public static void main(String[] arguments) {
        try {
            SignPointsRequest request = request(System.in, arguments);
            SignPointsResult result =
                    NasBackup.open(HostSettings.read(HostSettings.FILE).build()).signPoints(request);
            System.out.println(result);
            System.exit(result.refused() == 0 && result.busy() == 0 ? 0 : 1);
        } catch (IOException | RuntimeException | LinkageError e) {
            System.err.println(e.getMessage());
            System.exit(2);
        }
    }

    static SignPointsRequest request(InputStream input, String... arguments) throws IOException {
        List<String> repository = new ArrayList<>(Arrays.asList(arguments));
        boolean trustUnsigned = repository.remove(TRUST_UNSIGNED);
        if (repository.size() < 2 || repository.size() > 3) {
            throw new IllegalArgumentException(
                    "usage: org.nasbackup.SignPoints [" + TRUST_UNSIGNED + "] <type> <address> [<mount options> | -]");
        }
        String options = repository.size() == 3 ? repository.get(2) : "";
        if (options.equals(ON_INPUT)) {
            options = new String(input.readAllBytes(), StandardCharsets.UTF_8).strip();
        }
        return SignPointsRequest.builder()
                .repository(Repository.builder()
                        .type(repository.get(0))
                        .address(repository.get(1))
                        .options(options)
                        .build())
                .trustUnsigned(trustUnsigned)
                .build();
    }
}
