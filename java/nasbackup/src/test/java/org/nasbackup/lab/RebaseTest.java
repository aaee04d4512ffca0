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

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.nio.file.Files;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.CancelHandle;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.ErrorCode;
import org.nasbackup.Kind;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.RebaseBackupRequest;
import org.nasbackup.RebasePointRequest;
import org.nasbackup.RebaseResult;
import org.nasbackup.TakeBackupResult;

/** Chains of real backups repaired through façade and JNI. */
@Tag("lab")
class RebaseTest {
    private static NasBackup nasBackup;

    /** A full point and three incrementals of one guest. */
    private static final class Chain {
        final Story story = new Story(nasBackup, Guest.ordinary(), new NasFolder());
        final Point full = story.take(Mode.FULL);
        final Point first = incremental(story, 0x31);
        final Point second = incremental(story, 0x32);
        final Point third = incremental(story, 0x33);
    }

    /** The one of which each test has a copy. */
    private static Chain made;

    private Chain chain;
    private Story story;
    private Point full;
    private Point first;
    private Point second;
    private Point third;

    @BeforeAll
    static void open() {
        nasBackup = Lab.open("info");
        made = new Chain();
    }

    @AfterAll
    static void close() {
        made.story.close();
    }

    @BeforeEach
    void copy() {
        use(made, made.story.copy());
    }

    /** For a test that goes on with a backup. */
    private void useChainOfItsOwn() {
        Chain own = new Chain();
        use(own, own.story);
    }

    private void use(Chain chain, Story story) {
        this.chain = chain;
        this.story = story;
        full = chain.full;
        first = chain.first;
        second = chain.second;
        third = chain.third;
    }

    @AfterEach
    void closeChainOfItsOwn() {
        if (chain != made) {
            story.close();
        }
    }

    /** Some MiB of its own on each disk, and one that every point writes. */
    private static Point incremental(Story story, int pattern) {
        int own = 10 + 2 * (pattern - 0x30);
        story.guest().write(0, pattern, own, 1);
        story.guest().write(1, pattern, own, 2);
        story.guest().write(1, pattern, 8, 1);
        return story.take(Mode.INCREMENTAL);
    }

    private RebasePointRequest.Builder point(Point point, Point onto) {
        return RebasePointRequest.builder()
                .repository(story.nas().repository())
                .backupPath(point.path())
                .newParent(onto == null ? null : onto.path());
    }

    private RebaseBackupRequest file(Point point, int disk, Point onto) {
        return RebaseBackupRequest.builder()
                .repository(story.nas().repository())
                .target(fileOf(point, disk))
                .newBacking(onto == null ? null : fileOf(onto, disk))
                .build();
    }

    private static String fileOf(Point point, int disk) {
        return point.result().disks().get(disk).file();
    }

    private long length(Point point, int disk) throws Exception {
        return Files.size(story.nas().at(fileOf(point, disk)));
    }

    private long delete(Point point) {
        long freed = nasBackup
                .deleteBackup(DeleteBackupRequest.builder()
                        .repository(story.nas().repository())
                        .backupPath(point.path())
                        .build())
                .freedBytes();
        story.points().remove(point);
        return freed;
    }

    private static NasBackupException failure(Runnable call) {
        NasBackupException e = catchThrowableOfType(NasBackupException.class, call::run);
        assertThat(e).as("an exception").isNotNull();
        assertThat(e.getMessage()).startsWith(e.code() + ": " + e.step()).doesNotContain("\n");
        assertThat(e.leftovers()).isFalse();
        return e;
    }

    private void allIdentical() {
        assertThat(story.nas().points())
                .containsExactly(story.points().stream().map(Point::path).toArray(String[]::new));
        assertThat(story.points())
                .allSatisfy(point -> assertThat(point.differences(story.nas())).isEmpty());
        assertThat(nasBackup.jobs()).isEmpty();
    }

    /** The backing name in each image's header. */
    private List<String> backing(Point point) {
        return point.result().disks().stream()
                .map(disk -> Lab.run(
                        "qemu-img", "info", "-f", "qcow2", "" + story.nas().at(disk.file())))
                .map(info -> info.lines()
                        .filter(line -> line.startsWith("backing file: "))
                        .map(line -> line.split(" ")[2])
                        .findAny()
                        .orElse("none"))
                .collect(Collectors.toList());
    }

    private static List<String> relative(Point parent) {
        return parent.result().disks().stream()
                .map(disk -> "../" + disk.file().substring(disk.file().indexOf('/') + 1))
                .collect(Collectors.toList());
    }

