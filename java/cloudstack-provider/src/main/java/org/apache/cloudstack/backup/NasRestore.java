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

import com.cloud.host.Host;
import com.cloud.host.HostVO;
import com.cloud.storage.DiskOfferingVO;
import com.cloud.storage.Volume;
import com.cloud.storage.VolumeVO;
import com.cloud.utils.Pair;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.provider.AgentFailure;
import org.nasbackup.provider.Outcome;
import org.nasbackup.provider.RepairRefused;
import org.nasbackup.provider.RestorePairs;
import org.nasbackup.provider.cloudstack.ActionEvents;
import org.nasbackup.provider.cloudstack.DaoCatalogue;
import org.nasbackup.provider.cloudstack.TypedAgent;
import org.nasbackup.provider.cloudstack.VolumeAccess;
import org.nasbackup.provider.cloudstack.VolumePaths;

/** Restores a machine's volumes, or one of them. */
final class NasRestore {
    private static final Set<VirtualMachine.State> UNSETTLED =
            EnumSet.of(VirtualMachine.State.Starting, VirtualMachine.State.Stopping, VirtualMachine.State.Migrating);

    /** A host's answer that somebody on it uses a volume: the storage must not be taken from the host then. */
    private static final Pattern IN_USE = Pattern.compile("\\b(DOMAIN_STATE|BUSY): ");

    private final NasBackups backups;
    private final NasServer server;

    NasRestore(NasBackups backups) {
        this.backups = backups;
        this.server = backups.server();
    }

    /**
     * Restores a machine. The backups that it reads are not deleted meanwhile.
     *
     * @return whether it was restored, and what there is to tell of it; null: nothing
     */
    Pair<Boolean, String> restore(VirtualMachine vm, Backup backup) {
        if (vm.getId() != backup.getVmId()) {
            // The machine was made from the backup, and got with its settings the checkpoint of another machine.
            backups.catalogue().clearActiveCheckpoint(vm.getId());
        }
        backups.ownership().check(backup);
        // A restore that is refused need not wait.
        Host host = prepare(vm, backup).host;
        Optional<Pair<Boolean, String>> restored =
                backups.restoreOnHost(host, backup.getVmId(), "restore backup " + backup.getUuid(), () -> {
                    Restore now = prepare(reread(vm), reread(backup));
                    if (now.host.getId() != host.getId()) {
                        return Optional.empty();
                    }
                    Pair<Boolean, String> answer = restoreShown(vm, backup, now);
                    return Optional.of(
                            answer.first()
                                    ? new Pair<>(
                                            true,
                                            Outcome.restoredWith(
                                                    answer.second(), now.pairs.leftAlone(), now.pairs.leftOut()))
                                    : answer);
                });
        // read anew: the machine may have moved, and its host is another one then
        return restored.orElseGet(() -> restore(reread(vm), reread(backup)));
    }

    private Pair<Boolean, String> restoreShown(VirtualMachine vm, Backup backup, Restore now) {
        VolumeAccess access = VolumeAccess.grant(
                now.targets, now.host, server.primaryDataStoreDao, server.dataStoreManager, backups.logger());
        boolean over = false;
        boolean inUse = false;
        try {
            // read anew: the storage may have recorded other paths of the volumes
            RestoreBackupCommand command = access.any() ? prepare(reread(vm), reread(backup)).command : now.command;
            // From the first byte on, the bitmap no longer tells what has changed on the disks.
            Pair<Boolean, String> answer =
                    ask(now.host, backup, command, () -> backups.catalogue().clearActiveCheckpoint(vm.getId()));
            over = true;
            inUse = !answer.first() && IN_USE.matcher(answer.second()).find();
            return answer;
        } catch (HostAtWork e) {
            throw e;
        } catch (RuntimeException e) {
            over = true;
            throw e;
        } finally {
            if (!over) {
                access.leave("it gave no answer, and may be writing still");
            } else if (inUse) {
                access.leave("a guest of it has one of them open");
            } else if (reread(vm).getHostId() != null) {
                access.leave("the machine was started meanwhile");
            } else {
                access.revoke();
            }
        }
    }

