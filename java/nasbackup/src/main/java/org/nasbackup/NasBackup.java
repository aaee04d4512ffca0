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
        start(version -> Native.init(version, configuration));
        return new NasBackup();
    }

    /**
     * Loads the native library, and does no more: refuses what {@link #open(Configuration)} would refuse, but does not read
     * a {@code logConfig}. Nothing comes into force, and what killed processes have left stays as it is.
     *
     * @return the version of the native library
     */
    public static String check(Configuration configuration) {
        start(version -> Native.check(version, configuration));
        return Native.version();
    }

    /**
     * Whether this host's kernel can be kept from following symbolic links in a repository ({@code nosymfollow}), for QEMU
     * and libvirt too. Tried on a mount that nobody sees; {@link #check(Configuration)} comes first.
     *
     * @throws NasBackupException when it can't be tried, as by a user who may not mount
     */
    public static boolean knowsNosymfollow() {
        return Native.knowsNosymfollow();
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
        TakeBackupRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.takeBackup(named, told));
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
        RebaseBackupRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.rebaseBackup(named, told));
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
        RebasePointRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.rebasePoint(named, told));
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
        VerifyChainRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.verifyChain(named, told));
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
        VerifyChainRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.verifyData(named, told));
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
        FlattenRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.flatten(named, told));
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
        RestorePointRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.restorePoint(named, told));
    }

    /** Removes a restore point that no other image needs. One that is gone already is a success. */
    public DeleteBackupResult deleteBackup(DeleteBackupRequest request) {
        return call(() -> Native.deleteBackup(request));
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
        SignPointsRequest named = request == null || handle == null
                ? request
                : request.toBuilder().job(handle.idFor(request.job())).build();
        return call(listener, handle, told -> Native.signPoints(named, told));
    }

    /** Size and use of a repository. */
    public BackupStatsResult backupStats(BackupStatsRequest request) {
        return call(() -> Native.backupStats(request));
    }

    /** The running jobs. */
    public List<JobStatus> jobs() {
        return List.of(Native.jobs());
    }

    /** Asks the job of that id to stop. False when no such job runs. */
    public boolean cancel(String job) {
        return Native.cancel(job);
    }

    /** A call that the handle, if there is one, can cancel; {@code call} gets the listener that the job has to have. */
    private static <T> T call(ProgressListener listener, CancelHandle handle, Function<ProgressListener, T> call) {
        if (handle == null) {
            return call(() -> call.apply(listener));
        }
        return call(() -> {
            handle.start();
            return call.apply(handle.before(listener));
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
