//! A guest's file system, mounted by libguestfs: a kernel in a virtual machine of its own reads what the guest has written, and
//! this host sees the files through FUSE. It is not given a network, and what it writes goes to an overlay.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::limits;
use crate::mountinfo;
use crate::process::{Process, Tool};
use crate::sys;

const STEP: &str = "mount the guest's file system";
const PROGRAM: &str = "guestfish";
const GUESTFISH: Tool = Tool { program: PROGRAM, step: STEP, late: "libguestfs does not answer" };
/// Types that hold no files by themselves.
const NO_FILES: [&str; 6] = ["swap", "LVM2_member", "linux_raid_member", "crypto_LUKS", "BitLocker", "unknown"];

pub(super) fn reads(kind: &str) -> bool {
    !NO_FILES.contains(&kind)
}

/// libguestfs, with the disks that it is to look at.
#[derive(Debug)]
pub(super) struct Guestfs {
    disks: Vec<PathBuf>,
    scratch: PathBuf,
}

/// What serves a mount. It is to be unmounted first; the drop waits for libguestfs to end then, and kills it if it does not.
#[derive(Debug)]
pub(super) struct Server(Process);

impl Guestfs {
    /// None where it is not installed.
    pub(super) fn find(disks: Vec<PathBuf>, scratch: &Path) -> Option<Guestfs> {
        GUESTFISH.command().is_ok().then(|| Guestfs { disks, scratch: scratch.to_owned() })
    }

    /// The file systems that lie on more than a partition, as logical volumes do: their devices and types.
    pub(super) fn find_volumes(&self, go_on: impl FnMut() -> Result<()>) -> Result<Vec<(String, String)>> {
        let mut command = self.command()?;
        command.args(["run", ":", "list-filesystems"]);
        let told = GUESTFISH.run(&mut command, limits::STORAGE_LONG_STEP, go_on)?.result()?;
        Ok(volumes(&told))
    }

    /// Mounts the file system of a device.
    pub(super) fn mount(&self, device: &str, at: &Path, mut go_on: impl FnMut() -> Result<()>) -> Result<Server> {
        let mut command = self.command()?;
        command.args(["run", ":", "mount-ro", device, "/", ":", "mount-local"]).arg(at);
        command.args(["readonly:true", ":", "mount-local-run"]);
        let mut process = GUESTFISH.start(&mut command)?;
        process.wait(limits::STORAGE_LONG_STEP, &mut go_on, |process| {
            if let Some(ended) = process.ended()? {
                return Err(ended.failed());
            }
            let is_mounted = mountinfo::is_mounted(at).map_err(|e| Error::io(STEP, at, e))?;
            Ok(is_mounted.then_some(()))
        })?;
        Ok(Server(process))
    }

    fn command(&self) -> Result<Command> {
        let mut command = GUESTFISH.command().map_err(|e| Error::io(STEP, PROGRAM, e))?;
        // libvirt's daemon would look for the disks among the host's mounts
        command.env("LIBGUESTFS_BACKEND", "direct").env("LIBGUESTFS_TMPDIR", &self.scratch);
        command.args(["--ro", "--format=raw"]);
        self.disks.iter().for_each(|disk| _ = command.arg("-a").arg(disk));
        sys::end_with_thread(&mut command);
        Ok(command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.0.wait(limits::UNMOUNT, || Ok(()), Process::ended) {
            log::warn!("{error}");
        }
    }
}

/// How the appliance calls a partition of a disk, or all of it.
pub(super) fn device(disk: usize, partition: Option<u32>) -> Option<String> {
    let letter = char::from(b'a' + u8::try_from(disk).ok().filter(|disk| *disk < 26)?);
    Some(format!("/dev/sd{letter}{}", partition.map(|number| number.to_string()).unwrap_or_default()))
}

/// The devices of `list-filesystems`, each with its type, but for partitions and disks. Their names are a guest's.
fn volumes(told: &str) -> Vec<(String, String)> {
    let device = |line: &str| {
        let (device, kind) = line.trim().rsplit_once(": ")?;
        let name = device.strip_prefix("/dev/").filter(|name| !name.starts_with("sd"))?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "+_.-/".contains(c);
        (name.chars().all(is_plain) && !name.contains("..")).then(|| (name.to_owned(), kind.to_owned()))
    };
    told.lines().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_told_apart_from_partitions_and_from_what_is_no_device() {
        let told = "/dev/sda1: ext4\n/dev/sda: xfs\n/dev/vg_a/root-1: xfs\n/dev/md127: ext4\nbtrfsvol:/dev/sda3/home: btrfs\n\
                    /dev/vg/../sda: ext4\n/dev/vg/a b: ext4\nx\n/dev/vg/swap: swap\n";
        let found = volumes(told);
        let expected = [("vg_a/root-1", "xfs"), ("md127", "ext4"), ("vg/swap", "swap")];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    }

    #[test]
    fn disks_have_letters_in_their_order() {
        assert_eq!(device(0, None).as_deref(), Some("/dev/sda"));
        assert_eq!(device(25, Some(15)).as_deref(), Some("/dev/sdz15"));
        assert_eq!(device(26, Some(1)), None);
    }
}