    /** The host did not answer, and may still do what it was asked for. */
    private static final class HostAtWork extends CloudRuntimeException {
        private static final long serialVersionUID = 1L;

        HostAtWork(AgentFailure failure) {
            super("unable to restore - " + failure.getMessage(), failure);
        }
    }

    /** A command, and the host that gets it. */
    private static final class Restore {
        private final Host host;
        private final RestoreBackupCommand command;
        private final List<VolumeVO> targets;
        private final RestorePairs pairs;

        Restore(Host host, RestoreBackupCommand command, List<VolumeVO> targets, RestorePairs pairs) {
            this.host = host;
            this.command = command;
            this.targets = targets;
            this.pairs = pairs;
        }
    }

    private VirtualMachine reread(VirtualMachine vm) {
        return server.vmInstanceDao.findByIdIncludingRemoved(vm.getId());
    }

    /** The record as it is now: the restore may have waited for its turn for hours. */
    private Backup reread(Backup backup) {
        BackupVO now = server.backupDao.findById(backup.getId());
        if (now == null || now.getStatus() != Backup.Status.BackedUp && now.getStatus() != Backup.Status.Restoring) {
            throw new CloudRuntimeException("unable to restore backup " + backup.getUuid() + " - it "
                    + (now == null ? "was deleted meanwhile" : "is in state " + now.getStatus()));
        }
        return now;
    }

    private Restore prepare(VirtualMachine vm, Backup backup) {
        BackupRepository repository = backups.repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        List<Backup.VolumeInfo> recorded = DaoCatalogue.backedUpVolumes(backup);
        if (recorded.isEmpty()) {
            throw new CloudRuntimeException("unable to restore backup " + backup.getUuid()
                    + " - its record does not say which volumes it holds");
        }
        List<VolumeVO> present = backups.volumesOf(vm);
        RestorePairs pairs = pairs(vm, backup, recorded, present);
        List<VolumeVO> targets = pairs.pairs().stream()
                .map(pair -> named(present, VolumeVO::getUuid, pair.to()))
                .collect(Collectors.toList());
        targets.forEach(NasRestore::refuseEncrypted);
        VolumePaths paths = VolumePaths.of(targets, server.primaryDataStoreDao, server.dataStoreManager);
        List<RestoreBackupCommand.Disk> disks = new ArrayList<>();
        for (int i = 0; i < targets.size(); i++) {
            Backup.VolumeInfo from = named(
                    recorded, Backup.VolumeInfo::getUuid, pairs.pairs().get(i).from());
            VolumeVO to = targets.get(i);
            disks.add(paths.disk(i, from, to.getUuid(), to.getPath(), grown(from.getSize(), to.getSize())));
        }
        RestoreBackupCommand command = RestoreBackupCommand.ofMachine(disks);
        fill(command, backup, repository);
        command.setVmName(vm.getName());
        command.setVmState(vm.getState());
        Host host = backups.hosts()
                .forRestore(vm, poolsOf(targets), backups.catalogue().standsOnAnother(backup));
        return new Restore(host, command, targets, pairs);
    }

    /** Refuses a volume that is encrypted: backups are not, and the machine's key would not fit what was restored. */
    private static void refuseEncrypted(VolumeVO volume) {
        if (volume.getPassphraseId() != null) {
            throw new CloudRuntimeException(
                    "volume " + volume.getUuid()
                            + " is encrypted, and would get what the backup holds in plain text: the machine could not read it");
        }
    }

    /** The size of a volume that has grown since the backup; null: the image's size is right. */
    private static Long grown(Long from, Long to) {
        return from != null && to != null && to > from ? to : null;
    }

