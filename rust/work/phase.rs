//! What a job is doing, as callers see it.

use std::fmt;

use serde::{Serialize, Serializer};

/// The enum, its constants' texts and the list of all, each constant named once.
macro_rules! phases {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a job does now. The texts are stable: C sees them, Java has the constants by the same names (`Phase.java`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Phase {
            $($(#[$doc])* $name,)*
        }

        impl Phase {
            #[cfg(test)]
            pub(crate) const ALL: &'static [Phase] = &[$(Phase::$name),*];

            /// The text that callers and logs get, a verb phrase.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Phase::$name => $text,)*
                }
            }
        }
    };
}

phases! {
    /// The job is entered into the table; nothing else has been done.
    Start = "start",
    /// The domain is looked up in libvirt, with its disks and its bitmaps.
    FindDomain = "find the domain",
    /// The disks of a stopped guest are opened and looked at.
    LookAtDisks = "look at the disks",
    /// The NAS is asked whether it answers, and the repository is mounted unless it is.
    OpenRepository = "open the repository",
    /// An image of the parent point that has no fingerprints is read, to make them.
    ReadParentPoint = "read the parent point",
    /// The files that the backup writes are made.
    MakeTargets = "make the targets",
    /// libvirt is asked to start the job; the guest is frozen meanwhile, if that was asked for.
    Begin = "begin",
    /// The data travel: of a backup to the NAS, of a restore to the outputs.
    Copy = "copy",
    /// The restore point is synced and gets its name.
    Publish = "publish",
    /// The restore point is published; bitmaps that nothing needs any more go, and this host's record of the job.
    ClearUp = "clear up",
    /// The instance is locked for the delete of a point.
    LockInstance = "lock the instance",
    /// The restore points are searched for one that stands on the point to delete.
    LookForChildren = "look for children",
    /// The files of the point are deleted.
    RemoveFiles = "remove the files",
    /// The NAS is asked how large it is and how much of it is used.
    ReadSize = "read the file system's size",
    /// The images are found on which those of the point stand, and what the manifests say is judged.
    FollowChains = "follow the chains",
    /// The tables of the images are checked.
    CheckImages = "check the images",
    /// The data of the images are compared with their fingerprints.
    CompareData = "compare the data",
    /// The tables of an image are compared with what was recorded of them, for a key is to vouch for them.
    CompareTables = "compare the tables",
    /// Clusters that a rebase which was cut off has left are made free.
    TakeBackUnused = "take back what nothing uses",
    /// The images below are searched for what the image lacks.
    LookForLacking = "look for what to absorb",
    /// What the image lacks is cloned or copied into it.
    Absorb = "absorb",
    /// The header of the image gets the name of its new backing file.
    NameBackingFile = "name the new backing file",
    /// The fingerprints of the rebased image are made of its own and of those of the images that it has absorbed.
    MergeFingerprints = "merge the fingerprints",
    /// The manifest is written anew, with what the images are now.
    WriteManifest = "write the manifest",
    /// The manifests get a checksum by this host's key.
    SignManifests = "sign the manifests",
    /// The outputs of a restore are made, or opened.
    OpenOutputs = "open the outputs",
    /// What devices hold that is to be kept is copied, before they are written to.
    KeepReplaced = "keep what is replaced",
    /// What was written is made durable.
    Sync = "sync",
    /// The outputs get their names.
    PublishOutputs = "publish the outputs",
    /// The disks of a point are there to be read, until they are unmounted.
    KeepMounted = "keep the point mounted",
    /// The files of a boot test's machine are made, and the machine is.
    MakeMachine = "make the machine",
    /// The guest of a boot test boots.
    BootGuest = "boot the guest",
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Phase;

    #[test]
    fn java_and_rust_have_the_same_phases() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/java/nasbackup/src/main/java/org/nasbackup/Phase.java");
        let source = std::fs::read_to_string(file).unwrap();
        let constants = source.lines().filter_map(|line| line.trim().strip_suffix("\"),")?.split_once("(\""));
        let java: Vec<_> = constants.map(|(name, text)| (name.replace('_', ""), text)).collect();
        let rust: Vec<_> =
            Phase::ALL.iter().map(|phase| (format!("{phase:?}").to_uppercase(), phase.as_str())).collect();
        assert_eq!(java, rust);
        assert!(source.contains("OTHER(\"other\");"), "it stands for what is in neither list, at its end");
    }
}
