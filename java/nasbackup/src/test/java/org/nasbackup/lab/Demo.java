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

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.ErrorCode;
import org.nasbackup.Kind;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.RebasePointRequest;
import org.nasbackup.RebaseResult;
import org.nasbackup.TakeBackupResult;

/**
 * Shows the main job: a guest with two disks is backed up through what happens to guests, then every restore point is
 * read back from the NAS and compared with what the disks held; points are deleted, and those that remain are compared
 * again, and drawn by the command that the property {@code command} names. Exit status 1 when one differs, or is of another kind than it has to be. With the argument {@code spoil} the
 * first point is harmed before all that, so that it has to fail.
 */
final class Demo {
    private static final String ROW = "%-5s  %-30s  %-11s  %-6s  %12s  %6s  %6s  %7s  %-9s  %s%n";

    private final NasBackup nasBackup = Lab.open("warn");
    private final Story story = new Story(nasBackup, Guest.ordinary(), new NasFolder());
    private final List<String> happened = new ArrayList<>();
    private final List<String> wrong = new ArrayList<>();

    private Demo() {}

    public static void main(String[] arguments) {
        System.setProperty("java.util.logging.SimpleFormatter.format", "%4$s: %5$s%n");
        System.exit(run(arguments.length == 1 && arguments[0].equals("spoil")) ? 0 : 1);
    }

    private static boolean run(boolean spoil) {
        try {
            Demo demo = new Demo();
            try (demo.story) {
                demo.takePoints();
                if (spoil) {
                    demo.story.points().get(0).spoil(demo.story.nas(), 0);
                }
                demo.readBack();
                List<Point> remaining = demo.delete();
                boolean identical = demo.readAgain(remaining);
                String command = System.getProperty("command");
                if (command != null) {
                    demo.list(command);
                }
                return identical;
            }
        } catch (IllegalStateException | IOException | NasBackupException e) {
            System.err.println("demo: " + e.getMessage());
            return false;
        }
    }

    private void takePoints() {
        Guest guest = story.guest();
        take("a guest with two disks", Mode.FULL, Kind.FULL, "");
        guest.write(0, 0x31, 10, 2);
        guest.write(1, 0x32, 40, 5);
        take("writes", Mode.INCREMENTAL, Kind.INCREMENTAL, "");
        guest.write(1, 0x33, 42, 1);
        guest.writeZeros(0, 0, 1);
        take("writes, and zeros", Mode.INCREMENTAL, Kind.INCREMENTAL, "");
        guest.write(0, 0x34, 11, 4);
        guest.restart();
        guest.write(1, 0x35, 0, 1);
        take("writes, guest restarted", Mode.INCREMENTAL, Kind.INCREMENTAL, "recreated");
        guest.write(0, 0x36, 20, 1);
        guest.kill();
        guest.start();
        guest.write(1, 0x37, 60, 1);
        take("QEMU killed, bitmaps lost", Mode.INCREMENTAL, Kind.INCREMENTAL, "recreated");
        guest.write(0, 0x38, 50, 1);
        guest.stop();
        take("guest stopped", Mode.FULL, Kind.FULL, "");
        guest.start();
        guest.write(0, 0x39, 12, 1);
        guest.write(1, 0x3a, 61, 1);
        take("guest started, writes", Mode.INCREMENTAL, Kind.INCREMENTAL, "recreated");
    }

    private void take(String what, Mode asked, Kind kind, String note) {
        TakeBackupResult result = story.take(asked).result();
        happened.add(what);
        if (result.kind() != kind || !note(result).equals(note)) {
            wrong.add("point " + happened.size() + " has to be: " + text(kind) + " " + note + " " + result.details());
        }
    }

    private static String note(TakeBackupResult result) {
        String recreated = result.bitmapRecreated() == null ? "" : "recreated";
        return recreated + (result.incrementalFallback() ? "fallback" : "");
    }

    private static String text(Enum<?> kind) {
        return kind.name().toLowerCase(Locale.ROOT);
    }

