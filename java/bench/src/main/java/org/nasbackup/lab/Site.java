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

import java.nio.file.Path;
import java.util.List;
import org.nasbackup.NasBackup;
import org.nasbackup.Repository;

/** What the rivals share: guest, NAS, and the names of restore points. */
final class Site {
    private static final int FIRST_BITMAP = 1_925_000_000;

    final NasBackup library;
    final Shell shell;
    final Path home;
    final NasImage nas;
    private int points;

    /** @param home the folder of {@code floor.py} */
    Site(NasBackup library, Shell shell, Path home, NasImage nas) {
        this.library = library;
        this.shell = shell;
        this.home = home;
        this.nas = nas;
    }

    /** A restore point's name, used once. */
    String nextPoint(String vm) {
        int number = points++;
        return String.format("%s/2031.01.02.%02d.%02d.%02d", vm, number / 3600, number / 60 % 60, number % 60);
    }

    /** The bitmap of the newest point. */
    String bitmap() {
        return "backup-" + (FIRST_BITMAP + points);
    }

    Repository repository(Rival rival) {
        return rival.isMounted() ? nas.warm() : nas.cold();
    }

    /** Seconds of the bare calls. */
    double floor(String... arguments) {
        List<String> command = new java.util.ArrayList<>(List.of("" + home.resolve("floor.py")));
        command.addAll(List.of(arguments));
        return Double.parseDouble(Lab.run(command.toArray(String[]::new)).strip());
    }

    static void require(boolean right, Object otherwise) {
        if (!right) {
            throw new IllegalStateException("not as it has to be: " + otherwise);
        }
    }
}
