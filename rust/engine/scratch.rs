//! A folder on the host's own disk for one pull backup. It holds the blocks that the guest overwrites meanwhile, and QEMU's
//! socket if libvirt has no folder for that. The socket of a stopped guest's export lies in such a folder, too.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

use super::reserve::Reserve;
use super::socket::{Socket, SocketPlace};
use super::{leftover, removal};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::host::{self, RunDir, RunDirs};
use crate::libvirt::{Domain, Emulator};
use crate::limits;
use crate::nas::folder::Folder;
use crate::qcow2;
use crate::work::deadline::{ask, bounded_for_host};
use crate::work::owner::WorkFor;

const STEP: &str = "make the scratch folder";
const SWEEP: &str = "clear the scratch folder";
const LOOK: &str = "look at the scratch folder";
const SYNC: &str = "sync the scratch folder";
/// The folder of a socket, which belongs to its server. All else belongs to root: otherwise QEMU could exchange a file, and
/// libvirt or the library would use what it finds in that place.
const SOCKETS: &str = "qemu";
/// The extension of scratch files.
pub(crate) const FILES: &str = "qcow2";
/// A file that is empty except while room is taken.
const SPARE: &str = "spare";
/// A file that holds the domain's name.
const DOMAIN: &str = "domain";
/// Longer than any domain's name, in bytes.
const LONGEST_NAME: u64 = 4096;

/// The folder of one backup. Its drop removes the folder with all that is in it.
#[derive(Debug)]
pub struct Scratch {
    dir: RunDir,
    bounds: Bounds,
    /// QEMU's user and group; `None`: ours.
    owner: Option<(u32, u32)>,
    /// The room in the scratch files, once there are such.
    reserve: Option<Arc<Reserve>>,
    /// The socket of the guest's QEMU, for a pull.
    socket: Option<Arc<Socket>>,
    /// True once the folder's file system was synced.
    synced: bool,
}

impl Scratch {
    /// Makes the folder below the configured one, for the domain `vm` and `owner`, the user and group of QEMU (`None`: ours).
    pub fn make(config: &Config, vm: &str, owner: Option<(u32, u32)>) -> Result<Scratch> {
        let dirs = make_all(config)?;
        if dirs.all.to_str().is_none() {
            let field = dirs.setting.as_ref().map_or("scratchDir", |setting| setting.0);
            return Err(Error::invalid(field, format!("'{}' is not UTF-8", dirs.all.display())));
        }
        let dir = dirs.make(STEP)?;
        let bounds = Bounds::of(dir.path(), config);
        let scratch = Scratch { dir, bounds, owner, reserve: None, socket: None, synced: false };
        let (mut domain, path) = scratch.create(DOMAIN)?;
        domain.write_all(vm.as_bytes()).map_err(|e| Error::io(STEP, &path, e))?;
        Ok(scratch)
    }

    /// Finds a place for the socket of the guest's QEMU: in the folder that libvirt has made for that QEMU, which AppArmor or
    /// SELinux lets it use, else in a folder of ours.
    pub fn place_socket(&mut self, emulator: &Emulator) -> Result<()> {
        let user = self.owner.map(|(user, _)| user);
        let place = SocketPlace::of_libvirt(&emulator.folder, user).or_else(|error| {
            log::warn!("unable to use libvirt's folder for the export's socket, taking the scratch folder: {error}");
            self.make_own_place()
        })?;
        self.socket = Some(Arc::new(place.served_by(emulator.process)));
        Ok(())
    }

    /// Makes a folder in the scratch that only the owner may use, as the place of a socket.
    pub fn make_own_place(&self) -> Result<SocketPlace> {
        let sockets = self.folder().join(SOCKETS);
        let io = |e| Error::io(STEP, &sockets, e);
        DirBuilder::new().mode(0o700).create(&sockets).map_err(io)?;
        if let Some((user, group)) = self.owner {
            chown(&sockets, Some(user), Some(group)).map_err(io)?;
        }
        SocketPlace::of_ours(&sockets, self.owner.map(|(user, _)| user))
    }

