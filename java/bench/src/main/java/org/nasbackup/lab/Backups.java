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

import com.google.gson.Gson;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.DiskResult;
import org.nasbackup.Engine;
import org.nasbackup.FlattenRequest;
import org.nasbackup.FlattenResult;
import org.nasbackup.Kind;
import org.nasbackup.Mode;
import org.nasbackup.Output;
import org.nasbackup.OutputFormat;
import org.nasbackup.StoppedDisk;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;
import org.nasbackup.lab.Samples.Sample;

/**
 * Backups of one guest by library, script and bare calls, each with a chain and a bitmap of its own. Before an incremental
 * the same 5 MiB are written again, so that every rival finds just these changed since the last point of its chain.
 */
final class Backups implements AutoCloseable {
    private static final long[] SIZES_MIB = {64, 1024};
    private static final int ROOT_MIB = 64;
    private static final int DATA_MIB = 486;
    private static final int CHUNK_MIB = 54;
    private static final int CHANGED_MIB = 5;
    private static final long LOOK_NANOS = 300_000_000;
    private static final int KEPT_FULLS = 12;
    private static final int CHAIN_LENGTH = 10; // nas.backup.full.every

    private final Site site;
    final Guest guest = new Guest(SIZES_MIB[1]);
    private final Map<Rival, Chain> chains = new EnumMap<>(Rival.class);
    private int writes;

    Backups(Site site) {
        this.site = site;
        guest.write(0, 0x61, 0, ROOT_MIB);
        for (int at = 0; at < DATA_MIB; at += CHUNK_MIB) {
            guest.write(1, 0x62, at, CHUNK_MIB);
        }
        Chain library = new Chain(); // neither mount nor engine makes a difference to it
        chains.put(Rival.NATIVE, library);
        chains.put(Rival.WARM, library);
        chains.put(Rival.PULL, library);
        chains.put(Rival.WARM_PULL, library);
        chains.put(Rival.SHELL, new Chain());
        chains.put(Rival.FLOOR, new Chain());
    }

    /** Of the running guest, all of it. */
    Operation full() {
        return new Taking("full", Mode.FULL) {
            @Override
            public void before(Rival rival) {
                next(rival);
            }

            @Override
            public int comparedWithFloor() {
                return 4;
            }

            @Override
            public void after(Rival rival) {
                super.after(rival);
                Deque<String> fulls = chains.get(rival).fulls;
                if (fulls.size() > KEPT_FULLS) { // the NAS does not hold all of them
                    Lab.run("rm", "-r", "" + site.nas.folder().at(fulls.remove()));
                }
            }
        };
    }

    /** Of what was written since. */
    Operation incremental() {
        return new Taking("incremental", Mode.INCREMENTAL) {
            @Override
            public void before(Rival rival) {
                renew(chains.get(rival));
                change();
                next(rival);
            }
        };
    }

    /** libvirt knows no checkpoint of the guest any more. */
    Operation restarted() {
        return new Taking("incremental after a restart", Mode.INCREMENTAL) {
            @Override
            public void before(Rival rival) {
                renew(chains.get(rival));
                change();
                guest.restart();
                settle();
                next(rival);
            }
        };
    }

    /** Of the stopped guest, all of it. */
    Operation stopped() {
        return new Taking("stopped full", Mode.FULL) {
            @Override
            public void before(Rival rival) {
                if (guest.isRunning()) {
                    guest.stop();
                }
                next(rival);
            }
        };
    }

    /** Of fulls that nobody needs, so before there are incrementals. */
    Operation delete() {
        return new Deleting();
    }

    /** Of the newest incremental's data disk, to a file beside the guest's disks. */
    Operation flatten() {
        return new Flattening();
    }

    private void change() {
        guest.write(1, 1 + writes++ % 250, 100, CHANGED_MIB);
    }

    @Override
    public void close() {
        guest.close();
    }

