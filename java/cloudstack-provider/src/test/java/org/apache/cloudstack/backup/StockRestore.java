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

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import org.nasbackup.cloudstack.Wire;
import org.nasbackup.lab.Lab;

/** What CloudStack's own wrapper does with a restore of a whole machine; none of it is ours. */
final class StockRestore {
    private StockRestore() {}

    static String execute(String json) {
        JsonObject body = new JsonParser().parse(json).getAsJsonArray().get(0).getAsJsonObject();
        JsonObject command = body.entrySet().iterator().next().getValue().getAsJsonObject();
        String folder = command.get("backupRepoAddress").getAsString() + "/"
                + command.get("backupPath").getAsString();
        JsonArray files = command.getAsJsonArray("backupFiles");
        for (int i = 0; i < files.size(); i++) {
            String type = i == 0 ? "root" : "datadisk";
            String backup = folder + "/" + type + "." + files.get(i).getAsString() + ".qcow2";
            restore(backup, command.getAsJsonArray("restoreVolumePaths").get(i).getAsString());
        }
        return Wire.write(new BackupAnswer(Wire.read(json), true, null));
    }

    private static void restore(String backup, String volume) {
        Lab.run("qemu-img", "check", backup);
        if (Lab.run("qemu-img", "info", "--output=json", backup).contains("\"backing-filename\"")) {
            Lab.run("qemu-img", "convert", "-O", "qcow2", backup, volume);
        } else {
            Lab.run("rsync", "-az", backup, volume);
        }
    }
}
