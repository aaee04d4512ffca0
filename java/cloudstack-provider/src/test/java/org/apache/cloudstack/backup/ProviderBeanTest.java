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

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.cloud.utils.component.AdapterBase;
import com.cloud.utils.exception.CloudRuntimeException;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.HashSet;
import java.util.Set;
import java.util.stream.Stream;
import javax.inject.Inject;
import org.apache.logging.log4j.LogManager;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.cloudstack.LibraryUnusable;

/** The provider's class as a server's container meets it. */
@Tag("each-version")
class ProviderBeanTest {
    /** A server of another version, which has of CloudStack what the provider's class declares, and nothing else. */
    private static final class BareServer extends URLClassLoader {
        private final Set<String> there = new HashSet<>(Set.of(CloudRuntimeException.class.getName()));

        BareServer() {
            super(
                    Stream.of(
                                    NASBackupProvider.class,
                                    AdapterBase.class,
                                    LibraryUnusable.class,
                                    Inject.class,
                                    LogManager.class)
                            .map(type ->
                                    type.getProtectionDomain().getCodeSource().getLocation())
                            .toArray(URL[]::new),
                    ClassLoader.getPlatformClassLoader());
            declared(NASBackupProvider.class);
            Stream.of(NASBackupProvider.class, NasServer.class).forEach(this::declaredBy);
        }

        private void declaredBy(Class<?> type) {
            for (Constructor<?> constructor : type.getDeclaredConstructors()) {
                Stream.of(constructor.getParameterTypes()).forEach(this::declared);
            }
            for (Field field : type.getDeclaredFields()) {
                declared(field.getType());
            }
            for (Method method : type.getDeclaredMethods()) {
                declared(method.getReturnType());
                Stream.of(method.getParameterTypes()).forEach(this::declared);
            }
        }

        private void declared(Class<?> type) {
            Class<?> element = type.isArray() ? type.getComponentType() : type;
            there.add(element.getName());
            if (element.getSuperclass() != null) {
                declared(element.getSuperclass());
            }
            Stream.of(element.getInterfaces()).forEach(this::declared);
        }

        @Override
        protected Class<?> findClass(String name) throws ClassNotFoundException {
            boolean cloudStacks = name.startsWith("com.cloud.") || name.startsWith("org.apache.cloudstack.");
            boolean ours =
                    name.startsWith(NasBackups.class.getName()) || name.startsWith(NasBackupKeys.class.getName());
            if (cloudStacks && !ours && !there.contains(name)) {
                throw new ClassNotFoundException(name);
            }
            return super.findClass(name);
        }
    }

    /** In 4.23 every call of a server with a bean that failed is answered with 503. */
    @Test
    void a_server_that_lacks_what_the_work_needs_gets_its_bean_and_each_operation_says_what_is_wrong()
            throws Exception {
        Thread thread = Thread.currentThread();
        ClassLoader before = thread.getContextClassLoader();
        try (BareServer server = new BareServer()) {
            // Log4j looks for its parts through this one, and complains of those of another
            thread.setContextClassLoader(server);
            Class<?> type = server.loadClass(NASBackupProvider.class.getName());
            assertThat(type.getClassLoader()).isSameAs(server);
            assertThat(type.getDeclaredMethods()).isNotEmpty();
            assertThat(type.getDeclaredFields()).isNotEmpty();
            Object bean = type.getConstructor().newInstance();
            assertThat(type.getMethod("start").invoke(bean)).isEqualTo(true);
            assertThat((Object[]) type.getMethod("getConfigKeys").invoke(bean)).isEmpty();
            assertThatThrownBy(() ->
                            type.getMethod("listBackupOfferings", Long.class).invoke(bean, 1L))
                    .cause()
                    .hasMessageStartingWith(
                            "nasbackup does not fit this management server - java.lang.NoClassDefFoundError")
                    .extracting(failure -> failure.getClass().getName())
                    .isEqualTo(CloudRuntimeException.class.getName());
        } finally {
            thread.setContextClassLoader(before);
        }
    }
}