    /** The points of one rival. */
    private static final class Chain {
        private final Deque<String> fulls = new ArrayDeque<>();
        private String point;
        private String bitmap;
        private List<String> files;
        private String parent;
        private String parentBitmap;
        private List<String> parentFiles;
        private int length;

        private void next(String name, String newBitmap) {
            length++;
            parent = point;
            parentBitmap = bitmap;
            parentFiles = files;
            point = name;
            bitmap = newBitmap;
        }
    }

    private abstract class Taking implements Operation {
        private final String name;
        private final Mode mode;
        private List<Path> content = List.of();

        private Taking(String name, Mode mode) {
            this.name = name;
            this.mode = mode;
        }

        @Override
        public String name() {
            return name;
        }

        void next(Rival rival) {
            Chain chain = chains.get(rival);
            chain.next(site.nextPoint(guest.name()), site.bitmap());
            if (mode == Mode.FULL && guest.isRunning()) {
                chain.fulls.add(chain.point);
            }
            if (!rival.isNative()) {
                chain.files = files(chain.point);
            }
            if (rival == Rival.FLOOR) {
                makeTargets(chain);
            }
        }

        private List<String> files(String point) {
            List<String> files = new ArrayList<>();
            for (StoppedDisk disk : guest.stoppedDisks()) {
                String what = files.isEmpty() ? "root." : "datadisk.";
                files.add(point + "/" + what + Path.of(disk.path()).getFileName() + ".qcow2");
            }
            return files;
        }

        private void makeTargets(Chain chain) {
            Lab.run("mkdir", "-p", "" + site.nas.folder().at(chain.point));
            for (int disk = 0; guest.isRunning() && disk < chain.files.size(); disk++) {
                String file = "" + site.nas.folder().at(chain.files.get(disk));
                String bytes = SIZES_MIB[disk] + "M";
                if (mode == Mode.FULL) {
                    Lab.run("qemu-img", "create", "-q", "-f", "qcow2", file, bytes);
                } else {
                    String backing = "../../" + chain.parentFiles.get(disk);
                    Lab.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, file, bytes);
                }
            }
        }

        @Override
        public void beforeCheck(Rival rival) {
            before(rival);
            content = guest.keepContent();
        }

        @Override
        public void run(Rival rival, Sample sample) {
            Chain chain = chains.get(rival);
            switch (rival) {
                case NATIVE:
                case WARM:
                case PULL:
                case WARM_PULL:
                    byLibrary(rival, chain, sample);
                    break;
                case SHELL:
                    byShell(chain, sample);
                    break;
                default:
                    sample.with("seconds", guest.isRunning() ? bare(chain) : copied(chain))
                            .with("syncs", !guest.isRunning());
            }
        }

        private void byLibrary(Rival rival, Chain chain, Sample sample) {
            TakeBackupResult result = take(rival, chain, mode, rival.isPull() ? Engine.PULL : Engine.PUSH);
            sample.with("engine", result.engine().toString().toLowerCase(java.util.Locale.ROOT))
                    .with("job_seconds", result.jobMillis() / 1000.0)
                    .with("sync_seconds", result.syncMillis() / 1000.0)
                    .with("size", result.size());
        }

        private void byShell(Chain chain, Sample sample) {
            List<String> disks =
                    guest.stoppedDisks().stream().map(StoppedDisk::path).collect(Collectors.toList());
            List<String> options = new ArrayList<>(List.of("-v", guest.name(), "-p", chain.point, "-q", "false"));
            options.addAll(List.of("-d", guest.isRunning() ? "" : Shell.commas(disks)));
            options.addAll(List.of("-M", mode.toString().toLowerCase(java.util.Locale.ROOT)));
            options.addAll(List.of("--bitmap-new", chain.bitmap));
            if (mode == Mode.INCREMENTAL) {
                options.addAll(List.of("--bitmap-parent", chain.parentBitmap));
                options.addAll(site.shell.parents(chain.parentFiles));
            }
            List<String> lines = site.shell.run("backup", site.nas.cold(), options.toArray(String[]::new));
            Shell.Taken taken = Shell.parse(lines, guest.isRunning());
            Site.require(!taken.fallback, lines);
            sample.with("size", taken.size);
        }