    private RestorePairs pairs(
            VirtualMachine vm, Backup backup, List<Backup.VolumeInfo> recorded, List<VolumeVO> present) {
        List<RestorePairs.Disk> from = recorded.stream()
                .map(volume -> new RestorePairs.Disk(
                        volume.getUuid(), volume.getType() == Volume.Type.ROOT, volume.getDeviceId(), volume.getSize()))
                .collect(Collectors.toList());
        List<RestorePairs.Disk> to = present.stream()
                .map(volume -> new RestorePairs.Disk(
                        volume.getUuid(),
                        volume.getVolumeType() == Volume.Type.ROOT,
                        volume.getDeviceId(),
                        volume.getSize()))
                .collect(Collectors.toList());
        try {
            if (vm.getId() != backup.getVmId()) {
                return RestorePairs.ofOtherMachine(from, to);
            }
            RestorePairs pairs = RestorePairs.ofSameMachine(from, to);
            refuseAttached(vm, pairs.leftOut());
            return pairs;
        } catch (RepairRefused e) {
            throw new CloudRuntimeException(
                    "unable to restore backup " + backup.getUuid() + " to " + vm.getInstanceName() + " - "
                            + e.getMessage(),
                    e);
        }
    }

    /**
     * Refuses a restore that leaves out a volume which CloudStack has recorded as the machine's: after each restore CloudStack
     * attaches what it has recorded.
     */
    private static void refuseAttached(VirtualMachine vm, List<String> leftOut) {
        List<Backup.VolumeInfo> recorded = vm.getBackupVolumeList();
        List<String> attached = (recorded == null ? List.<Backup.VolumeInfo>of() : recorded)
                .stream()
                        .map(Backup.VolumeInfo::getUuid)
                        .filter(leftOut::contains)
                        .collect(Collectors.toList());
        if (!attached.isEmpty()) {
            throw new RepairRefused("the machine no longer has volume " + String.join(", ", attached)
                    + ", which CloudStack would attach to it afterwards though it was not restored");
        }
    }

    private static <V> V named(List<V> volumes, Function<V, String> uuid, RestorePairs.Disk disk) {
        return volumes.stream()
                .filter(volume -> uuid.apply(volume).equals(disk.uuid()))
                .findFirst()
                .orElseThrow();
    }

    private List<StoragePoolVO> poolsOf(List<VolumeVO> volumes) {
        return volumes.stream()
                .map(volume -> server.primaryDataStoreDao.findById(volume.getPoolId()))
                .collect(Collectors.toList());
    }

