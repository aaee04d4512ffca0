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

import org.nasbackup.BackupStatsRequest;
import org.nasbackup.lab.Samples.Sample;

/** Size and use of the repository. */
final class Stats implements Operation {
    private final Site site;
    private long total;

    Stats(Site site) {
        this.site = site;
    }

    @Override
    public String name() {
        return "stats";
    }

    @Override
    public boolean dropsCaches() {
        return false;
    }

    @Override
    public void before(Rival rival) {
        total = 0;
    }

    @Override
    public void run(Rival rival, Sample sample) {
        if (rival == Rival.SHELL) {
            String[] words = String.join(" ", site.shell.run("stats", site.nas.cold()))
                    .strip()
                    .split("\\s+");
            total = Long.parseLong(words[1]) * 1024;
        } else if (rival == Rival.FLOOR) {
            sample.with("seconds", site.floor("stats", "" + site.nas.root()));
        } else {
            total = site.library
                    .backupStats(BackupStatsRequest.builder()
                            .repository(site.repository(rival))
                            .build())
                    .totalBytes();
        }
    }

    @Override
    public void check(Rival rival) {
        Site.require(total == site.nas.root().toFile().getTotalSpace() / 1024 * 1024, total);
    }
}