        private double bare(Chain chain) {
            Map<String, Object> spec = new LinkedHashMap<>();
            spec.put("domain", guest.name());
            List<Map<String, String>> disks = new ArrayList<>();
            for (int disk = 0; disk < chain.files.size(); disk++) {
                String file = "" + site.nas.folder().at(chain.files.get(disk));
                disks.add(Map.of("target", "vd" + (char) ('a' + disk), "file", file));
            }
            spec.put("disks", disks);
            spec.put("checkpoint", chain.bitmap);
            if (mode == Mode.INCREMENTAL) {
                spec.put("parent", chain.parentBitmap);
                spec.put("redefine", !guest.checkpoints().contains(chain.parentBitmap));
            }
            return site.floor("backup", new Gson().toJson(spec));
        }

        private double copied(Chain chain) {
            List<String> arguments = new ArrayList<>(List.of("copy"));
            guest.stoppedDisks().forEach(disk -> arguments.add(disk.path()));
            arguments.add("" + site.nas.folder().at(chain.point));
            return site.floor(arguments.toArray(String[]::new));
        }

        @Override
        public void check(Rival rival) {
            List<String> files = chains.get(rival).files;
            for (int disk = 0; disk < content.size(); disk++) {
                Path image = site.nas.folder().at(files.get(disk));
                String difference = Point.difference(image, content.get(disk));
                Site.require(difference == null, image + ": " + difference);
            }
            content.forEach(copy -> Lab.run("rm", "" + copy));
        }

