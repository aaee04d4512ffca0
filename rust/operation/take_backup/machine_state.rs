//! What a machine remembers beside its disks: UEFI variables, and the state of a TPM. Files of this host hold them, which are read at the
//! point's instant. A backup does not fail for them: what can't be had is told.
//!
//! QEMU writes raw UEFI variables to their file as the guest changes them, in steps that the firmware makes for a power cut between any
//! two of them. swtpm writes the whole state anew, beside its name, and renames that; before version 0.5 it wrote in place. So a file that
//! reads the same twice, a TPM's with the length that stands in it, is what a power cut at that instant would have left.

use std::io::Read;

use crate::error::{Code, Error, Result};
use crate::libvirt::{DomainXml, Nvram, TPM_FOLDERS, Tpm};
use crate::limits;
use crate::point::{LONGEST_STATE, NVRAM, NVRAM_QCOW2, StateFile, StatePart, TPM, TPM_1_2};
use crate::qemu::image_file::open_named_file;
use crate::work::deadline::bounded_for_guest;

const STEP: &str = "read the machine's state";
/// How often a file is read that changes meanwhile.
const READS: u32 = 10;

/// What was read of a machine's state.
#[derive(Debug, Default)]
pub(super) struct MachineState {
    pub files: Vec<StateFile>,
    /// What could not be had, and what a restore needs besides.
    pub details: Vec<String>,
}

/// Reads the state of the machine with this XML and UUID, in bounded time: the guest may be frozen meanwhile.
pub(super) fn read_in_time(xml: &DomainXml, uuid: &str, runs: bool) -> MachineState {
    if xml.nvram.is_none() && xml.tpm.is_none() {
        return MachineState::default();
    }
    let (nvram, tpm, uuid) = (xml.nvram.clone(), xml.tpm.clone(), uuid.to_owned());
    let read = move || Ok(read(nvram.as_ref(), tpm.as_ref(), &uuid, runs));
    bounded_for_guest(STEP, limits::MACHINE_STATE, read).unwrap_or_else(|error| MachineState {
        files: Vec::new(),
        details: vec![format!("the point holds neither UEFI variables nor state of a TPM: {}", error.cause)],
    })
}

fn read(nvram: Option<&Nvram>, tpm: Option<&Tpm>, uuid: &str, runs: bool) -> MachineState {
    let mut state = MachineState::default();
    let nvram = nvram.map(|nvram| (StatePart::Nvram, read_nvram(nvram, runs)));
    let secret = tpm.and_then(|tpm| tpm.secret.as_ref());
    let tpm = tpm.map(|tpm| (StatePart::Tpm, read_tpm(tpm, uuid)));
    for (part, read) in nvram.into_iter().chain(tpm) {
        match read {
            Ok(file) => state.files.push(file),
            Err(why) => state.details.push(format!("the point holds no {}: {why}", part.what())),
        }
    }
    if let Some(secret) = secret {
        state.details.push(format!("the TPM's state is encrypted by libvirt's secret '{secret}', which is not copied"));
    }
    state
}

fn read_nvram(nvram: &Nvram, runs: bool) -> Result<StateFile, String> {
    let path = nvram.file.as_ref().map_err(String::clone)?;
    if nvram.qcow2 && runs {
        return Err(format!("'{path}' is a qcow2, of which QEMU keeps a part to itself while the guest runs"));
    }
    let bytes = read_twice(path, |bytes| !bytes.is_empty()).map_err(|error| error.cause)?;
    Ok(StateFile { name: if nvram.qcow2 { NVRAM_QCOW2 } else { NVRAM }, bytes })
}

fn read_tpm(tpm: &Tpm, uuid: &str) -> Result<StateFile, String> {
    let (version, name) = if tpm.is_1_2 { ("tpm1.2", TPM_1_2) } else { ("tpm2", TPM) };
    let folder = tpm.folder.clone()?.unwrap_or_else(|| format!("{TPM_FOLDERS}/{uuid}/{version}"));
    let bytes = read_twice(&format!("{folder}/{name}"), is_whole_state).map_err(|error| error.cause)?;
    Ok(StateFile { name, bytes })
}

/// True of what swtpm has written to its end. It begins with two bytes of versions, two of the header's length and two of flags; then
/// the length of all of it, in four bytes, the first one the highest.
fn is_whole_state(bytes: &[u8]) -> bool {
    let length = bytes.get(6..10).and_then(|length| Some(u32::from_be_bytes(length.try_into().ok()?)));
    length.map(u64::from) == Some(bytes.len() as u64)
}

fn read_twice(path: &str, is_whole: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
    let changes = || Error::new(Code::Io, STEP, format!("'{path}' changes all the time, or is not whole"));
    until_twice(|| read_once(path), is_whole)?.ok_or_else(changes)
}

