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

import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * The way in: one method per operation. Safe for use by any number of threads.
 *
 * <p>The native library, its configuration and its table of jobs exist once per process. When the JVM shuts down,
 * running jobs are cancelled and given 20 seconds to clean up; new ones are refused.
 */
public final class NasBackup {
    private NasBackup() {}

    /** {@link #open(Configuration)} with the defaults. */
    public static NasBackup open() {
        return open(null);
    }

    /**
     * Loads the native library and puts the configuration into force for the calls that follow, in the whole process.
     * What killed processes have left on this host is undone.
     *
     * @param configuration null for the defaults
     * @throws NasBackupException when the library can't be loaded (said again by every later call), is of another
     *     version ({@link ErrorCode#VERSION_MISMATCH}), or refuses the configuration
     */
    public static NasBackup open(Configuration configuration) {
        start(version -> Native.init(version, JsonWriter.write(configuration)));
        return new NasBackup();
    }

    /**
     * Loads the native library, and does no more: refuses what {@link #open(Configuration)} would refuse, but does not read
     * a {@code logConfig}. Nothing comes into force, and what killed processes have left stays as it is.
     *
     * @return the version of the native library
     */
    public static String check(Configuration configuration) {
        start(version -> Native.check(version, JsonWriter.write(configuration)));
        return Native.version();
    }

    /**
     * What this host lacks for backups by this configuration, thing by thing. Nothing comes into force, and what is made to try
     * something is removed. {@link #check(Configuration)} comes first. libvirt prints no errors of this process any more.
     *
     * @param configuration null for the defaults
     */
    public static List<Finding> doctor(Configuration configuration) {
        String settings = configuration == null ? "{}" : JsonWriter.write(configuration);
        return call(() -> Reply.listOf(Native.call("doctor", settings, null), Finding::new));
    }

    private static void start(Consumer<String> entry) {
        NativeLibrary.load();
        String version = javaVersion();
        try {
            entry.accept(version);
        } catch (UnsatisfiedLinkError e) {
            throw NasBackupException.of(
                    ErrorCode.VERSION_MISMATCH,
                    "start the native library",
                    "it was not made for the Java side " + version + "; install libnasbackup.so and nasbackup.jar of"
                            + " one version",
                    e);
        }
    }

    /** The version of the native library. */
    public String version() {
        return Native.version();
    }

