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
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.apache.logging.log4j.LogManager;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.CancelHandle;
import org.nasbackup.Configuration;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.DeleteBackupResult;
import org.nasbackup.ErrorCode;
import org.nasbackup.HostSettings;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.RebaseBackupRequest;
import org.nasbackup.RebasePointRequest;
import org.nasbackup.RebaseResult;
import org.nasbackup.RestoreOutput;
import org.nasbackup.RestorePointRequest;
import org.nasbackup.RestorePointResult;
import org.nasbackup.RestoreVolume;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.VerifyChainRequest;
import org.nasbackup.VerifyChainResult;

/** The library as the agent uses it: opened by the first command that needs it, never earlier. */
public final class Library implements Operations {
    /** Made by the installation; without this file log lines go where the agent's {@link System.Logger} sends them. */
    private static final Path LOG_CONFIG = Path.of("/etc/nasbackup/log4rs.yaml");

    private static final String CONNECTION_URI = "qemu:///system";

    private static Library opened;

    private final NasBackup library;
    private final boolean hasKey;
    private final String connectionUri;

    private Library(Configuration configuration) {
        this.library = NasBackup.open(configuration);
        this.hasKey = configuration.keyFile() != null;
        this.connectionUri = configuration.connectionUri() == null ? CONNECTION_URI : configuration.connectionUri();
    }

    /** @throws LibraryUnusable when the library can't be opened; the next call tries again */
    public static synchronized Operations operations() {
        if (opened == null) {
            opened = usable(() -> new Library(configuration()));
            LogManager.getLogger(Library.class).info("nasbackup finds {}", CloudStackVersion.describe(Command.class));
        }
        return opened;
    }

    /** Opens the library with the configuration of this host, at every call. */
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
                .goingPoint(order.going())
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
    public Restored restorePoint(RestoreOrder order) {
        CancelHandle handle = new CancelHandle();
        Timer clock = new Timer("end of " + handle.job(), true);
        clock.schedule(cancelling(handle), TimeUnit.SECONDS.toMillis(order.seconds()));
        try {
            RestorePointResult result = library.restorePoint(request(order), null, handle);
            return new Restored(result.bytesRead(), result.bytesKept(), result.details());
        } catch (NasBackupException e) {
            if (e.code() != ErrorCode.CANCELLED) {
                throw e;
            }
            throw new HostFailure(
                    "TIMEOUT: restore '" + order.backupPath() + "': not done within " + order.seconds() + " s; "
                            + e.getMessage(),
                    e);
        } finally {
            clock.cancel();
        }
    }

    private static TimerTask cancelling(CancelHandle handle) {
        return new TimerTask() {
            @Override
            public void run() {
                handle.cancel();
            }
        };
    }

    private static RestorePointRequest request(RestoreOrder order) {
        return RestorePointRequest.builder()
                .repository(order.repository())
                .backupPath(order.backupPath())
                .pointId(order.pointId())
                .volumes(order.images().stream().map(Library::volume).collect(Collectors.toList()))
                .build();
    }

    private static RestoreVolume volume(RestoreOrder.Image image) {
        RestoreOutput.Builder output =
                RestoreOutput.builder().path(image.path()).format(image.format());
        if (image.size() != null) {
            output.size(image.size());
        }
        return RestoreVolume.builder()
                .volume(image.volume())
                .serial(image.serial())
                .file(image.file())
                .output(output.build())
                .build();
    }

    @Override
    public String connectionUri() {
        return connectionUri;
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
