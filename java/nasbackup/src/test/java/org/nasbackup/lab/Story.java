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
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import org.nasbackup.CancelHandle;
import org.nasbackup.DiskResult;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.ProgressListener;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;

/** A guest, a repository, and the restore points taken so far. */
public final class Story implements AutoCloseable {
    private static final long FIRST_BITMAP = 1_767_322_980;

    private final NasBackup nasBackup;
    private final Guest guest;
    private final NasFolder nas;
    private final List<Point> points = new ArrayList<>();
    private int requests;

    public Story(NasBackup nasBackup, Guest guest, NasFolder nas) {
        this.nasBackup = nasBackup;
        this.guest = guest;
        this.nas = nas;
    }

    /** The points of this story in a repository of their own. A backup in there would be none in here, where the guest is. */
    public Story copy() {
        Story copy = new Story(nasBackup, guest, nas.copy());
        copy.points.addAll(points);
        return copy;
    }

    public Guest guest() {
        return guest;
    }

    public NasFolder nas() {
        return nas;
    }

    public List<Point> points() {
        return points;
    }

    public Point last() {
        return points.get(points.size() - 1);
    }

    /** The next request, with names of its own, on top of the newest point; for the guest as it is, running or not. */
    TakeBackupRequest request(Mode mode) {
        int number = requests++;
        TakeBackupRequest.Builder request = TakeBackupRequest.builder()
                .vmName(guest.name())
                .backupPath(String.format("%s/2026.01.02.03.04.%02d", guest.name(), number))
                .repository(nas.repository())
                .mode(mode)
                .bitmapNew("backup-" + (FIRST_BITMAP + number));
        if (!guest.isRunning()) {
            request.disks(guest.stoppedDisks());
        }
        if (mode == Mode.INCREMENTAL) {
            TakeBackupResult parent = last().result();
            request.bitmapParent(parent.bitmapCreated());
            request.parentPaths(parent.disks().stream().map(DiskResult::file).collect(Collectors.toList()));
        }
        return request.build();
    }

    /** Backs the guest up. */
    public Point take(Mode mode) {
        return take(request(mode), null, null);
    }

    /** Keeps the content of the guest's disks aside, and backs it up. */
    Point take(TakeBackupRequest request, ProgressListener listener, CancelHandle handle) {
        List<Path> content = guest.keepContent();
        TakeBackupResult result = nasBackup.takeBackup(request, listener, handle);
        Point point = new Point(request.backupPath(), result, content);
        points.add(point);
        return point;
    }

    @Override
    public void close() {
        try (guest) {
            nas.close();
        }
    }
}
