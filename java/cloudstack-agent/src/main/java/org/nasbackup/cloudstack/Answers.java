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
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.BackupAnswer;
import org.apache.cloudstack.backup.BackupStorageStatsAnswer;
import org.apache.cloudstack.backup.VerifyBackupCommand;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.ErrorCode;
import org.nasbackup.NasBackupException;
import org.nasbackup.RebaseResult;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.Verdict;
import org.nasbackup.VerifiedFile;
import org.nasbackup.VerifyChainResult;

/** Makes CloudStack's answers of the library's results and failures. */
public final class Answers {
    private static final Set<ErrorCode> NOT_THE_POINT =
            Set.of(ErrorCode.CORRUPT_IMAGE, ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_IMAGE);

    private static final int MIB = 20;

    private Answers() {}

    public static BackupAnswer taken(Command command, TakeBackupResult result) {
        BackupAnswer answer = new BackupAnswer(command, true, result.details());
        answer.setSize(result.size());
        answer.setVirtualSize(result.virtualSize());
        answer.setVolumes(result.volumes());
        // The server names this as the parent of the next backup, whether a disk carries a bitmap of that name or not.
        answer.setBitmapCreated(result.parentName());
        answer.setBitmapRecreated(result.bitmapRecreated());
        answer.setIncrementalFallback(result.incrementalFallback());
        answer.setKind(result.kind().name().toLowerCase(Locale.ROOT));
        answer.setPointId(result.pointId());
        answer.setMac(result.mac());
        return answer;
    }

    public static BackupAnswer rebased(Command command, RebaseResult result) {
        BackupAnswer answer = new BackupAnswer(command, true, null);
        answer.setSize(result.size());
        answer.setMac(result.mac());
        return answer;
    }

    /** Of a volume that was made the details are its uuid and nothing else: by that the server finds the volume. */
    public static BackupAnswer restored(Command command, RestorePlan plan, Restored result) {
        String told = plan.fresh() ? plan.items().get(0).uuid() : told(result);
        return new BackupAnswer(command, true, told);
    }

    /** The outcome of a restore in one line, for an operator. */
    public static String told(Restored result) {
        String details = result.details() == null ? "" : result.details().strip();
        return OneLine.of(
                (result.bytesRead() >> MIB) + " MiB were read from the NAS, and " + (result.bytesKept() >> MIB)
                        + " MiB of the volumes were right as they were" + (details.isEmpty() ? "" : "\n" + details));
    }

    public static BackupAnswer deleted(Command command) {
        return new BackupAnswer(command, true, null);
    }

    /**
     * A point with a MAC passes if all its files are good. A point without one passes unless a file is bad: what could not be
     * verified is told, and is no reason not to restore.
     */
    public static BackupAnswer verified(VerifyBackupCommand command, VerifyChainResult result) {
        Set<String> others = othersImages(command, result);
        List<VerifiedFile> wrong = result.files().stream()
                .filter(file -> file.verdict() != Verdict.GOOD && !others.contains(name(file.file())))
                .collect(Collectors.toList());
        if (wrong.isEmpty()) {
            return new BackupAnswer(command, true, null);
        }
        boolean bad = wrong.stream().anyMatch(file -> file.verdict() == Verdict.BAD);
        String told = wrong.stream()
                .map(file -> file.file() + ": " + String.join(", ", file.reasons()))
                .collect(Collectors.joining("; "));
        boolean passes = !bad && command.getMac() == null;
        return new BackupAnswer(
                command, passes, OneLine.of((bad ? "CORRUPT_IMAGE" : "IO") + ": check the restore point: " + told));
    }

    /**
     * The answer when the library could not verify. A failure that says that this is not the point, and any failure of a point with
     * a MAC, is a refusal; any other is told, and is no reason not to restore.
     */
    public static BackupAnswer notVerified(VerifyBackupCommand command, Throwable failure) {
        boolean known =
                failure instanceof NasBackupException && NOT_THE_POINT.contains(((NasBackupException) failure).code());
        return new BackupAnswer(command, !known && command.getMac() == null, line(failure));
    }

    /** The images of the volumes that are not to be restored: what is wrong with them is no reason not to restore another volume. */
    private static Set<String> othersImages(VerifyBackupCommand command, VerifyChainResult result) {
        if (command.getBackupFile() == null) {
            return Set.of();
        }
        String wanted = "." + name(command.getBackupFile()) + ".qcow2";
        Set<String> images = result.files().stream()
                .filter(file -> file.file().startsWith(command.getBackupPath() + "/"))
                .map(file -> name(file.file()))
                .filter(name -> name.endsWith(".qcow2"))
                .collect(Collectors.toSet());
        // if no image has the wanted volume's name, any of them may be the wanted one
        return images.removeIf(name -> name.endsWith(wanted)) ? images : Set.of();
    }

    private static String name(String path) {
        return path.substring(path.lastIndexOf('/') + 1);
    }

    public static BackupAnswer failed(Command command, Throwable failure) {
        BackupAnswer answer = new BackupAnswer(command, false, line(failure));
        answer.setNeedsCleanup(failure instanceof NasBackupException && ((NasBackupException) failure).leftovers());
        if (isNoPlace(failure)) {
            answer.setNoPlace(true);
        }
        return answer;
    }

    /** Whether as many backups run on this host as may. Of all failures by {@code BUSY} this one passes, and nothing was touched. */
    private static boolean isNoPlace(Throwable failure) {
        return failure instanceof NasBackupException
                && ((NasBackupException) failure).code() == ErrorCode.BUSY
                && "take a place".equals(((NasBackupException) failure).step());
    }

    public static BackupStorageStatsAnswer stats(Command command, BackupStatsResult result) {
        BackupStorageStatsAnswer answer = new BackupStorageStatsAnswer(command, true, null);
        answer.setTotalSize(result.totalBytes());
        answer.setUsedSize(result.usedBytes());
        return answer;
    }

    public static BackupStorageStatsAnswer statsFailed(Command command, Throwable failure) {
        return new BackupStorageStatsAnswer(command, false, line(failure));
    }

    /** One line for an operator. The messages of our exceptions say enough; other exceptions are told with their type. */
    private static String line(Throwable failure) {
        boolean ours = failure instanceof NasBackupException || failure instanceof IllegalArgumentException;
        boolean told = ours || failure instanceof LibraryUnusable || failure instanceof HostFailure;
        String text = failure.getMessage() != null && told ? failure.getMessage() : "INTERNAL: " + failure;
        return OneLine.of(text);
    }
}
