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

/** What a job is doing. */
public enum Phase {
    /** The job is entered into the table; nothing else has been done. */
    START("start"),
    /** The domain is looked up in libvirt, with its disks and its bitmaps. */
    FIND_DOMAIN("find the domain"),
    /** The disks of a stopped guest are opened and looked at. */
    LOOK_AT_DISKS("look at the disks"),
    /** The NAS is asked whether it answers, and the repository is mounted unless it is. */
    OPEN_REPOSITORY("open the repository"),
    /** An image of the parent point that has no fingerprints is read, to make them. */
    READ_PARENT_POINT("read the parent point"),
    /** The files that the backup writes are made. */
    MAKE_TARGETS("make the targets"),
    /** libvirt is asked to start the job; the guest is frozen meanwhile, if that was asked for. */
    BEGIN("begin"),
    /** The data travel: of a backup to the NAS, of a restore to the outputs. */
    COPY("copy"),
    /** The restore point is synced and gets its name. */
    PUBLISH("publish"),
    /** The restore point is published; bitmaps that nothing needs any more go, and this host's record of the job. */
    CLEAR_UP("clear up"),
    /** The instance is locked for the delete of a point. */
    LOCK_INSTANCE("lock the instance"),
    /** The restore points are searched for one that stands on the point to delete. */
    LOOK_FOR_CHILDREN("look for children"),
    /** The files of the point are deleted. */
    REMOVE_FILES("remove the files"),
    /** The NAS is asked how large it is and how much of it is used. */
    READ_SIZE("read the file system's size"),
    /** The images are found on which those of the point stand, and what the manifests say is judged. */
    FOLLOW_CHAINS("follow the chains"),
    /** The tables of the images are checked. */
    CHECK_IMAGES("check the images"),
    /** The data of the images are compared with their fingerprints. */
    COMPARE_DATA("compare the data"),
    /** The tables of an image are compared with what was recorded of them, for a key is to vouch for them. */
    COMPARE_TABLES("compare the tables"),
    /** Clusters that a rebase which was cut off has left are made free. */
    TAKE_BACK_UNUSED("take back what nothing uses"),
    /** The images below are searched for what the image lacks. */
    LOOK_FOR_LACKING("look for what to absorb"),
    /** What the image lacks is cloned or copied into it. */
    ABSORB("absorb"),
    /** The header of the image gets the name of its new backing file. */
    NAME_BACKING_FILE("name the new backing file"),
    /** The fingerprints of the rebased image are made of its own and of those of the images that it has absorbed. */
    MERGE_FINGERPRINTS("merge the fingerprints"),
    /** The manifest is written anew, with what the images are now. */
    WRITE_MANIFEST("write the manifest"),
    /** The manifests get a checksum by this host's key. */
    SIGN_MANIFESTS("sign the manifests"),
    /** The outputs of a restore are made, or opened. */
    OPEN_OUTPUTS("open the outputs"),
    /** What devices hold that is to be kept is copied, before they are written to. */
    KEEP_REPLACED("keep what is replaced"),
    /** What was written is made durable. */
    SYNC("sync"),
    /** The outputs get their names. */
    PUBLISH_OUTPUTS("publish the outputs"),
    /** The disks of a point are there to be read, until they are unmounted. */
    KEEP_MOUNTED("keep the point mounted"),
    /** The files of a boot test's machine are made, and the machine is. */
    MAKE_MACHINE("make the machine"),
    /** The guest of a boot test boots. */
    BOOT_GUEST("boot the guest"),
    /** One that this version does not know, of a newer library. */
    OTHER("other");

    private final String text;

    Phase(String text) {
        this.text = text;
    }

    /** The constant that the text names; {@link #OTHER} for any other text, since only the native library tells it. */
    static Phase of(String text) {
        for (Phase phase : values()) {
            if (phase.text.equals(text)) {
                return phase;
            }
        }
        return OTHER;
    }

    /** The text of this constant in the log and in the answers of the C interface. */
    public String text() {
        return text;
    }
}
