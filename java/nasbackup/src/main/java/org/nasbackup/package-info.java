/**
 * Backs up KVM guests to a NAS in process, through {@code libnasbackup.so}.
 *
 * <p>{@link org.nasbackup.NasBackup} is the way in. Requests and results are immutable; a field that was not set is
 * null. Every failure is a {@link org.nasbackup.NasBackupException} with a stable code.
 */
package org.nasbackup;
