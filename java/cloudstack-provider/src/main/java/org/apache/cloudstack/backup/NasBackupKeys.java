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

package org.apache.cloudstack.backup;

import org.apache.cloudstack.framework.config.ConfigKey;

/** The provider's settings, in a class of their own: the provider's class loads even if the settings can't be made. */
final class NasBackupKeys {
    private static final String FRAMEWORK_ENABLED = "backup.framework.enabled";

    static final ConfigKey<Integer> RESTORE_MOUNT_TIMEOUT = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            Integer.class,
            "nas.backup.restore.mount.timeout",
            "30",
            "Seconds that a host waits for the mount of a backup repository when it restores",
            true,
            ConfigKey.Scope.Global,
            FRAMEWORK_ENABLED);

    static final ConfigKey<Integer> FULL_EVERY = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            Integer.class,
            "nas.backup.full.every",
            "10",
            "How many backups a chain has: a full one and the incrementals on it. 1: every backup is a full one, 0: only the"
                    + " first",
            true,
            ConfigKey.Scope.Zone,
            FRAMEWORK_ENABLED);

    static final ConfigKey<String> DELETE_FULL = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            String.class,
            "nas.backup.delete.full",
            "refuse",
            "What becomes of the deletion of a full backup that incrementals stand on: refuse, or merge: each that stands on"
                    + " it becomes a full one. What is more than a schedule keeps is merged in any case",
            true,
            ConfigKey.Scope.Zone,
            FRAMEWORK_ENABLED);

    static final ConfigKey<Boolean> INCREMENTAL_ENABLED = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            Boolean.class,
            "nas.backup.incremental.enabled",
            "false",
            "Whether backups are incremental between two full ones. Off: every backup is a full one that stands alone",
            true,
            ConfigKey.Scope.Zone,
            FRAMEWORK_ENABLED);

    static final ConfigKey<Integer> WAIT = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            Integer.class,
            "nas.backup.wait",
            "7200",
            "Seconds that the server waits for one backup, one deletion or one restore; a host gives a backup up earlier",
            true,
            ConfigKey.Scope.Zone,
            FRAMEWORK_ENABLED);

    /** An agent has five threads for all commands: with none left it hears no command. */
    static final int MOST_PER_HOST = 4;

    static final ConfigKey<Integer> PARALLEL_PER_HOST = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            Integer.class,
            "nas.backup.parallel.per.host",
            "2",
            "How many backups, deletions and restores a host does at the same time; others wait on the management server."
                    + " Each takes one of the five threads of the host's agent; more than 4 are taken for 4",
            true,
            ConfigKey.Scope.Zone,
            FRAMEWORK_ENABLED);

    static final ConfigKey<Integer> QUEUE_WAIT = new ConfigKey<>(
            ConfigKey.CATEGORY_ADVANCED,
            Integer.class,
            "nas.backup.queue.wait",
            "7200",
            "Seconds that a backup, a deletion or a restore waits until its host is free, before it fails",
            true,
            ConfigKey.Scope.Zone,
            FRAMEWORK_ENABLED);

    private NasBackupKeys() {}

    static ConfigKey<?>[] all() {
        return new ConfigKey<?>[] {
            RESTORE_MOUNT_TIMEOUT, FULL_EVERY, DELETE_FULL, INCREMENTAL_ENABLED, WAIT, PARALLEL_PER_HOST, QUEUE_WAIT
        };
    }
}
