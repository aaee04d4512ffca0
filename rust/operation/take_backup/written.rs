//! A target that QEMU has written and closed. A QEMU that somebody has taken over may keep the file open, and write to it when
//! it is a restore point. So a clone of the file becomes the target, which takes neither time nor room, and the library checks
//! that the clone is the image that was to be written.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use log::Level;
use rustix::io::Errno;

use crate::apart::{Apart, Descriptor};
use crate::config::FILE_MODE;
use crate::engine::push;
use crate::error::{Code, Error, Result, called, errno};
use crate::nas::folder::Folder;
use crate::nas::partial::Aside;
use crate::qcow2::Storage;
use crate::work::steps;
use crate::{config, lacking, qcow2, sys};

pub(super) const STEP: &str = "take over what was written";
/// The target to be, in the unfinished point, until it gets its name; and what is cloned to see whether that can be done.
const OWN: &str = ".own";
const PROBE: &str = ".clone";
/// The most bytes that one call clones: some servers refuse 4 GiB.
const PIECE: u64 = 1 << 30;

/// A target, open since the library made it.
#[derive(Debug)]
pub(super) struct WrittenTarget {
    pub file: Apart,
    /// Its name in the point's folder.
    pub name: String,
    pub virtual_size: u64,
    /// The name of the file that it stands on, relative to its folder.
    pub backing: Option<String>,
}

/// A target that may be published.
#[derive(Debug)]
pub(super) enum TakenOver {
    /// A clone, which nobody else has open.
    Own(Apart),
    /// QEMU's own file, for this reason.
    Shared(String),
}

impl WrittenTarget {
    /// `IO` when the target's name names another file by now: whoever may write on the NAS can exchange the file, and QEMU,
    /// which was given the path, writes to what it finds there.
    pub(super) fn check_in_place(&self, folder: &Folder) -> Result<()> {
        folder.check_is("look at the targets again", &self.name, &self.file)
    }

    /// Replaces the target by a clone, and moves the old one `aside`, empty. `CORRUPT_IMAGE` or `UNSUPPORTED_IMAGE` when it is
    /// not the image that was to be written.
    pub(super) fn take_over(self, folder: &Folder, aside: &Aside) -> Result<TakenOver> {
        self.check_in_place(folder)?;
        let path = folder.path.join(&self.name);
        push::check_growth(&self.file, self.virtual_size).map_err(|error| Error {
            step: STEP,
            cause: format!("'{}': {}", path.display(), error.cause),
            ..error
        })?;
        let own = folder.create_file(OWN, config::current().file_mode())?;
        let refusal = match clone(&own, &self.file, push::longest_file(self.virtual_size)) {
            Ok(()) => {
                self.check(folder, &own)?;
                steps::at("put the clone in the target's place");
                aside.take(folder, &self.file, &self.name)?;
                folder.replace(&own, OWN, &self.name)?;
                give_room_back(&self.file, &path);
                return Ok(TakenOver::Own(own));
            }
            Err(error) => error,
        };
        // on CIFS a removed file keeps its name as long as somebody has it open
        drop(own);
        folder.remove_tree(OWN)?;
        let io = |error| Error::io(STEP, &path, called("FICLONERANGE")(error));
        let Some(errno) = errno(&refusal).filter(|errno| !is_fault(*errno)) else { return Err(io(refusal)) };
        // a hostile QEMU can make its file one that can't be cloned, and must not gain by that
        if can_clone(folder)? {
            let cause = format!("'{}' can't be cloned, although others there can: {errno}", path.display());
            return Err(Error::new(Code::Io, STEP, cause));
        }
        self.check(folder, &self.file)?;
        lacking::tell(
            Level::Warn,
            folder,
            "FICLONERANGE",
            errno,
            "a descriptor that QEMU keeps reaches what it has written",
        );
        Ok(TakenOver::Shared(format!(
            "the repository can't clone files ({errno}): a descriptor that QEMU keeps reaches the restore point"
        )))
    }

