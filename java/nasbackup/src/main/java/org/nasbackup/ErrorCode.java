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

/** What a caller branches on. The names are stable. */
public enum ErrorCode {
    /** A field of the request is missing, malformed or contradicts another; nothing was touched. */
    INVALID_ARGUMENT,
    /** The restore point, or the bitmap that names it, is there already. */
    ALREADY_EXISTS,
    /** Another image names a file of the point as its backing file. */
    HAS_CHILDREN,
    /** libvirt does not know the domain. */
    DOMAIN_NOT_FOUND,
    /** The domain is in a state in which the operation is impossible. */
    DOMAIN_STATE,
    /** Another job holds the domain, the restore points or the repository, or {@link Configuration#parallelBackups} backups run. */
    BUSY,
    /** The parent given for a rebase, verification or flattening can't be one. */
    PARENT_INVALID,
    /** An image's metadata contradicts itself or its specification. */
    CORRUPT_IMAGE,
    /** An image uses a feature that is not supported. */
    UNSUPPORTED_IMAGE,
    /** The repository or the scratch folder is full, or a quota is used up. */
    NO_SPACE,
    /** The operating system, or the NAS, refuses access. */
    PERMISSION_DENIED,
    /** The NAS did not answer within the deadline. */
    NAS_UNRESPONSIVE,
    /** The repository could not be mounted. */
    MOUNT_FAILED,
    /** A file or folder that the request names is not there. */
    NOT_FOUND,
    /** The hypervisor ended the backup job with an error. */
    JOB_FAILED,
    /** A libvirt call failed. */
    LIBVIRT,
    /** The guest's file systems could not be frozen. */
    QUIESCE_FAILED,
    /** The caller cancelled the job. */
    CANCELLED,
    /** The job did not end within {@code waitSeconds}. */
    TIMEOUT,
    /** Any other input or output error. */
    IO,
    /** The native library could not be loaded, or has a defect. */
    INTERNAL,
    /** The Java side and the native library are of different versions. */
    VERSION_MISMATCH
}