    /// Makes the scratch files of disks, given by name and bytes, and takes room for what the guest overwrites first. Otherwise
    /// libvirt would have QEMU make each in a job of its own while the guest is frozen.
    pub fn make_files<'a>(&mut self, disks: impl IntoIterator<Item = (&'a str, u64)>) -> Result<()> {
        let (spare, path) = self.make_file(SPARE)?;
        let reserve = Reserve::new(self.owner, spare, path);
        for (target, bytes) in disks {
            let (file, path) = self.make_file(&format!("{target}.{FILES}"))?;
            qcow2::create(&file, bytes, None).map_err(|e| e.at(STEP, &path))?;
            reserve.add(target, path, file);
        }
        let bounds = self.bounds();
        let look = || reserve.take_due_room(Instant::now(), || bounds.allowed());
        match look() {
            Err(error) if error.code == Code::NoSpace => self.sync_file_system().and_then(|()| look())?,
            taken => taken?,
        }
        self.reserve = Some(Arc::new(reserve));
        Ok(())
    }

    /// Makes an empty file that belongs to QEMU's user.
    fn make_file(&self, name: &str) -> Result<(File, PathBuf)> {
        let (file, path) = self.create(name)?;
        if let Some((user, group)) = self.owner {
            fchown(&file, Some(user), Some(group)).map_err(|e| Error::io(STEP, &path, e))?;
        }
        Ok((file, path))
    }

    /// Makes an empty file that belongs to root.
    fn create(&self, name: &str) -> Result<(File, PathBuf)> {
        let path = self.folder().join(name);
        let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|e| Error::io(STEP, &path, e)).map(|file| (file, path))
    }

    /// The room in the scratch files.
    pub(super) fn reserve(&self) -> Result<Arc<Reserve>> {
        self.reserve.clone().ok_or_else(|| Error::new(Code::Internal, STEP, "it was made without files"))
    }

    /// What the scratch may take.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds.clone()
    }

    /// Syncs the file system, the first time that this is called: some free what was removed only when they write their tables.
    pub(super) fn sync_file_system(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.synced, true) {
            return Ok(());
        }
        let path = self.folder().to_owned();
        let folder = self.dir.folder().try_clone().map_err(|e| Error::io(SYNC, &path, e))?;
        bounded_for_host(SYNC, limits::STORAGE_STEP, move || {
            rustix::fs::syncfs(&folder).map_err(|e| Error::io(SYNC, &path, e))
        })
    }

    /// The folder's path.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The socket of the guest's QEMU.
    pub fn socket(&self) -> Result<Arc<Socket>> {
        self.socket.clone().ok_or_else(|| Error::new(Code::Internal, STEP, "it was made without a socket"))
    }

    /// The path of the scratch file of the disk `target`.
    pub fn file(&self, target: &str) -> String {
        self.path(&format!("{target}.{FILES}"))
    }

    /// The path of the file `name` in the folder.
    pub fn path(&self, name: &str) -> String {
        self.folder().join(name).into_os_string().into_string().expect("checked when it was made")
    }

    /// Bytes that the guest has overwritten.
    pub fn used(&self) -> u64 {
        ScratchUse::of_folder(self.folder()).used
    }

    /// The bytes for which there is room: that are free or allocated ahead, and allowed. An error on a read-only file system.
    pub fn room(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(self.folder());
        let found = found.map_err(|e| Error::io(LOOK, self.folder(), e))?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::io(LOOK, self.folder(), Errno::ROFS));
        }
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(self.bounds.left().min(free.saturating_add(ScratchUse::of_folder(self.folder()).ahead)))
    }
}

/// How much a backup, or a boot test, may keep in its scratch folder.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    folder: PathBuf,
    /// The bytes that this one may take, and that all of this host may.
    limits: [Option<u64>; 2],
}

impl Bounds {
    /// Those of this folder.
    pub(crate) fn of(folder: &Path, config: &Config) -> Bounds {
        Bounds { folder: folder.to_owned(), limits: [config.scratch_per_vm, config.scratch_per_host] }
    }

