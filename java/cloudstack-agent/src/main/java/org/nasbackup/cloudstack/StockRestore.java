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
import com.cloud.hypervisor.kvm.resource.LibvirtComputingResource;
import com.cloud.resource.CommandWrapper;
import java.io.IOException;
import java.io.InputStream;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.cloudstack.backup.RestoreBackupCommand;

/**
 * CloudStack's own wrapper for restores, which ours hides: what the library does not write yet, it converts, a chain of incremental
 * backups too. A loader of its own defines it from the first place on the class path that has not ours.
 */
public final class StockRestore extends ClassLoader {
    private static final Set<String> POOLS = Set.of("RBD");
    private static final String NAME = "com.cloud.hypervisor.kvm.resource.wrapper.LibvirtRestoreBackupCommandWrapper";

    private final ClassLoader loader;
    private final String place;

    /** @param loader that has our class, and CloudStack's behind it */
    StockRestore(ClassLoader loader) throws IOException {
        super(loader);
        this.loader = loader;
        String file = file(NAME);
        String stock = null;
        for (URL each : Collections.list(loader.getResources(file))) {
            stock = stock == null && !isOurs(each) ? each.toString() : stock;
        }
        if (stock == null) {
            throw new IllegalArgumentException(
                    "UNSUPPORTED_IMAGE: restore: the library writes no volumes of pools of type "
                            + String.join(", ", POOLS)
                            + ", and CloudStack's own wrapper is not on the agent's class path");
        }
        place = stock.substring(0, stock.length() - file.length());
    }

    /** Our jar may be listed twice, by two names. Ours alone names the interface. */
    private static boolean isOurs(URL wrapper) throws IOException {
        try (InputStream file = wrapper.openStream()) {
            return new String(file.readAllBytes(), StandardCharsets.ISO_8859_1)
                    .contains(RestoresChains.class.getName().replace('.', '/'));
        }
    }

    /** Is it for CloudStack's own? */
    public static boolean takes(RestorePlan plan) {
        long taken = plan.items().stream()
                .filter(item -> item.pool().getPoolType() != null)
                .filter(item -> POOLS.contains(item.pool().getPoolType().name()))
                .count();
        if (taken != 0 && taken != plan.items().size()) {
            throw new IllegalArgumentException("INVALID_ARGUMENT: check the request: some volumes lie in pools of type "
                    + String.join(", ", POOLS) + " and some do not, and they can't be restored together");
        }
        return taken != 0;
    }

    public static Answer execute(RestoreBackupCommand command, RestorePlan plan, LibvirtComputingResource resource)
            throws IOException, ReflectiveOperationException {
        return new StockRestore(StockRestore.class.getClassLoader())
                .wrapper()
                .execute(ordered(command, plan), resource);
    }

    @SuppressWarnings("unchecked")
    CommandWrapper<RestoreBackupCommand, Answer, LibvirtComputingResource> wrapper()
            throws ReflectiveOperationException {
        return (CommandWrapper<RestoreBackupCommand, Answer, LibvirtComputingResource>)
                loadClass(NAME).getDeclaredConstructor().newInstance();
    }

    /** It pairs by place. Of a stock server the order is not that of the pairs. */
    static RestoreBackupCommand ordered(RestoreBackupCommand command, RestorePlan plan) {
        if (command.getDisks() == null && !plan.fresh()) {
            command.setBackupFiles(
                    plan.items().stream().map(RestorePlan.Item::volume).collect(Collectors.toList()));
            command.setBackupVolumesUUIDs(command.getBackupFiles());
            command.setRestoreVolumePaths(
                    plan.items().stream().map(RestorePlan.Item::path).collect(Collectors.toList()));
            command.setRestoreVolumePools(
                    plan.items().stream().map(RestorePlan.Item::pool).collect(Collectors.toList()));
        }
        return command;
    }

    @Override
    protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
        if (!name.equals(NAME) && !name.startsWith(NAME + "$")) {
            return super.loadClass(name, resolve);
        }
        synchronized (getClassLoadingLock(name)) {
            Class<?> loaded = findLoadedClass(name);
            return loaded == null ? findClass(name) : loaded;
        }
    }

    @Override
    protected Class<?> findClass(String name) throws ClassNotFoundException {
        try (InputStream file = new URL(place + file(name)).openStream()) {
            byte[] bytes = file.readAllBytes();
            return defineClass(name, bytes, 0, bytes.length);
        } catch (IOException e) {
            throw new ClassNotFoundException(name, e);
        }
    }

    private static String file(String className) {
        return className.replace('.', '/') + ".class";
    }
}