    private void readBack() {
        List<Point> points = story.points();
        System.out.printf(
                ROW,
                "point",
                "before it",
                "made",
                "engine",
                "bytes",
                "job s",
                "sync s",
                "total s",
                "bitmap",
                "read back with qemu-img");
        for (Point point : points) {
            TakeBackupResult made = point.result();
            System.out.printf(
                    Locale.ROOT,
                    ROW,
                    number(point),
                    happened.get(number(point) - 1),
                    text(made.kind()),
                    text(made.engine()),
                    bytes(made.size()),
                    seconds(made.jobMillis()),
                    seconds(made.syncMillis()),
                    seconds(made.totalMillis()),
                    note(made),
                    isIdentical(point) ? "identical" : "not identical");
        }
    }

    private int number(Point point) {
        return story.points().indexOf(point) + 1;
    }

    private boolean isIdentical(Point point) {
        List<String> differences = point.differences(story.nas());
        wrong.addAll(differences);
        return differences.isEmpty();
    }

    /** In every way in which a point can go; the ones that are left. */
    private List<Point> delete() {
        List<Point> remaining = new ArrayList<>(story.points());
        Point full = remaining.get(0);
        Point middle = remaining.get(1);
        Point child = remaining.get(2);
        Point lastFull = remaining.get(5);
        Point last = remaining.get(6);
        System.out.println();
        refuseDelete(full);
        RebaseResult rebased = nasBackup.rebasePoint(RebasePointRequest.builder()
                .repository(story.nas().repository())
                .backupPath(child.path())
                .newParent(full.path())
                .build());
        System.out.printf(
                "point %d put onto point %d in %s s: %s bytes copied, %s bytes shared%n",
                number(child),
                number(full),
                seconds(rebased.totalMillis()),
                bytes(rebased.bytesCopied()),
                bytes(rebased.bytesCloned()));
        System.out.printf("point %d deleted: %s bytes freed%n", number(middle), bytes(delete(middle)));
        // As the management server does it when a deletion is forced: what stands on the full goes first.
        System.out.printf(
                "full point %d and the 1 incremental on it deleted (forced): %d, then %d: %s bytes freed%n",
                number(lastFull), number(last), number(lastFull), bytes(delete(last) + delete(lastFull)));
        remaining.removeAll(List.of(middle, last, lastFull));
        return remaining;
    }

    private void refuseDelete(Point point) {
        try {
            delete(point);
            wrong.add("point " + number(point) + " was deleted although others need it");
        } catch (NasBackupException e) {
            if (e.code() != ErrorCode.HAS_CHILDREN) {
                throw e;
            }
            System.out.println("deletion of point " + number(point) + " refused: " + e.getMessage());
        }
    }

    private long delete(Point point) {
        return nasBackup
                .deleteBackup(DeleteBackupRequest.builder()
                        .repository(story.nas().repository())
                        .backupPath(point.path())
                        .build())
                .freedBytes();
    }

    private boolean readAgain(List<Point> remaining) {
        System.out.println();
        int identical = 0;
        for (Point point : remaining) {
            boolean same = isIdentical(point);
            System.out.printf("point %d read back again: %s%n", number(point), same ? "identical" : "not identical");
            identical += same ? 1 : 0;
        }
        wrong.forEach(System.out::println);
        System.out.printf("restore points identical: %d of %d%n", identical, remaining.size());
        return wrong.isEmpty();
    }

    /** The chains that are left, as the command draws them. */
    private void list(String command) throws IOException {
        Path settings = Lab.folder("command").resolve("nasbackup.properties");
        String text = "stateDir = %1$s/state\nmountDir = %1$s/mounts\n";
        Files.writeString(settings, String.format(text, settings.getParent()));
        String repository = story.nas().repository().address();
        System.out.print("\n" + Lab.run(command, "--settings", "" + settings, "--repo", repository, "list"));
    }

    private static String bytes(long bytes) {
        return String.format(Locale.ROOT, "%,d", bytes);
    }

    private static String seconds(long millis) {
        return String.format(Locale.ROOT, "%.3f", millis / 1000.0);
    }
}
