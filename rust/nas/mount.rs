//! A private mount of an export, made by the system's `mount` and undone on drop.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::mount_failure::{self, MountFailure};
use super::mount_folder::{self, MountFolder};
use super::options::{self, PreparedOptions};
use super::repository::Export;
use super::tree::{self, Tree};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::process::{Ended, Tool};
use crate::work::deadline;
use crate::work::owner;
use crate::work::owner::Cancel;
use crate::{lacking, mountinfo};

const STEP: &str = "mount the repository";
const MOUNT: Tool = Tool { program: "mount", step: STEP, late: "it did not end" };

/// How often the library tries to unmount a busy mount before it detaches the mount, and the time between.
const BUSY_TRIES: u32 = 20;

/// A mounted export. Its drop unmounts the export and removes the folder.
#[derive(Debug)]
pub(super) struct Mount {
    folder: MountFolder,
    export: Export,
}

impl Mount {
    /// Mounts `export` in a new folder below the configured one. Tries again until `until` if the server can't be reached or
    /// refuses, because it may be restarting. Calls `tell` with the error of each try.
    pub(super) fn make(export: &Export, config: &Config, until: Instant, tell: impl Fn(&Error)) -> Result<Mount> {
        mount_folder::sweep(config);
        let folder = MountFolder::make(&config.mount_dir)?;
        let PreparedOptions { options, secret, follows_links, tries_itself } = options::prepare(export);
        let secret = secret.map(|secret| Ok((secret.option, folder.write_credentials(&secret.text)?))).transpose()?;
        let option = secret.as_ref().map(|(option, file)| format!("{option}={}", file.path().display()));
        let options: Vec<String> = options.into_iter().chain(option).collect();

        let options = options.join(",");
        let once = |limit| {
            let mut command = MOUNT.command().map_err(|e| Error::io(STEP, "mount", e))?;
            command.args(["-t", export.kind(), "-o", &options, "--"]).arg(export.address()).arg(folder.point());
            let cancel = Cancel::of_job();
            MOUNT.run_apart(command, limit, move || cancel.check(STEP))
        };
        // the drop of the folder unmounts what was mounted in spite of a failure
        try_mount_until(export, until, !tries_itself, once, tell)?;
        let failed = |cause: String| Err(Error::new(Code::MountFailed, STEP, format!("{export}: {cause}")));
        if !is_mounted(&folder.point()) {
            return failed("'mount' reports a success, and nothing is mounted".into());
        }
        if !follows_links && let Err(error) = follow_no_links(&folder.point()) {
            return failed(format!("unable to mount it so that no link is followed - {error}"));
        }
        log::info!("mounted {export} on '{}'", folder.point().display());
        Ok(Mount { folder, export: export.clone() })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.point()
    }

    /// True unless somebody else has unmounted it.
    pub(super) fn is_there(&self) -> bool {
        is_mounted(&self.folder.point())
    }
}

/// True if there is no time left for a try.
pub(super) fn is_too_late(until: Instant) -> bool {
    Instant::now() + limits::MOUNT_TRY > until
}

/// The error of a caller who waited for others to mount the export, in vain: their last error, if there was one.
pub(super) fn waited_in_vain(export: &Export, last_error: Option<Error>) -> Error {
    const OTHERS: &str = "other calls have tried it all the time, in vain";
    match last_error {
        Some(last_error) => Error { cause: format!("{OTHERS}: {}", last_error.cause), ..last_error },
        None => Error::new(Code::MountFailed, STEP, format!("{export}: {OTHERS}")),
    }
}

