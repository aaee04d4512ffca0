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

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import org.junit.jupiter.api.Test;

class SignPointsTest {
    private static SignPointsRequest request(String... arguments) throws IOException {
        return SignPoints.request(new ByteArrayInputStream("vers=3.0,password=p\n".getBytes()), arguments);
    }

    @Test
    void an_operator_names_the_repository_as_cloudstack_does() throws Exception {
        SignPointsRequest request = request("nfs", "192.0.2.9:/b", "vers=4");
        assertThat(request.repository()).hasToString("nfs 192.0.2.9:/b");
        assertThat(request.repository().options()).isEqualTo("vers=4");
        assertThat(request.trustUnsigned()).isFalse();
        assertThat(request.instance()).isNull();
    }

    @Test
    void a_password_need_not_be_on_the_command_line() throws Exception {
        assertThat(request("cifs", "//192.0.2.9/b", "-").repository().options()).isEqualTo("vers=3.0,password=p");
    }

    @Test
    void what_has_no_mac_is_trusted_by_whoever_says_so() throws Exception {
        assertThat(request("--trust-unsigned", "nfs", "192.0.2.9:/b").trustUnsigned())
                .isTrue();
    }

    @Test
    void anything_else_is_told_how_it_is_done() {
        for (String[] wrong : new String[][] {{}, {"nfs"}, {"--trust-unsigned", "nfs"}, {"nfs", "a", "b", "c"}}) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> request(wrong))
                    .withMessageStartingWith("usage: ");
        }
    }
}
