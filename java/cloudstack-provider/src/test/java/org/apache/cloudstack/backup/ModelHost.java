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

package org.apache.cloudstack.backup;

import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.agent.api.UnsupportedAnswer;
import com.cloud.exception.AgentUnavailableException;
import com.cloud.exception.OperationTimedoutException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.Crash;
import org.nasbackup.provider.ModelNas;
import org.nasbackup.provider.Point;
import org.nasbackup.provider.Rebased;

/** A host's agent over the model of files: does as the library does, and fails as it is told to. */
final class ModelHost implements Agents {
    enum Fault {
        NONE,
        NO_ANSWER,
        OTHER_ANSWER,
        UNREACHABLE,
        TIMEOUT,
        TIMEOUT_BUT_DONE,
        REFUSED,
        NO_PLACE,
        REFUSED_WITH_LEFTOVERS,
        /** Fails when the first image was rebased. */
        REFUSED_HALF_WAY
    }

    private final ModelNas nas;
    private final Crash.Meter meter;
    private final Deque<Fault> faults = new ArrayDeque<>();
    final List<Command> asked = new ArrayList<>();
    final List<Long> hosts = new ArrayList<>();
    /** The volumes' files by device number, as the guest has them. */
    List<String> files = List.of("root.r.qcow2", "datadisk.d1.qcow2", "datadisk.d2.qcow2");
    /** The bitmap on the guest's disks. */
    String bitmap;

    /** Whose software the host runs: CloudStack's own of 4.22 knows no incrementals, of 4.23 it does not say what it made. */
    enum Software {
        OURS,
        STOCK_4_22,
        STOCK_4_23
    }

    Software software = Software.OURS;

    /** Is the wrapper for restores ours, too? */
    boolean restoresChains = true;

    boolean restarted;
    /** Why the guest's bitmap is of no use, and its disks are compared instead; null: it is good. */
    String compared;

    /** Points that the NAS has put others in the place of. */
    final Set<String> replaced = new HashSet<>();

    /** Has it a key? */
    boolean signs;

    /** What it says when it refuses. */
    String refusal = "NO_SPACE: the NAS is full";

    /** What it says in an answer of another type. */
    String other = "java.lang.NullPointerException";

    private int macs;
    private int taken;

    ModelHost(ModelNas nas, Crash.Meter meter) {
        this.nas = nas;
        this.meter = meter;
    }

    /** What happens to the commands that come, in turn; then nothing more. */
    void fails(Fault... next) {
        faults.addAll(List.of(next));
    }

    /** The points that it was asked to put onto others, whatever became of that. */
    List<String> rebased() {
        return asked.stream()
                .filter(RebaseBackupCommand.class::isInstance)
                .map(command -> ((RebaseBackupCommand) command).getBackupPath())
                .collect(Collectors.toList());
    }

    /** What happens to the management server before a command is sent, and when it was carried out. */
    Runnable gate = () -> {};

    @Override
    public synchronized Answer send(Long hostId, Command command)
            throws AgentUnavailableException, OperationTimedoutException {
        gate.run();
        Answer answer = answer(hostId, command);
        gate.run();
        return answer;
    }

    private Answer answer(Long hostId, Command command) throws AgentUnavailableException, OperationTimedoutException {
        if (software == Software.OURS && isWhetherItKnows(command)) {
            BackupAnswer answer = new BackupAnswer(command, true, null);
            answer.setRestoresChains(restoresChains);
            return answer;
        }
        hosts.add(hostId);
        asked.add(command);
        Fault fault = faults.isEmpty() ? Fault.NONE : faults.poll();
        switch (fault) {
            case NO_ANSWER:
                return null;
            case OTHER_ANSWER:
                return new Answer(command, false, other);
            case UNREACHABLE:
                throw new AgentUnavailableException("gone", hostId);
            case TIMEOUT:
                throw new OperationTimedoutException(null, hostId, 1, 1, false);
            case TIMEOUT_BUT_DONE:
                perform(command);
                throw new OperationTimedoutException(null, hostId, 1, 1, false);
            case REFUSED:
                return new BackupAnswer(command, false, refusal);
            case NO_PLACE:
                BackupAnswer full = new BackupAnswer(command, false, "BUSY: take a place: other backups have all 4");
                full.setNoPlace(true);
                return full;
            case REFUSED_WITH_LEFTOVERS:
                BackupAnswer answer = new BackupAnswer(command, false, "IO: the NAS is gone");
                answer.setNeedsCleanup(true);
                return answer;
            case REFUSED_HALF_WAY:
                return halfWay(command);
            default:
                return perform(command);
        }
    }

