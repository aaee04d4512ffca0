//! A private mount of an export, made by the system's `mount` and undone on drop.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::deadline;
use super::folder::{FILE_MODE, FOLDER_MODE};
use super::options::{self, Prepared};
use super::repository::Export;
use crate::error::{Code, Error, Result};

const STEP: &str = "mount the repository";
/// How long `mount` may take.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// How long an ordinary unmount may take before the mount is only detached.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// As much of the mount command's complaint as goes into an error, in bytes.
const MAX_COMPLAINT: u64 = 4096;

static MADE: AtomicU64 = AtomicU64::new(0);

/// A mounted export; dropping it unmounts it and removes its mount point.
#[derive(Debug)]
pub(super) struct Mount {
    point: MountPoint,
}

impl Mount {
    /// Mounts `export` on a new folder below `mount_dir`.
    pub(super) fn make(export: &Export, mount_dir: &Path) -> Result<Mount> {
        let point = MountPoint::make(mount_dir)?;
        let Prepared { options, credentials } = options::prepare(export);
        let credentials = credentials.map(|text| Credentials::write(&point.path, &text)).transpose()?;
        let options: Vec<String> = options.into_iter().chain(credentials.as_ref().map(Credentials::option)).collect();

        let mut command = Command::new("mount");
        command.args(["-t", export.kind()]);
        if !options.is_empty() {
            command.arg("-o").arg(options.join(","));
        }
        command.arg("--").arg(export.address()).arg(&point.path).env("LC_ALL", "C");
        match run(command, MOUNT_LIMIT) {
            Ok(Ended { status, .. }) if status.success() => {
                log::info!("mounted {export} on '{}'", point.path.display());
                Ok(Mount { point })
            }
            Ok(Ended { status, complaint }) => {
                // a status can also tell of a smaller mishap after the mount
                point.detach();
                let complaint = options::redact(export, complaint.trim());
                Err(Error::new(Code::MountFailed, STEP, format!("{export}: {status}: {complaint}")))
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                // it may have been mounted in the very moment
                point.detach();
                let cause = format!("{export}: no answer for {} s", MOUNT_LIMIT.as_secs());
                Err(Error::new(Code::NasUnresponsive, STEP, cause))
            }
            Err(error) => Err(Error::new(Code::MountFailed, STEP, format!("unable to run 'mount' - {error}"))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.point.path
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.point.path.clone();
        let unmounted = deadline::bounded("unmount the repository", UNMOUNT_LIMIT, move || {
            rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW)
                .map_err(|e| Error::io("unmount the repository", &path, e))
        });
        match unmounted {
            Ok(()) => log::info!("unmounted '{}'", self.point.path.display()),
            Err(error) => {
                log::warn!("detaching a mount that can't be unmounted now - {error}");
                self.point.detach();
            }
        }
    }
}

/// An own folder to mount on; dropping it removes it.
#[derive(Debug)]
struct MountPoint {
    path: PathBuf,
}

impl MountPoint {
    fn make(mount_dir: &Path) -> Result<MountPoint> {
        let step = "make the mount point";
        if !mount_dir.is_dir() {
            fs::create_dir_all(mount_dir.parent().unwrap_or(mount_dir))
                .and_then(|()| make_folder(mount_dir))
                .or_else(|e| if e.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
                .map_err(|e| Error::io(step, mount_dir, e))?;
        }
        loop {
            let path = mount_dir.join(format!("nas-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed)));
            match make_folder(&path) {
                Ok(()) => return Ok(MountPoint { path }),
                // of a process that had the same id
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(step, path, error)),
            }
        }
    }

    /// Takes the mount out of sight at once; the kernel lets go of it when it can.
    fn detach(&self) {
        match rustix::mount::unmount(&self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // nothing is mounted there
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => log::error!("unable to detach '{}' - {error}", self.path.display()),
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // fails on whatever is still mounted or lies there
        if let Err(error) = fs::remove_dir(&self.path) {
            log::warn!("unable to remove the mount point '{}' - {error}", self.path.display());
        }
    }
}

/// QEMU passes through it, whatever the umask.
fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))
}

/// A file with credentials that `mount` reads, so that they are on no command line; dropping it removes it.
struct Credentials {
    path: PathBuf,
}

impl Credentials {
    /// Writes the file beside the mount point.
    fn write(point: &Path, text: &str) -> Result<Credentials> {
        let path = point.with_extension("credentials");
        let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let mut file = made.map_err(|e| Error::io("write the credentials", &path, e))?;
        let credentials = Credentials { path };
        file.write_all(text.as_bytes()).map_err(|e| Error::io("write the credentials", &credentials.path, e))?;
        Ok(credentials)
    }

