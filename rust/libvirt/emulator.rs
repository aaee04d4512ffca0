//! Which QEMU a domain runs: it may be older than the host's, which was upgraded since, and libvirt tells the version of that
//! one alone.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::connection::connect;
use super::{Domain, at};
use crate::error::{Code, Error, Result};

const STEP: &str = "find out which QEMU the guest runs";
/// Where libvirt keeps the process ids of its domains' QEMUs.
const PIDS: &str = "/run/libvirt/qemu";

#[derive(Deserialize)]
struct Capabilities {
    path: PathBuf,
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
        let process = process(self.name())?;
        let look = |path: &Path| fs::metadata(path).map_err(|e| Error::io(STEP, path, e));
        if is_same(&look(&path)?, &look(&process.join("exe"))?) {
            return Ok(version.into());
        }
        let cause = format!("it is not '{}' as it is now, of which alone libvirt tells the version", path.display());
        Err(Error::new(Code::DomainState, STEP, cause))
    }
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The folder in `/proc` of the QEMU of the domain `name`.
fn process(name: &str) -> Result<PathBuf> {
    // libvirt escapes the name as it does in XML
    let file = Path::new(PIDS).join(format!("{}.pid", quick_xml::escape::escape(name)));
    let text = fs::read_to_string(&file).map_err(|e| Error::io(STEP, &file, e))?;
    let pid: u32 =
        text.trim().parse().map_err(|e| Error::new(Code::Libvirt, STEP, format!("'{}': {e}", file.display())))?;
    Ok(Path::new("/proc").join(pid.to_string()))
}