    /** {@link #takeBackup(TakeBackupRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public TakeBackupResult takeBackup(TakeBackupRequest request) {
        return takeBackup(request, null, null);
    }

    /**
     * Makes one restore point of one virtual machine. Returns when it is on the NAS.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public TakeBackupResult takeBackup(TakeBackupRequest request, ProgressListener listener, CancelHandle handle) {
        return run("takeBackup", request, listener, handle, TakeBackupResult::new);
    }

    /** {@link #rebaseBackup(RebaseBackupRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public RebaseResult rebaseBackup(RebaseBackupRequest request) {
        return rebaseBackup(request, null, null);
    }

    /**
     * Lets one image of a restore point stand on another one of its chain, or alone; it reads as before. One that does
     * already is a success. After a failure or a cancel the chain is as valid as before, and the same call finishes.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public RebaseResult rebaseBackup(RebaseBackupRequest request, ProgressListener listener, CancelHandle handle) {
        return run("rebaseBackup", request, listener, handle, RebaseResult::new);
    }

    /** {@link #rebasePoint(RebasePointRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public RebaseResult rebasePoint(RebasePointRequest request) {
        return rebasePoint(request, null, null);
    }

    /**
     * {@link #rebaseBackup(RebaseBackupRequest, ProgressListener, CancelHandle)} for all disks of a restore point.
     * When it fails between two of them, the same call finishes.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public RebaseResult rebasePoint(RebasePointRequest request, ProgressListener listener, CancelHandle handle) {
        return run("rebasePoint", request, listener, handle, RebaseResult::new);
    }

    /** {@link #verifyChain(VerifyChainRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public VerifyChainResult verifyChain(VerifyChainRequest request) {
        return verifyChain(request, null, null);
    }

    /**
     * Checks the tables of every image that a restore point consists of, and that they agree with the manifests. What
     * is wrong is the answer; data are not read.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public VerifyChainResult verifyChain(VerifyChainRequest request, ProgressListener listener, CancelHandle handle) {
        return run("verifyChain", request, listener, handle, VerifyChainResult::new);
    }

    /** {@link #verifyData(VerifyChainRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public VerifyChainResult verifyData(VerifyChainRequest request) {
        return verifyData(request, null, null);
    }

    /**
     * Does what {@link #verifyChain} does, and reads all data of a restore point and of what it stands on: a byte that is
     * not as it was written is found in any of these files. Images without fingerprints are aborted.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public VerifyChainResult verifyData(VerifyChainRequest request, ProgressListener listener, CancelHandle handle) {
        return run("verifyData", request, listener, handle, VerifyChainResult::new);
    }

    /** {@link #flatten(FlattenRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public FlattenResult flatten(FlattenRequest request) {
        return flatten(request, null, null);
    }

    /**
     * Makes one disk of a restore point, however deep its chain, a file or a block device's content that stands on
     * nothing. A file appears under its name when it is whole; a device that a failed call has begun to write has to be
     * written anew.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public FlattenResult flatten(FlattenRequest request, ProgressListener listener, CancelHandle handle) {
        return run("flatten", request, listener, handle, FlattenResult::new);
    }

    /** {@link #restorePoint(RestorePointRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public RestorePointResult restorePoint(RestorePointRequest request) {
        return restorePoint(request, null, null);
    }

    /**
     * Restores disks of a restore point, all in one call. Files take their names when all disks are whole, durable and found to
     * be what was backed up; until then what was there before has its name and its content.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public RestorePointResult restorePoint(
            RestorePointRequest request, ProgressListener listener, CancelHandle handle) {
        return run("restorePoint", request, listener, handle, RestorePointResult::new);
    }

    /** Removes a restore point that no other image needs. One that is gone already is a success. */
    public DeleteBackupResult deleteBackup(DeleteBackupRequest request) {
        return run("deleteBackup", request, null, null, DeleteBackupResult::new);
    }

    /** {@link #signPoints(SignPointsRequest, ProgressListener, CancelHandle)} without listener and handle. */
    public SignPointsResult signPoints(SignPointsRequest request) {
        return signPoints(request, null, null);
    }

    /**
     * Gives the manifests of a repository a MAC by the first key of {@link Configuration#keyFile}: when there is a new key, or for
     * the points that were made before there was one. Neither data nor anything else is read. When it fails or is cancelled,
     * the same call goes on.
     *
     * @param listener told of progress on this thread; may be null
     * @param handle cancels this job; may be null
     */
    public SignPointsResult signPoints(SignPointsRequest request, ProgressListener listener, CancelHandle handle) {
        return run("signPoints", request, listener, handle, SignPointsResult::new);
    }

    /** Size and use of a repository. */
    public BackupStatsResult backupStats(BackupStatsRequest request) {
        return run("backupStats", request, null, null, BackupStatsResult::new);
    }

    /** The running jobs. */
    public List<JobStatus> jobs() {
        return Native.jobs();
    }

    /** Asks the job of that id to stop. False when no such job runs. */
    public boolean cancel(String job) {
        return Native.cancel(job);
    }

    /** Runs an operation that the handle, if there is one, can cancel. */
    private static <T> T run(
            String operation,
            Request request,
            ProgressListener listener,
            CancelHandle handle,
            Function<Reply, T> result) {
        if (request == null || handle == null) {
            String json = JsonWriter.write(request);
            return call(() -> result.apply(Reply.of(Native.call(operation, json, listener))));
        }
        Map<String, Object> fields = JsonWriter.fields(request);
        fields.put("job", handle.idFor(request.job()));
        String json = JsonWriter.write(fields);
        return call(() -> {
            handle.start();
            return result.apply(Reply.of(Native.call(operation, json, handle.before(listener))));
        });
    }

    /** Every call that may last runs in here, so that a shutdown waits for it. */
    static <T> T call(Supplier<T> call) {
        Shutdown.enter();
        try {
            return call.get();
        } finally {
            Shutdown.leave();
        }
    }

    /** The version of the Java side. */
    static String javaVersion() {
        return Built.read("version");
    }
}
