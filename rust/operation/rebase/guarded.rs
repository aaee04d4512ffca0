//! The image that a rebase writes to, for as long as its instance's lock is ours. A sync may hang for longer than a lease
//! holds, and what follows it is what counts: so the lock is looked at right before the first write after each.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::nas::instance::Instance;
use crate::qcow2::{Source, Storage};

#[derive(Debug)]
pub(super) struct Guarded<S> {
    // before what is held, which may unmount
    image: S,
    held: Instance,
    /// Nothing was written since the last sync.
    synced: AtomicBool,
}

impl<S> Guarded<S> {
    pub(super) fn new(image: S, held: &Instance) -> Guarded<S> {
        Guarded { image, held: held.clone(), synced: AtomicBool::new(true) }
    }

    /// The image, to write to.
    fn image(&self) -> io::Result<&S> {
        if self.synced.load(Relaxed) {
            self.held.fence_lately().map_err(io::Error::other)?;
            self.synced.store(false, Relaxed);
        }
        Ok(&self.image)
    }
}

impl<S: Source> Source for Guarded<S> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.image.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.image.length()
    }

    fn begin_reading(&self, from: u64, length: u64) {
        self.image.begin_reading(from, length);
    }
}

impl<S: Storage> Storage for Guarded<S> {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.image()?.write_at(data, offset)
    }

    fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.image()?.write_past_cache(data, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.image()?.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.synced.store(true, Relaxed);
        self.image.sync()
    }

    fn begin_writing(&self, from: u64, length: u64) -> io::Result<()> {
        self.image.begin_writing(from, length)
    }

    fn give_back(&self, from: u64, length: u64) -> io::Result<()> {
        self.image()?.give_back(from, length)
    }

    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
        self.image()?.clone_from(to, source, from, length)
    }

    fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64> {
        self.image()?.copy_from(to, source, from, length)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;
    use crate::config;
    use crate::error::Code;
    use crate::limits;
    use crate::nas::folder::Folder;
    use crate::nas::lock::LOOK;
    use crate::nas::path::RepoPath;
    use crate::nas::purpose::Purpose;
    use crate::nas::repository::Repository;
    use crate::nas::session::Session;
    use crate::qcow2::Rebase;

    /// Another host takes the lock over while a sync hangs.
    struct Hanging {
        image: File,
        claim: PathBuf,
        /// So many syncs later.
        left: AtomicU32,
        /// What the image was then.
        then: Mutex<Option<Vec<u8>>>,
    }

    impl Hanging {
        fn content(&self) -> Vec<u8> {
            let mut content = vec![0; usize::try_from(self.image.length().unwrap()).unwrap()];
            std::os::unix::fs::FileExt::read_exact_at(&self.image, &mut content, 0).unwrap();
            content
        }
    }

    impl Source for &Hanging {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.image.read_at(buffer, offset)
        }

        fn length(&self) -> io::Result<u64> {
            self.image.length()
        }
    }

    impl Storage for &Hanging {
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
            self.image.write_at(data, offset)
        }

        fn set_length(&self, length: u64) -> io::Result<()> {
            self.image.set_length(length)
        }

        fn sync(&self) -> io::Result<()> {
            if self.left.fetch_sub(1, Relaxed) == 0 {
                std::fs::remove_file(&self.claim)?;
                *self.then.lock().unwrap() = Some(self.content());
            }
            Ok(())
        }

        fn give_back(&self, from: u64, length: u64) -> io::Result<()> {
            self.image.give_back(from, length)
        }

        fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
            self.image.clone_from(to, source, from, length)
        }

        fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64> {
            self.image.copy_from(to, source, from, length)
        }
    }

    fn run(dir: &Path, program: &str, args: &[&str]) {
        assert!(Command::new(program).args(args).current_dir(dir).status().unwrap().success(), "{program} {args:?}");
    }

    /// `3` stands on `2` and that on `1`; what `3` lacks of `2` is in a table that it has and in one that it has not.
    fn chain(dir: &Path) {
        for (name, below, at) in [("1", None, [0, 1]), ("2", Some("1"), [2, 601]), ("3", Some("2"), [602, 603])] {
            let backing = below.map_or(vec![], |below| vec!["-b", below, "-F", "qcow2"]);
            run(dir, "qemu-img", &[&["create", "-q", "-f", "qcow2"], &backing[..], &[name, "1G"]].concat());
            let writes = at.map(|at| format!("write -q -P {name} {at}M 64k"));
            run(dir, "qemu-io", &["-f", "qcow2", "-c", &writes[0], "-c", &writes[1], name]);
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn after_a_sync_under_which_the_lock_was_lost_nothing_is_written() {
        // it takes as long as a claim takes to expire
        limits::shorten(&[LOOK], Duration::ZERO);
        let mut lost = 0;
        for syncs in 0.. {
            let dir = tempfile::tempdir().unwrap();
            chain(dir.path());
            let address = Some(dir.path().to_str().unwrap().to_owned());
            let export = Repository::check(Some(Repository { kind: Some("dir".into()), address, options: None }));
            let session = Session::open_bounded(export.unwrap(), config::current()).unwrap();
            let open = |name: &str| session.root().open_file(&RepoPath::parse("image", name).unwrap()).unwrap();
            let folder = Folder::open_root(dir.path()).unwrap();
            let held = Instance::take(session.clone(), folder, Purpose::Change).unwrap();
            let image = File::options().read(true).write(true).open(dir.path().join("3")).unwrap();
            let claim = dir.path().join(".nasbackup.lease");
            let image = Hanging { image, claim, left: syncs.into(), then: Mutex::default() };
            let rebase = Rebase::begin(Guarded::new(&image, &held), vec![open("2"), open("1")], 1, Some("1")).unwrap();
            let mut absorb = rebase.check(&mut |_| Ok(())).unwrap();
            let ended = absorb.run(&mut |_| Ok(()));
            drop(absorb);
            let Some(then) = image.then.lock().unwrap().take() else { break };
            assert!(then == image.content(), "written after sync {syncs}");
            lost += u32::from(ended.is_err() && held.fence().is_err_and(|error| error.code == Code::Busy));
        }
        // before the first write at all, the tables and the name
        assert!(lost >= 3, "{lost}");
    }
}
