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

package org.nasbackup.provider;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.apache.cloudstack.backup.BackupAnswer;

/** Tells CloudStack's users, in a sentence, how a backup, a deletion or a restore ended. */
public final class Outcome {
    private static final String[] UNITS = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

    private Outcome() {}

    /** @param link the backup's place in a chain; null: it stands alone */
    public static String taken(String path, BackupChoice choice, ChainLink link, BackupAnswer answer) {
        String size = answer.getSize() == null ? "" : " of " + size(answer.getSize());
        return "Backup " + path + ": " + kind(size, choice, link) + details(answer);
    }

    private static String kind(String size, BackupChoice choice, ChainLink link) {
        if (link != null && link.parent() != null) {
            return "incremental" + size + " on " + choice.parent()
                    + (link.recreated() == null
                            ? ""
                            : ", after its checkpoint was lost: made again, or the disks compared with the parent");
        }
        String why = choice.incremental() ? " in place of an incremental" : ", since " + choice.reason();
        boolean unconfirmed = link == null && choice.mode() != null;
        return "full" + size + why + (unconfirmed ? "; nothing can stand on it, its host confirmed no bitmap" : "");
    }

    /** The details that the host told. */
    private static String details(BackupAnswer answer) {
        String text = answer.getDetails() == null ? "" : answer.getDetails().strip();
        return text.isEmpty() ? "" : "; its host says: " + text;
    }

    /** @param steps the steps that were done */
    public static String deleted(String path, List<Step> steps) {
        long rebased = count(steps, Step.Kind.REBASE, true);
        long merged = count(steps, Step.Kind.REBASE, false);
        long others = count(steps, Step.Kind.DELETE, false) - 1;
        return "Backup " + path + " was deleted"
                + (others > 0 ? ", with " + others + " that stood on it" : "")
                + (rebased > 0 ? ", after " + rebased + " that stood on it took over what they need" : "")
                + (merged > 0 ? ", after it was merged into " + merged + ", which became full" : "");
    }

    public static String notTaken(String machine, String why) {
        return "Instance " + machine + " was not backed up: " + why;
    }

    public static String notDeleted(String path, String why) {
        return "Backup " + path + " was not deleted: " + why;
    }

    /**
     * @param what an instance or a volume
     * @param told what there is to tell of it; null: nothing
     */
    public static String restored(String what, String path, String told) {
        return what + " was restored from backup " + path + (told == null ? "" : "; " + told);
    }

    public static String notRestored(String what, String path, String why) {
        return what + " was not restored from backup " + path + ": " + why;
    }

    /**
     * What there is to tell of a restore.
     *
     * @param details what the host says; null: nothing
     * @param leftAlone volumes of the machine that the backup does not hold
     * @param leftOut volumes of the backup that the machine no longer has
     * @return null: nothing
     */
    public static String restoredWith(String details, List<String> leftAlone, List<String> leftOut) {
        List<String> told = new ArrayList<>();
        if (!leftAlone.isEmpty()) {
            told.add("it holds no volume " + String.join(", ", leftAlone) + ": left as it was");
        }
        if (!leftOut.isEmpty()) {
            told.add("the instance no longer has volume " + String.join(", ", leftOut) + " of it: not restored");
        }
        if (details != null && !details.isBlank()) {
            told.add("its host says: " + details.strip());
        }
        return told.isEmpty() ? null : String.join("; ", told);
    }

    private static long count(List<Step> steps, Step.Kind kind, boolean onto) {
        return steps.stream()
                .filter(step -> step.kind() == kind && (step.newParent() != null) == onto)
                .count();
    }

    static String size(long bytes) {
        int unit = bytes <= 0 ? 0 : (63 - Long.numberOfLeadingZeros(bytes)) / 10;
        double amount = bytes / Math.pow(1024, unit);
        return String.format(Locale.ROOT, unit == 0 || amount >= 10 ? "%.0f %s" : "%.1f %s", amount, UNITS[unit]);
    }
}
