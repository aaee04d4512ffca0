//! What the machine's servers export: each test has a folder of its own in it, and looks at that where the server has it, past the
//! clients that it tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nasbackup::nas::repository::Repository;

use crate::support::{Nas, run};

/// What CIFS's users say who they are by; the comma belongs to the password.
pub(crate) const ROOT: &str = "vers=3.1.1,username=root,password=\"secret,word\"";

/// A user whom the server takes for 1000.
pub(crate) const USER: &str = "username=nasuser,password=\"secret,word\"";

/// The export `/nas` at an address of IPv6.
pub(crate) fn at_ipv6() -> Nas {
    let folder = folder(Path::new("/srv/root/nas"));
    served("nfs", format!("[::1]:/nas/{}", name(&folder)), folder, "")
}

/// With a slash at the end.
pub(crate) fn with_slash() -> Nas {
    let folder = folder(Path::new("/srv/root/nas"));
    served("nfs", format!("127.0.0.1:/nas/{}/", name(&folder)), folder, "")
}

/// A folder of that name.
pub(crate) fn named(kind: &str, name: &str) -> Nas {
    let whole = if kind == "nfs" { nfs("nas", "") } else { cifs("nas", ROOT) };
    let folder = whole.root().join(name);
    std::fs::create_dir(&folder).unwrap();
    let export = whole.repository();
    let address = format!("{}/{name}", export.address.unwrap());
    served(kind, address, folder, &export.options.unwrap())
}

/// A mount of the test's own, gone on drop.
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
}

/// What a request names, mounted here as well.
pub(crate) fn mount(nas: &Nas) -> Mounted {
    let (export, path) = (nas.repository(), crate::support::folder("mounted"));
    let (kind, address, options) = (export.kind.unwrap(), export.address.unwrap(), export.options.unwrap());
    let options = if options.is_empty() { "rw" } else { &options };
    run("mount", ["-t", &kind, "-o", options, &address, path.to_str().unwrap()]);
    Mounted { path }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", ["-l", self.path.to_str().unwrap()]);
    }
}

/// A folder of the export `/NAME`, with these options.
pub(crate) fn nfs(export: &str, options: &str) -> Nas {
    let folder = folder(&Path::new("/srv/root").join(export));
    served("nfs", format!("127.0.0.1:/{export}/{}", name(&folder)), folder, options)
}

/// A folder of the share `NAME`.
pub(crate) fn cifs(share: &str, options: &str) -> Nas {
    let folder = folder(Path::new(if share == "nas" { "/srv/xfs/smb" } else { "/srv/ext4/smb" }));
    served("cifs", format!("//127.0.0.1/{share}/{}", name(&folder)), folder, options)
}

fn served(kind: &str, address: String, folder: PathBuf, options: &str) -> Nas {
    let export = Repository { kind: Some(kind.into()), address: Some(address), options: Some(options.into()) };
    Nas::served(folder, export)
}

fn folder(parent: &Path) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    assert!(std::env::var_os("NASBACKUP_VM").is_some(), "these tests run in tests/vm/run");
    let folder = parent.join(format!("{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed)));
    std::fs::create_dir(&folder).unwrap();
    // by push QEMU's user passes it
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

fn name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}
