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
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The library's log lines in Java's log. */
@Tag("lab")
class LogTest {
    private final Logger logger = Logger.getLogger("nasbackup");
    private final List<LogRecord> records = new CopyOnWriteArrayList<>();
    private Runnable onRecord = () -> {};
    private final Handler handler = new Handler() {
        @Override
        public void publish(LogRecord record) {
            records.add(record);
            onRecord.run();
        }

        @Override
        public void flush() {}

        @Override
        public void close() {}
    };

    @BeforeEach
    void listen() {
        NasBackup.open();
        logger.addHandler(handler);
        logger.setUseParentHandlers(false);
    }

    @AfterEach
    void stop() {
        logger.removeHandler(handler);
        logger.setUseParentHandlers(true);
        NasBackup.open();
    }

    private LogRecord record(String line) {
        return records.stream()
                .filter(record -> record.getMessage().equals(line))
                .reduce((a, b) -> {
                    throw new AssertionError("twice: " + line);
                })
                .orElseThrow(() -> new AssertionError("not logged: " + line));
    }

    @Test
    void what_others_have_written_is_plain_in_a_line_and_in_an_exception() {
        String name = "T1\nERROR forged\r\u001b[2J\u202e\u009b\0";
        String shown = "\\nERROR forged\\r\\u{1b}[2J\\u{202e}\\u{9b}\\u{0}";
        TestHooks.logOnNativeThread(name);
        record("T1" + shown);
        assertThatThrownBy(() -> TestHooks.panic("\r" + name.replace("\n", "")))
                .hasMessageEndingWith("\\rT1" + shown.replace("\\n", ""));
    }

    @Test
    void a_line_of_the_calling_thread_arrives() {
        NasBackup.open();
        assertThat(records).singleElement().satisfies(record -> {
            assertThat(record.getLoggerName()).isEqualTo("nasbackup.operation");
            assertThat(record.getLevel()).isEqualTo(Level.INFO);
            assertThat(record.getMessage()).contains("nasbackup " + NasBackup.javaVersion());
        });
    }

    @Test
    void a_line_of_a_native_thread_arrives() {
        TestHooks.logOnNativeThread("from {0} afar");
        assertThat(record("from {0} afar").getLevel()).isEqualTo(Level.WARNING);
        assertThat(record("from {0} afar").getLoggerName()).isEqualTo("nasbackup.test.thread");
    }

    @Test
    void a_line_beside_a_pending_exception_arrives_and_the_exception_too() {
        assertThatThrownBy(() -> TestHooks.logWithPendingException("beside"))
                .isInstanceOf(ArithmeticException.class)
                .hasMessage("pending");
        assertThat(record("beside").getLevel()).isEqualTo(Level.SEVERE);
    }

    @Test
    void a_panic_is_logged_with_its_place() {
        assertThatThrownBy(() -> TestHooks.panic("the text")).isInstanceOf(NasBackupException.class);
        assertThat(records).singleElement().satisfies(record -> assertThat(record.getMessage())
                .contains("the text", "test_hooks.rs:")
                .doesNotContain("\n"));
    }

    /** The library tells of it on standard error, which is this JVM's own. */
    @Test
    void a_logger_that_fails_harms_nobody_and_is_told_of() throws Exception {
        String output = new ChildJvm().run("log-to-a-failing-logger");
        assertThat(output.lines())
                .filteredOn(line ->
                        line.equals("log4rs: the logger threw java.lang.IllegalStateException: the log file is gone"))
                .hasSize(3);
        assertThat(output).endsWith("pending java.lang.ArithmeticException: pending\nrecords 3\n");
    }

    @Test
    void a_logger_that_calls_the_library_does_not_go_round() {
        onRecord = () -> Native.init(NasBackup.javaVersion(), null);
        TestHooks.logOnNativeThread("once");
        assertThat(records).hasSize(1);
    }

    @Test
    void the_level_is_that_of_the_configuration() {
        NasBackup.open(Configuration.builder().logLevel("error").build());
        TestHooks.logOnNativeThread("a warning");
        assertThat(records).isEmpty();
    }

    @Test
    void a_trace_does_not_show_how_lines_travel() {
        logger.setLevel(Level.ALL);
        NasBackup.open(Configuration.builder().logLevel("trace").build());
        records.clear();
        TestHooks.logOnNativeThread("one line");
        assertThat(records).hasSize(1);
        logger.setLevel(null);
    }

    @Test
    void a_log4rs_file_replaces_it(@TempDir Path folder) throws Exception {
        Path log = folder.resolve("out.log");
        Path yaml = folder.resolve("log4rs.yaml");
        Files.writeString(
                yaml,
                "appenders: {file: {kind: file, path: " + log + ", encoder: {pattern: '{t} {m}{n}'}}}\n"
                        + "root: {level: warn, appenders: [file]}\n");
        NasBackup.open(Configuration.builder().logConfig(yaml.toString()).build());
        records.clear();
        TestHooks.logOnNativeThread("to the file");
        assertThat(records).isEmpty();
        assertThat(log).hasContent("nasbackup::test::thread to the file");
    }
}
