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
import com.cloud.storage.VolumeVO;
import com.cloud.storage.dao.VolumeDao;
import com.cloud.utils.exception.CloudRuntimeException;
import com.cloud.vm.VirtualMachine;
import org.apache.cloudstack.storage.datastore.db.PrimaryDataStoreDao;
import org.apache.cloudstack.storage.datastore.db.StoragePoolVO;

/** Which host does the work. */
public final class HostChoice {
    private final HostDao hosts;
    private final VolumeDao volumes;
    private final PrimaryDataStoreDao pools;
    private final ResourceManager resources;

    public HostChoice(HostDao hosts, VolumeDao volumes, PrimaryDataStoreDao pools, ResourceManager resources) {
        this.hosts = hosts;
        this.volumes = volumes;
        this.pools = pools;
        this.resources = resources;
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
                    + (host == null ? " is not known" : ", " + host.getName() + ", is not a KVM host that is up"));
        }
        return host;
    }

    /**
     * A host for work on the NAS alone: near the virtual machine, for its repository's sake.
     *
     * @param vm null: it is gone
     */
    public Host forRepository(VirtualMachine vm, long zoneId) {
        Host host = vm == null ? null : near(vm);
        return host == null ? inZone(zoneId) : host;
    }

    public Host inZone(long zoneId) {
        Host host = resources.findOneRandomRunningHostByHypervisor(HypervisorType.KVM, zoneId);
        if (host == null) {
            throw new CloudRuntimeException("no KVM host of the zone is up");
        }
        return host;
    }

    private Host near(VirtualMachine vm) {
        Host current = vm.getHostId() == null ? null : hosts.findById(vm.getHostId());
        if (usable(current)) {
            return current;
        }
        Host last = vm.getLastHostId() == null ? null : hosts.findById(vm.getLastHostId());
        if (usable(last)) {
            return last;
        }
        Long cluster = last == null ? clusterOfRoot(vm) : last.getClusterId();
        if (cluster != null) {
            for (HostVO host : hosts.findHypervisorHostInCluster(cluster)) {
                if (usable(host)) {
                    return host;
                }
            }
        }
        return null;
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