    Pair<Boolean, String> restoreVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String hostIp,
            String dataStoreUuid,
            Pair<String, VirtualMachine.State> vmNameAndState,
            VirtualMachine receiver) {
        backups.ownership().check(backup);
        StoragePoolVO pool = server.primaryDataStoreDao.findByUuid(dataStoreUuid);
        HostVO named = server.hostDao.findByIp(hostIp);
        DiskOfferingVO offering = server.diskOfferingDao.findByUuid(backupVolumeInfo.getDiskOfferingId());
        if (pool == null || named == null || offering == null) {
            throw new CloudRuntimeException("unable to restore volume " + backupVolumeInfo.getUuid() + " - "
                    + (pool == null
                            ? "no storage pool has uuid " + dataStoreUuid
                            : named == null
                                    ? "no host has address " + hostIp
                                    : "no disk offering has uuid " + backupVolumeInfo.getDiskOfferingId()));
        }
        return backups.toldRestore(
                ActionEvents.Type.RESTORE_VOLUME,
                receiver,
                "Volume " + backupVolumeInfo.getUuid(),
                backup,
                uuid -> "it is volume " + uuid,
                () -> answered(
                        backup,
                        () -> restoreVolume(
                                backup, backupVolumeInfo, named, pool, offering, vmNameAndState, receiver)));
    }

    /**
     * The manager asks again with names in place of addresses, and its user sees the last answer, not what was thrown. So each
     * failure of a request with the right names becomes an answer.
     */
    private Pair<Boolean, String> answered(Backup backup, Supplier<Pair<Boolean, String>> restore) {
        try {
            return restore.get();
        } catch (RuntimeException e) {
            backups.logger().warn("Unable to restore a volume of backup {}", backup.getUuid(), OneLine.of(e));
            return new Pair<>(false, e.getMessage() == null ? e.toString() : e.getMessage());
        }
    }

    private Pair<Boolean, String> restoreVolume(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            HostVO named,
            StoragePoolVO pool,
            DiskOfferingVO offering,
            Pair<String, VirtualMachine.State> vmNameAndState,
            VirtualMachine receiver) {
        refuseUnsettled(vmNameAndState);
        boolean running = vmNameAndState.second() == VirtualMachine.State.Running;
        String uuid = UUID.randomUUID().toString();
        VolumePaths paths = VolumePaths.of(pool, uuid, server.dataStoreManager);
        Host host = hostForVolume(named, pool, running, backup);
        Optional<Pair<Boolean, String>> restored =
                backups.restoreOnHost(host, backup.getVmId(), "restore volume " + backupVolumeInfo.getUuid(), () -> {
                    Backup now = reread(backup);
                    checkUnchanged(vmNameAndState, host);
                    if (hostForVolume(named, pool, running, now).getId() != host.getId()) {
                        return Optional.empty();
                    }
                    RestoreBackupCommand command = volumeCommand(now, backupVolumeInfo, uuid, paths, vmNameAndState);
                    return Optional.of(ask(host, now, command, () -> {}));
                });
        if (restored.isEmpty()) {
            return restoreVolume(reread(backup), backupVolumeInfo, named, pool, offering, vmNameAndState, receiver);
        }
        if (restored.get().first()) {
            server.volumeDao.persist(restoredVolume(backup, backupVolumeInfo, uuid, pool, offering));
            // The machine has a disk now that the checkpoint does not know.
            backups.catalogue().clearActiveCheckpoint(receiver.getId());
        }
        return restored.get();
    }

    /** Refuses a machine that starts, stops or moves: its guest would lack the volume, or another host would have it by then. */
    private static void refuseUnsettled(Pair<String, VirtualMachine.State> vmNameAndState) {
        if (UNSETTLED.contains(vmNameAndState.second())) {
            throw new CloudRuntimeException("virtual machine " + vmNameAndState.first() + " is "
                    + vmNameAndState.second() + ": a volume can be restored to it once that is over");
        }
    }

    private Host hostForVolume(HostVO named, StoragePoolVO pool, boolean running, Backup backup) {
        return backups.hosts()
                .forVolume(named, pool, running, backups.catalogue().standsOnAnother(backup));
    }

    /** Refuses a machine whose state or host is another one than the manager has told: a running one gets the volume from its host. */
    private void checkUnchanged(Pair<String, VirtualMachine.State> vmNameAndState, Host host) {
        VirtualMachine now = server.vmInstanceDao.findVMByInstanceName(vmNameAndState.first());
        if (now == null) {
            return;
        }
        boolean running = vmNameAndState.second() == VirtualMachine.State.Running;
        boolean changed = now.getState() != vmNameAndState.second();
        if (changed || running && !Objects.equals(now.getHostId(), host.getId())) {
            throw new CloudRuntimeException("virtual machine " + vmNameAndState.first() + ", which was "
                    + vmNameAndState.second() + (running ? " on host " + OneLine.of(host.getName()) : "") + ", is "
                    + (changed ? now.getState() + " now" : "not there any more"));
        }
    }

    private RestoreBackupCommand volumeCommand(
            Backup backup,
            Backup.VolumeInfo backupVolumeInfo,
            String uuid,
            VolumePaths paths,
            Pair<String, VirtualMachine.State> vmNameAndState) {
        BackupRepository repository = backups.repository(backup.getBackupOfferingId(), "backup " + backup.getUuid());
        RestoreBackupCommand command = RestoreBackupCommand.ofVolume(
                paths.disk(0, backupVolumeInfo, uuid, uuid, backupVolumeInfo.getSize()),
                backupVolumeInfo.getType().name().toLowerCase(Locale.ROOT));
        fill(command, backup, repository);
        command.setVmName(vmNameAndState.first());
        command.setVmState(vmNameAndState.second());
        return command;
    }

    /** The machine that gets the volume. For a display name, which managers may tell, it is the backup's machine, which costs a full. */
    VirtualMachine receiver(String name, Backup backup) {
        VirtualMachine vm = server.vmInstanceDao.findVMByInstanceName(name);
        return vm == null ? server.vmInstanceDao.findByIdIncludingRemoved(backup.getVmId()) : vm;
    }

    private void fill(RestoreBackupCommand command, Backup backup, BackupRepository repository) {
        command.setBackupPath(backup.getExternalId());
        command.setPointId(backups.catalogue().pointId(backup));
        command.setBackupRepoType(repository.getType());
        command.setBackupRepoAddress(repository.getAddress());
        command.setMountOptions(repository.getMountOptions());
        command.setMountTimeout(server.mountTimeout());
    }

    /**
     * Sends the command with the settings of the host's zone, as the host's line does.
     *
     * @param before runs before the first byte is written
     */
    private Pair<Boolean, String> ask(Host host, Backup backup, RestoreBackupCommand command, Runnable before) {
        int wait = server.waitSeconds(host.getDataCenterId());
        command.setWait(wait);
        TypedAgent agent = new TypedAgent(server.agentManager, host);
        try {
            verify(agent, backup, command, wait);
            before.run();
            BackupAnswer answer = agent.ask(command, BackupAnswer.class);
            return new Pair<>(true, answer.getDetails());
        } catch (AgentFailure e) {
            if (e.kind() == AgentFailure.Kind.UNKNOWN) {
                throw new HostAtWork(e);
            }
            return new Pair<>(false, e.getMessage());
        }
    }

    /**
     * Refuses a restore unless the NAS still has the restore point that was made, and not an older one of its name or another
     * machine's. CloudStack's own restore reads whatever is there.
     */
    private void verify(TypedAgent agent, Backup backup, RestoreBackupCommand restore, int wait) {
        String pointId = backups.catalogue().pointId(backup);
        String mac = backups.catalogue().mac(backup);
        if (pointId == null) {
            return;
        }
        String path = backup.getExternalId();
        VerifyBackupCommand known = new VerifyBackupCommand(path, pointId, mac, null, null, null);
        VerifyBackupCommand command = new VerifyBackupCommand(
                path,
                pointId,
                mac,
                restore.getBackupRepoType(),
                restore.getBackupRepoAddress(),
                restore.getMountOptions());
        command.setBackupFile(
                restore.isVmExists() == null ? restore.getBackupFiles().get(0) : null);
        String unknown;
        try {
            known.setWait(wait);
            agent.ask(known, BackupAnswer.class);
            command.setWait(wait);
            unknown = agent.ask(command, BackupAnswer.class).getDetails();
        } catch (AgentFailure e) {
            if (e.kind() != AgentFailure.Kind.UNSUPPORTED || mac != null) {
                throw new AgentFailure(
                        e.kind(),
                        "backup " + backup.getUuid() + " is not known to be as it was made: " + e.getMessage(),
                        false,
                        e);
            }
            unknown = e.getMessage();
        }
        if (unknown != null) {
            backups.logger()
                    .warn(
                            "Backup {} is restored though it is not known to be as it was made: {}",
                            backup.getUuid(),
                            unknown);
        }
    }

    private VolumeVO restoredVolume(
            Backup backup, Backup.VolumeInfo from, String uuid, StoragePoolVO pool, DiskOfferingVO offering) {
        VolumeVO original = server.volumeDao.findByUuid(from.getUuid());
        VolumeVO volume = new VolumeVO(
                Volume.Type.DATADISK,
                "RestoredVol-" + (original == null ? from.getUuid() : original.getName()),
                backup.getZoneId(),
                backup.getDomainId(),
                backup.getAccountId(),
                offering.getId(),
                offering.getProvisioningType(),
                from.getSize(),
                null,
                null,
                null);
        volume.setUuid(uuid);
        volume.setPath(uuid);
        volume.setPoolId(pool.getId());
        volume.setPoolType(pool.getPoolType());
        volume.setFormat(VolumePaths.format(pool.getPoolType()));
        volume.setState(Volume.State.Copying);
        volume.setUpdated(backups.now());
        volume.setDisplayVolume(true);
        return volume;
    }
}