    fn check(&self, folder: &Folder, file: &Apart) -> Result<()> {
        let checked = file.with(|file| qcow2::check_filled(file, self.virtual_size, self.backing.as_deref()));
        checked.map_err(|e| e.at(STEP, folder.path.join(&self.name)))
    }
}

/// Empties a file that is not needed any more: a process that has it open would keep its room.
pub(super) fn give_room_back(file: &Apart, path: &Path) {
    if let Err(error) = file.set_length(0) {
        log::warn!("unable to empty '{}' before its removal: {error}", path.display());
    }
}

/// Clones all of `source` into `own`, which is empty: `EFBIG` beyond `longest`, for whoever has it open makes it as long as it
/// likes.
fn clone(own: &Apart, source: &Apart, longest: u64) -> std::io::Result<()> {
    own.with(|own| source.with(|source| clone_there(own, source, longest)))
}

fn clone_there(own: &File, source: &File, longest: u64) -> std::io::Result<()> {
    let mut at = 0;
    loop {
        let length = source.metadata()?.len();
        if length > longest {
            return Err(Errno::FBIG.into());
        }
        // the last piece ends where the file does by then
        if at + PIECE >= length {
            return sys::clone_range(own, at, source, at, 0);
        }
        sys::clone_range(own, at, source, at, PIECE)?;
        at += PIECE;
    }
}

/// True for an error that does not mean that the file system can't clone.
fn is_fault(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::INTR | Errno::IO | Errno::STALE | Errno::FBIG)
}

