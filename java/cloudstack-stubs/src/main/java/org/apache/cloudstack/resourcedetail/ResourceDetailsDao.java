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

package org.apache.cloudstack.resourcedetail;

import java.util.Map;
import org.apache.cloudstack.api.ResourceDetail;

public interface ResourceDetailsDao<R extends ResourceDetail> {
    R findDetail(long resourceId, String name);

    Map<String, String> listDetailsKeyPairs(long resourceId);

    void addDetail(long resourceId, String key, String value, boolean display);

    void removeDetail(long resourceId, String key);

    void removeDetail(long resourceId, String key, String value);
}
