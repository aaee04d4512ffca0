//! Which QEMU a domain runs, by libvirt's own record of it: the process, the folder that is its alone, and the version, which
//! may be older than the host's, which was upgraded since.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::connection::connect;
use super::{Domain, at};
use crate::error::{Code, Error, Result};

const STEP: &str = "find out which QEMU the guest runs";
/// Where libvirt keeps what it knows of its running domains. The files that end with `.pid` are of no use: QEMU holds its own
/// one open for writing.
const RECORDS: &str = "/run/libvirt/qemu";
/// Longer than any record.
const LONGEST: u64 = 16 << 20;

/// The QEMU of a domain that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// The process.
    pub process: u32,
    /// The folder that libvirt has made for it, and labels for it where QEMU is confined.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
struct Capabilities {
    path: PathBuf,
}

/// libvirt's record of a running domain, as far as it is of interest.
#[derive(Deserialize)]
struct KnownEmulator {
    #[serde(rename = "@pid")]
    process: u32,
    #[serde(rename = "libDir")]
    folder: FolderElement,
    domain: EmulatorElement,
}

#[derive(Deserialize)]
struct FolderElement {
    #[serde(rename = "@path")]
    path: PathBuf,
}

#[derive(Deserialize)]
struct EmulatorElement {
    uuid: String,
}

impl Domain {
    /// The version of the QEMU that the domain runs, 9.0.0 as 9,000,000. An error when that can't be known, as when the
    /// host's was upgraded since the guest's start, or the domain has an emulator of its own.
    pub fn qemu_version(&self) -> Result<u64> {
        let connection = connect(self.uri())?;
        let version = connection.hyp_version().map_err(at(STEP))?;
        let capabilities = connection.domain_capabilities(None, None, None, None, 0).map_err(at(STEP))?;
        let Capabilities { path } =
            quick_xml::de::from_str(&capabilities).map_err(|e| Error::new(Code::Libvirt, STEP, e))?;
        let process = Path::new("/proc").join(self.emulator()?.process.to_string());
        let look = |path: &Path| fs::metadata(path).map_err(|e| Error::io(STEP, path, e));
        if is_same(&look(&path)?, &look(&process.join("exe"))?) {
            return Ok(version.into());
        }
        let cause = format!("it is not '{}' as it is now, of which alone libvirt tells the version", path.display());
        Err(Error::new(Code::DomainState, STEP, cause))
    }

    /// Its QEMU. An error when libvirt's record is not where it is expected, as a user's own libvirt keeps it elsewhere.
    pub fn emulator(&self) -> Result<Emulator> {
        let path = Path::new(RECORDS).join(format!("{}.xml", self.name()));
        let text = read(&path)?;
        understand(&text, self.uuid())
            .map_err(|cause| Error::new(Code::Libvirt, STEP, format!("'{}': {cause}", path.display())))
    }
}

impl Emulator {
    /// User and group that it runs as.
    pub fn owner(&self) -> Result<(u32, u32)> {
        let path = Path::new("/proc").join(self.process.to_string()).join("status");
        let text = fs::read_to_string(&path).map_err(|e| Error::io(STEP, &path, e))?;
        owner(&text).ok_or_else(|| Error::new(Code::Libvirt, STEP, format!("'{}' names no user", path.display())))
    }
}

/// The user and group whose rights a process has, by its `/proc/PID/status`.
fn owner(status: &str) -> Option<(u32, u32)> {
    let effective =
        |name| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().nth(1)?.parse().ok();
    Some((effective("Uid:")?, effective("Gid:")?))
}

/// The record's text, of a file that nobody but root can have written. It may hold secrets.
fn read(path: &Path) -> Result<String> {
    let io = |e| Error::io(STEP, path, e);
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        let cause = format!("'{}' is not a file that root alone writes", path.display());
        return Err(Error::new(Code::Libvirt, STEP, cause));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

/// What the record says of the domain `uuid`.
fn understand(text: &str, uuid: &str) -> Result<Emulator, String> {
    let record: KnownEmulator = quick_xml::de::from_str(text).map_err(|e| e.to_string())?;
    if record.domain.uuid != uuid {
        return Err(format!("it is of the domain {}, and not of {uuid}", record.domain.uuid));
    }
    if record.process == 0 || !record.folder.path.is_absolute() {
        return Err("it names no process, or no folder".to_owned());
    }
    Ok(Emulator { process: record.process, folder: record.folder.path })
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn the_record_tells_process_and_folder_of_the_domain_that_is_meant() {
        let record = |process: &str, folder: &str, uuid: &str| {
            format!(
                "<!-- generated -->\n<domstatus state='running' reason='booted' pid='{process}'>\n<monitor path='/x' \
                 type='unix'/><vcpus><vcpu id='0' pid='74'/></vcpus><libDir path='{folder}'/>\n<domain type='kvm' \
                 id='1'><name>a</name><uuid>{uuid}</uuid><devices><graphics passwd='s'/></devices></domain></domstatus>"
            )
        };
        let found = understand(&record("68", "/l/domain-1-a&amp;b", "u"), "u").unwrap();
        assert_eq!(found, Emulator { process: 68, folder: "/l/domain-1-a&b".into() });
        for bad in [record("68", "/l/d", "other"), record("0", "/l/d", "u"), record("68", "", "u"), "<a/>".to_owned()] {
            understand(&bad, "u").unwrap_err();
        }
    }

    #[test]
    fn a_process_is_whose_rights_it_has() {
        let status = "Name:\tqemu\nUid:\t0\t64055\t0\t0\nGid:\t0\t108\t0\t0\nGroups:\t108\n";
        assert_eq!(owner(status), Some((64055, 108)));
        assert_eq!(owner("Name:\tqemu\nUid:\t0\n"), None);
        let own = Emulator { process: std::process::id(), folder: "/".into() }.owner().unwrap();
        assert_eq!(own, (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_record_that_another_user_could_have_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.xml");
        fs::write(&path, "x").unwrap();
        assert_eq!(read(&path).unwrap(), "x");
        symlink(&path, dir.path().join("link")).unwrap();
        read(&dir.path().join("link")).unwrap_err();
        fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        read(&path).unwrap_err();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(65534), None).unwrap();
        read(&path).unwrap_err();
        read(dir.path()).unwrap_err();
    }
}
