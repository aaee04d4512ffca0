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

package org.nasbackup.provider.database;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.Arrays;

/** Interfaces of CloudStack's, of which the tests answer what is called; the rest is another in each version. */
public final class Calls {
    private Calls() {}

    /** @param answering has public methods of the names and numbers of arguments that are called */
    public static <T> T to(Object answering, Class<T> type) {
        return type.cast(Proxy.newProxyInstance(
                type.getClassLoader(),
                new Class<?>[] {type},
                (proxy, method, arguments) ->
                        invoke(answering, method, arguments == null ? new Object[0] : arguments)));
    }

    private static Object invoke(Object answering, Method called, Object[] arguments) throws Throwable {
        Method answer = Arrays.stream(answering.getClass().getMethods())
                .filter(method -> method.getName().equals(called.getName())
                        && method.getParameterCount() == arguments.length
                        && !method.isBridge())
                .findFirst()
                .orElseThrow(() -> new UnsupportedOperationException("the tests do not answer " + called));
        answer.setAccessible(true);
        try {
            return answer.invoke(answering, arguments);
        } catch (InvocationTargetException e) {
            throw e.getCause();
        }
    }
}
