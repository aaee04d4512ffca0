//! The TPM of a boot test. libvirt keeps its state in a folder by the domain's UUID, and takes for it what lies there already; it
//! removes the folder together with the domain.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::make_folder;
use crate::libvirt::TPM_FOLDERS;
use crate::point::{StateFile, TPM};
use crate::process::Tool;

const STEP: &str = "put the TPM's state into its place";
const REMOVE: &str = "remove the TPM's state";
/// What libvirt runs for a TPM.
const TOOLS: [&str; 3] = ["swtpm", "swtpm_setup", "swtpm_ioctl"];

/// The UUID of the domain of a test in this folder: the random part of the folder's name. None of a folder of an earlier version.
pub(super) fn uuid_of(folder: &Path) -> Option<String> {
    let (_, random) = folder.file_name()?.to_str()?.rsplit_once('-')?;
    let part = |from, to| random.get(from..to);
    let parts = [part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?];
    Some(parts.join("-"))
}

/// Why the guest can't have a TPM with this state here, if so.
pub(super) fn lack(state: &StateFile, uri: &str) -> Option<String> {
    let lacks = |program| Tool { program, step: STEP, late: "it does not end" }.command().err();
    match state {
        // swtpm begins it with the versions and the length of its header, and two bytes of flags, of which these mean a key
        _ if state.bytes.get(5).is_none_or(|flags| flags & 3 != 0) => Some("it is encrypted".to_owned()),
        _ if state.name != TPM => Some("it is of version 1.2".to_owned()),
        _ if !uri.split('?').next().is_some_and(|uri| uri.ends_with(":///system")) => {
            Some(format!("'{uri}' does not tell where libvirt keeps such"))
        }
        _ => TOOLS.into_iter().find_map(lacks).map(|error| error.to_string()),
    }
}

/// Puts it where libvirt looks for it, which then gives it to swtpm's user.
pub(super) fn put(uuid: &str, state: &StateFile) -> Result<()> {
    let (own, state_folder) = (folder(uuid), folder(uuid).join("tpm2"));
    for (path, mode) in [(Path::new(TPM_FOLDERS), 0o711), (&own, 0o711), (&state_folder, 0o700)] {
        match make_folder(path, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path == Path::new(TPM_FOLDERS) => {}
            made => made.map_err(|e| Error::io(STEP, path, e))?,
        }
    }
    let path = state_folder.join(state.name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&state.bytes)).map_err(|e| Error::io(STEP, &path, e))
}

/// Removes the state where libvirt has not, because it never came to know of the domain.
pub(super) fn remove(uuid: &str) -> Result<()> {
    match fs::remove_dir_all(folder(uuid)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|e| Error::io(REMOVE, folder(uuid), e)),
    }
}

fn folder(uuid: &str) -> PathBuf {
    Path::new(TPM_FOLDERS).join(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_s_uuid_is_the_random_part_of_its_folder_s_name() {
        let uuid = |name: &str| uuid_of(&Path::new("/scratch").join(name));
        let random = "00112233445566778899aabbccddeeff";
        assert_eq!(uuid(&format!("boot-17-{random}")).unwrap(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uuid("boot-17-3"), None);
    }

    #[test]
    fn a_state_that_swtpm_could_not_open_is_not_given_to_it() {
        let lack = |flags: &[u8], name, uri| {
            let bytes = [&[2, 2, 0, 10, 0], flags].concat();
            lack(&StateFile { name, bytes }, uri).unwrap_or_default()
        };
        let here = "qemu:///system";
        for (flags, name, uri, says) in [
            (&[1][..], TPM, here, "encrypted"),
            (&[2], TPM, here, "encrypted"),
            (&[], TPM, here, "encrypted"),
            (&[0], crate::point::TPM_1_2, here, "version 1.2"),
            (&[0], TPM, "qemu:///session", "'qemu:///session' does not tell"),
            (&[0], TPM, "qemu+ssh://there/system", "does not tell"),
        ] {
            assert!(lack(flags, name, uri).contains(says), "{flags:?} {name} {uri}");
        }
        assert!(!lack(&[0], TPM, "qemu+unix:///system?socket=/run/x").contains("does not tell"));
    }
}
