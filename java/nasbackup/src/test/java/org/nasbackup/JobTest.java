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

package org.nasbackup;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Jobs as Java sees them: progress, cancel, the table, many at once. */
@Tag("lab")
class JobTest {
    private static NasBackup nasBackup;

    @BeforeAll
    static void open() {
        nasBackup = NasBackup.open();
    }

    private static NasBackupException failure(Runnable call) {
        NasBackupException e = catchThrowableOfType(NasBackupException.class, call::run);
        assertThat(e).as("an exception").isNotNull();
        return e;
    }

    @Test
    void progress_is_told_on_the_calling_thread_and_listed() {
        Thread caller = Thread.currentThread();
        List<Long> done = new ArrayList<>();
        long reports = TestHooks.runJob("told", 3, status -> {
            assertThat(Thread.currentThread()).isSameAs(caller);
            assertThat(status.operation()).isEqualTo("takeBackup");
            assertThat(status.vmName()).isEqualTo("i-2-10-VM");
            assertThat(status.phase()).isEqualTo(Phase.START);
            assertThat(status.totalBytes()).isEqualTo(3);
            assertThat(status.elapsedMillis()).isNotNegative();
            assertThat(nasBackup.jobs())
                    .filteredOn(job -> job.job().equals("told"))
                    .singleElement()
                    .satisfies(job -> assertThat(job.doneBytes()).isEqualTo(status.doneBytes()));
            done.add(status.doneBytes());
        });
        assertThat(reports).isEqualTo(3);
        assertThat(done).containsExactly(1L, 2L, 3L);
        assertThat(nasBackup.jobs()).isEmpty();
        assertThat(nasBackup.cancel("told")).isFalse();
    }

    @Test
    void speed_and_end_are_known_after_a_while() {
        List<JobStatus> told = new ArrayList<>();
        TestHooks.runJob("speed", 1000, told::add);
        assertThat(told.get(0).bytesPerSecond()).isNull();
        assertThat(told.get(0).remainingMillis()).isNull();
        assertThat(told.get(999).bytesPerSecond()).isPositive();
        assertThat(told.get(999).remainingMillis()).isZero();
    }

    @Test
    void a_job_without_id_gets_one_and_a_used_id_is_refused() {
        TestHooks.runJob(null, 1, status -> {
            assertThat(status.job()).isNotEmpty();
            assertThat(failure(() -> TestHooks.runJob(status.job(), 1, null)).code())
                    .isEqualTo(ErrorCode.INVALID_ARGUMENT);
        });
    }

    @Test
    void what_the_listener_throws_cancels_the_job_and_is_the_cause() {
        for (Throwable thrown : List.of(new IllegalStateException("enough"), new StackOverflowError())) {
            NasBackupException e = failure(() -> TestHooks.runJob("thrown", 5, status -> {
                JobTest.<RuntimeException>sneak(thrown);
            }));
            assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
            assertThat(e).hasCause(thrown);
            assertThat(e.getMessage()).contains(thrown.getClass().getName());
            assertThat(nasBackup.jobs()).isEmpty();
        }
    }

    @SuppressWarnings("unchecked")
    private static <E extends Throwable> void sneak(Throwable thrown) throws E {
        throw (E) thrown;
    }

    @Test
    void a_listener_may_throw_one_whose_message_throws_too() {
        RuntimeException thrown = new RuntimeException() {
            private static final long serialVersionUID = 1L;

            @Override
            public String getMessage() {
                throw new UnsupportedOperationException("no message");
            }
        };
        NasBackupException e = failure(() -> TestHooks.runJob("thrown", 5, status -> {
            throw thrown;
        }));
        assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
        assertThat(e).hasCause(thrown);
    }

    @Test
    void a_handle_cancels_before_the_call() {
        CancelHandle handle = new CancelHandle();
        handle.cancel();
        List<Runnable> calls = List.of(
                () -> nasBackup.takeBackup(TakeBackupRequest.builder().build(), null, handle),
                () -> nasBackup.rebaseBackup(RebaseBackupRequest.builder().build(), null, handle),
                () -> nasBackup.rebasePoint(RebasePointRequest.builder().build(), null, handle));
        for (Runnable call : calls) {
            NasBackupException e = failure(call);
            assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
            assertThat(e.getMessage()).contains(handle.job());
        }
    }

