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
import com.cloud.resource.CommandWrapper;
import com.cloud.resource.ResourceWrapper;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.reflections.Reflections;

/** What the agent does with wrappers, in a JVM of its own: finds all, makes each once, gives commands to them. */
public final class Agent {
    private static final Map<Class<?>, CommandWrapper<Command, Answer, LibvirtComputingResource>> WRAPPERS =
            new HashMap<>();

    private Agent() {}

    public static void main(String[] arguments) throws Exception {
        scan();
        System.out.println("found " + WRAPPERS.size());
        for (String json : arguments) {
            Command command = Wire.read(json);
            CommandWrapper<Command, Answer, LibvirtComputingResource> wrapper = WRAPPERS.get(command.getClass());
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

    @SuppressWarnings({"rawtypes", "unchecked"})
    private static void scan() throws ReflectiveOperationException {
        Set<Class<? extends CommandWrapper>> found =
                new Reflections("com.cloud.hypervisor.kvm.resource.wrapper").getSubTypesOf(CommandWrapper.class);
        for (Class<? extends CommandWrapper> type : found) {
            ResourceWrapper annotation = type.getAnnotation(ResourceWrapper.class);
            if (annotation != null) {
                WRAPPERS.put(annotation.handles(), type.getDeclaredConstructor().newInstance());
            }
        }
    }

    private static final class Host extends LibvirtComputingResource {
        @Override
        public int getCmdsTimeout() {
            return 7_200_000;
        }

        @Override
        public com.cloud.hypervisor.kvm.storage.KVMStoragePoolManager getStoragePoolMgr() {
            return null;
        }
    }
}
