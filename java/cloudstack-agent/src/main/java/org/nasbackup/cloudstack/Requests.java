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

import com.cloud.storage.Storage.StoragePoolType;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.DeleteBackupCommand;
import org.apache.cloudstack.backup.GetBackupStorageStatsCommand;
import org.apache.cloudstack.backup.RebaseBackupCommand;
import org.apache.cloudstack.backup.TakeBackupCommand;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.apache.cloudstack.storage.to.PrimaryDataStoreTO;
import org.nasbackup.BackingFile;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.Mode;
import org.nasbackup.Repository;
import org.nasbackup.StoppedDisk;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.VerifyChainRequest;

/** Makes the library's requests of CloudStack's commands. The library checks the requests. */
public final class Requests {
    /** The name of {@link Mode#LEGACY} in the commands of later management servers. */
    private static final String LEGACY_FULL = "legacy-full";

    /** The seconds that a host has to clean up and to answer when a backup takes too long. */
    private static final int SECONDS_TO_ANSWER = 120;

    private Requests() {}

    /** @param defaultWait seconds for a command that names none */
    public static TakeBackupRequest take(TakeBackupCommand command, int defaultWait, Volumes volumes) {
        TakeBackupRequest.Builder builder = TakeBackupRequest.builder()
                .vmName(command.getVmName())
                .backupPath(command.getBackupPath())
                .repository(repository(
                        command.getBackupRepoType(), command.getBackupRepoAddress(), command.getMountOptions()))
                .mode(mode(command.getMode()))
                .disks(disks(command, volumes))
                .quiesce(Boolean.TRUE.equals(command.getQuiesce()))
                .waitSeconds(waitSeconds(command, defaultWait));
        if (mode(command.getMode()) != Mode.LEGACY) {
            builder.bitmapNew(given(command.getBitmapNew()));
            builder.bitmapParent(given(command.getBitmapParent()));
            builder.parentPaths(parentPaths(command));
        }
        return builder.build();
    }

    /**
     * The seconds that a host may work for a server that waits {@code wait} seconds: at least half of them. The server's setting
     * commands.timeout replaces the wait that a command was given, so the host goes by the wait that has arrived.
     */
    public static int jobSeconds(int wait) {
        return Math.max(wait - SECONDS_TO_ANSWER, (wait + 1) / 2);
    }

    private static int waitSeconds(TakeBackupCommand command, int defaultWait) {
        int heard = command.getWait() > 0 ? jobSeconds(command.getWait()) : Integer.MAX_VALUE;
        int asked = command.getJobSeconds() != null && command.getJobSeconds() > 0
                ? command.getJobSeconds()
                : Integer.MAX_VALUE;
        int least = Math.min(heard, asked);
        return least == Integer.MAX_VALUE ? defaultWait : least;
    }

    public static RebaseOrder rebase(RebaseBackupCommand command) {
        Repository repository =
                repository(command.getBackupRepoType(), command.getBackupRepoAddress(), command.getMountOptions());
        String image = given(command.getTargetPath());
        String point = given(command.getBackupPath());
        if ((image == null) == (point == null)) {
            throw new IllegalArgumentException(
                    "INVALID_ARGUMENT: check the request: either targetPath or backupPath has to be given");
        }
        return point == null
                ? RebaseOrder.ofImage(repository, image, given(command.getNewBackingPath()))
                : RebaseOrder.ofPoint(
                        repository, point, given(command.getNewParentPath()), given(command.getGoingPath()));
    }

    public static DeleteBackupRequest delete(DeleteBackupCommand command) {
        return DeleteBackupRequest.builder()
                .repository(repository(
                        command.getBackupRepoType(), command.getBackupRepoAddress(), command.getMountOptions()))
                .backupPath(command.getBackupPath())
                .build();
    }

    public static VerifyChainRequest verify(VerifyBackupCommand command) {
        return VerifyChainRequest.builder()
                .repository(repository(
                        command.getBackupRepoType(), command.getBackupRepoAddress(), command.getMountOptions()))
                .backupPath(command.getBackupPath())
                .pointId(command.getPointId())
                .build();
    }

    public static BackupStatsRequest stats(GetBackupStorageStatsCommand command) {
        return BackupStatsRequest.builder()
                .repository(repository(
                        command.getBackupRepoType(), command.getBackupRepoAddress(), command.getMountOptions()))
                .build();
    }

    private static Repository repository(String type, String address, String options) {
        return Repository.builder().type(type).address(address).options(options).build();
    }

    private static Mode mode(String text) {
        return given(text) == null || text.equals(LEGACY_FULL) ? Mode.LEGACY : Mode.of(text);
    }

    /** The files tell which point is the parent, and no more: the library pairs the disks by the point's manifest. */
    private static List<String> parentPaths(TakeBackupCommand command) {
        List<String> all = command.getParentPaths();
        if (all != null && !all.isEmpty()) {
            return all;
        }
        String one = given(command.getParentPath());
        return one == null ? null : List.of(one);
    }

    /** The disks of a stopped guest; null when the guest runs: then libvirt tells its disks. */
    private static List<StoppedDisk> disks(TakeBackupCommand command, Volumes volumes) {
        List<String> paths = command.getVolumePaths();
        if (paths == null || paths.isEmpty()) {
            return null;
        }
        List<StoppedDisk> disks = new ArrayList<>();
        for (int i = 0; i < paths.size(); i++) {
            String path = paths.get(i);
            PrimaryDataStoreTO pool = pool(command, i);
            disks.add(StoppedDisk.builder()
                    .path(pool.getPoolType() == StoragePoolType.RBD ? volumes.rbd(pool, path) : path)
                    .format(volumes.format(pool, path))
                    .backing(backing(command, i))
                    .build());
        }
        return disks;
    }

    /** The files that a volume may stand on; null if the server does not know them. A list that leaves volumes out is refused. */
    private static List<BackingFile> backing(TakeBackupCommand command, int i) {
        List<Map<String, String>> all = command.getVolumeBacking();
        if (all == null) {
            return null;
        }
        if (all.size() != command.getVolumePaths().size()) {
            throw new IllegalArgumentException("INVALID_ARGUMENT: check the request: volumeBacking: it does not have an"
                    + " element for each of volumePaths");
        }
        return all.get(i) == null
                ? null
                : all.get(i).entrySet().stream()
                        .map(file -> BackingFile.of(file.getKey(), file.getValue()))
                        .collect(Collectors.toList());
    }

    private static PrimaryDataStoreTO pool(TakeBackupCommand command, int i) {
        String path = command.getVolumePaths().get(i);
        List<PrimaryDataStoreTO> pools = command.getVolumePools();
        PrimaryDataStoreTO pool = pools == null || i >= pools.size() ? null : pools.get(i);
        if (pool == null) {
            throw new IllegalArgumentException("INVALID_ARGUMENT: check the request: volumePools: the management server"
                    + " does not name the pool of '" + path + "', and so not its format");
        }
        return pool;
    }

    private static String given(String text) {
        return text == null || text.isEmpty() ? null : text;
    }
}
