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

import com.cloud.host.Host;
import com.cloud.host.HostVO;
import com.cloud.host.Status;
import com.cloud.host.dao.HostDao;
import com.cloud.hypervisor.Hypervisor.HypervisorType;
import com.cloud.resource.ResourceManager;
import com.cloud.storage.ScopeType;
import com.cloud.storage.VolumeVO;
import com.cloud.storage.dao.VolumeDao;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;
import org.nasbackup.cloudstack.OneLine;
import org.nasbackup.provider.IncrementalRestore;

/** Chooses the host that does the work. */
public final class HostChoice {
    private final HostDao hosts;
    private final VolumeDao volumes;
    private final PrimaryDataStoreDao pools;
    private final ResourceManager resources;
    private final Restorers restorers;

    public HostChoice(
            HostDao hosts,
            VolumeDao volumes,
            PrimaryDataStoreDao pools,
            ResourceManager resources,
            Restorers restorers) {
        this.hosts = hosts;
        this.volumes = volumes;
        this.pools = pools;
        this.resources = resources;
        this.restorers = restorers;
    }

    /** The host that has the virtual machine's disks open, or had them last. */
    public Host forBackup(VirtualMachine vm) {
        Long id;
        if (vm.getState() == VirtualMachine.State.Running) {
            id = vm.getHostId();
        } else if (vm.getState() == VirtualMachine.State.Stopped) {
            id = vm.getLastHostId();
        } else {
            throw new CloudRuntimeException("virtual machine " + vm.getInstanceName() + " is in state " + vm.getState()
                    + "; it can be backed up when it is Running or Stopped");
        }
        Host host = id == null ? null : hosts.findById(id);
        if (!usable(host)) {
            throw new CloudRuntimeException("the host of virtual machine " + vm.getInstanceName()
                    + (host == null
                            ? " is not known"
                            : ", " + OneLine.of(host.getName()) + ", is not a KVM host that is up"));
        }
        return host;
    }

    /**
     * The hosts for work on the NAS alone. Those near the virtual machine come first, since they reach its repository.
     *
     * @param vm null: the machine is gone
     * @return at least one host
     */
    public List<Host> forRepository(VirtualMachine vm, long zoneId) {
        List<Host> all = new ArrayList<>(vm == null ? List.of() : near(vm));
        if (all.isEmpty()) {
            all.add(inZone(zoneId));
        }
        all.addAll(upInZone(zoneId));
        Map<Long, Host> once = new LinkedHashMap<>();
        all.forEach(host -> once.putIfAbsent(host.getId(), host));
        return new ArrayList<>(once.values());
    }

    public Host inZone(long zoneId) {
        Host host = resources.findOneRandomRunningHostByHypervisor(HypervisorType.KVM, zoneId);
        if (host == null) {
            throw new CloudRuntimeException("no KVM host of the zone is up");
        }
        return host;
    }

    /**
     * A host that writes a virtual machine's volumes, in the machine's zone, which need not be the backup's.
     *
     * @param volumePools the pools of the volumes
     * @param incremental whether the backup is incremental
     */
    public Host forRestore(VirtualMachine vm, List<StoragePoolVO> volumePools, boolean incremental) {
        List<Host> candidates = local(volumePools) ? owners(volumePools) : new ArrayList<>(near(vm));
        if (!local(volumePools)) {
            candidates.addAll(upInZone(vm.getDataCenterId()));
        } else if (candidates.isEmpty()) {
            candidates.addAll(ranOn(vm));
        }
        return first("virtual machine " + vm.getInstanceName(), candidates, volumePools, incremental);
    }

    /**
     * A host that writes one volume.
     *
     * @param named the host that the manager names: any that knows the pool, up or not
     * @param attached whether the volume gets attached to a running virtual machine on that host
     */
    public Host forVolume(HostVO named, StoragePoolVO pool, boolean attached, boolean incremental) {
        List<Host> candidates = new ArrayList<>(List.of(named));
        if (!attached && pool.getScope() != ScopeType.HOST) {
            candidates.addAll(upInZone(named.getDataCenterId()));
        }
        return first("storage pool " + pool.getUuid(), candidates, List.of(pool), incremental);
    }

    /** Which hosts of the zone that are up would spoil an incremental backup's restore, and why; null: none. */
    public String obstacleToIncrementals(long zoneId, Host taking) {
        List<Host> all = new ArrayList<>(upInZone(zoneId));
        if (all.stream().noneMatch(host -> host.getId() == taking.getId())) {
            all.add(taking);
        }
        all.removeIf(restorers::restoredChains);
        return obstacle(all);
    }

