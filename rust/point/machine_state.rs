//! What a point holds of its machine beside the disks, each in a file that the manifest tells by its name and hash, as it does texts.
//! Only these names are known, so that a manifest leads to no other.

use std::io::Read;

use super::manifest::Manifest;
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;

const STEP: &str = "read what a point tells of its machine";
/// More bytes than a file of a machine's state has: UEFI variables have 64 MiB on ARM, and 528 KiB on x86.
pub const LONGEST_STATE: u64 = 64 << 20;

/// A part of a machine's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePart {
    /// The UEFI variables.
    Nvram,
    /// The state of the TPM.
    Tpm,
}

/// UEFI variables in a raw file.
pub const NVRAM: &str = "nvram.fd";
/// UEFI variables in a qcow2. No name ends as an image's does.
pub const NVRAM_QCOW2: &str = "nvram.qcow2.fd";
/// The state of a TPM of version 2.0, by swtpm's name.
pub const TPM: &str = "tpm2-00.permall";
/// The state of a TPM of version 1.2, by swtpm's name.
pub const TPM_1_2: &str = "tpm-00.permall";

impl StatePart {
    /// All parts.
    pub const ALL: [StatePart; 2] = [StatePart::Nvram, StatePart::Tpm];

    /// The names that its file may have.
    fn names(self) -> [&'static str; 2] {
        match self {
            StatePart::Nvram => [NVRAM, NVRAM_QCOW2],
            StatePart::Tpm => [TPM, TPM_1_2],
        }
    }

    /// The part whose file has this name.
    pub fn of(name: &str) -> Option<StatePart> {
        StatePart::ALL.into_iter().find(|part| part.names().contains(&name))
    }

    /// What it is, for messages.
    pub fn what(self) -> &'static str {
        match self {
            StatePart::Nvram => "UEFI variables",
            StatePart::Tpm => "state of a TPM",
        }
    }
}

/// A part of a machine's state, as a point holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFile {
    /// The file's name in the point.
    pub name: &'static str,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl Manifest {
    /// `CORRUPT_IMAGE` when these are not the bytes that were written to the file `name` of the point in `folder`. Manifests of older versions
    /// do not tell.
    pub fn check_text(&self, folder: &Folder, name: &str, bytes: &[u8]) -> Result<()> {
        if self.texts.as_ref().is_none_or(|texts| texts.get(name) == Some(&Digest::of(bytes))) {
            return Ok(());
        }
        let cause = format!("'{}' is not what was written", folder.path.join(name).display());
        Err(Error::new(Code::CorruptImage, STEP, cause))
    }

    /// The name of the file that holds this part of the machine's state, and its hash; `None` if the point holds none.
    pub fn state_file(&self, part: StatePart) -> Option<(&'static str, Digest)> {
        let texts = self.texts.as_ref()?;
        part.names().into_iter().find_map(|name| Some((name, *texts.get(name)?)))
    }

    /// The names of all files of the machine's state.
    pub fn state_files(&self) -> impl Iterator<Item = &'static str> {
        StatePart::ALL.into_iter().filter_map(|part| Some(self.state_file(part)?.0))
    }
}

impl StateFile {
    /// Reads a part of the machine's state from the `folder` of the point with this `manifest`; `None` if the point holds none.
    /// `CORRUPT_IMAGE` when it is not what was written.
    pub fn read(folder: &Folder, manifest: &Manifest, part: StatePart) -> Result<Option<StateFile>> {
        let Some((name, _)) = manifest.state_file(part) else { return Ok(None) };
        let path = folder.path.join(name);
        let mut bytes = Vec::new();
        let file = folder.open_file_in(name)?;
        file.take(LONGEST_STATE + 1).read_to_end(&mut bytes).map_err(|e| Error::io(STEP, &path, e))?;
        manifest.check_text(folder, name, &bytes)?;
        Ok(Some(StateFile { name, bytes }))
    }
}