    @Test
    void a_point_in_the_middle_goes_and_the_chain_goes_on() throws Exception {
        useChainOfItsOwn();
        assertThat(failure(() -> delete(first)).code()).isEqualTo(ErrorCode.HAS_CHILDREN);
        RebaseResult rebased = nasBackup.rebasePoint(point(second, full).build());
        assertThat(rebased.size()).isEqualTo(length(second, 0) + length(second, 1));
        // What the first point wrote and the second did not write again.
        assertThat(rebased.bytesCloned() + rebased.bytesCopied()).isEqualTo(3 << 20);
        assertThat(rebased.totalMillis()).isPositive();
        assertThat(backing(second)).isEqualTo(relative(full));
        allIdentical();
        assertThat(delete(first)).isGreaterThan(3L << 20);
        allIdentical();
        TakeBackupResult next = incremental(story, 0x34).result();
        assertThat(next.kind()).as(next.details()).isEqualTo(Kind.INCREMENTAL);
        assertThat(next.incrementalFallback()).isFalse();
        allIdentical();
    }

    @Test
    void a_point_becomes_a_full_and_all_below_it_can_go() {
        useChainOfItsOwn();
        nasBackup.rebasePoint(point(third, null).build());
        assertThat(backing(third)).containsOnly("none");
        allIdentical();
        List.of(second, first, full).forEach(this::delete);
        allIdentical();
        assertThat(incremental(story, 0x34).result().kind()).isEqualTo(Kind.INCREMENTAL);
        allIdentical();
    }

    @Test
    void files_are_rebased_one_by_one_and_what_is_done_is_done() throws Exception {
        RebaseResult root = nasBackup.rebaseBackup(file(second, 0, full));
        assertThat(root.size()).isEqualTo(length(second, 0));
        assertThat(root.bytesCloned() + root.bytesCopied()).isPositive();
        assertThat(backing(second))
                .containsExactly(relative(full).get(0), relative(first).get(1));
        NasBackupException held = failure(() -> delete(first));
        assertThat(held.code()).isEqualTo(ErrorCode.HAS_CHILDREN);
        assertThat(held.getMessage()).contains(fileOf(second, 1)).doesNotContain(fileOf(second, 0));
        allIdentical();
        RebaseResult again = nasBackup.rebaseBackup(file(second, 0, full));
        assertThat(again.bytesCloned() + again.bytesCopied()).isZero();
        assertThat(again.size()).isEqualTo(root.size());
        nasBackup.rebaseBackup(file(second, 1, full));
        delete(first);
        nasBackup.rebaseBackup(file(second, 0, null));
        assertThat(backing(second)).containsExactly("none", relative(full).get(1));
        allIdentical();
    }

    @Test
    void a_cancel_leaves_the_chain_as_it_was() {
        CancelHandle handle = new CancelHandle("repair");
        NasBackupException e = failure(() -> nasBackup.rebasePoint(
                point(second, full).job("repair").build(),
                status -> {
                    assertThat(status.job()).isEqualTo("repair");
                    assertThat(status.operation()).isEqualTo("rebasePoint");
                    assertThat(status.vmName()).isEqualTo(story.guest().name());
                    assertThat(nasBackup.jobs()).hasSize(1);
                    if (status.doneBytes() > 0) {
                        handle.cancel();
                    }
                },
                handle));
        assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
        assertThat(backing(second)).isEqualTo(relative(first));
        allIdentical();
        nasBackup.rebasePoint(point(second, full).build());
        assertThat(backing(second)).isEqualTo(relative(full));
        delete(first);
        allIdentical();
    }

    @Test
    void what_the_listener_throws_ends_it_and_is_the_cause() {
        RuntimeException thrown = new IllegalStateException("enough");
        NasBackupException e = failure(() -> nasBackup.rebaseBackup(
                file(second, 1, full),
                status -> {
                    if (status.doneBytes() > 0) {
                        throw thrown;
                    }
                },
                null));
        assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
        assertThat(e).hasCause(thrown);
        assertThat(backing(second)).isEqualTo(relative(first));
        allIdentical();
    }

    @Test
    void a_parent_that_it_does_not_stand_on_is_refused() {
        Story other = new Story(nasBackup, Guest.ordinary(), story.nas());
        try (Guest guest = other.guest()) {
            Point foreign = other.take(Mode.FULL);
            for (Point onto : List.of(third, foreign)) {
                assertThat(failure(() -> nasBackup.rebasePoint(
                                        point(second, onto).build()))
                                .code())
                        .isEqualTo(ErrorCode.PARENT_INVALID);
                NasBackupException e = failure(() -> nasBackup.rebaseBackup(file(second, 0, onto)));
                assertThat(e.code()).isEqualTo(ErrorCode.PARENT_INVALID);
                assertThat(e.getMessage()).contains(fileOf(onto, 0), fileOf(second, 0));
            }
            assertThat(guest.checkpoints()).hasSize(1);
            assertThat(foreign.differences(story.nas())).isEmpty();
        }
        assertThat(backing(second)).isEqualTo(relative(first));
    }

    @Test
    void itself_is_no_parent() {
        assertThat(failure(() -> nasBackup.rebasePoint(point(second, second).build()))
                        .code())
                .isEqualTo(ErrorCode.INVALID_ARGUMENT);
        assertThat(failure(() -> nasBackup.rebaseBackup(file(second, 0, second)))
                        .code())
                .isEqualTo(ErrorCode.INVALID_ARGUMENT);
        allIdentical();
    }
}