    /** @param hosts that do not restore incremental backups right */
    private static String obstacle(List<Host> hosts) {
        Map<String, String> versions = new HashMap<>();
        hosts.forEach(host -> versions.put(OneLine.of(host.getName()), OneLine.of(host.getVersion())));
        return IncrementalRestore.obstacle(versions);
    }

    private Host first(String what, List<Host> candidates, List<StoragePoolVO> pools, boolean incremental) {
        List<Host> able = candidates.stream()
                .filter(HostChoice::usable)
                .filter(host -> pools.stream().allMatch(pool -> reaches(host, pool)))
                .sorted(Comparator.comparing(Host::isInMaintenanceStates))
                .collect(Collectors.toList());
        if (able.isEmpty()) {
            throw new CloudRuntimeException("no KVM host that reaches the volumes of " + what + " is up");
        }
        Optional<StoragePoolVO> ours = pools.stream()
                .filter(pool -> !VolumePaths.inStockReach(pool.getPoolType()))
                .findFirst();
        return able.stream()
                .filter(host -> ours.isEmpty() || restorers.ours(host))
                .filter(host -> !incremental || restorers.restoresChains(host))
                .findFirst()
                .orElseThrow(() -> new CloudRuntimeException(
                        ours.isPresent()
                                ? "storage pool " + ours.get().getUuid() + " is of type "
                                        + ours.get().getPoolType()
                                        + ", which hosts write with nasbackup's restore alone, and no host that reaches the volumes of "
                                        + what + " has it"
                                : "the backup is incremental, and no host that reaches the volumes of " + what
                                        + " restores it right: " + obstacle(able)));
    }

    /** The hosts near a machine that are up: the one that has it, the one that had it last, its cluster. Hosts in maintenance come last. */
    private List<Host> near(VirtualMachine vm) {
        List<Host> near = ranOn(vm);
        Host last = vm.getLastHostId() == null ? null : hosts.findById(vm.getLastHostId());
        Long cluster = last == null ? clusterOfRoot(vm) : last.getClusterId();
        if (cluster != null) {
            near.addAll(hosts.findHypervisorHostInCluster(cluster));
        }
        return near.stream()
                .filter(HostChoice::usable)
                .sorted(Comparator.comparing(Host::isInMaintenanceStates))
                .collect(Collectors.toList());
    }

    /** The host that has a virtual machine, and the one that had it last. */
    private List<Host> ranOn(VirtualMachine vm) {
        return Stream.of(vm.getHostId(), vm.getLastHostId())
                .filter(Objects::nonNull)
                .map(hosts::findById)
                .filter(Objects::nonNull)
                .collect(Collectors.toCollection(ArrayList::new));
    }

    private List<Host> upInZone(long zoneId) {
        return hosts.findHypervisorHostInZone(zoneId).stream()
                .filter(HostChoice::usable)
                .collect(Collectors.toList());
    }

    private static boolean local(List<StoragePoolVO> volumePools) {
        return volumePools.stream().anyMatch(pool -> pool.getScope() == ScopeType.HOST);
    }

    /** The hosts whose local storage the pools are. */
    private List<Host> owners(List<StoragePoolVO> volumePools) {
        return volumePools.stream()
                .filter(pool -> pool.getScope() == ScopeType.HOST && pool.getHostAddress() != null)
                .map(pool -> hosts.findByIp(pool.getHostAddress()))
                .filter(Objects::nonNull)
                .collect(Collectors.toCollection(ArrayList::new));
    }

    /** Whether the host has the pool: one that lacks it could write to its own disk, below the pool's name. */
    private static boolean reaches(Host host, StoragePoolVO pool) {
        return pool.getScope() != ScopeType.CLUSTER
                || pool.getClusterId() == null
                || pool.getClusterId().equals(host.getClusterId());
    }

    private Long clusterOfRoot(VirtualMachine vm) {
        VolumeVO root = volumes.getInstanceRootVolume(vm.getId());
        StoragePoolVO pool = root == null || root.getPoolId() == null ? null : pools.findById(root.getPoolId());
        return pool == null ? null : pool.getClusterId();
    }

    private static boolean usable(Host host) {
        return host != null && host.getStatus() == Status.Up && HypervisorType.KVM.equals(host.getHypervisorType());
    }
}
