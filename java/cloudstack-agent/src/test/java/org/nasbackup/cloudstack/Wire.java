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

import com.cloud.agent.api.Command;
import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;

/** Commands and answers as CloudStack puts them on the wire: an array of objects, each with the class as its one key. */
public final class Wire {
    private static final Gson GSON = new Gson();

    private Wire() {}

    public static String write(Command command) {
        JsonObject object = new JsonObject();
        object.add(command.getClass().getName(), GSON.toJsonTree(command));
        JsonArray array = new JsonArray();
        array.add(object);
        return GSON.toJson(array);
    }

    public static Command read(String json) {
        JsonObject object = new JsonParser().parse(json).getAsJsonArray().get(0).getAsJsonObject();
        String name = object.entrySet().iterator().next().getKey();
        try {
            return (Command) GSON.fromJson(object.get(name), Class.forName(name));
        } catch (ClassNotFoundException e) {
            throw new IllegalArgumentException(name, e);
        }
    }
}
