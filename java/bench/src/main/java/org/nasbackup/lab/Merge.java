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

package org.nasbackup.lab;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.nasbackup.RebasePointRequest;
import org.nasbackup.RebaseResult;
import org.nasbackup.lab.Samples.Sample;

/**
 * The same as a deletion of the parent asks for it, on a file system that shares no blocks: the parent's image takes in the small
 * incremental, and its place. The points have manifests as those of older versions do, without checksums; the script reads none.
 */
final class Merge implements Operation {
    private final Site site;
    private final Rebases chain;

    Merge(Site site, Rebases chain) {
        this.site = site;
        this.chain = chain;
        chain.putBack(chain.target);
        Lab.run("cp", "" + chain.at(chain.middle), "" + chain.pristine(chain.middle));
    }

    private void describe(String image, String below) {
        Path path = chain.at(image);
        String kind = below == null ? "full" : "incremental";
        try {
            JsonObject disk = new JsonObject();
            disk.addProperty("volume", "disk");
            disk.addProperty("file", path.getFileName().toString());
            disk.addProperty("kind", kind);
            disk.addProperty("size", Files.size(path));
            disk.addProperty("virtualSize", Rebases.DISK);
            JsonArray disks = new JsonArray();
            disks.add(disk);
            JsonObject manifest = new JsonObject();
            manifest.addProperty("version", 1);
            manifest.addProperty("pointId", point(image));
            manifest.addProperty("vmName", image.substring(0, image.indexOf('/')));
            manifest.addProperty("when", "2031-01-02T00:00:00Z");
            manifest.addProperty("kind", kind);
            manifest.addProperty("engine", "push");
            manifest.add("disks", disks);
            if (below != null) {
                JsonObject parent = new JsonObject();
                parent.addProperty("backupPath", point(below));
                parent.addProperty("pointId", point(below));
                manifest.add("parent", parent);
            }
            Files.writeString(path.resolveSibling("manifest.json"), "" + manifest);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static String point(String image) {
        return image.substring(0, image.lastIndexOf('/'));
    }

    @Override
    public String name() {
        return "merge";
    }

    @Override
    public void before(Rival rival) {
        chain.putBack(chain.middle);
        chain.putBack(chain.target);
        describe(chain.base, null);
        describe(chain.middle, chain.base);
        describe(chain.target, chain.middle);
    }

    @Override
    public void run(Rival rival, Sample sample) {
        if (rival == Rival.SHELL) {
            chain.run(rival, sample);
        } else if (rival == Rival.FLOOR) {
            sample.with("seconds", site.floor("copy", "" + chain.pristine(chain.target), "" + chain.at(chain.target)));
        } else {
            RebaseResult result = site.library.rebasePoint(RebasePointRequest.builder()
                    .repository(site.repository(rival))
                    .backupPath(point(chain.target))
                    .newParent(point(chain.base))
                    .goingPoint(point(chain.middle))
                    .build());
            sample.with("cloned", result.bytesCloned()).with("copied", result.bytesCopied());
        }
    }

    /** What the target was stands on the middle one as that was. */
    @Override
    public void check(Rival rival) {
        Site.require(
                Files.exists(chain.at(chain.middle)) != rival.isNative(), rival + " has not moved the parent's image");
        chain.putBack(chain.middle);
        chain.check(rival);
    }
}
