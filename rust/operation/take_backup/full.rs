//! Finds out whether the repository is full for QEMU. QEMU reports a failed write by a text in the daemon's language, and
//! statvfs does not show quotas. So the library writes some more data in the same place, with QEMU's rights.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::fchown;

use rustix::fs::OFlags;

use crate::apart::{Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::descriptor;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::user::with_rights_of;

const STEP: &str = "ask whether the repository is full";
/// A file in the unfinished point, which is removed.
const PROBE: &str = ".room";
/// Bytes of one write: as many as QEMU writes at once.
const PIECE: usize = 1 << 20;
/// The number of writes: several, because a small file may still find room.
const PIECES: usize = 16;

/// Why nothing more can be written beside the `targets`, which are the `owner`'s while QEMU writes them; none if it can.
pub(super) fn refusal(folder: &Folder, targets: &[Apart], owner: Option<(u32, u32)>) -> Result<Option<Error>> {
    let written = try_to_write(folder, targets, owner);
    match written {
        Err(error) if error.code == Code::NoSpace => Ok(Some(error)),
        written => written.map(|()| None),
    }
}

fn try_to_write(folder: &Folder, targets: &[Apart], owner: Option<(u32, u32)>) -> Result<()> {
    let file = folder.create_file(PROBE, FILE_MODE)?;
    let path = folder.path.join(PROBE);
    let written = match owner {
        None => file.with(write),
        Some(owner) => {
            // libvirt took the targets from QEMU's user, whose quota they count against again now
            for file in targets.iter().chain([&file]) {
                if let Err(error) = file.with(|file| fchown(file, Some(owner.0), Some(owner.1))) {
                    log::debug!("{STEP}: unable to give a file in '{}' to QEMU - {error}", folder.path.display());
                }
            }
            // opened anew, because NFS writes with the rights of whoever opened the file
            let again = |file: &File| write(&descriptor::open_again(file, OFlags::WRONLY)?);
            file.with(|file| with_rights_of(owner, STEP, || again(file)))?.and_then(|written| written)
        }
    };
    written.map_err(|e| Error::io(STEP, path, e))
}

/// Writes bytes that no storage can compress or deduplicate.
fn write(mut file: &File) -> io::Result<()> {
    let mut bytes = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; PIECE];
    for _ in 0..PIECES {
        bytes.fill(&mut piece);
        file.write_all(&piece)?;
    }
    // NFS reports a full disk only with the sync
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_room_nothing_refuses_to_be_written() {
        const NOBODY: (u32, u32) = (65534, 65534);
        for owner in [None, Some(NOBODY)] {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::open_root(dir.path()).unwrap();
            let target = folder.create_file("target", FILE_MODE).unwrap();
            assert_eq!(refusal(&folder, &[target], owner), Ok(None));
            assert_eq!(std::fs::metadata(dir.path().join(PROBE)).unwrap().len(), (PIECE * PIECES) as u64);
        }
    }
}
