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

package org.nasbackup.cloudstack;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.cloud.agent.api.Answer;
import com.cloud.hypervisor.kvm.resource.LibvirtComputingResource;
import java.io.IOException;
import java.io.InputStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import javax.tools.ToolProvider;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** CloudStack's own wrapper behind ours, which has its name. */
class StockRestoreTest {
    /** As the real one does, it switches on an enum, for which javac makes a class of its own. */
    private static final String STOCK = "package com.cloud.hypervisor.kvm.resource.wrapper;"
            + "public class LibvirtRestoreBackupCommandWrapper extends com.cloud.resource.CommandWrapper<"
            + "org.apache.cloudstack.backup.RestoreBackupCommand, com.cloud.agent.api.Answer,"
            + " com.cloud.hypervisor.kvm.resource.LibvirtComputingResource> {"
            + "public com.cloud.agent.api.Answer execute(org.apache.cloudstack.backup.RestoreBackupCommand c,"
            + " com.cloud.hypervisor.kvm.resource.LibvirtComputingResource r) {"
            + "switch (c.getRestoreVolumePools().get(0).getPoolType()) { case RBD:"
            + " return new com.cloud.agent.api.Answer(c, true, c.getBackupFiles() + \" \" + c.getRestoreVolumePaths());"
            + " default: return null; } } }";

    private static final String WRAPPER =
            "com/cloud/hypervisor/kvm/resource/wrapper/LibvirtRestoreBackupCommandWrapper.class";

    @TempDir
    Path folder;

    private static RestoreBackupCommand command(String fields, String... pools) {
        StringBuilder json = new StringBuilder(fields + ",\"restoreVolumePools\":[");
        for (String pool : pools) {
            json.append(json.toString().endsWith("[") ? "" : ",")
                    .append("{\"uuid\":\"p\",\"poolType\":\"" + pool + "\"}");
        }
        return RestorePlanTest.read(json + "]");
    }

    /** As when our jar is on the class path by two names. */
    private URL oursAgain() throws IOException {
        Path copy = folder.resolve("again").resolve(WRAPPER);
        Files.createDirectories(copy.getParent());
        try (InputStream ours = StockRestore.class.getClassLoader().getResourceAsStream(WRAPPER)) {
            Files.copy(ours, copy);
        }
        return folder.resolve("again").toUri().toURL();
    }

    private Answer execute(RestoreBackupCommand command) throws IOException, ReflectiveOperationException {
        Path source = Files.writeString(folder.resolve("LibvirtRestoreBackupCommandWrapper.java"), STOCK);
        String[] arguments = {"-proc:none", "-d", folder.toString(), source.toString()};
        assertThat(ToolProvider.getSystemJavaCompiler().run(null, null, null, arguments))
                .isZero();
        URL[] behind = {oursAgain(), folder.toUri().toURL()};
        RestorePlan plan = RestorePlan.of(command);
        assertThat(StockRestore.takes(plan)).isTrue();
        try (URLClassLoader loader = new URLClassLoader(behind, StockRestore.class.getClassLoader())) {
            return new StockRestore(loader)
                    .wrapper()
                    .execute(StockRestore.ordered(command, plan), new LibvirtComputingResource());
        }
    }

    @Test
    void it_is_asked_for_what_the_library_does_not_write_by_pairs_in_its_own_order() throws Exception {
        String images =
                "\"vmExists\":true,\"backupFiles\":[\"r\",\"a\",\"b\"],\"restoreVolumePaths\":[\"c/r\",\"c/b\",\"c/a\"]";
        assertThat(execute(command(images, "RBD", "RBD", "RBD")).getDetails()).isEqualTo("[r, b, a] [c/r, c/b, c/a]");
    }

    @Test
    void without_it_such_volumes_are_refused() throws IOException {
        try (URLClassLoader twice = new URLClassLoader(new URL[] {oursAgain()}, StockRestore.class.getClassLoader())) {
            for (ClassLoader loader : List.of(StockRestore.class.getClassLoader(), twice)) {
                assertThatThrownBy(() -> new StockRestore(loader))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("CloudStack's own wrapper is not on the agent's class path");
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"NetworkFilesystem,false", "CLVM,false", "RBD,true", "Linstor,false"})
    void it_takes_what_the_library_does_not_write(String pool, boolean taken) {
        RestoreBackupCommand command = command("\"backupFiles\":[\"r\"],\"restoreVolumePaths\":[\"c/r\"]", pool);
        assertThat(StockRestore.takes(RestorePlan.of(command))).isEqualTo(taken);
    }

    @Test
    void volumes_of_both_kinds_are_not_restored_together() {
        RestorePlan plan = RestorePlan.of(command(
                "\"vmExists\":true,\"backupFiles\":[\"r\",\"a\"],\"restoreVolumePaths\":[\"c/r\",\"/mnt/p/a\"]",
                "RBD",
                "NetworkFilesystem"));
        assertThatThrownBy(() -> StockRestore.takes(plan)).hasMessageContaining("can't be restored together");
    }
}
