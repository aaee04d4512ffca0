//! What QEMU and libvirt see of a repository while QEMU writes there itself: a second mount of the folder of one unfinished
//! point. QEMU opens its targets by path: in this mount the kernel follows no link that somebody puts on the NAS, and only root
//! and QEMU's group can reach it, whatever rights the NAS's files have.

use std::os::fd::AsFd;
use std::path::PathBuf;

use log::Level;

use super::folder::Folder;
use super::mount_folder::{self, MountFolder};
use super::tree::Tree;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lacking;

const STEP: &str = "show the targets to QEMU";

/// The second mount's folder. Its drop unmounts the second mount and removes the folder.
#[derive(Debug)]
pub struct TargetView {
    folder: MountFolder,
}

/// How QEMU sees the targets.
#[derive(Debug, PartialEq, Eq)]
pub struct ShownTargets {
    /// True if QEMU uses the second mount; false if that can't be made, and QEMU uses the folder's own path.
    pub at_its_place: bool,
    /// Why QEMU follows links there, if it does.
    pub lack: Option<String>,
}

impl TargetView {
    /// Makes the second mount's folder, without mounting yet.
    pub fn prepare(config: &Config) -> Result<TargetView> {
        mount_folder::sweep(config);
        Ok(TargetView { folder: MountFolder::make(&config.mount_dir)? })
    }

    /// The path at which QEMU sees the folder.
    pub fn path(&self) -> PathBuf {
        self.folder.point()
    }

    /// Shows `folder` to QEMU, which runs as `owner` (`None`: unknown).
    pub fn show(&self, folder: &Folder, owner: Option<(u32, u32)>) -> Result<ShownTargets> {
        let mounted = Tree::of(folder.fd.as_fd()).and_then(|tree| {
            tree.confine()?;
            let follows_none = tree.follow_no_links()?;
            tree.attach(&self.path()).map(|()| follows_none)
        });
        let lack = |why: String| {
            format!("{why}: QEMU follows a link that somebody on the NAS puts in the place of what it writes")
        };
        match mounted {
            Err(error) if lacking::is_unsettable(error) => {
                let instead = "QEMU takes its own path, and follows links that somebody puts there";
                lacking::tell(Level::Warn, folder, "a second mount", error, instead);
                let lack = lack(format!("the unfinished point can't be mounted by itself ({error})"));
                Ok(ShownTargets { at_its_place: false, lack: Some(lack) })
            }
            mounted => {
                let follows_none = mounted.map_err(|e| Error::io(STEP, &folder.path, e))?;
                self.folder.let_qemu_pass(owner).map_err(|e| Error::io(STEP, self.path(), e))?;
                let lack = (!follows_none).then(|| lack("the kernel lacks nosymfollow".to_owned()));
                Ok(ShownTargets { at_its_place: true, lack })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FILE_MODE;
    use crate::config::FOLDER_MODE;
    use crate::user::with_rights_of;
    use rustix::io::Errno;
    use rustix::thread::CapabilitySet;
    use std::fs::{self, File, Permissions};
    use std::io;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const QEMU: (u32, u32) = (65533, 65533);

    fn opened(path: PathBuf, who: (u32, u32)) -> Result<(), Errno> {
        let open = || File::options().write(true).open(path).map(drop);
        let opened: io::Result<()> = with_rights_of(who, "open it", open).unwrap().unwrap();
        opened.map_err(|error| Errno::from_io_error(&error).unwrap())
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn only_qemu_reaches_the_second_mount_and_no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let (nas, victim) = (dir.path().join("nas"), dir.path().join("victim"));
        fs::create_dir(&nas).unwrap();
        // nobody gets to the NAS by its own path
        fs::set_permissions(&nas, Permissions::from_mode(0o700)).unwrap();
        let folder = Folder::open_root(&nas).unwrap().make_dir("partial", FOLDER_MODE).unwrap();
        for (name, mode) in [("target", 0o666), ("exchanged", 0o666)] {
            folder.create_file(name, FILE_MODE).unwrap();
            fs::set_permissions(folder.path.join(name), Permissions::from_mode(mode)).unwrap();
        }
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o666)).unwrap();
        fs::remove_file(folder.path.join("exchanged")).unwrap();
        symlink(&victim, folder.path.join("exchanged")).unwrap();

        let config =
            Config { mount_dir: dir.path().join("mounts"), state_dir: dir.path().join("s"), ..Config::default() };
        for (owner, others) in [(Some(QEMU), Err(Errno::ACCESS)), (Some((0, 0)), Err(Errno::ACCESS)), (None, Ok(()))] {
            let view = TargetView::prepare(&config).unwrap();
            let at = |name: &str| view.path().join(name);
            assert_eq!(view.show(&folder, owner).unwrap(), ShownTargets { at_its_place: true, lack: None });
            let who = owner.unwrap_or(QEMU);
            assert_eq!(opened(at("target"), who), Ok(()), "{owner:?}");
            assert_eq!(opened(at("exchanged"), who), Err(Errno::LOOP), "{owner:?}");
            assert_eq!(opened(at("exchanged"), (0, 0)), Err(Errno::LOOP), "{owner:?}");
            assert_eq!(opened(at("target"), (65534, 65534)), others, "{owner:?}");
            // neither is held up by the other, nor is anything left
            fs::rename(nas.join("partial"), nas.join("published")).unwrap();
            assert_eq!(opened(at("target"), who), Ok(()), "{owner:?}");
            let left = view.path();
            drop(view);
            assert!(!left.parent().unwrap().exists());
            fs::rename(nas.join("published"), nas.join("partial")).unwrap();
        }
        assert_eq!(fs::read_dir(&config.mount_dir).unwrap().count(), 0);
    }

    #[test]
    fn without_a_second_mount_the_lack_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { mount_dir: dir.path().join("m"), state_dir: dir.path().join("s"), ..Config::default() };
        let folder = Folder::open_root(dir.path()).unwrap().make_dir("partial", FOLDER_MODE).unwrap();
        let view = TargetView::prepare(&config).unwrap();
        let shown = std::thread::scope(|scope| {
            let without = || {
                let mut rights = rustix::thread::capabilities(None).unwrap();
                rights.effective.remove(CapabilitySet::SYS_ADMIN);
                rustix::thread::set_capabilities(None, rights).unwrap();
                view.show(&folder, Some(QEMU)).unwrap()
            };
            scope.spawn(without).join().unwrap()
        });
        let lack = shown.lack.unwrap();
        assert!(!shown.at_its_place && lack.contains("can't be mounted by itself (Operation not permitted"), "{lack}");
    }

    #[test]
    fn a_second_mount_that_qemu_still_uses_after_its_agent_died_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { mount_dir: dir.path().join("m"), state_dir: dir.path().join("s"), ..Config::default() };
        let begun = |view| crate::host::Begun {
            vm: "i-1-VM".into(),
            job: "j".into(),
            root: "/nas".into(),
            point: "i-1-VM/T".into(),
            bitmap: None,
            may_resume: true,
            disks: Vec::new(),
            view: Some(view),
        };
        let mut host = crate::host::HostState::lock(&config.state_dir, "i-1-VM").unwrap();
        let left = config.mount_dir.join("nas-1-0/mount");
        fs::create_dir_all(&left).unwrap();
        host.begin(begun(left.clone())).unwrap();
        drop(TargetView::prepare(&config).unwrap());
        assert!(left.exists());
        host.end();
        drop(TargetView::prepare(&config).unwrap());
        assert!(!left.exists());
    }
}
