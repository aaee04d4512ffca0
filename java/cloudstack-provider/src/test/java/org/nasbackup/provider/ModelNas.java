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

package org.nasbackup.provider;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/** Restore points as files: which blocks each image has, and which image it has as backing. */
public final class ModelNas implements RemoteRepository {
    private static final class Image {
        final Map<Integer, String> blocks = new TreeMap<>();
        String backing;
        /** It has become the image of a point that stood on it. */
        boolean gone;
    }

    private final Map<String, Map<String, Image>> points = new HashMap<>();
    private final Crash.Meter meter;

    public ModelNas(Crash.Meter meter) {
        this.meter = meter;
    }

    public void save(Path file) throws IOException {
        Files.writeString(file, new Gson().toJson(points));
    }

    public void load(Path file) throws IOException {
        points.clear();
        points.putAll(new Gson()
                .fromJson(Files.readString(file), new TypeToken<Map<String, Map<String, Image>>>() {}.getType()));
    }

    /** A point that wrote some blocks of its own; a volume that the parent lacks is there in full. */
    public void take(String path, String parent, List<String> volumes, int seed) {
        Map<String, Image> images = new HashMap<>();
        for (String volume : volumes) {
            Image image = new Image();
            image.backing = parent != null && points.get(parent).containsKey(volume) ? parent : null;
            for (int block = 0; block < 8; block++) {
                if (image.backing == null || (seed >> block & 1) == 1) {
                    image.blocks.put(block, path + "/" + volume);
                }
            }
            images.put(volume, image);
        }
        points.put(path, images);
    }

    public boolean has(String path) {
        return points.containsKey(path);
    }

    /** False once images of the point have become another's. */
    public boolean isWhole(String path) {
        return points.get(path).values().stream().noneMatch(image -> image.gone);
    }

    /** Somebody removes a point's folder. */
    public void lose(String path) {
        points.remove(path);
    }

    public List<String> paths() {
        return new ArrayList<>(points.keySet());
    }

    /** What a restore of the point yields. */
    public Map<String, Map<Integer, String>> read(String path) {
        Map<String, Map<Integer, String>> contents = new TreeMap<>();
        points.get(path).keySet().forEach(volume -> contents.put(volume, read(path, volume)));
        return contents;
    }

    private Map<Integer, String> read(String path, String volume) {
        Image image = points.getOrDefault(path, Map.of()).get(volume);
        if (image == null) {
            // a plain one: this is asked a million times, and each description of an assertion is a text
            throw new AssertionError(path + " lacks " + volume + ", which is read or stood on");
        }
        Map<Integer, String> content = image.backing == null ? new TreeMap<>() : read(image.backing, volume);
        content.putAll(image.blocks);
        return content;
    }

    public long size(String path) {
        return points.get(path).values().stream()
                .mapToLong(image -> image.blocks.size())
                .sum();
    }

    /** The points that images of this one have as backing. */
    public List<String> backings(String path) {
        List<String> backings = new ArrayList<>();
        points.get(path).values().stream()
                .filter(image -> image.backing != null)
                .forEach(image -> backings.add(image.backing));
        return backings;
    }

    @Override
    public Rebased rebase(Point point, Point newParent, Point going) {
        exists(point.path());
        String goal = newParent == null ? null : newParent.path();
        boolean found = !isWhole(point.path());
        for (String volume : points.get(point.path()).keySet()) {
            found |= leads(point.path(), volume, goal);
        }
        if (!found) {
            throw refused("PARENT_INVALID: no disk of " + point.path() + " stands on " + goal);
        }
        points.get(point.path()).forEach((volume, image) -> {
            boolean stoodThere = going.path().equals(image.backing);
            rebase(volume, image, goal);
            if (stoodThere && childOf(going.path()).isEmpty()) {
                Image below = points.get(going.path()).get(volume);
                below.gone = true;
                below.blocks.clear();
                below.backing = null;
            }
        });
        return new Rebased(size(point.path()), null);
    }

    private boolean leads(String from, String volume, String goal) {
        for (String at = from; at != null; at = points.get(at).get(volume).backing) {
            exists(at);
            if (at.equals(goal)) {
                return true;
            }
        }
        return goal == null;
    }

    private void exists(String path) {
        if (!points.containsKey(path)) {
            throw refused("NOT_FOUND: " + path);
        }
    }

    private static AgentFailure refused(String reason) {
        return new AgentFailure(AgentFailure.Kind.REFUSED, reason, false);
    }

    private void rebase(String volume, Image image, String newParent) {
        if (image.backing == null || image.backing.equals(newParent)) {
            return;
        }
        meter.effect();
        Image between = points.get(image.backing).get(volume);
        while (true) {
            between.blocks.forEach(image.blocks::putIfAbsent);
            image.backing = between.backing;
            if (image.backing == null || image.backing.equals(newParent)) {
                return;
            }
            between = points.get(image.backing).get(volume);
        }
    }

    private Optional<String> childOf(String path) {
        return points.keySet().stream()
                .filter(other -> backings(other).contains(path))
                .findFirst();
    }

    @Override
    public void delete(Point point) {
        childOf(point.path()).ifPresent(child -> {
            throw refused("HAS_CHILDREN: " + child + " stands on " + point.path());
        });
        meter.effect();
        points.remove(point.path());
    }
}
