//! Processes that reach no more of the host than they are given: tools that read what a guest has written may be taken over
//! by it.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, Rlimit, pivot_root, setrlimit, umask};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags, remove_capability_from_bounding_set,
    set_capabilities, set_capabilities_secure_bits, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid, unshare_unsafe,
};

/// The new root's place while it is made: a folder that each host has, and of which nothing is wanted in there.
const ROOT: &CStr = c"/proc";
/// What programs and their libraries consist of.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
const LOADER_CACHE: &CStr = c"/etc/ld.so.cache";
/// What nothing needs that is read here.
const READ_ONLY: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

/// What a process is, and may reach.
#[derive(Debug)]
pub struct Confinement {
    /// Its user and group; it has no other groups, no capabilities, and gets no new privileges.
    pub owner: (u32, u32),
    /// Bounds on what it takes. None on the number of processes: the kernel counts all of the user's.
    pub limits: Vec<(Resource, u64)>,
    /// A root folder of its own, and no network; else it has the host's.
    pub root: Option<Root>,
}

/// A root folder with the system's programs and libraries, to be read, `/dev/null`, and with some files, which are the only ones
/// that can be written.
#[derive(Debug)]
pub struct Root {
    /// What is mounted, and where.
    files: Vec<(OwnedFd, CString)>,
    /// The folders that these lie in.
    folders: Vec<CString>,
    /// The files are not written, either.
    is_read_only: bool,
    system: Vec<Entry>,
}

#[derive(Debug)]
enum Entry {
    /// The host has a link there.
    Link {
        to: CString,
        at: CString,
    },
    Folder {
        of: CString,
        at: CString,
    },
}

