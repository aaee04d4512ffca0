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

import com.google.gson.Gson;
import java.util.ArrayList;
import java.util.List;

/** Which file CloudStack's own wrappers put onto which volume, in each version; from what a command has on the wire. */
enum StockPairing {
    V4_22_0 {
        @Override
        String file(Fields command, int i) {
            if (command.vmExists == null) {
                return command.restoreVolumeUUID;
            }
            String path = command.restoreVolumePaths.get(i);
            return command.vmExists ? command.backupVolumesUUIDs.get(i) : path.substring(path.lastIndexOf('/') + 1);
        }
    },
    /** And 4.23. */
    V4_22_1 {
        @Override
        String file(Fields command, int i) {
            return command.backupFiles.get(i);
        }
    };

    /** Those that they know. */
    static final class Fields {
        private List<String> backupVolumesUUIDs;
        private List<String> restoreVolumePaths;
        private List<String> backupFiles;
        private String restoreVolumeUUID;
        private String diskType;
        private Boolean vmExists;

        private Fields() {}
    }

    abstract String file(Fields command, int i);

    /** In the order in which they overwrite. */
    List<String> restores(RestoreBackupCommand asked) {
        Fields command = new Gson().fromJson(new Gson().toJson(asked), Fields.class);
        int volumes = command.vmExists == null ? 1 : command.restoreVolumePaths.size();
        List<String> restored = new ArrayList<>();
        String type = command.vmExists == null ? command.diskType : "root";
        for (int i = 0; i < volumes; i++) {
            restored.add(type + "." + file(command, i) + ".qcow2 > " + command.restoreVolumePaths.get(i));
            type = "datadisk";
        }
        return restored;
    }
}
