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
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class JsonTest {
    @Test
    void a_request_is_written_with_its_fields_but_for_those_that_are_null() {
        VerifyChainRequest request = VerifyChainRequest.builder()
                .repository(Repository.builder().type("dir").address("/nas").build())
                .backupPath("i/1")
                .build();
        assertThat(JsonWriter.write(request))
                .isEqualTo("{\"repository\":{\"type\":\"dir\",\"address\":\"/nas\"},\"backupPath\":\"i/1\","
                        + "\"rateLimit\":0}");
        assertThat(JsonWriter.write(null)).isNull();
    }

    @Test
    void constants_numbers_and_lists_are_written_as_the_library_names_them() {
        TakeBackupRequest request = TakeBackupRequest.builder()
                .mode(Mode.INCREMENTAL)
                .parentPaths(Arrays.asList("a", null))
                .disks(List.of())
                .rateLimit(-1)
                .build();
        assertThat(JsonWriter.write(request))
                .isEqualTo("{\"mode\":\"incremental\",\"parentPaths\":[\"a\",null],\"disks\":[],\"quiesce\":false,"
                        + "\"waitSeconds\":0,\"rateLimit\":-1}");
    }

    @ParameterizedTest
    @ValueSource(
            strings = {"", "plain", "\"quoted\\", "a\nb\tc\u0000\u007f", "ümläut 名前", "\uD83D\uDE00", "half \uD83D"})
    void a_text_is_written_in_ascii_and_read_unchanged(String text) {
        String json = JsonWriter.write(text);
        assertThat(json).matches("[ -~]*");
        assertThat(JsonReader.read(json)).isEqualTo(text);
    }

    @Test
    void a_reply_is_read() {
        String json = "{\"a\":[],\"b\":{},\"c\":[1,true,false,null,\"\\/\\b\\f\\n\\r\\t\\u0041\"],"
                + "\"d\":18446744073709551615,\"e\":[[{\"f\":0}]]}";
        assertThat(JsonReader.read(json))
                .isEqualTo(Map.of(
                        "a",
                        List.of(),
                        "b",
                        Map.of(),
                        "c",
                        Arrays.asList(1L, true, false, null, "/\b\f\n\r\tA"),
                        "d",
                        Long.MAX_VALUE,
                        "e",
                        List.of(List.of(Map.of("f", 0L)))));
    }

    @ParameterizedTest
    @ValueSource(strings = {"1.5", "-1", "{}x", "[1 2]", "{\"a\"1}", "nil", "{a:1}"})
    void what_the_library_does_not_write_is_refused(String json) {
        assertThatIllegalStateException()
                .isThrownBy(() -> JsonReader.read(json))
                .withMessageContaining(json);
    }

    @Test
    void a_field_that_the_reply_lacks_is_named() {
        assertThatIllegalStateException()
                .isThrownBy(() -> Reply.of("{\"freed\":1}").number("freedBytes"))
                .withMessage("the library's reply has no freedBytes: [freed]");
    }
}
