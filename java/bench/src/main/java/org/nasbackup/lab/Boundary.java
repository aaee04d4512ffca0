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

import java.util.Collection;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.nasbackup.BackupStatsRequest;
import org.nasbackup.BackupStatsResult;
import org.nasbackup.ErrorCode;
import org.nasbackup.JobStatus;
import org.nasbackup.NasBackup;
import org.nasbackup.NasBackupException;
import org.nasbackup.Repository;
import org.nasbackup.TakeBackupRequest;
import org.nasbackup.lab.Samples.Sample;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import org.openjdk.jmh.runner.options.TimeValue;
import org.openjdk.jmh.util.Statistics;

/** What it costs to cross from Java to the library and back. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
public class Boundary {
    private final NasBackup library = Lab.open("off");
    private final BackupStatsRequest stats = BackupStatsRequest.builder()
            .repository(Repository.builder().type("dir").address("/tmp").build())
            .build();
    /** A legacy backup has no bitmap. */
    private final TakeBackupRequest refused = TakeBackupRequest.builder()
            .vmName("i-2-10-VM")
            .backupPath("i-2-10-VM/2031.01.02.03.04.05")
            .repository(stats.repository())
            .mode(org.nasbackup.Mode.LEGACY)
            .bitmapNew("backup-1925000000")
            .build();

    /** A call that does nothing: no job has this id. */
    @Benchmark
    public boolean nothing() {
        return library.cancel("none");
    }

    /** A whole request in, and an error out: it is refused before it does anything. */
    @Benchmark
    public ErrorCode refused() {
        try {
            library.takeBackup(refused);
            throw new IllegalStateException("not refused");
        } catch (NasBackupException e) {
            return e.code();
        }
    }

    /** One result out: no job runs. */
    @Benchmark
    public List<JobStatus> jobs() {
        return library.jobs();
    }

    /** One request in and one result out, and in between an operation: a folder is opened within a deadline. */
    @Benchmark
    public BackupStatsResult statsOfAFolder() {
        return library.backupStats(stats);
    }

    static void measure(Samples samples) {
        for (RunResult result : run()) {
            Statistics figures = result.getPrimaryResult().getStatistics();
            samples.add(new Sample("boundary")
                    .with("call", result.getPrimaryResult().getLabel())
                    .with("micros", figures.getMean())
                    .with("micros_min", figures.getMin())
                    .with("micros_max", figures.getMax()));
        }
    }

    private static Collection<RunResult> run() {
        try {
            return new Runner(new OptionsBuilder()
                            .include(Boundary.class.getSimpleName())
                            .forks(1)
                            .warmupIterations(3)
                            .warmupTime(TimeValue.seconds(1))
                            .measurementIterations(5)
                            .measurementTime(TimeValue.seconds(1))
                            .jvmArgsAppend("-Djava.library.path=" + System.getProperty("java.library.path"))
                            .build())
                    .run();
        } catch (RunnerException e) {
            throw new IllegalStateException(e);
        }
    }
}