        @Override
        public void after(Rival rival) {
            site.nas.unmountLeftovers();
            forgetParent(chains.get(rival));
            if (!guest.isRunning()) { // nobody builds on it, and it is large
                Lab.run("rm", "-rf", "" + site.nas.folder().at(chains.get(rival).point));
            }
        }
    }

    /** Waits until the guest's firmware has given up: emulated, it takes one of the machine's cores. */
    private void settle() {
        long[] cpu = {cpuNanos()};
        long[] time = {System.nanoTime()};
        Lab.until("the guest is idle", () -> {
            long used = cpuNanos() - cpu[0];
            long passed = System.nanoTime() - time[0];
            if (passed < LOOK_NANOS) {
                return false;
            }
            cpu[0] += used;
            time[0] += passed;
            return used < passed / 10;
        });
    }

    private long cpuNanos() {
        return Lab.run("virsh", "domstats", "--cpu-total", guest.name())
                .lines()
                .filter(line -> line.contains("cpu.time="))
                .mapToLong(line -> Long.parseLong(line.substring(line.indexOf('=') + 1)))
                .sum();
    }

    /** Several rivals share the library's chain; it begins anew where CloudStack's does by default. */
    private void renew(Chain chain) {
        if (chain == chains.get(Rival.NATIVE) && chain.length >= CHAIN_LENGTH) {
            chain.next(site.nextPoint(guest.name()), site.bitmap());
            chain.length = 1;
            take(Rival.WARM, chain, Mode.FULL, Engine.PULL);
        }
    }

    private TakeBackupResult take(Rival rival, Chain chain, Mode mode, Engine engine) {
        TakeBackupRequest.Builder request = TakeBackupRequest.builder()
                .vmName(guest.name())
                .backupPath(chain.point)
                .repository(site.repository(rival))
                .mode(mode)
                .engine(engine)
                .bitmapNew(chain.bitmap);
        if (!guest.isRunning()) {
            request.disks(guest.stoppedDisks());
        }
        if (mode == Mode.INCREMENTAL) {
            request.bitmapParent(chain.parentBitmap).parentPaths(chain.parentFiles);
        }
        TakeBackupResult result = site.library.takeBackup(request.build());
        Site.require(result.kind() == (mode == Mode.FULL ? Kind.FULL : Kind.INCREMENTAL), result.details());
        chain.files = result.disks().stream().map(DiskResult::file).collect(Collectors.toList());
        return result;
    }

    /** The script and the floor leave their old checkpoints, and each of them would slow all rivals. */
    private void forgetParent(Chain chain) {
        if (guest.isRunning()
                && chain.parentBitmap != null
                && guest.checkpoints().contains(chain.parentBitmap)) {
            Lab.run("virsh", "checkpoint-delete", guest.name(), chain.parentBitmap);
        }
    }

    private final class Flattening implements Operation {
        private static final int DISK = 1;

        private final Path folder = Lab.folder("flat");
        private final Path output = folder.resolve("disk");
        private final Chain chain = chains.get(Rival.NATIVE);

        @Override
        public String name() {
            return "flatten";
        }

        @Override
        public void before(Rival rival) {
            Lab.run("rm", "-f", "" + output);
        }

        @Override
        public void run(Rival rival, Sample sample) {
            if (rival == Rival.SHELL) {
                byTools();
            } else if (rival == Rival.FLOOR) {
                String full = ""
                        + site.nas
                                .folder()
                                .at(chain.fulls.getLast())
                                .resolve(Path.of(file()).getFileName());
                sample.with("seconds", site.floor("copy", full, "" + output));
            } else {
                FlattenResult result = site.library.flatten(FlattenRequest.builder()
                        .repository(site.repository(rival))
                        .backupPath(chain.point)
                        .volume(Path.of(guest.stoppedDisks().get(DISK).path())
                                .getFileName()
                                .toString())
                        .output(Output.builder()
                                .path("" + output)
                                .format(OutputFormat.QCOW2)
                                .build())
                        .build());
                sample.with("cloned", result.bytesCloned()).with("copied", result.bytesCopied());
            }
        }

        /** As the agent restores a point that has parents: it is no operation of the script. */
        private void byTools() {
            Path point = Lab.folder("restore");
            Lab.run("mount", "-t", site.nas.cold().type(), site.nas.cold().address(), "" + point);
            Lab.run("qemu-img", "check", "-q", "" + point.resolve(file()));
            Lab.run("qemu-img", "info", "--output=json", "" + point.resolve(file()));
            Lab.run("qemu-img", "convert", "-O", "qcow2", "" + point.resolve(file()), "" + output);
            Lab.run("umount", "" + point);
            Lab.run("rmdir", "" + point);
        }

        private String file() {
            return chain.files.get(DISK);
        }

        @Override
        public void check(Rival rival) {
            // the guest's disk has changed since, for the other rivals
            String point = "" + site.nas.folder().at(file());
            Lab.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", point, "" + output);
            Lab.run("qemu-img", "check", "-q", "-f", "qcow2", "" + output);
        }
    }

    private final class Deleting implements Operation {
        private String point;

        @Override
        public String name() {
            return "delete";
        }

        @Override
        public void before(Rival rival) {
            Chain chain = chains.get(rival);
            if (chain.fulls.size() == 1) { // the newest stays, for incrementals
                Operation full = full();
                full.before(rival);
                full.run(rival, new Sample(""));
                full.after(rival);
            }
            point = chain.fulls.remove();
        }

        @Override
        public void run(Rival rival, Sample sample) {
            if (rival == Rival.SHELL) {
                site.shell.run("delete", site.nas.cold(), "-p", point);
            } else if (rival == Rival.FLOOR) {
                sample.with(
                        "seconds", site.floor("delete", "" + site.nas.folder().at(point)));
            } else {
                site.library.deleteBackup(DeleteBackupRequest.builder()
                        .repository(site.repository(rival))
                        .backupPath(point)
                        .build());
            }
        }

        /** The NAS knows its own folders. */
        @Override
        public boolean dropsCaches() {
            return false;
        }

        @Override
        public void check(Rival rival) {
            Site.require(!site.nas.folder().points().contains(point), point + " is still there");
        }
    }
}