/// Runs `mount`, and if `again` runs it again until `until` as long as the failure may pass. Returns the last error that
/// `mount` reported. No time for a try is `TIMEOUT`, because the server was not asked.
fn try_mount_until(
    export: &Export,
    until: Instant,
    again: bool,
    once: impl Fn(Duration) -> Result<Ended>,
    tell: impl Fn(&Error),
) -> Result<()> {
    if is_too_late(until) {
        let cause = format!("{export}: less than {} s are left for it", limits::MOUNT_TRY.as_secs());
        return Err(Error::new(Code::Timeout, STEP, cause));
    }
    let begun = Instant::now();
    let (mut last_error, mut pause) = (None, limits::MOUNT_PAUSES.0);
    loop {
        let (why, error) = match once(until.saturating_duration_since(Instant::now())) {
            Ok(ended) if ended.status.success() => return Ok(()),
            Ok(ended) => failure(export, &ended),
            Err(error) if matches!(error.code, Code::Timeout | Code::NasUnresponsive) => {
                let cause = format!("{export}: no answer for {} s", begun.elapsed().as_secs());
                let error = last_error.unwrap_or_else(|| Error::new(Code::NasUnresponsive, STEP, cause));
                tell(&error);
                return Err(error);
            }
            Err(error) if error.code == Code::Cancelled => return Err(error),
            Err(error) => {
                let cause = format!("{export}: unable to run 'mount' - {}", error.cause);
                return Err(Error::new(Code::MountFailed, STEP, cause));
            }
        };
        tell(&error);
        if !again || !why.may_pass() || Instant::now() + pause + limits::MOUNT_TRY > until {
            return Err(error);
        }
        if last_error.is_none() {
            log::warn!("unable to mount, trying again for {} s: {error}", until.duration_since(begun).as_secs());
        }
        last_error = Some(error);
        let paused = Instant::now();
        while paused.elapsed() < pause {
            Cancel::of_job().check(STEP)?;
            thread::sleep(limits::CALLER_LOOK.min(pause));
        }
        pause = limits::MOUNT_PAUSES.1.min(pause * 2);
    }
}

/// The error of a failed `mount`: its own words without the options' values, and what the operator can do.
fn failure(export: &Export, Ended { status, complaint, .. }: &Ended) -> (MountFailure, Error) {
    let why = mount_failure::classify(status.code(), &complaint.replace(export.address(), ""));
    let advice = why.advice(export.kind()).map(|advice| format!("; {advice}")).unwrap_or_default();
    let said = options::redact(export, complaint.trim());
    (why, Error::new(why.code(), STEP, format!("{export}: {status}: {said}{advice}")))
}

/// Replaces the mount at `point`, which nobody uses yet, by one in which the kernel follows no symbolic link, if it can.
fn follow_no_links(point: &Path) -> rustix::io::Result<()> {
    let tree = match Tree::at(point) {
        Err(error) if lacking::is_unsettable(error) => {
            tree::tell_lack(error);
            return Ok(());
        }
        tree => tree?,
    };
    if !tree.follow_no_links()? {
        return Ok(());
    }
    rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    tree.attach(point)
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.folder.point();
        if !is_mounted(&path) {
            log::warn!("{}: somebody else has unmounted '{}'", self.export, path.display());
            return;
        }
        let at = path.clone();
        // the thread that drops the mount may work for another repository, or for none
        let _on = owner::WorkFor::repository(&self.export);
        let unmounted = deadline::bounded("unmount the repository", limits::UNMOUNT, move || {
            unmount(&at).map_err(|e| Error::io("unmount the repository", &at, e))
        });
        match unmounted {
            Ok(()) => log::info!("unmounted '{}'", path.display()),
            Err(error) => log::warn!("unable to unmount '{}', detaching it: {error}", path.display()),
        }
    }
}

/// Unmounts `at`. Tries again while it is busy: a child that another thread has just forked holds our open files until it
/// execs.
fn unmount(at: &Path) -> rustix::io::Result<()> {
    let once = || rustix::mount::unmount(at, UnmountFlags::NOFOLLOW);
    for _ in 0..BUSY_TRIES {
        match once() {
            Err(Errno::BUSY) => thread::sleep(limits::UNMOUNT_PAUSE),
            unmounted => return unmounted,
        }
    }
    once()
}

