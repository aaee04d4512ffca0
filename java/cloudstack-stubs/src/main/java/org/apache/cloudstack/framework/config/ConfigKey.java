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

package org.apache.cloudstack.framework.config;

public class ConfigKey<T> {
    public static final String CATEGORY_ADVANCED = "Advanced";

    public enum Scope {
        Global,
        Zone
    }

    private final String name;

    public ConfigKey(
            String category,
            Class<T> type,
            String name,
            String defaultValue,
            String description,
            boolean isDynamic,
            Scope scope,
            String parent) {
        this.name = name;
    }

    public final String key() {
        return name;
    }

    public T value() {
        throw new UnsupportedOperationException();
    }

    public T valueIn(Long id) {
        throw new UnsupportedOperationException();
    }
}
