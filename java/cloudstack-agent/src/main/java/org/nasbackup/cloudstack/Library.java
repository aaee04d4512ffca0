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

import com.cloud.agent.api.Command;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Supplier;
import org.apache.logging.log4j.LogManager;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.Configuration;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.DeleteBackupResult;
import org.nasbackup.HostSettings;
import org.nasbackup.NasBackup;
import org.nasbackup.RebaseBackupRequest;
import org.nasbackup.RebasePointRequest;
import org.nasbackup.RebaseResult;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.VerifyChainRequest;
import org.nasbackup.VerifyChainResult;

/** The library as the agent uses it: opened by the first command that needs it, never earlier. */
public final class Library implements Operations {
    /** Laid out by the installation; without it log lines go where the agent's {@link System.Logger} sends them. */
    private static final Path LOG_CONFIG = Path.of("/etc/nasbackup/log4rs.yaml");

    private static Library opened;

    private final NasBackup library;
    private final boolean hasKey;

    private Library(Configuration configuration) {
        this.library = NasBackup.open(configuration);
        this.hasKey = configuration.keyFile() != null;
    }

    /** @throws LibraryUnusable when it can't be opened; tried again at the next call */
    public static synchronized Operations operations() {
        if (opened == null) {
            opened = usable(() -> new Library(configuration()));
            LogManager.getLogger(Library.class).info("nasbackup finds {}", CloudStackVersion.describe(Command.class));
        }
        return opened;
    }

    /** Opens it with the configuration of this host, at every call. */
    public static NasBackup open() {
        return usable(() -> NasBackup.open(configuration()));
    }

    private static Configuration configuration() {
        return HostSettings.read(HostSettings.FILE)
                .logConfig(Files.exists(LOG_CONFIG) ? LOG_CONFIG.toString() : null)
                .build();
    }

    private static <T> T usable(Supplier<T> open) {
        try {
            return open.get();
        } catch (RuntimeException | LinkageError e) {
            throw new LibraryUnusable(e);
        }
    }

    @Override
    public TakeBackupResult takeBackup(TakeBackupRequest request) {
        return library.takeBackup(request);
    }

    @Override
    public RebaseResult rebase(RebaseOrder order) {
        return order.wholePoint() ? library.rebasePoint(point(order)) : library.rebaseBackup(image(order));
    }

    private static RebasePointRequest point(RebaseOrder order) {
        return RebasePointRequest.builder()
                .repository(order.repository())
                .backupPath(order.target())
                .newParent(order.newBacking())
                .build();
    }

    private static RebaseBackupRequest image(RebaseOrder order) {
        return RebaseBackupRequest.builder()
                .repository(order.repository())
                .target(order.target())
                .newBacking(order.newBacking())
                .build();
    }

    @Override
    public DeleteBackupResult deleteBackup(DeleteBackupRequest request) {
        return library.deleteBackup(request);
    }

    @Override
    public VerifyChainResult verifyChain(VerifyChainRequest request) {
        return library.verifyChain(request);
    }

    @Override
    public boolean hasKey() {
        return hasKey;
    }

    @Override
    public BackupStatsResult backupStats(BackupStatsRequest request) {
        return library.backupStats(request);
    }
}
