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
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import java.util.stream.Stream;
import org.nasbackup.RebaseBackupRequest;
import org.nasbackup.RebaseResult;
import org.nasbackup.lab.Samples.Sample;

/**
 * A small incremental absorbs its parent, 740 MB in so many runs that lie in random order, and then names the full below.
 * The files are those of a script: without a manifest.
 */
final class Rebases implements Operation {
    private static final long CLUSTER = 65536;
    private static final long MIB = 1 << 20;
    static final long DISK = 8L << 30;
    private static final long ABSORBED = 740 * MIB;

    private final Site site;
    private final String name;
    final String base;
    final String middle;
    final String target;

    Rebases(Site site, String name, int runs) {
        this.site = site;
        this.name = name;
        String vm = "i-2-" + runs + "-VM";
        base = site.nextPoint(vm) + "/root.disk.qcow2";
        middle = site.nextPoint(vm) + "/root.disk.qcow2";
        target = site.nextPoint(vm) + "/root.disk.qcow2";
        make(runs);
    }

    private void make(int runs) {
        long length = (ABSORBED / CLUSTER + runs - 1) / runs * CLUSTER;
        long stride = DISK / runs / CLUSTER * CLUSTER;
        List<Integer> places = IntStream.range(0, runs).boxed().collect(Collectors.toList());
        Collections.shuffle(places, new Random(1));
        image(base, null, LongStream.range(0, 1024).mapToObj(i -> "write -q -P 77 " + i * 8 * MIB + " 1M"));
        image(
                middle,
                base,
                places.stream().map(at -> "write -q -P " + (at % 255 + 1) + " " + at * stride + " " + length));
        image(target, middle, Stream.of("write -q -P 9 1M 4M"));
        Lab.run("cp", "" + at(target), "" + pristine(target));
    }

    private void image(String file, String backing, Stream<String> writes) {
        try {
            Files.createDirectories(at(file).getParent());
            List<String> create = new ArrayList<>(List.of("qemu-img", "create", "-q", "-f", "qcow2"));
            create.addAll(backing == null ? List.of() : List.of("-F", "qcow2", "-b", relative(backing)));
            create.addAll(List.of("" + at(file), "" + DISK));
            Lab.run(create.toArray(String[]::new));
            Process tool = new ProcessBuilder("qemu-io", "-f", "qcow2", "" + at(file))
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                    .redirectError(ProcessBuilder.Redirect.INHERIT)
                    .start();
            String commands = writes.collect(Collectors.joining("\n", "", "\n"));
            tool.getOutputStream().write(commands.getBytes(StandardCharsets.UTF_8));
            tool.getOutputStream().close();
            Site.require(tool.waitFor() == 0, "qemu-io on " + file);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e);
        }
    }

    Path at(String file) {
        return site.nas.folder().at(file);
    }

    /** As a file of another point of the same guest names it. */
    private static String relative(String file) {
        return "../" + file.substring(file.indexOf('/') + 1);
    }

    /** What the file was, beside it. */
    Path pristine(String file) {
        return at(file).resolveSibling("pristine");
    }

    /** The file is what it was. */
    void putBack(String file) {
        Lab.run("cp", "--reflink=never", "" + pristine(file), "" + at(file));
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public void before(Rival rival) {
        putBack(target);
    }

    @Override
    public void run(Rival rival, Sample sample) {
        if (rival == Rival.SHELL) {
            site.shell.run("rebase", site.nas.cold(), "--rebase-target", target, "--rebase-new-backing", base);
        } else if (rival == Rival.FLOOR) {
            sample.with("seconds", site.floor("copy", "" + at(middle), "" + at(target)));
        } else {
            RebaseResult result = site.library.rebaseBackup(RebaseBackupRequest.builder()
                    .repository(site.repository(rival))
                    .target(target)
                    .newBacking(base)
                    .build());
            sample.with("cloned", result.bytesCloned()).with("copied", result.bytesCopied());
        }
    }

    @Override
    public void check(Rival rival) {
        String backing = Lab.run("qemu-img", "info", "" + at(target));
        Site.require(backing.contains("backing file: " + relative(base)), backing);
        Lab.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", "" + pristine(target), "" + at(target));
        Lab.run("qemu-img", "check", "-q", "-f", "qcow2", "" + at(target));
    }
}
