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

package org.apache.cloudstack.storage.datastore.db;

import com.cloud.storage.ScopeType;
import com.cloud.storage.Storage.StoragePoolType;

public class StoragePoolVO {
    public long getId() {
        throw new UnsupportedOperationException();
    }

    public String getUuid() {
        throw new UnsupportedOperationException();
    }

    public String getPath() {
        throw new UnsupportedOperationException();
    }

    public ScopeType getScope() {
        throw new UnsupportedOperationException();
    }

    public StoragePoolType getPoolType() {
        throw new UnsupportedOperationException();
    }

    public String getHostAddress() {
        throw new UnsupportedOperationException();
    }

    public Long getClusterId() {
        throw new UnsupportedOperationException();
    }
}