/// True if something is mounted at `point`, or the kernel's table can't be read, so that no mount is forgotten.
fn is_mounted(point: &Path) -> bool {
    mountinfo::is_mounted(point).unwrap_or_else(|error| {
        log::error!("unable to read the table of mounts, taking '{}' for mounted: {error}", point.display());
        true
    })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;
    use crate::config::Config;
    use crate::config::FILE_MODE;
    use crate::config::FOLDER_MODE;
    use crate::nas::repository::Repository;
    use crate::nas::session::Session;
    use crate::user::with_rights_of;
    use rustix::fs::{CWD, FileType, Mode, StatVfsMountFlags, makedev};
    use rustix::process::{Pid, Signal};
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;

    fn export(kind: &str, address: &Path, options: &str) -> Export {
        let address = Some(address.to_str().unwrap().to_owned());
        Repository::check(Some(Repository { kind: Some(kind.into()), address, options: Some(options.into()) })).unwrap()
    }

    fn config(mount_dir: &Path, mount_keep_seconds: u64) -> Config {
        Config { mount_dir: mount_dir.to_owned(), mount_keep_seconds, ..Default::default() }
    }

    fn soon() -> Instant {
        Instant::now() + limits::MOUNT
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
    #[ignore = "needs a lab: root, QEMU"]
    fn sessions_share_a_mount_and_the_last_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("an image");
        ext4_image(&image);
        let mount_dir = dir.path().join("mounts");
        let config = config(&mount_dir, 0);
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
    #[ignore = "needs a lab: root, QEMU"]
    fn nothing_on_a_mount_is_a_device_or_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        ext4_image(&image);
        let config = config(&dir.path().join("mounts"), 0);
        let has = |options: &str| {
            let mount = Mount::make(&export("ext4", &image, options), &config, soon(), |_| ()).unwrap();
            let at = rustix::fs::statvfs(mount.path()).unwrap().f_flag;
            let device = mount.path().join("device");
            if !device.exists() {
                rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, Mode::RWXU, makedev(1, 3)).unwrap();
            }
            (at, File::open(device).map_err(|error| error.kind()).map(drop))
        };
        let (at, opened) = has("loop");
        assert!(
            at.contains(StatVfsMountFlags::NODEV | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC),
            "{at:?}"
        );
        assert_eq!(opened, Err(ErrorKind::PermissionDenied));
        // the administrator's own word comes last
        assert_eq!(has("loop,dev").1, Ok(()));
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn on_a_mount_no_link_is_followed_and_nobody_else_gets_to_it() {
        assert!(tree::knows_nosymfollow().unwrap(), "or the test says nothing");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let image = dir.path().join("image");
        ext4_image(&image);
        let mounts = dir.path().join("mounts");
        for (options, followed) in [("loop", false), ("loop,symfollow", true)] {
            let mount = Mount::make(&export("ext4", &image, options), &config(&mounts, 0), soon(), |_| ()).unwrap();
            assert_eq!(mounted_below(&mounts), 1);
            let (file, link) = (mount.path().join("file"), mount.path().join("link"));
            fs::write(&file, "").unwrap();
            fs::set_permissions(mount.path(), Permissions::from_mode(0o777)).unwrap();
            fs::remove_file(&link).ok();
            std::os::unix::fs::symlink("file", &link).unwrap();
            let opened = File::open(&link).map_err(|error| Errno::from_io_error(&error).unwrap()).map(drop);
            assert_eq!(opened, if followed { Ok(()) } else { Err(Errno::LOOP) }, "{options}");
            let nobody = with_rights_of((65534, 65534), "open it", || File::open(&file).map_err(|error| error.kind()));
            assert_eq!(nobody.unwrap().unwrap().err(), Some(ErrorKind::PermissionDenied), "{options}");
        }
        assert_eq!(mounted_below(&mounts), 0);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_repository_that_may_not_be_read_says_who_may_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let open = || Session::open(&export("dir", dir.path(), ""), &Default::default()).map(drop);
        let opened: Result<()> = with_rights_of((65534, 65534), "open it", open).unwrap().unwrap();
        let error = opened.unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        assert!(error.cause.contains("; user 0, as which this process runs, can't read there"), "{error}");
        open().unwrap();
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn sessions_opened_at_once_make_one_mount() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        ext4_image(&image);
        let mount_dir = dir.path().join("mounts");
        let config = config(&mount_dir, 0);
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
    #[ignore = "needs a lab: root, QEMU"]
    fn a_mount_is_kept_for_the_next_and_then_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (image, mount_dir) = (dir.path().join("image"), dir.path().join("mounts"));
        ext4_image(&image);
        let export = export("ext4", &image, "loop");
        let open = |keep| Session::open(&export, &config(&mount_dir, keep)).unwrap();
        let first = open(3600).root().path.clone();
        assert_eq!(mounted_below(&mount_dir), 1);
        assert_eq!(open(3600).root().path, first);
        let in_use = open(1);
        crate::nas::mounts::unmount_kept();
        assert_eq!(mounted_below(&mount_dir), 1, "one that is used stays");
        drop(in_use);
        assert_eq!(mounted_below(&mount_dir), 1);
        let begun = Instant::now();
        while fs::read_dir(&mount_dir).unwrap().count() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60));
            thread::yield_now();
        }
        assert_eq!(mounted_below(&mount_dir), 0);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_mount_that_somebody_took_away_is_made_anew_and_foreign_ones_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (image, mount_dir, foreign) = (dir.path().join("image"), dir.path().join("mounts"), dir.path().join("own"));
        ext4_image(&image);
        fs::create_dir(&foreign).unwrap();
        assert!(Command::new("mount").args(["-o", "loop"]).args([&image, &foreign]).status().unwrap().success());
        let export = export("ext4", &image, "loop");
        let config = config(&mount_dir, 0);
        let first = Session::open(&export, &config).unwrap();
        assert!(!first.root().path.starts_with(&foreign));
        rustix::mount::unmount(&first.root().path, UnmountFlags::DETACH).unwrap();
        let second = Session::open(&export, &config).unwrap();
        assert_ne!(first.root().path, second.root().path);
        second.root().make_dir("seen", FOLDER_MODE).unwrap();
        drop((first, second));
        assert_eq!((mounted_below(&mount_dir), mounted_below(&foreign)), (0, 1));
        assert_eq!(fs::read_dir(&mount_dir).unwrap().count(), 0);
        assert!(foreign.join("seen").exists());
        rustix::mount::unmount(&foreign, UnmountFlags::empty()).unwrap();
    }

    #[test]
    fn a_failed_mount_says_why_without_its_options_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mount_dir = dir.path().join("mounts");
        let export = export("ext4", &dir.path().join("none"), "loop,nosuch=geheimnis");
        let error = Mount::make(&export, &config(&mount_dir, 0), soon(), |_| ()).unwrap_err();
        assert_eq!(error.code, Code::MountFailed);
        assert!(error.cause.contains("exit status: ") && error.cause.contains("none"), "{error}");
        assert!(!error.cause.contains("geheimnis"), "{error}");
        assert_eq!(fs::read_dir(&mount_dir).unwrap().count(), 0);
    }

    /// Tries one end after the other, and counts the tries.
    fn tried(again: bool, limit: Duration, ends: Vec<Option<(i32, &str)>>) -> (Result<()>, usize) {
        let left = std::cell::RefCell::new(ends.into_iter());
        let count = std::cell::Cell::new(0);
        let once = |_| {
            count.set(count.get() + 1);
            let (status, last_error) = left.borrow_mut().next().unwrap().ok_or(Error::new(Code::Timeout, STEP, ""))?;
            let status = std::os::unix::process::ExitStatusExt::from_raw(status << 8);
            Ok(Ended { tool: MOUNT, status, output: String::new(), complaint: last_error.to_owned() })
        };
        let export = export("nfs", Path::new("nas:/x"), "vers=4,secret=geheim");
        (try_mount_until(&export, Instant::now() + limit, again, once, |_| ()), count.get())
    }

    #[test]
    fn a_server_that_is_restarted_is_tried_again_and_what_can_not_pass_is_not() {
        let refused = Some((32, "mount.nfs: Connection refused"));
        let denied = Some((32, "mount.nfs: access denied by server while mounting nas:/x, geheim"));
        assert_eq!(tried(true, limits::MOUNT, vec![refused, Some((0, ""))]), (Ok(()), 2));

        let (told, tries) = tried(true, limits::MOUNT, vec![denied]);
        let error = told.unwrap_err();
        assert_eq!((error.code, tries), (Code::MountFailed, 1));
        assert!(
            error.cause.contains("access denied by server") && error.cause.contains("export it to this host"),
            "{error}"
        );
        assert!(!error.cause.contains("geheim"), "{error}");

        let (told, tries) = tried(true, limits::MOUNT, vec![refused, denied]);
        assert_eq!((told.unwrap_err().cause.contains("access denied"), tries), (true, 2));
        // whoever gives 'retry' has decided
        assert_eq!(tried(false, limits::MOUNT, vec![refused]).1, 1);
    }

    #[test]
    fn without_time_for_a_try_the_error_is_timeout() {
        for limit in [Duration::ZERO, limits::MOUNT_TRY / 2] {
            let (told, tries) = tried(true, limit, vec![None]);
            assert_eq!((told.unwrap_err().code, tries), (Code::Timeout, 0));
        }
        let dir = tempfile::tempdir().unwrap();
        let export = export("nfs", Path::new("nas:/x"), "");
        let error = Mount::make(&export, &config(dir.path(), 0), Instant::now(), |_| ()).unwrap_err();
        assert_eq!(error.code, Code::Timeout, "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn waiting_for_others_in_vain_is_no_proof_that_the_server_hangs() {
        let export = export("nfs", Path::new("nas:/x"), "");
        let error = waited_in_vain(&export, None);
        assert!(error.code == Code::MountFailed && error.cause.contains("other calls"), "{error}");
        let last_error = Error::new(Code::NasUnresponsive, STEP, "nas:/x: no answer for 60 s");
        let error = waited_in_vain(&export, Some(last_error));
        assert!(error.code == Code::NasUnresponsive && error.cause.ends_with("no answer for 60 s"), "{error}");
    }

    #[test]
    fn the_last_error_that_mount_printed_is_returned() {
        let refused = Some((32, "mount.nfs: Connection refused"));
        let short = limits::MOUNT_TRY + limits::MOUNT_PAUSES.0 / 2;
        let (told, tries) = tried(true, short, vec![refused]);
        let error = told.unwrap_err();
        assert_eq!((error.code, tries), (Code::MountFailed, 1));
        assert!(error.cause.contains("Connection refused") && error.cause.contains("'port='"), "{error}");
        let (told, tries) = tried(true, limits::MOUNT, vec![refused, None]);
        let error = told.unwrap_err();
        assert!(error.code == Code::MountFailed && error.cause.contains("Connection refused") && tries == 2, "{error}");
        let (told, tries) = tried(true, limits::MOUNT, vec![None]);
        let error = told.unwrap_err();
        assert!(error.code == Code::NasUnresponsive && error.cause.contains("no answer") && tries == 1, "{error}");
        let (told, _) = tried(false, limits::MOUNT, vec![Some((32, "mount.nfs: No route to host"))]);
        let error = told.unwrap_err();
        assert!(error.code == Code::NasUnresponsive && error.cause.contains("No route to host"), "{error}");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_hung_nas_delays_no_other_nas() {
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
        assert!(started.elapsed() < Duration::from_secs(60));
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        assert_eq!(heard.recv().unwrap(), Ok(()));
        assert!(behind.join("late").exists());
        rustix::mount::unmount(&front, UnmountFlags::DETACH).unwrap();
        assert!(bindfs.wait().unwrap().success());
    }

    #[test]
    fn a_dir_that_is_missing_or_no_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let open = |name: &str| Session::open(&export("dir", &dir.path().join(name), ""), &Default::default());
        assert_eq!(open("").unwrap().root().path, dir.path().join(""));
        assert_eq!(open("none").unwrap_err().code, Code::NotFound);
        assert!(open("file").unwrap_err().cause.ends_with("is not a folder"));
    }
}
