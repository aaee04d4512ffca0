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

/**
 * Backs up KVM guests to a NAS in process, through {@code libnasbackup.so}.
 *
 * <p>{@link org.nasbackup.NasBackup} is the way in. Requests and results are immutable; a field that was not set is
 * null. Every failure is a {@link org.nasbackup.NasBackupException} with a stable code.
 */
package org.nasbackup;
