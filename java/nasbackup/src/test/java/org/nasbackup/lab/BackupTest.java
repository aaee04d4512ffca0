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
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.CancelHandle;
import org.nasbackup.DeleteBackupRequest;
import org.nasbackup.DeleteBackupResult;
import org.nasbackup.DiskResult;
import org.nasbackup.Engine;
import org.nasbackup.ErrorCode;
import org.nasbackup.JobStatus;
import org.nasbackup.Kind;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Phase;
import org.nasbackup.Repository;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.TakeBackupResult;

/** Real backups through façade and JNI. */
@Tag("lab")
class BackupTest {
    private static NasBackup nasBackup;

    @BeforeAll
    static void open() {
        nasBackup = Lab.open("info");
    }

    private static Story story(NasFolder nas) {
        return new Story(nasBackup, Guest.ordinary(), nas);
    }

    /** With a full point, on a repository for which the next incremental is hard work. */
    private static Story slowStory(int mibPerSecond, int mib) {
        Story story = new Story(nasBackup, new Guest(mib), NasFolder.slow(mibPerSecond));
        story.take(Mode.FULL);
        story.guest().write(1, 0x41, 0, mib);
        return story;
    }

    private static NasBackupException failure(Runnable call) {
        NasBackupException e = catchThrowableOfType(NasBackupException.class, call::run);
        assertThat(e).as("an exception").isNotNull();
        assertThat(e.getMessage()).startsWith(e.code() + ": " + e.step()).doesNotContain("\n");
        return e;
    }

    private static void allIdentical(Story story) {
        assertThat(story.points())
                .allSatisfy(point -> assertThat(point.differences(story.nas())).isEmpty());
    }

    /** Nothing but the points taken is there, and the newest one's bitmap; the next incremental stands on it. */
    private static void asIfItHadNotBeen(Story story) {
        assertThat(story.nas().points())
                .containsExactly(story.points().stream().map(Point::path).toArray(String[]::new));
        assertThat(story.guest().checkpoints())
                .containsExactly(story.last().result().bitmapCreated());
        assertThat(nasBackup.jobs()).isEmpty();
        story.guest().write(0, 0x42, 30, 1);
        TakeBackupResult next = story.take(Mode.INCREMENTAL).result();
        assertThat(next.kind()).as(next.details()).isEqualTo(Kind.INCREMENTAL);
        assertThat(next.bitmapRecreated()).isNull();
        allIdentical(story);
    }

    @Test
    void a_full_and_an_incremental_hold_what_the_disks_held() throws Exception {
        try (Story story = story(new NasFolder())) {
            TakeBackupResult full = story.take(Mode.FULL).result();
            assertThat(full.kind()).isEqualTo(Kind.FULL);
            story.guest().write(1, 0x43, 1, 2);
            TakeBackupResult incremental = story.take(Mode.INCREMENTAL).result();
            assertThat(incremental.kind()).isEqualTo(Kind.INCREMENTAL);
            assertThat(incremental.bitmapCreated()).isNotNull().isNotEqualTo(full.bitmapCreated());
            assertThat(incremental.bitmapRecreated()).isNull();
            assertThat(incremental.incrementalFallback()).isFalse();
            assertThat(incremental.details()).isEmpty();
            assertThat(incremental.engine()).isEqualTo(Engine.PULL);
            assertThat(incremental.jobMillis()).isPositive().isLessThanOrEqualTo(incremental.totalMillis());
            assertThat(incremental.disks()).extracting(DiskResult::target).containsExactly("vda", "vdb");
            long size = 0;
            for (int i = 0; i < 2; i++) {
                DiskResult disk = incremental.disks().get(i);
                assertThat(disk.size()).isEqualTo(Files.size(story.nas().at(disk.file())));
                assertThat(disk.parent()).isEqualTo(full.disks().get(i).file());
                assertThat(disk.serial()).hasSize(20);
                assertThat(incremental.volumes()).containsEntry(disk.volume(), disk.file());
                size += disk.size();
            }
            assertThat(incremental.size()).isEqualTo(size);
            allIdentical(story);
        }
    }

    @Test
    void a_job_is_told_of_listed_and_logged() {
        List<LogRecord> records = new CopyOnWriteArrayList<>();
        Handler handler = new Handler() {
            @Override
            public void publish(LogRecord record) {
                records.add(record);
            }

            @Override
            public void flush() {}

            @Override
            public void close() {}
        };
        Logger logger = Logger.getLogger("nasbackup");
        logger.addHandler(handler);
        try (Story story = story(new NasFolder())) {
            Thread caller = Thread.currentThread();
            List<Phase> phases = new ArrayList<>();
            TakeBackupRequest request =
                    story.request(Mode.FULL).toBuilder().job("told").build();
            Point point = story.take(
                    request,
                    status -> {
                        assertThat(Thread.currentThread()).isSameAs(caller);
                        assertThat(nasBackup.jobs()).singleElement().satisfies(listed -> {
                            assertThat(listed.job()).isEqualTo("told").isEqualTo(status.job());
                            assertThat(listed.vmName()).isEqualTo(story.guest().name());
                            assertThat(listed.phase()).isEqualTo(status.phase());
                        });
                        phases.add(status.phase());
                    },
                    null);
            assertThat(phases).contains(Phase.OPEN_REPOSITORY, Phase.BEGIN, Phase.PUBLISH);
            assertThat(nasBackup.jobs()).isEmpty();
            assertThat(records)
                    .extracting(LogRecord::getMessage)
                    .anyMatch(line -> line.contains(point.path()) && line.contains("begins"))
                    .anyMatch(line -> line.contains(point.path()) && line.contains("done"));
        } finally {
            logger.removeHandler(handler);
        }
    }