    /// The bytes that the guest may still overwrite.
    fn left(&self) -> u64 {
        self.least(ScratchUse::of_folder(&self.folder).used, || self.by_all().used)
    }

    /// The bytes of room that may be taken beyond the ends of this backup's files. Other backups keep the room that they took.
    pub(crate) fn allowed(&self) -> u64 {
        let own = ScratchUse::of_folder(&self.folder);
        let by_all = || {
            let all = self.by_all();
            (all.used + all.ahead).saturating_sub(own.ahead)
        };
        self.least(own.used, by_all)
    }

    fn least(&self, of_vm: u64, of_host: impl Fn() -> u64) -> u64 {
        let [vm, host] = self.limits;
        let vm = vm.map_or(u64::MAX, |limit| limit.saturating_sub(of_vm));
        vm.min(host.map_or(u64::MAX, |limit| limit.saturating_sub(of_host())))
    }

    /// What the folders of all backups of this host take.
    fn by_all(&self) -> ScratchUse {
        let folders = self.folder.parent().and_then(|all| fs::read_dir(all).ok()).into_iter().flatten();
        folders
            .flatten()
            .map(|folder| ScratchUse::of_folder(&folder.path()))
            .fold(ScratchUse::default(), ScratchUse::and)
    }
}

/// Bytes that scratch files take.
#[derive(Debug, Clone, Copy, Default)]
struct ScratchUse {
    /// Up to the files' ends, where QEMU has written.
    used: u64,
    /// Beyond the files' ends.
    ahead: u64,
}

impl ScratchUse {
    /// The use by the scratch files of a folder. A file that is removed meanwhile counts as nothing.
    fn of_folder(folder: &Path) -> ScratchUse {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
        let scratch = files.filter(|path| path.extension().is_some_and(|extension| extension == FILES));
        let taken = |file: Metadata| {
            let blocks = file.blocks() * 512;
            ScratchUse { used: blocks.min(file.len()), ahead: blocks.saturating_sub(file.len()) }
        };
        scratch.filter_map(|path| path.metadata().ok()).map(taken).fold(ScratchUse::default(), ScratchUse::and)
    }

    fn and(self, other: ScratchUse) -> ScratchUse {
        ScratchUse { used: self.used + other.used, ahead: self.ahead + other.ahead }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.socket = None;
        if let Err(error) = removal::remove(self.folder(), self.dir.folder()) {
            log::error!("unable to remove the scratch folder '{}': {error}", self.folder().display());
        }
    }
}

/// Where the folders of all backups of this host lie.
pub fn all(config: &Config) -> RunDirs {
    let setting = if config.scratch_dir.is_some() { "scratchDir" } else { "stateDir" };
    let all = config.scratch_dir.clone().unwrap_or_else(|| config.state_dir.join("scratch"));
    RunDirs { setting: Some((setting, all.clone())), all, prefix: "", mode: 0o711 }
}

/// Makes the folder of all backups, through which QEMU's user can pass.
pub fn make_all(config: &Config) -> Result<RunDirs> {
    let dirs = all(config);
    dirs.check()?;
    let make = || -> std::io::Result<()> {
        let is_new = !dirs.all.exists();
        DirBuilder::new().recursive(true).mode(0o711).create(&dirs.all)?;
        if is_new {
            // whatever the umask
            fs::set_permissions(&dirs.all, Permissions::from_mode(0o711))?;
        }
        if config.scratch_dir.is_none() {
            for path in [&config.state_dir, &dirs.all] {
                let mode = fs::metadata(path)?.permissions().mode();
                fs::set_permissions(path, Permissions::from_mode(mode | 0o011))?;
            }
        }
        Ok(())
    };
    make().map_err(|e| Error::io(STEP, &dirs.all, e))?;
    Ok(dirs)
}

/// Removes the folders that no backup holds any more, of the domain `vm` or of all, and ends the jobs that still use them:
/// nobody reads their exports any more, and the guest would fill the scratch and then wait. Failures are logged; the next sweep
/// tries again. A backup sweeps for its own guest only, because another guest's QEMU may never end its job.
pub fn sweep(config: &Config, vm: Option<&str>) {
    let is_meant = |path: &Path| vm.is_none_or(|vm| matches!(domain_of_path(path), Ok(Some(of)) if of == vm));
    all(config).sweep(is_meant, |left| {
        end_job(config, left.path(), left.folder())?;
        removal::remove(left.path(), left.folder()).map(|()| true)
    });
}