/// Reads until the same was read twice and is whole; `None` when that does not come.
fn until_twice(mut read: impl FnMut() -> Result<Vec<u8>>, is_whole: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
    let mut before = read()?;
    for _ in 0..READS {
        let now = read()?;
        if now == before && is_whole(&now) {
            return Ok(Some(now));
        }
        before = now;
    }
    Ok(None)
}

fn read_once(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_named_file(path).and_then(|file| file.take(LONGEST_STATE + 1).read_to_end(&mut bytes));
    read.map_err(|e| Error::io(STEP, path, e))?;
    if bytes.len() as u64 > LONGEST_STATE {
        return Err(Error::new(Code::Io, STEP, format!("'{path}' has more than {LONGEST_STATE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    fn nvram(file: &std::path::Path) -> Nvram {
        Nvram { file: Ok(file.to_str().unwrap().to_owned()), qcow2: false }
    }

    /// As swtpm has written it.
    fn state(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(10 + text.len()).unwrap();
        [&[2, 2, 0, 10, 0, 0], &length.to_be_bytes()[..], text].concat()
    }

    #[test]
    fn each_part_is_read_or_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let tpm = Tpm { is_1_2: false, folder: Ok(Some(dir.path().to_str().unwrap().to_owned())), secret: None };
        let both = |nvram: &Nvram, tpm: &Tpm| {
            let MachineState { files, details } = read(Some(nvram), Some(tpm), "uuid", true);
            (files.iter().map(|file| file.name).collect::<Vec<_>>(), details.join("; "))
        };
        let (none, told) = both(&nvram(&at("vars")), &tpm);
        assert!(none.is_empty() && told.contains("the point holds no UEFI variables: '"), "{told}");
        assert!(told.contains("the point holds no state of a TPM: '") && told.contains("permall"), "{told}");
        fs::write(at("vars"), "variables").unwrap();
        fs::write(at(TPM), state(b"keys")).unwrap();
        fs::write(at(TPM_1_2), state(b"older")).unwrap();
        assert_eq!(both(&nvram(&at("vars")), &tpm), (vec![NVRAM, TPM], String::new()));
        let encrypted = Tpm { is_1_2: true, secret: Some("0d6b".into()), ..tpm };
        let (files, told) = both(&Nvram { qcow2: true, ..nvram(&at("vars")) }, &encrypted);
        assert_eq!(files, [TPM_1_2]);
        assert!(told.contains("is a qcow2") && told.contains("secret '0d6b', which is not copied"), "{told}");
        let stopped = read(Some(&Nvram { qcow2: true, ..nvram(&at("vars")) }), None, "uuid", false);
        assert_eq!(stopped.files, [StateFile { name: NVRAM_QCOW2, bytes: b"variables".to_vec() }]);
    }

    #[test]
    fn what_reads_otherwise_each_time_is_not_taken() {
        let take = |contents: &[u8]| {
            let mut left = contents.iter().copied();
            let mut again = 100;
            let read = || {
                again += 1;
                Ok(vec![left.next().unwrap_or(again)])
            };
            until_twice(read, |bytes| bytes != [0]).unwrap().map(|bytes| bytes[0])
        };
        let rows: [(&[u8], Option<u8>); 4] =
            [(&[1, 1], Some(1)), (&[1, 2, 1, 2, 3, 3], Some(3)), (&[0, 0, 4, 4], Some(4)), (&[], None)];
        for (contents, taken) in rows {
            assert_eq!(take(contents), taken, "{contents:?}");
        }
    }

    #[test]
    fn a_tpm_s_state_that_is_not_written_to_its_end_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TPM);
        let whole = state(b"keys");
        let read = || read_twice(path.to_str().unwrap(), is_whole_state).map_err(|error| error.cause);
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read().unwrap_err().contains("is not whole"), "{length}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(read().unwrap(), whole);
    }

    #[test]
    fn nothing_but_a_file_of_ordinary_length_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let read = |name: &str| read_nvram(&nvram(&at(name)), true).map(|file| file.bytes.len());
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for name in ["fifo", "folder"] {
            assert!(read(name).unwrap_err().contains("is no regular file"), "{name}");
        }
        fs::File::create(at("long")).unwrap().set_len(LONGEST_STATE).unwrap();
        assert_eq!(read("long"), Ok(LONGEST_STATE as usize));
        fs::File::create(at("long")).unwrap().set_len(LONGEST_STATE + 1).unwrap();
        assert!(read("long").unwrap_err().contains("has more than 67108864 bytes"));
        fs::File::create(at("empty")).unwrap();
        assert!(read("empty").unwrap_err().contains("is not whole"));
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn no_link_that_root_has_not_made_leads_to_a_machine_s_state() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("secret"), "of the host").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("vars")).unwrap();
        assert!(read_nvram(&nvram(&at("vars")), true).is_ok());
        std::os::unix::fs::lchown(at("vars"), Some(65534), Some(65534)).unwrap();
        let why = read_nvram(&nvram(&at("vars")), true).unwrap_err();
        assert!(why.contains("a link that root has not made"), "{why}");
    }
}