    private Answer perform(Command command) {
        try {
            return carryOut(command);
        } catch (AgentFailure e) {
            return new BackupAnswer(command, false, e.getMessage());
        }
    }

    private Answer halfWay(Command command) {
        meter.crashBefore(1);
        try {
            return perform(command);
        } catch (Crash e) {
            return new BackupAnswer(command, false, "IO: the second image");
        } finally {
            meter.never();
        }
    }

    private Answer carryOut(Command command) {
        if (command instanceof VerifyBackupCommand) {
            return verify((VerifyBackupCommand) command);
        }
        if (command instanceof TakeBackupCommand) {
            return take((TakeBackupCommand) command);
        }
        BackupAnswer answer = new BackupAnswer(command, true, null);
        if (command instanceof RebaseBackupCommand) {
            RebaseBackupCommand rebase = (RebaseBackupCommand) command;
            Rebased rebased = nas.rebase(
                    point(rebase.getBackupPath()), point(rebase.getNewParentPath()), point(rebase.getGoingPath()));
            answer.setSize(rebased.size());
            answer.setMac(mac());
        } else if (command instanceof DeleteBackupCommand) {
            nas.delete(point(((DeleteBackupCommand) command).getBackupPath()));
        }
        return answer;
    }

    private static boolean isWhetherItKnows(Command command) {
        return command instanceof VerifyBackupCommand && ((VerifyBackupCommand) command).getBackupRepoAddress() == null;
    }

    private Answer verify(VerifyBackupCommand command) {
        if (software != Software.OURS) {
            return new UnsupportedAnswer(command, "Unsupported command issued: com.cloud.agent.api.BadCommand");
        }
        String path = command.getBackupPath();
        boolean same = nas.has(path) && command.getPointId().equals("point " + path) && !replaced.contains(path);
        return new BackupAnswer(command, same, same ? null : "CORRUPT_IMAGE: " + path + " is another point");
    }

    private String mac() {
        return signs ? "mac " + ++macs : null;
    }

    private static Point point(String path) {
        return path == null ? null : Point.builder(0, path, path).build();
    }

    private Answer take(TakeBackupCommand command) {
        boolean asked = "incremental".equals(command.getMode());
        boolean incremental = asked
                && software != Software.STOCK_4_22
                && command.getBitmapParent().equals(bitmap);
        String first = incremental ? command.getParentPaths().get(0) : null;
        String parent = incremental ? first.substring(0, first.lastIndexOf('/')) : null;
        taken++;
        nas.take(command.getBackupPath(), parent, files, 37 * taken + 11);
        BackupAnswer answer = new BackupAnswer(command, true, incremental && compared != null ? compared : "");
        answer.setSize(nas.size(command.getBackupPath()));
        if (software == Software.STOCK_4_22) {
            return answer;
        }
        if (software == Software.OURS) {
            answer.setKind(incremental ? "incremental" : "full");
            answer.setPointId("point " + command.getBackupPath());
            answer.setMac(mac());
        }
        answer.setBitmapCreated(command.getMode() == null ? null : command.getBitmapNew());
        answer.setIncrementalFallback(asked && !incremental);
        if (incremental && (restarted || compared != null)) {
            answer.setBitmapRecreated(bitmap);
            restarted = false;
            compared = null;
        }
        bitmap = answer.getBitmapCreated();
        return answer;
    }
}
