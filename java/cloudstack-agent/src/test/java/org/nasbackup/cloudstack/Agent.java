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

import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.hypervisor.kvm.resource.LibvirtComputingResource;
import com.cloud.hypervisor.kvm.storage.KVMPhysicalDisk;
import com.cloud.hypervisor.kvm.storage.KVMStoragePool;
import com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager;
import com.cloud.resource.CommandWrapper;
import com.cloud.resource.ResourceWrapper;
import com.cloud.storage.Storage.StoragePoolType;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.apache.cloudstack.utils.qemu.QemuImg.PhysicalDiskFormat;
import org.reflections.Reflections;

/** What the agent does with wrappers: finds all, makes each once, gives commands to them. */
public final class Agent {
    private static Map<Class<?>, CommandWrapper<Command, Answer, LibvirtComputingResource>> wrappers;

    /** Of the volumes, on this host. */
    private static String folder;

    private static Map<String, String> devices = Map.of();

    private Agent() {}

    public static void pool(String folder) {
        Agent.folder = folder;
    }

    /** Its volumes are devices, as pools of other types than files have them. */
    public static void pool(Map<String, String> devices) {
        Agent.devices = devices;
    }

    /** In a JVM of its own, as DiscoveryTest runs it. */
    public static void main(String[] arguments) {
        System.out.println("found " + wrappers().size());
        for (String json : arguments) {
            Command command = Wire.read(json);
            CommandWrapper<Command, Answer, LibvirtComputingResource> wrapper =
                    wrappers().get(command.getClass());
            System.out.println(wrapper.getClass().getSimpleName() + " from "
                    + wrapper.getClass()
                            .getProtectionDomain()
                            .getCodeSource()
                            .getLocation()
                            .getPath());
            Answer answer = wrapper.execute(command, new Host());
            System.out.println(
                    answer.getClass().getSimpleName() + " " + answer.getResult() + " " + answer.getDetails());
        }
    }

    /** A command as it comes off the wire; the answer as it goes onto it. */
    public static String execute(String json) {
        Command command = Wire.read(json);
        return Wire.write(wrappers().get(command.getClass()).execute(command, new Host()));
    }

    private static synchronized Map<Class<?>, CommandWrapper<Command, Answer, LibvirtComputingResource>> wrappers() {
        if (wrappers == null) {
            wrappers = scan();
        }
        return wrappers;
    }

    @SuppressWarnings({"rawtypes", "unchecked"})
    private static Map<Class<?>, CommandWrapper<Command, Answer, LibvirtComputingResource>> scan() {
        Map<Class<?>, CommandWrapper<Command, Answer, LibvirtComputingResource>> found = new HashMap<>();
        Set<Class<? extends CommandWrapper>> types =
                new Reflections("com.cloud.hypervisor.kvm.resource.wrapper").getSubTypesOf(CommandWrapper.class);
        try {
            for (Class<? extends CommandWrapper> type : types) {
                ResourceWrapper annotation = type.getAnnotation(ResourceWrapper.class);
                if (annotation != null) {
                    found.put(
                            annotation.handles(), type.getDeclaredConstructor().newInstance());
                }
            }
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(e);
        }
        return found;
    }

    /** Every disk of its pools is a qcow2 file, or a raw device. */
    private static final class Host extends LibvirtComputingResource {
        private static final KVMPhysicalDisk QCOW2 = new KVMPhysicalDisk(null, null, null) {
            @Override
            public PhysicalDiskFormat getFormat() {
                return PhysicalDiskFormat.QCOW2;
            }
        };

        private static KVMPhysicalDisk disk(Object name) {
            String device = devices.get(name);
            return device == null
                    ? QCOW2
                    : new KVMPhysicalDisk(null, null, null) {
                        @Override
                        public String getPath() {
                            return device;
                        }

                        @Override
                        public PhysicalDiskFormat getFormat() {
                            return PhysicalDiskFormat.RAW;
                        }
                    };
        }

        private static Object answer(Method method, Object[] arguments) {
            switch (method.getName()) {
                case "getLocalPath":
                    return folder;
                case "getPhysicalDisk":
                    return disk(arguments[0]);
                default:
                    return true;
            }
        }

        @Override
        public int getCmdsTimeout() {
            return 7_200_000;
        }

        @Override
        public KVMStoragePoolManager getStoragePoolMgr() {
            return new KVMStoragePoolManager(null, null) {
                @Override
                public boolean connectPhysicalDisk(
                        StoragePoolType type, String pool, String volume, Map<String, String> details) {
                    return true;
                }

                @Override
                public KVMStoragePool getStoragePool(StoragePoolType type, String uuid) {
                    return (KVMStoragePool) Proxy.newProxyInstance(
                            KVMStoragePool.class.getClassLoader(),
                            new Class<?>[] {KVMStoragePool.class},
                            (pool, method, arguments) -> answer(method, arguments));
                }
            };
        }
    }
}