    @Test
    void a_handle_cancels_it_from_another_thread() throws Exception {
        ExecutorService pool = Executors.newSingleThreadExecutor();
        try (Story story = slowStory(32, 96)) {
            CancelHandle handle = new CancelHandle();
            CountDownLatch copying = new CountDownLatch(1);
            List<JobStatus> told = new CopyOnWriteArrayList<>();
            Future<NasBackupException> job = pool.submit(() -> failure(() -> story.take(
                    story.request(Mode.INCREMENTAL).toBuilder()
                            .engine(Engine.PUSH)
                            .build(),
                    status -> {
                        if (status.phase() == Phase.COPY) {
                            told.add(status);
                            copying.countDown();
                        }
                    },
                    handle)));
            assertThat(copying.await(180, TimeUnit.SECONDS)).as("it copies").isTrue();
            // What QEMU has under way to the repository no cancel calls back: that would be timed as well.
            story.guest().holdBackupStill(1);
            handle.cancel();
            NasBackupException e = job.get(180, TimeUnit.SECONDS);
            assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
            assertThat(e).hasNoCause();
            assertThat(e.leftovers()).isFalse();
            assertThat(told).allSatisfy(status -> assertThat(status.doneBytes()).isLessThan(status.totalBytes()));
            asIfItHadNotBeen(story);
        } finally {
            pool.shutdown();
        }
    }

    @Test
    void what_the_listener_throws_ends_it_and_is_the_cause() {
        try (Story story = slowStory(16, 24)) {
            RuntimeException thrown = new IllegalStateException("enough");
            NasBackupException e = failure(() -> story.take(
                    story.request(Mode.INCREMENTAL),
                    status -> {
                        if (status.phase() == Phase.COPY) {
                            throw thrown;
                        }
                    },
                    null));
            assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
            assertThat(e).hasCause(thrown);
            assertThat(e.leftovers()).isFalse();
            asIfItHadNotBeen(story);
        }
    }

    @Test
    void points_go_newest_first_and_what_others_need_stays() {
        try (Story story = story(new NasFolder())) {
            Point full = story.take(Mode.FULL);
            Point incremental = story.take(Mode.INCREMENTAL);
            NasBackupException e = failure(() -> delete(story, full));
            assertThat(e.code()).isEqualTo(ErrorCode.HAS_CHILDREN);
            assertThat(e.step()).isEqualTo("look for children");
            assertThat(e.leftovers()).isFalse();
            assertThat(e.getMessage()).contains(incremental.path());
            allIdentical(story);
            assertThat(delete(story, incremental).freedBytes()).isPositive();
            assertThat(story.nas().points()).containsExactly(full.path());
            assertThat(full.differences(story.nas())).isEmpty();
            assertThat(delete(story, full).freedBytes())
                    .isGreaterThan(full.result().size() / 2);
            assertThat(story.nas().points()).isEmpty();
            assertThat(delete(story, full).freedBytes()).isZero();
        }
    }

    private static DeleteBackupResult delete(Story story, Point point) {
        return nasBackup.deleteBackup(DeleteBackupRequest.builder()
                .repository(story.nas().repository())
                .backupPath(point.path())
                .build());
    }

    @Test
    void statistics_are_those_of_the_file_system() throws Exception {
        try (NasFolder nas = new NasFolder()) {
            BackupStatsResult stats = nasBackup.backupStats(
                    BackupStatsRequest.builder().repository(nas.repository()).build());
            assertThat(stats.totalBytes())
                    .isEqualTo(Files.getFileStore(nas.at("")).getTotalSpace());
            assertThat(stats.usedBytes()).isPositive().isLessThan(stats.totalBytes());
        }
    }

    @Test
    void a_failure_says_code_step_and_disk() {
        try (Story story = story(new NasFolder())) {
            TakeBackupRequest request = story.request(Mode.FULL);
            NasBackupException unknown = failure(() -> nasBackup.takeBackup(request.toBuilder()
                    .vmName("i-2-none-VM")
                    .backupPath("i-2-none-VM/2026.01.02.03.04.05")
                    .build()));
            assertThat(unknown.code()).isEqualTo(ErrorCode.DOMAIN_NOT_FOUND);
            assertThat(unknown.step()).isEqualTo("look up the domain");
            NasBackupException running = failure(() -> nasBackup.takeBackup(
                    request.toBuilder().disks(story.guest().stoppedDisks()).build()));
            assertThat(running.code()).isEqualTo(ErrorCode.DOMAIN_STATE);
            Repository absent = Repository.builder()
                    .type("dir")
                    .address(story.nas().at("absent").toString())
                    .build();
            NasBackupException nowhere = failure(() ->
                    nasBackup.takeBackup(request.toBuilder().repository(absent).build()));
            assertThat(nowhere.code()).isEqualTo(ErrorCode.NOT_FOUND);
            assertThat(nowhere.getMessage()).contains("absent");
            story.take(request, null, null);
            NasBackupException again = failure(() -> nasBackup.takeBackup(request));
            assertThat(again.code()).isEqualTo(ErrorCode.ALREADY_EXISTS);
            assertThat(again.leftovers()).isFalse();
            asIfItHadNotBeen(story);
        }
    }
}
