//! What the machine's servers export: each test has a folder of its own in it, and looks at that where the server has it, past the
//! clients that it tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nasbackup::nas::repository::Repository;

use crate::support::Nas;

/// What CIFS's users say who they are by; the comma belongs to the password.
pub(crate) const ROOT: &str = "vers=3.1.1,username=root,password=\"secret,word\"";

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