    @Test
    void a_handle_cancels_between_the_call_and_the_start_of_the_job() {
        CancelHandle handle = new CancelHandle("early");
        handle.start();
        handle.cancel();
        List<JobStatus> told = new ArrayList<>();
        NasBackupException e = failure(() -> TestHooks.runJob("early", Integer.MAX_VALUE, handle.before(told::add)));
        assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
        assertThat(told).hasSize(1);
    }

    @Test
    void a_handle_cancels_a_running_job_from_another_thread() throws Exception {
        CancelHandle handle = new CancelHandle();
        CountDownLatch running = new CountDownLatch(1);
        Thread canceller = new Thread(() -> {
            try {
                running.await();
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
            handle.cancel();
        });
        canceller.start();
        handle.start();
        NasBackupException e = failure(
                () -> TestHooks.runJob(handle.job(), Integer.MAX_VALUE, handle.before(status -> running.countDown())));
        assertThat(e.code()).isEqualTo(ErrorCode.CANCELLED);
        canceller.join();
    }

    @Test
    void a_handle_of_another_job_is_refused() {
        TakeBackupRequest request = TakeBackupRequest.builder().job("one").build();
        NasBackupException e = failure(() -> nasBackup.takeBackup(request, null, new CancelHandle("other")));
        assertThat(e.code()).isEqualTo(ErrorCode.INVALID_ARGUMENT);
        assertThat(e.getMessage()).contains(": job: ");
        assertThat(failure(() -> new CancelHandle(null)).getMessage()).contains(": job: ");
    }

    @Test
    void many_threads_at_once() throws Exception {
        int threads = 8;
        int calls = 300;
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        List<Future<Integer>> done = new ArrayList<>();
        for (int thread = 0; thread < threads; thread++) {
            Random random = new Random(thread);
            done.add(pool.submit(() -> {
                for (int i = 0; i < calls; i++) {
                    anyCall(random);
                }
                return calls;
            }));
        }
        pool.shutdown();
        for (Future<Integer> future : done) {
            assertThat(future.get(120, TimeUnit.SECONDS)).isEqualTo(calls);
        }
        assertThat(nasBackup.jobs()).isEmpty();
    }

    private static void anyCall(Random random) {
        String job = "job-" + random.nextInt(4);
        switch (random.nextInt(8)) {
            case 0:
                assertThat(nasBackup.version()).isEqualTo(NasBackup.javaVersion());
                break;
            case 1:
                nasBackup.jobs().forEach(status -> assertThat(status.operation())
                        .isEqualTo("takeBackup"));
                break;
            case 2:
                nasBackup.cancel(job);
                break;
            case 3:
                assertThat(failure(() -> TestHooks.panic(job)).getMessage()).contains(job);
                break;
            case 4:
                TestHooks.logOnNativeThread(job);
                break;
            case 5:
                TakeBackupRequest wrong =
                        TakeBackupRequest.builder().job(job).waitSeconds(-1).build();
                assertThat(failure(() -> nasBackup.takeBackup(wrong)).code()).isEqualTo(ErrorCode.INVALID_ARGUMENT);
                break;
            case 6:
                RuntimeException thrown = new RuntimeException(job);
                NasBackupException e = failure(() -> TestHooks.runJob(null, 2, status -> {
                    throw thrown;
                }));
                assertThat(e).hasCause(thrown);
                break;
            default:
                try {
                    assertThat(TestHooks.runJob(job, 3, status -> {})).isEqualTo(3);
                } catch (NasBackupException other) {
                    // The id is in use by another thread, or one has cancelled it.
                    assertThat(other.code()).isIn(ErrorCode.INVALID_ARGUMENT, ErrorCode.CANCELLED);
                }
        }
    }
}
