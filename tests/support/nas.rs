//! Repositories: a folder, a small file system of its own, or one that hangs or is slow at command.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nasbackup::nas::repository::Repository;

use super::{MIB, folder, run, succeeds, until};

/// The file system of a small repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fs {
    Ext4,
    Xfs,
    Btrfs,
}

/// A repository, gone on drop.
pub struct Nas {
    root: PathBuf,
    /// What `root` shows, when it is a view.
    under: Option<Box<Nas>>,
    mounted: bool,
    view: Option<Child>,
    /// How a request names it, when that is no `dir`.
    export: Option<Repository>,
}

impl Nas {
    /// A plain folder.
    pub fn folder() -> Nas {
        Nas { root: folder("nas"), under: None, mounted: false, view: None, export: None }
    }

    /// A server's folder, as the server sees it; requests name what it exports.
    pub fn served(root: PathBuf, export: Repository) -> Nas {
        Nas { export: Some(export), root, under: None, mounted: false, view: None }
    }

    /// A file system of `mib` MiB on a loop device.
    pub fn image(fs: Fs, mib: u64) -> Nas {
        Nas::of(&unmounted_image(fs, mib))
    }

    /// The file system in this file, which is the test's own.
    pub fn of(image: &Path) -> Nas {
        let mut nas = Nas::folder();
        run("mount", ["-o", "loop", image.to_str().unwrap(), nas.path()]);
        nas.mounted = true;
        std::fs::set_permissions(&nas.root, std::fs::Permissions::from_mode(0o711)).unwrap();
        nas
    }

    /// A file system in which no more than `mib` MiB may be written, although it has room for more.
    pub fn with_quota(mib: u64) -> Nas {
        let whole = Nas::image(Fs::Btrfs, 320);
        let root = whole.root.join("limited");
        run("btrfs", ["subvolume", "create", root.to_str().unwrap()]);
        run("btrfs", ["quota", "enable", whole.path()]);
        let nas = Nas { root, under: Some(Box::new(whole)), mounted: false, view: None, export: None };
        std::fs::set_permissions(&nas.root, std::fs::Permissions::from_mode(0o711)).unwrap();
        nas.set_quota(&format!("{mib}M"));
        nas
    }

    /// Changes what may be written: bytes, with `M` MiB, or `none`.
    pub fn set_quota(&self, limit: &str) {
        run("btrfs", ["qgroup", "limit", limit, self.path()]);
    }

    /// The same folder once more, for somebody else.
    pub fn same(&self) -> Nas {
        Nas { root: self.root.clone(), under: None, mounted: false, view: None, export: self.export.clone() }
    }

    /// A folder with a copy of all that is in it.
    pub fn copy(&self) -> Nas {
        let copy = Nas::folder();
        run("cp", ["-a", &format!("{}/.", self.path()), copy.path()]);
        copy
    }

    /// Takes the locks and claims away that lie in the instances' folders, as if nobody had left any.
    pub fn without_claims(&self) {
        for (path, _) in super::listing(&self.root) {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".nasbackup.")) {
                std::fs::remove_file(self.root.join(path)).unwrap();
            }
        }
    }

    /// A view of this repository through FUSE, which can hang.
    pub fn through_fuse(self) -> Nas {
        self.view_with(&[])
    }

    /// A view of this repository through FUSE that takes `mib` MiB a second.
    pub fn slow(self, mib: u64) -> Nas {
        self.view_with(&[&format!("--write-rate={mib}M")])
    }

    /// A view of this repository in which no file changes its owner, as on a NAS that squashes root.
    pub fn without_chown(self) -> Nas {
        self.view_with(&["--chown-deny"])
    }

    /// A view of this repository through FUSE, with these options of `bindfs`.
    pub fn view_with(self, options: &[&str]) -> Nas {
        let mut view = Nas::folder();
        // without it the kernel hands it each page by itself
        let child = Command::new("bindfs")
            .args(["-f", "-o", "big_writes"])
            .args(options)
            .args([&self.root, &view.root])
            .spawn()
            .unwrap();
        view.view = Some(child);
        until("bindfs mounts", || super::leaks::mounted_at(&view.root));
        view.mounted = true;
        view.under = Some(Box::new(self));
        view
    }

    /// The host path of the repository.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self) -> &str {
        self.root.to_str().unwrap()
    }

    /// A file or folder of it, named as in requests and results.
    pub fn at(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// As a request names it.
    pub fn repository(&self) -> Repository {
        let dir = || Repository { kind: Some("dir".into()), address: Some(self.path().into()), options: None };
        self.export.clone().unwrap_or_else(dir)
    }

    /// Remounts it read-only, or read-write again.
    pub fn read_only(&self, read_only: bool) {
        run("mount", ["-o", if read_only { "remount,ro" } else { "remount,rw" }, self.path()]);
    }

    /// Has its ext4 find an error in itself, and do what it is mounted to do then.
    pub fn break_ext4(&self) {
        let device = run("findmnt", ["-n", "-o", "SOURCE", self.path()]);
        let name = device.trim().trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").unwrap();
    }

    /// Leaves no free byte in it, or beneath it where it is a view.
    pub fn fill(&self) {
        let filler = std::fs::File::create(self.filler()).unwrap();
        let zeros = vec![0; MIB as usize];
        let mut piece = zeros.len();
        while piece >= 4096 {
            if std::io::Write::write(&mut &filler, &zeros[..piece]).is_err() {
                piece /= 2;
            }
        }
        let _full = filler.sync_all();
    }

    /// Gives back what `fill` took.
    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.under.as_ref().map_or(&self.root, |under| &under.root).join("filler")
    }

    /// From now on nothing answers.
    pub fn hang(&self) {
        self.signal("-STOP");
    }

    /// It answers again.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    /// It is gone, and what is open on it answers by errors.
    pub fn die(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, signal: &str) {
        let view = self.view.as_ref().expect("only a view through FUSE can hang");
        run("kill", [signal, &view.id().to_string()]);
    }
}

impl Drop for Nas {
    fn drop(&mut self) {
        // A panic during a panic would end the other tests too.
        if let Some(view) = &self.view {
            succeeds("kill", ["-CONT", &view.id().to_string()]);
        }
        let gone = !self.mounted || succeeds("umount", ["-l", self.path()]);
        if let Some(view) = &mut self.view {
            view.kill().and_then(|()| view.wait()).ok();
        }
        assert!(gone || std::thread::panicking(), "'{}' could not be unmounted", self.path());
    }
}

/// A file that holds an empty file system of `mib` MiB whose root QEMU's user can pass.
pub fn unmounted_image(fs: Fs, mib: u64) -> PathBuf {
    let path = folder("image").join("fs");
    std::fs::File::create(&path).unwrap().set_len(mib * MIB).unwrap();
    let text = path.to_str().unwrap();
    match fs {
        Fs::Ext4 => run("mkfs.ext4", ["-q", "-F", "-m", "0", text]),
        Fs::Xfs => run("mkfs.xfs", ["-q", "-m", "reflink=1", text]),
        Fs::Btrfs => run("mkfs.btrfs", ["-q", text]),
    };
    path
}