impl Root {
    /// One with these open files, or devices, under these names, and the folder of the command's program if that is none of the
    /// system's.
    pub fn new(files: &[(&File, &str)], command: &Command) -> io::Result<Root> {
        let folder = Path::new(command.get_program()).parent().and_then(Path::to_str);
        let program = folder.map(|path| path.trim_start_matches('/')).filter(|path| {
            let first = path.split('/').next().unwrap_or_default();
            !SYSTEM.contains(&first)
        });
        let at = |name: &str| CString::new(format!("/proc/{name}")).map_err(io::Error::from);
        let tree = |(file, name): &(&File, &str)| {
            let flags =
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
            Ok((open_tree(file, c"", flags)?, at(name)?))
        };
        let entry = |name: &&str| {
            let of = CString::new(format!("/{name}"))?;
            match fs::symlink_metadata(format!("/{name}")) {
                Ok(found) if found.is_symlink() => {
                    let to = CString::new(fs::read_link(format!("/{name}"))?.as_os_str().as_bytes())?;
                    Ok(Some(Entry::Link { to, at: at(name)? }))
                }
                Ok(_) => Ok(Some(Entry::Folder { of, at: at(name)? })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let folders = files.iter().filter_map(|(_, name)| name.rsplit_once('/')).map(|(folder, _)| at(folder));
        let folders = folders.collect::<io::Result<_>>()?;
        let files = files.iter().map(tree).collect::<io::Result<_>>()?;
        let system = SYSTEM.iter().chain(&program).filter_map(|name| entry(name).transpose());
        Ok(Root { files, folders, is_read_only: false, system: system.collect::<io::Result<_>>()? })
    }

    /// The same, in which the files are not written, either.
    pub fn read_only(self) -> Root {
        Root { is_read_only: true, ..self }
    }

    /// Makes it this process's, which is alone in its mount namespace from then on.
    fn enter(&self) -> rustix::io::Result<()> {
        let alone = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        // SAFETY: the descriptors stay shared as they are.
        unsafe { unshare_unsafe(alone) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount(c"none", ROOT, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755,size=64k")?;
        for entry in &self.system {
            match entry {
                Entry::Link { to, at } => rustix::fs::symlinkat(to.as_c_str(), CWD, at.as_c_str())?,
                Entry::Folder { of, at } => {
                    make_folders(at)?;
                    mount_bind(of.as_c_str(), at.as_c_str())?;
                    mount_remount(at.as_c_str(), MountFlags::BIND | READ_ONLY, c"")?;
                }
            }
        }
        rustix::fs::mkdirat(CWD, c"/proc/etc", Mode::from_raw_mode(0o755))?;
        let cache = c"/proc/etc/ld.so.cache";
        make_file(cache)?;
        match mount_bind(LOADER_CACHE, cache) {
            // the loader does without
            Err(Errno::NOENT) => {}
            mounted => mounted.and_then(|()| mount_remount(cache, MountFlags::BIND | READ_ONLY, c""))?,
        }
        // without which QEMU does not find out how it can lock images
        let null = c"/proc/dev/null";
        rustix::fs::mkdirat(CWD, c"/proc/dev", Mode::from_raw_mode(0o755))?;
        make_file(null)?;
        mount_bind(c"/dev/null", null)?;
        mount_remount(null, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, c"")?;
        self.folders.iter().try_for_each(|folder| make_folders(folder))?;
        for (tree, at) in &self.files {
            make_file(at)?;
            move_mount(tree, c"", CWD, at.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            if self.is_read_only {
                mount_remount(at.as_c_str(), MountFlags::BIND | READ_ONLY, c"")?;
            }
        }
        rustix::process::chdir(ROOT)?;
        // the old root lies on the new one, and goes with all that is mounted there
        pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        mount_remount(c"/", MountFlags::BIND | READ_ONLY, c"")
    }
}

/// Makes the folder at `path`, and those that lead to it.
fn make_folders(path: &CStr) -> rustix::io::Result<()> {
    let bytes = path.to_bytes();
    let mut part = [0; 4096];
    for end in (ROOT.to_bytes().len() + 1..=bytes.len()).filter(|end| bytes.get(*end).is_none_or(|byte| *byte == b'/'))
    {
        let room = part.get_mut(..=end).ok_or(Errno::NAMETOOLONG)?;
        room[..end].copy_from_slice(&bytes[..end]);
        room[end] = 0;
        let folder = CStr::from_bytes_with_nul(room).map_err(|_| Errno::INVAL)?;
        match rustix::fs::mkdirat(CWD, folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn make_file(path: &CStr) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)).map(drop)
}

impl Confinement {
    /// Has what `command` starts be confined so. Where that can't be, it is not started.
    pub fn put_on(self, command: &mut Command) {
        // SAFETY: between fork and exec it makes system calls only, with what is made ready in `self`, and neither allocates nor
        // takes a lock.
        unsafe { command.pre_exec(move || Ok(self.enter()?)) };
    }

    fn enter(&self) -> rustix::io::Result<()> {
        close_on_exec()?;
        if let Some(root) = &self.root {
            root.enter()?;
        }
        umask(Mode::from_raw_mode(0o077));
        for (resource, limit) in &self.limits {
            setrlimit(*resource, Rlimit { current: Some(*limit), maximum: Some(*limit) })?;
        }
        // root without them is a user as others are
        for bit in 0..u64::BITS {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
                // the kernel has no more
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
        set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT
                | CapabilitiesSecureBits::NO_ROOT_LOCKED
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
        )?;
        let (user, group) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        set_no_new_privs(true)
    }
}

/// Has all descriptors but the first three go with the next exec: others in this process may not mark theirs (close_range with
/// CLOSE_RANGE_CLOEXEC).
fn close_on_exec() -> rustix::io::Result<()> {
    // SAFETY: the call takes no pointer.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        _ => Ok(()),
    }
}

/// Does something on a thread whose first child process sees no other processes, and can signal none. The inner error says that
/// there is no such thread.
pub fn with_own_processes<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let alone = move || {
            // SAFETY: the descriptors stay shared as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
            Ok(work())
        };
        let thread = thread::Builder::new().name("confined tool".to_owned()).spawn_scoped(scope, alone)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}