/// Ends the job that was begun with this folder, if it still runs, and resumes a guest that waits for the scratch.
fn end_job(config: &Config, path: &Path, folder: &File) -> Result<()> {
    let (uri, state) = (config.connection_uri.clone(), config.state_dir.clone());
    let held = folder.try_clone().map_err(|e| Error::io(SWEEP, path, e))?;
    let Some(vm) = domain_of(&Folder { fd: held.into(), path: path.to_owned() })? else { return Ok(()) };
    let path = path.to_owned();
    let _for = WorkFor::guest(&vm);
    ask(SWEEP, limits::LIBVIRT_CALL, move || {
        // the job belongs to the backup that this host has on record: a record stays as long as its job runs
        let may_resume = host::begun(&state).iter().any(|begun| begun.vm == vm && begun.may_resume);
        let Some(domain) = Domain::find(&uri, &vm)? else { return Ok(()) };
        if leftover::end_job(&domain, &path)? {
            leftover::resume(&domain, may_resume);
        }
        Ok(())
    })
}

/// The domain that the folder at this path was made for.
fn domain_of_path(path: &Path) -> Result<Option<String>> {
    domain_of(&Folder::open_root(path)?)
}

/// The domain that the folder was made for; `None` if no job can have begun with it.
fn domain_of(folder: &Folder) -> Result<Option<String>> {
    let mut vm = String::new();
    let read = match folder.open_file_in(DOMAIN) {
        Err(error) if error.code == Code::NotFound => return Ok(None),
        file => file?.take(LONGEST_NAME).read_to_string(&mut vm),
    };
    read.map_err(|e| Error::io(SWEEP, folder.path.join(DOMAIN), e))?;
    Ok(Some(vm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::deadline::bounded;
    use rustix::fs::{CWD, FileType, Mode};
    use std::time::Duration;

    fn config(folder: &Path) -> Config {
        Config { state_dir: folder.join("state"), ..Default::default() }
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn only_the_files_and_the_socket_s_folder_are_qemu_s_and_all_goes() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        DirBuilder::new().mode(0o700).create(&config.state_dir).unwrap();
        let mut scratch = Scratch::make(&config, "i-1-VM", Some((64055, 64056))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let root = config.state_dir.join("scratch");
        assert_eq!((mode(&config.state_dir), mode(&root), mode(scratch.folder())), (0o711, 0o711, 0o711));
        let owner = |path: &Path| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        let place = scratch.make_own_place().unwrap();
        let sockets = scratch.folder().join(SOCKETS);
        assert_eq!(Path::new(place.path()).parent().unwrap(), sockets);
        assert_eq!((mode(&sockets), owner(&sockets)), (0o700, (64055, 64056)));
        let domain = scratch.folder().join(DOMAIN);
        assert_eq!((mode(&domain), owner(scratch.folder()), owner(&domain)), (0o600, (0, 0), (0, 0)));
        scratch.make_files([("vdb", 1 << 20)]).unwrap();
        let file = Path::new(&scratch.file("vdb")).to_owned();
        assert_eq!((mode(&file), owner(&file)), (0o600, (64055, 64056)));
        let (used, taken) = (scratch.used(), fs::metadata(&file).unwrap());
        assert_eq!(used, taken.len(), "what is taken ahead is not used");
        assert!(taken.blocks() * 512 >= used + (60 << 20), "{taken:?}");
        fs::write(scratch.file("vda"), "x").unwrap();
        drop(scratch);
        assert_eq!(names(&root), 0);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_socket_lies_in_libvirt_s_folder_for_its_qemu_if_that_is_there_and_qemu_s() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let given = dir.path().join("domain-1-a");
        fs::create_dir(&given).unwrap();
        let place = |owner: u32| {
            chown(&given, Some(owner), None).unwrap();
            let mut scratch = Scratch::make(&config, "a", Some((64055, 64056))).unwrap();
            scratch.place_socket(&Emulator { process: 7, folder: given.clone() }).unwrap();
            let path = Path::new(scratch.socket().unwrap().path()).to_owned();
            (path.starts_with(&given), path.starts_with(scratch.folder()))
        };
        assert_eq!((place(64055), place(0)), ((true, false), (true, false)));
        assert_eq!(place(65534), (false, true));
        fs::remove_dir(&given).unwrap();
        std::os::unix::fs::symlink(dir.path(), &given).unwrap();
        assert_eq!(place(0), (false, true));
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_sweep_removes_leftovers_and_keeps_what_is_used_or_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let root = config.state_dir.join("scratch");
        let used = Scratch::make(&config, "i-1-VM", None).unwrap();
        for left in ["1-1", "1-0123456789abcdef0123456789abcdef"] {
            fs::create_dir(root.join(left)).unwrap();
            fs::write(root.join(left).join("vda.qcow2"), "x").unwrap();
        }
        fs::write(root.join("1-1").join(DOMAIN), "i-2-VM").unwrap();
        fs::create_dir(root.join("other")).unwrap();
        for (vm, left) in [(Some("i-1-VM"), 4), (Some("i-2-VM"), 3), (None, 2)] {
            sweep(&config, vm);
            assert_eq!(names(&root), left, "{vm:?}");
        }
        let second = Scratch::make(&config, "i-1-VM", None).unwrap();
        assert!(used.folder().exists() && second.folder().exists() && root.join("other").exists());
        assert_eq!(names(&root), 3);
    }

    #[test]
    fn room_is_what_is_free_and_allowed() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let config = |of_vm, of_host| {
            let [of_vm, of_host] = [of_vm, of_host].map(|mib: u64| Some(mib * MIB).filter(|limit| *limit > 0));
            Config { scratch_per_vm: of_vm, scratch_per_host: of_host, ..config(dir.path()) }
        };
        let other = Scratch::make(&config(0, 0), "i-1-VM", None).unwrap();
        fs::write(other.file("vda"), vec![1; 3 << 20]).unwrap();
        for (of_vm, of_host, room) in [(100, 0, 98), (0, 100, 95), (100, 97, 92), (96, 100, 94), (1, 0, 0), (0, 4, 0)] {
            let scratch = Scratch::make(&config(of_vm, of_host), "i-2-VM", None).unwrap();
            fs::write(scratch.file("vda"), vec![1; 2 << 20]).unwrap();
            assert!(scratch.used() >= 2 * MIB);
            // a file system takes a little for itself
            let found = scratch.room().unwrap();
            assert!((room * MIB).saturating_sub(MIB / 2) <= found && found <= room * MIB, "{found} of {room} MiB");
        }
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { scratch_dir: Some(dir.path().join("x".repeat(100))), ..config(dir.path()) };
        let scratch = Scratch::make(&config, "i-1-VM", None).unwrap();
        assert_eq!(scratch.make_own_place().unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_no_scratch() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        for scratch in [open.clone(), open.join("scratch")] {
            let config = Config { scratch_dir: Some(scratch), ..config(dir.path()) };
            for error in [config.check_folders().unwrap_err(), Scratch::make(&config, "i-1-VM", None).unwrap_err()] {
                assert_eq!(error.code, Code::InvalidArgument, "{error}");
                assert!(error.cause.contains(&format!("'{}' has mode 0777", open.display())), "{error}");
            }
            assert_eq!(names(&open), 0);
        }
    }

    #[test]
    fn a_fifo_in_place_of_the_domain_s_name_does_not_block_a_sweep() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let left = all(&config).all.join("1-1");
        fs::create_dir_all(&left).unwrap();
        rustix::fs::mknodat(CWD, left.join(DOMAIN), FileType::Fifo, Mode::RWXU, 0).unwrap();
        bounded("sweep", Duration::from_secs(10), move || {
            sweep(&config, None);
            Ok(())
        })
        .unwrap();
        assert!(left.exists(), "a job may use it");
    }
}
