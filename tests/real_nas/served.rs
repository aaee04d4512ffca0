//! What the machine's servers export: each test has a folder of its own in it, and looks at that where the server has it, past the
//! clients that it tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nasbackup::nas::repository::Repository;

use crate::support::{Nas, run};

/// What CIFS's users say who they are by; the comma belongs to the password.
pub(crate) const ROOT: &str = "vers=3.1.1,username=root,password=\"secret,word\"";

/// A user whom the server takes for 1000.
pub(crate) const USER: &str = "username=nasuser,password=\"secret,word\"";

/// The export `/nas` at an address of IPv6.
pub(crate) fn at_ipv6() -> Nas {
    use_server();
    let folder = folder(Path::new("/srv/root/nas"));
    served("nfs", format!("[::1]:/nas/{}", name(&folder)), folder, "")
}

/// With a slash at the end.
pub(crate) fn with_slash() -> Nas {
    use_server();
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

/// What a client sends of itself, whatever an operation asks: a lease that is kept, and what the server has asked back.
const BACKGROUND: [&str; 5] = ["SEQUENCE", "RENEW", "DELEGRETURN", "TEST_STATEID", "LAYOUTRETURN"];

/// The requests of a mount so far, by the client's own count: by kind, and how many were sent again.
#[derive(Default)]
pub(crate) struct Counts {
    kinds: BTreeMap<String, u64>,
    again: u64,
}

/// What was asked between two moments.
#[derive(Debug)]
#[allow(dead_code, reason = "tests only show some of it, and the benchmark prints all")]
pub(crate) struct Asked {
    pub(crate) asked: BTreeMap<String, u64>,
    pub(crate) background: BTreeMap<String, u64>,
    pub(crate) again: u64,
}

impl Counts {
    /// Of the NFS mount of this address.
    pub(crate) fn of(address: &str) -> Counts {
        let text = std::fs::read_to_string("/proc/self/mountstats").unwrap();
        let mut mounts = text.split("device ");
        let mount = mounts.find(|mount| mount.starts_with(&format!("{address} mounted on "))).expect("it is mounted");
        let mut counts = Counts::default();
        for line in mount.split("per-op statistics").nth(1).unwrap().lines() {
            let Some((kind, numbers)) = line.trim().split_once(": ") else { continue };
            let mut numbers = numbers.split(' ').map(|number| number.parse::<u64>().unwrap());
            // operations, transmissions, ...
            let (asked, sent) = (numbers.next().unwrap(), numbers.next().unwrap());
            counts.kinds.insert(kind.to_owned(), asked);
            counts.again += sent.saturating_sub(asked);
        }
        counts
    }

    /// What came on top of `before`.
    pub(crate) fn since(self, before: &Counts) -> Asked {
        let more = |(kind, count): (String, u64)| {
            let more = count - before.kinds.get(&kind).unwrap_or(&0);
            (kind, more)
        };
        let kinds = self.kinds.into_iter().map(more).filter(|(_, count)| *count > 0);
        let (background, asked) = kinds.partition(|(kind, _)| BACKGROUND.contains(&kind.as_str()));
        Asked { asked, background, again: self.again - before.again }
    }
}

/// Held by each test that uses the NFS server, and alone by one that stops it.
static SERVER: RwLock<()> = RwLock::new(());

/// What this test has to do with the server.
enum Uses {
    /// Only held.
    Together(#[allow(dead_code)] RwLockReadGuard<'static, ()>),
    Alone,
}

thread_local! {
    static USES: RefCell<Option<Uses>> = const { RefCell::new(None) };
}

/// As long as this thread's test runs, nobody stops the server.
pub(crate) fn use_server() {
    let together = || Uses::Together(SERVER.read().unwrap_or_else(PoisonError::into_inner));
    USES.with_borrow_mut(|uses| _ = uses.get_or_insert_with(together));
}

/// Nobody else uses the server as long as this lives.
pub(crate) struct Alone(#[allow(dead_code)] RwLockWriteGuard<'static, ()>);

impl Alone {
    pub(crate) fn now() -> Alone {
        // of another test in this thread
        USES.set(None);
        let alone = Alone(SERVER.write().unwrap_or_else(PoisonError::into_inner));
        USES.set(Some(Uses::Alone));
        alone
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        USES.set(None);
    }
}

/// A file of the NFS server's own, which the lab's `/proc` is without.
pub(crate) fn own(name: &str) -> PathBuf {
    static MOUNTED: Once = Once::new();
    MOUNTED.call_once(|| _ = run("mount", ["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]));
    Path::new("/proc/fs/nfsd").join(name)
}

/// The NFS server, stopped until this is dropped. Who starts it again is there before: the test may find that it can't start any
/// process meanwhile.
pub(crate) struct Stopped(Child);

impl Stopped {
    /// Whoever it is told by is alone.
    pub(crate) fn now(_: &Alone) -> Stopped {
        let threads = own("threads");
        let again = "read line; exec rpc.nfsd --grace-time 10 --lease-time 10 8";
        let waiting = Command::new("sh").args(["-c", again]).stdin(Stdio::piped()).spawn().unwrap();
        std::fs::write(threads, "0").unwrap();
        Stopped(waiting)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let told = self.0.stdin.take().unwrap().write_all(b"\n");
        let ended = self.0.wait();
        assert!(std::thread::panicking() || (told.is_ok() && ended.unwrap().success()));
    }
}

/// A folder of the export `/NAME`, with these options.
pub(crate) fn nfs(export: &str, options: &str) -> Nas {
    use_server();
    let folder = folder(&Path::new("/srv/root").join(export));
    served("nfs", format!("127.0.0.1:/{export}/{}", name(&folder)), folder, options)
}

/// A folder of the share `NAME`.
pub(crate) fn cifs(share: &str, options: &str) -> Nas {
    use_server();
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
