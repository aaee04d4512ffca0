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

import java.io.IOException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.URI;
import java.nio.file.Path;
import java.security.CodeSource;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupStorageStatsAnswer;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.GetBackupStorageStatsCommand;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.apache.cloudstack.backup.RestoreBackupCommand;
import org.apache.cloudstack.backup.TakeBackupCommand;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.nasbackup.cloudstack.LibraryUnusable;
import org.nasbackup.linkcheck.InForce;

/** Tells what on the class path does not fit the provider. */
public final class ServerClasses {
    private static List<String> unlinked;

    private ServerClasses() {}

    /** The methods of the interface that the class lacks. */
    public static List<String> owed(Class<?> type, Class<?> asking) {
        List<String> owed = new ArrayList<>();
        for (Method asked : asking.getMethods()) {
            if (Modifier.isAbstract(asked.getModifiers()) && !has(type, asked)) {
                owed.add("it asks for " + asked);
            }
        }
        return owed;
    }

    private static boolean has(Class<?> type, Method asked) {
        return Arrays.stream(type.getMethods())
                .anyMatch(method -> !Modifier.isAbstract(method.getModifiers())
                        && method.getName().equals(asked.getName())
                        && method.getReturnType() == asked.getReturnType()
                        && Arrays.equals(method.getParameterTypes(), asked.getParameterTypes()));
    }

    /** CloudStack's own commands and answers that come before ours on the class path. */
    public static List<String> hidden() {
        return hidden(
                LibraryUnusable.class,
                TakeBackupCommand.class,
                RestoreBackupCommand.class,
                DeleteBackupCommand.class,
                RebaseBackupCommand.class,
                VerifyBackupCommand.class,
                GetBackupStorageStatsCommand.class,
                BackupAnswer.class,
                BackupStorageStatsAnswer.class);
    }

    static List<String> hidden(Class<?> ours, Class<?>... all) {
        List<String> hidden = new ArrayList<>();
        for (Class<?> each : all) {
            if (!place(each).equals(place(ours))) {
                hidden.add(each.getName() + " comes from " + place(each) + ": put " + place(ours)
                        + " before it on the class path");
            }
        }
        return hidden;
    }

    private static String place(Class<?> type) {
        CodeSource source = type.getProtectionDomain().getCodeSource();
        return source == null ? "the JVM" : source.getLocation().getPath();
    }

    /**
     * The references of the provider's jar that do not link to the server's classes, and would fail in the middle of an operation.
     * Looked for once: the class path does not change.
     *
     * @throws IOException when class files could not be read
     */
    public static synchronized List<String> unlinked() throws IOException {
        if (unlinked == null) {
            Path jar = Path.of(URI.create("file:" + place(ServerClasses.class)));
            unlinked = new InForce(ServerClasses.class.getClassLoader(), List.of(jar))
                    .links()
                    .lines();
        }
        return unlinked;
    }
}