    fn option(&self) -> String {
        format!("credentials={}", self.path.display())
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::error!("unable to remove the credentials '{}' - {error}", self.path.display());
        }
    }
}

/// How a command ended, and what it wrote to its standard error.
struct Ended {
    status: ExitStatus,
    complaint: String,
}

/// Runs a command, without input, no longer than `limit`; then kills it with all that it started: `TimedOut`.
fn run(mut command: Command, limit: Duration) -> io::Result<Ended> {
    // a file in memory and not a pipe, which a process left behind would keep open
    let mut complaint = File::from(rustix::fs::memfd_create("stderr", MemfdFlags::CLOEXEC)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaint.try_clone()?).process_group(0);
    let mut child = command.spawn()?;
    let Some(status) = wait(&mut child, limit)? else {
        // waits for it where nobody waits for us: in the kernel it may hang beyond its kill
        thread::Builder::new().name("reap mount".to_owned()).spawn(move || child.wait())?;
        return Err(ErrorKind::TimedOut.into());
    };
    complaint.rewind()?;
    let mut text = Vec::new();
    complaint.take(MAX_COMPLAINT).read_to_end(&mut text)?;
    Ok(Ended { status, complaint: String::from_utf8_lossy(&text).into_owned() })
}

/// The child's status, or none when it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let (ended, end) = mpsc::channel();
    thread::Builder::new().name("wait for mount".to_owned()).spawn(move || {
        // leaves the process to be reaped, so that its id stays its own until then
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while rustix::process::waitid(WaitId::Pid(pid), options).is_err_and(|e| e == rustix::io::Errno::INTR) {}
        // nobody listens once the wait was given up
        ended.send(()).ok();
    })?;
    if end.recv_timeout(limit).is_ok() {
        return child.wait().map(Some);
    }
    rustix::process::kill_process_group(pid, Signal::KILL)?;
    if end.recv_timeout(KILL_LIMIT).is_ok() {
        child.wait()?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nas::repository::Repository;
    use crate::nas::session::Session;
    use std::time::Instant;

    fn export(kind: &str, address: &Path, options: &str) -> Export {
        let address = Some(address.to_str().unwrap().to_owned());
        Repository::check(Some(Repository { kind: Some(kind.into()), address, options: Some(options.into()) })).unwrap()
    }

    fn ext4_image(path: &Path) {
        File::create(path).unwrap().set_len(8 << 20).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(path).status().unwrap().success());
    }

    fn mounted_below(path: &Path) -> usize {
        let path = path.to_str().unwrap();
        fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(path)).count()
    }

    #[test]
    fn sessions_share_a_mount_and_the_last_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("an image");
        ext4_image(&image);
        let mount_dir = dir.path().join("mounts");
        let config = crate::config::Config { mount_dir: mount_dir.clone(), ..Default::default() };
        let export = export("ext4", &image, "loop");

        let first = Session::open(&export, &config).unwrap();
        let second = Session::open(&export, &config).unwrap();
        assert_eq!(mounted_below(&mount_dir), 1);
        second.root().make_dir("kept", FOLDER_MODE).unwrap();
        assert!(first.root().kind("kept").unwrap().is_some());
        drop(first);
        assert_eq!(mounted_below(&mount_dir), 1);
        drop(second.clone());
        drop(second);
        assert_eq!(mounted_below(&mount_dir), 0);
        assert_eq!(fs::read_dir(&mount_dir).unwrap().count(), 0);

        let again = Session::open(&export, &config).unwrap();
        assert!(again.root().kind("kept").unwrap().is_some());
        let open = again.root().create_file("open", FILE_MODE).unwrap();
        drop(again);
        assert_eq!(mounted_below(&mount_dir), 0, "a file still open turns into a lazy unmount");
        drop(open);
    }

    #[test]
    fn sessions_opened_at_once_make_one_mount() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        ext4_image(&image);
        let mount_dir = dir.path().join("mounts");
        let config = crate::config::Config { mount_dir: mount_dir.clone(), ..Default::default() };
        let export = export("ext4", &image, "loop");
        let sessions: Vec<_> = thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| Session::open(&export, &config).unwrap())).collect();
            opening.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(mounted_below(&mount_dir), 1);
        drop(sessions);
        assert_eq!(mounted_below(&mount_dir), 0);
    }

    #[test]
    fn a_failed_mount_says_why_without_its_options_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mount_dir = dir.path().join("mounts");
        let export = export("ext4", &dir.path().join("none"), "loop,nosuch=geheimnis");
        let error = Mount::make(&export, &mount_dir).unwrap_err();
        assert_eq!(error.code, Code::MountFailed);
        assert!(error.cause.contains("exit status: ") && error.cause.contains("none"), "{error}");
        assert!(!error.cause.contains("geheimnis"), "{error}");
        assert_eq!(fs::read_dir(&mount_dir).unwrap().count(), 0);
    }

    #[test]
    fn a_nas_that_hangs_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (behind, front) = (dir.path().join("behind"), dir.path().join("front"));
        fs::create_dir(&behind).unwrap();
        fs::create_dir(&front).unwrap();
        let mut bindfs = Command::new("bindfs").arg("-f").args([&behind, &front]).spawn().unwrap();
        while mounted_below(&front) == 0 {
            assert!(bindfs.try_wait().unwrap().is_none());
            thread::yield_now();
        }
        let session = Session::open(&export("dir", &front, ""), &Default::default()).unwrap();
        let pid = Pid::from_child(&bindfs);
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let started = Instant::now();
        let (shared, (told, heard)) = (session.clone(), mpsc::channel());
        let error = deadline::bounded("make a folder", Duration::from_millis(300), move || {
            let made = shared.root().make_dir("late", FOLDER_MODE).map(drop);
            told.send(made.clone()).unwrap();
            made
        });
        assert_eq!(error.unwrap_err().code, Code::NasUnresponsive);
        drop(session);
        assert!(started.elapsed() < Duration::from_secs(5));
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        assert_eq!(heard.recv().unwrap(), Ok(()));
        assert!(behind.join("late").exists());
        rustix::mount::unmount(&front, UnmountFlags::DETACH).unwrap();
        assert!(bindfs.wait().unwrap().success());
    }

    #[test]
    fn a_folder_or_its_absence_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let open = |name: &str| Session::open(&export("dir", &dir.path().join(name), ""), &Default::default());
        assert_eq!(open("").unwrap().root().path, dir.path().join(""));
        assert_eq!(open("none").unwrap_err().code, Code::NotFound);
        assert!(open("file").unwrap_err().cause.ends_with("is not a folder"));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >&2; sleep 1000 & wait"]);
        let started = Instant::now();
        let error = run(command, Duration::from_millis(200)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(started.elapsed() < KILL_LIMIT);

        let mut command = Command::new("sh");
        command.args(["-c", "echo complaint >&2; exit 3"]);
        let Ended { status, complaint } = run(command, MOUNT_LIMIT).unwrap();
        assert_eq!((status.code(), complaint.as_str()), (Some(3), "complaint\n"));
    }

    #[test]
    fn credentials_lie_in_a_private_file_as_long_as_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials::write(&dir.path().join("nas-1-0"), "password=x\n").unwrap();
        let path = dir.path().join("nas-1-0.credentials");
        assert_eq!(credentials.option(), format!("credentials={}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"password=x\n");
        drop(credentials);
        assert!(!path.exists());
    }
}