/// True if a file of ours can be cloned in the folder. Fails when that can't be tried: QEMU may have filled the NAS.
fn can_clone(folder: &Folder) -> Result<bool> {
    let mut source = folder.create_file(PROBE, FILE_MODE)?;
    let io = |e| Error::io(STEP, folder.path.join(PROBE), e);
    let cloned = source.write_all(&[1; 4096]).map_err(io).and_then(|()| {
        match clone(&folder.create_file(OWN, FILE_MODE)?, &source, u64::MAX) {
            Err(error) if errno(&error).is_none_or(is_fault) => Err(io(error)),
            cloned => Ok(cloned.is_ok()),
        }
    });
    drop(source);
    for name in [PROBE, OWN] {
        folder.remove_tree(name)?;
    }
    cloned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use crate::nas::removal;

    const NAME: &str = "root.x.qcow2";
    const SIZE: u64 = 8 << 20;

    fn run(program: &str, args: &[&str]) {
        let ended = Command::new(program).args(args).output().unwrap();
        assert!(ended.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    /// A file system of its own.
    struct Mounted {
        at: PathBuf,
        _image: tempfile::TempDir,
    }

    impl Mounted {
        fn make(mkfs: &[&str]) -> Mounted {
            let dir = tempfile::tempdir().unwrap();
            let (image, at) = (dir.path().join("image"), dir.path().join("at"));
            File::create(&image).unwrap().set_len(320 << 20).unwrap();
            fs::create_dir(&at).unwrap();
            let [image, mounted] = [&image, &at].map(|path| path.to_str().unwrap());
            run(mkfs[0], &[&mkfs[1..], &[image]].concat());
            run("mount", &["-o", "loop", image, mounted]);
            Mounted { at, _image: dir }
        }

        fn folder(&self) -> Folder {
            Folder::open_root(&self.at).unwrap()
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            // a process that another test starts may have a copy of a descriptor for a moment
            run("umount", &["--lazy", self.at.to_str().unwrap()]);
        }
    }

    fn written(folder: &Folder, backing: Option<&str>) -> WrittenTarget {
        folder.remove_tree(NAME).unwrap();
        let file = folder.create_file(NAME, FILE_MODE).unwrap();
        qcow2::create(&file, SIZE, backing).unwrap();
        WrittenTarget { file, name: NAME.to_owned(), virtual_size: SIZE, backing: backing.map(str::to_owned) }
    }

    /// Takes it over, and clears what it replaces.
    fn take_over(target: WrittenTarget, folder: &Folder) -> Result<TakenOver> {
        let aside = Aside::new(folder.open_again().unwrap(), ".partial-T1");
        let taken = target.take_over(folder, &aside);
        aside.clear().unwrap();
        taken
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_is_replaced_is_in_no_point_any_more_when_it_goes_and_its_room_is_given_back() {
        let mounted = Mounted::make(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
        let (instance, point) = (mounted.folder(), mounted.folder().make_dir(".partial-T1", 0o711).unwrap());
        let target = written(&point, None);
        target.file.write_at(&[1; 1 << 20], 1 << 20).unwrap();
        let kept = target.file.clone();
        let aside = Aside::new(instance.open_again().unwrap(), ".partial-T1");
        target.take_over(&point, &aside).unwrap();
        let replaced = fs::metadata(mounted.at.join(".partial-T1.replaced").join(NAME)).unwrap();
        assert_eq!(
            (replaced.ino(), replaced.len(), replaced.blocks()),
            (kept.with(File::metadata).unwrap().ino(), 0, 0)
        );
        assert_eq!(point.names().unwrap(), [NAME]);
        // what a backup leaves that ends here
        removal::clear_partials(&instance).unwrap();
        assert_eq!(kept.with(File::metadata).unwrap().nlink(), 0);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_is_cloned_is_reached_by_nobody_who_has_the_other_open() {
        for mkfs in [&["mkfs.xfs", "-q", "-m", "reflink=1"][..], &["mkfs.btrfs", "-q"]] {
            let mounted = Mounted::make(mkfs);
            let folder = mounted.folder();
            let target = written(&folder, Some("../T1/root.x.qcow2"));
            let kept = target.file.clone();
            let before = fs::read(mounted.at.join(NAME)).unwrap();
            let TakenOver::Own(own) = take_over(target, &folder).unwrap() else { panic!("{mkfs:?} clones") };
            kept.write_at(b"anything", 0).unwrap();
            kept.set_length(100).unwrap();
            assert!(fs::read(mounted.at.join(NAME)).unwrap() == before, "{mkfs:?}");
            let (metadata, there) = (own.with(File::metadata).unwrap(), fs::metadata(mounted.at.join(NAME)).unwrap());
            assert_eq!((metadata.ino(), metadata.mode() & 0o7777, metadata.uid()), (there.ino(), 0o600, 0));
            assert_eq!((kept.with(File::metadata).unwrap().nlink(), folder.names().unwrap()), (0, vec![NAME.into()]));
        }
    }

    #[test]
    fn where_nothing_can_be_cloned_it_is_said_and_looked_at_all_the_same() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        let target = written(&folder, None);
        let TakenOver::Shared(why) = take_over(target, &folder).unwrap() else { panic!("tmpfs does not clone") };
        assert!(why.contains("can't clone files"), "{why}");
        assert_eq!(folder.names().unwrap(), [NAME]);
        let target = written(&folder, None);
        target.file.write_at(&2_u32.to_be_bytes(), 4).unwrap();
        assert_eq!(take_over(target, &folder).unwrap_err().code, Code::CorruptImage);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_is_longer_than_an_image_of_its_size_is_not_cloned() {
        let mounted = Mounted::make(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
        let folder = mounted.folder();
        let target = written(&folder, None);
        target.file.set_length(i64::MAX as u64).unwrap();
        let error = take_over(target, &folder).unwrap_err();
        assert!(error.cause.contains("more than an image"), "{error}");
        assert_eq!(folder.names().unwrap(), [NAME]);
    }

    /// Btrfs clones no file without checksums into one with them.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_was_made_so_that_it_is_not_cloned_is_not_published() {
        let mounted = Mounted::make(&["mkfs.btrfs", "-q"]);
        let folder = mounted.folder();
        let target = written(&folder, None);
        let image = fs::read(mounted.at.join(NAME)).unwrap();
        target.file.set_length(0).unwrap();
        run("chattr", &["+C", mounted.at.join(NAME).to_str().unwrap()]);
        target.file.write_at(&image, 0).unwrap();
        let error = take_over(target, &folder).unwrap_err();
        assert!(error.cause.contains("although others there can"), "{error}");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn only_what_was_to_be_written_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        type Change = (&'static str, fn(&Apart, &Path));
        let changes: [Change; 9] = [
            ("another machine's", |_, path| {
                run(
                    "qemu-img",
                    &[
                        "rebase",
                        "-u",
                        "-q",
                        "-f",
                        "qcow2",
                        "-F",
                        "qcow2",
                        "-b",
                        "../../i-3/T1/x",
                        path.to_str().unwrap(),
                    ],
                )
            }),
            ("a raw one", |_, path| {
                run(
                    "qemu-img",
                    &[
                        "rebase",
                        "-u",
                        "-q",
                        "-f",
                        "qcow2",
                        "-F",
                        "raw",
                        "-b",
                        "../T1/root.x.qcow2",
                        path.to_str().unwrap(),
                    ],
                )
            }),
            ("none", |_, path| {
                run("qemu-img", &["rebase", "-u", "-q", "-f", "qcow2", "-b", "", path.to_str().unwrap()])
            }),
            ("a larger one", |file, _| file.write_at(&(2 * SIZE).to_be_bytes(), 24).unwrap()),
            ("a data file", |file, _| file.write_at(&4_u64.to_be_bytes(), 72).unwrap()),
            ("an unknown feature", |file, _| file.write_at(&(1_u64 << 40).to_be_bytes(), 72).unwrap()),
            ("a dirty one", |file, _| file.write_at(&1_u64.to_be_bytes(), 72).unwrap()),
            ("an encrypted one", |file, _| file.write_at(&2_u32.to_be_bytes(), 32).unwrap()),
            ("an L1 table beyond its end", |file, _| file.write_at(&(1_u64 << 40).to_be_bytes(), 40).unwrap()),
        ];
        for (what, change) in changes {
            let target = written(&folder, Some("../T1/root.x.qcow2"));
            change(&target.file, &dir.path().join(NAME));
            let error = take_over(target, &folder).expect_err(what);
            assert!(matches!(error.code, Code::CorruptImage | Code::UnsupportedImage), "{what}: {error}");
        }
        take_over(written(&folder, Some("../T1/root.x.qcow2")), &folder).unwrap();
    }

    /// Whoever may write on the NAS puts links to other files in the places of the target and of its clone, all the time.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn however_names_are_exchanged_nothing_else_is_written_to() {
        let (mounted, outside) = (Mounted::make(&["mkfs.xfs", "-q", "-m", "reflink=1"]), tempfile::tempdir().unwrap());
        let (folder, root) = (mounted.folder(), &mounted.at);
        let victims = [root.join("victim"), outside.path().join("victim")];
        victims.iter().for_each(|victim| fs::write(victim, "somebody else's").unwrap());
        let done = AtomicBool::new(false);
        let point = folder.make_dir("point", 0o711).unwrap();
        let plant = |name: &str| {
            let (at, planted) = (point.path.join(name), root.join("planted"));
            _ = symlink(&victims[1], &planted);
            _ = fs::rename(&planted, &at);
            _ = fs::hard_link(&victims[0], &planted);
            _ = fs::rename(&planted, &at);
            _ = fs::remove_file(&at);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    [NAME, OWN].into_iter().for_each(plant)
                }
            });
            for _ in 0..1_000 {
                point.remove_tree(NAME).unwrap();
                point.remove_tree(OWN).unwrap();
                let Ok(file) = point.create_file(NAME, FILE_MODE) else { continue };
                qcow2::create(&file, SIZE, None).unwrap();
                let target = WrittenTarget { file, name: NAME.to_owned(), virtual_size: SIZE, backing: None };
                if let Ok(TakenOver::Own(own)) = take_over(target, &point) {
                    own.with(|own| qcow2::check_filled(own, SIZE, None)).unwrap();
                }
            }
            done.store(true, Relaxed);
        });
        for victim in victims {
            assert_eq!(fs::read(victim).unwrap(), b"somebody else's");
        }
    }
}
