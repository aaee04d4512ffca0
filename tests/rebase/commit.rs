//! Commits: whatever is cut off, or fails, what stands on the image reads as before.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nasbackup::error::Stopped;
use nasbackup::qcow2::{Commit, ImageFailure, Storage};

use crate::chains::{Chain, Kind, Random, name, qemu_img};
use crate::crash::sample;
use crate::differential::{check, compare, seeds};
use crate::journal::{Journal, Loss, Op, crash};

/// A chain with all that its images have, of which the image above is the target.
struct Pair {
    chain: Chain,
    raws: Vec<PathBuf>,
}

impl Pair {
    fn make(seed: u64) -> Pair {
        let chain = Chain::make(seed, Kind::Alike);
        let raws = (0..chain.images).map(|image| chain.raw(image)).collect();
        Pair { chain, raws }
    }

    fn below(&self) -> usize {
        self.chain.target - 1
    }

    fn commit<T: Storage>(&self, below: T) -> Result<(), ImageFailure> {
        let above = File::open(self.chain.path(self.chain.target)).unwrap();
        Commit::check(below, above, &mut |_| Ok(()))?.run(&mut |_| Ok(())).map(drop)
    }

    fn reads_as(&self, image: usize, as_image: usize) -> Result<(), String> {
        compare(self.chain.dir.path(), &self.raws[as_image], &name(image))
            .map_err(|error| format!("image {image} as {as_image}: {error}"))
    }

    /// The one above, and all that stand on it, read as before, and the one below is not damaged.
    fn is_sound(&self) -> Result<(), String> {
        (self.chain.target..self.chain.images).try_for_each(|image| self.reads_as(image, image))?;
        match check(self.chain.dir.path(), &name(self.below())) {
            (0, _) => Ok(()),
            (errors, leaks) => Err(format!("{errors} errors, {leaks} leaks")),
        }
    }

    /// Gives the image below the name of the one above.
    fn replace(&self) {
        fs::rename(self.chain.path(self.below()), self.chain.path(self.chain.target)).unwrap();
    }

    fn has_compressed(&self) -> bool {
        self.chain.to_string().contains("write -q -c")
    }
}

#[test]
fn the_image_below_reads_as_the_one_above_and_takes_its_place() {
    let mut freed = 0;
    for seed in seeds("NASBACKUP_SOAK_CHAINS", 30) {
        let pair = Pair::make(seed);
        let (chain, below) = (&pair.chain, pair.below());
        let above = fs::read(chain.path(chain.target)).unwrap();
        pair.commit(chain.open(below)).unwrap_or_else(|failure| panic!("{chain}\n{failure}"));
        pair.is_sound().unwrap_or_else(|error| panic!("{chain}\n{error}"));
        pair.reads_as(below, chain.target).unwrap_or_else(|error| panic!("{chain}\n{error}"));
        assert!(fs::read(chain.path(chain.target)).unwrap() == above, "{chain}\nthe image above was changed");
        // what several compressed clusters share stays counted until none is left
        if !pair.has_compressed() {
            assert_eq!(check(chain.dir.path(), &name(below)), (0, 0), "{chain}");
            freed += 1;
        }
        pair.replace();
        (chain.target..chain.images).for_each(|image| pair.reads_as(image, image).unwrap());
    }
    assert!(freed > 3, "{freed}");
}

#[test]
fn whatever_reaches_the_disk_what_stands_on_it_reads_as_before() {
    let (mut states, mut early) = (0, 0);
    let most_each = if std::env::var("NASBACKUP_SOAK_CRASHES").is_ok() { 100 } else { 12 };
    for seed in seeds("NASBACKUP_SOAK_CRASHES", 12) {
        let pair = Pair::make(seed);
        let (chain, below) = (&pair.chain, pair.below());
        let before = fs::read(chain.path(below)).unwrap();
        let journal = Journal::new(before.clone(), seed % 2 == 0);
        pair.commit(&journal).unwrap();
        let (_, log) = journal.into_parts();
        assert!(matches!(log.last(), Some(Op::Sync)), "its length and its tables are recorded once it has ended");
        // what is written before the second sync, no table names
        let changed_at = log.iter().enumerate().filter(|(_, op)| matches!(op, Op::Sync)).nth(1).unwrap().0;
        let mut random = Random(seed);
        let mut cuts: Vec<_> = (1..=log.len())
            .flat_map(|cut| [Loss::Nothing, Loss::Everything, Loss::Writes, Loss::Sectors].map(|loss| (cut, loss)))
            .collect();
        cuts.sort_by_cached_key(|_| random.below(1 << 20));
        for (cut, loss) in cuts.into_iter().take(most_each) {
            let state = crash(&before, &log, cut, loss, &mut random);
            fs::write(chain.path(below), &state).unwrap();
            let at = |error| format!("{chain}\ncut at {cut} of {}, {loss:?}: {error}", log.len());
            pair.is_sound().map_err(at).unwrap();
            if cut <= changed_at {
                pair.reads_as(below, below).map_err(at).unwrap();
                early += 1;
            }
            // and the same again, from there
            pair.commit(chain.open(below)).unwrap();
            pair.reads_as(below, chain.target).map_err(at).unwrap();
            pair.is_sound().map_err(at).unwrap();
            states += 1;
        }
    }
    assert!(states >= 60 && early >= 10, "{states} {early}");
}

#[test]
fn an_error_at_any_write_leaves_what_stands_on_it_as_it_was_and_before_a_change_all() {
    let mut without_trace = 0;
    for seed in seeds("NASBACKUP_SOAK_ERRORS", 6) {
        let pair = Pair::make(seed);
        let (chain, below) = (&pair.chain, pair.below());
        let before = fs::read(chain.path(below)).unwrap();
        let run = |journal: &Journal| {
            let above = File::open(chain.path(chain.target)).unwrap();
            let mut commit = Commit::check(journal, above, &mut |_| Ok(())).unwrap();
            let done = commit.run(&mut |_| Ok(()));
            let has_changed = commit.has_changed();
            (done, has_changed, commit.abandon())
        };
        let journal = Journal::new(before.clone(), true);
        run(&journal).0.unwrap();
        let (_, log) = journal.into_parts();
        for after in sample(log.len()) {
            let journal = Journal::new(before.clone(), true).failing_once(after, libc::EIO);
            let (done, has_changed, abandoned) = run(&journal);
            let (state, _) = journal.into_parts();
            fs::write(chain.path(below), &state).unwrap();
            let at = |error| format!("{chain}\nerror at {after} of {}: {error}", log.len());
            // what is not given back is no failure
            assert!(done.is_ok() || done.is_err_and(|failure| failure.image == 1), "{chain}");
            pair.is_sound().map_err(at).unwrap();
            if !has_changed {
                abandoned.unwrap();
                pair.reads_as(below, below).map_err(at).unwrap();
                let header = 1 << before[23];
                assert!(state.len() <= before.len() && state[header..] == before[header..state.len()], "{chain}");
                without_trace += 1;
            }
        }
    }
    assert!(without_trace > 3, "{without_trace}");
}

#[test]
fn one_that_is_stopped_before_it_changes_anything_is_taken_back() {
    let mut stopped = 0;
    for seed in seeds("NASBACKUP_SOAK_ERRORS", 4) {
        let pair = Pair::make(seed);
        let (chain, below) = (&pair.chain, pair.below());
        let before = check(chain.dir.path(), &name(below));
        let above = File::open(chain.path(chain.target)).unwrap();
        let mut commit = Commit::check(chain.open(below), above, &mut |_| Ok(())).unwrap();
        let length = fs::metadata(chain.path(below)).unwrap().len();
        // once some of it was written
        let done = commit.run(&mut |_| {
            if fs::metadata(chain.path(below)).unwrap().len() > length { Err(Stopped) } else { Ok(()) }
        });
        if done.is_ok() || commit.has_changed() {
            continue;
        }
        stopped += 1;
        commit.abandon().unwrap();
        pair.is_sound().unwrap();
        pair.reads_as(below, below).unwrap();
        let after = check(chain.dir.path(), &name(below));
        assert!(after.1 <= before.1 && after.0 == 0, "{chain}\n{before:?} {after:?}");
    }
    assert!(stopped > 0);
}

/// An image of another size, or with other clusters, is refused, and nothing is written.
#[test]
fn images_that_are_not_alike_are_refused() {
    let (mut refused, mut taken) = (0, 0);
    for seed in seeds("NASBACKUP_SOAK_CHAINS", 20) {
        let chain = Chain::make(seed, Kind::Any);
        let (above, below) = (chain.target, chain.target - 1);
        let before = fs::read(chain.path(below)).unwrap();
        let raw = chain.raw(above);
        let committed = Commit::check(chain.open(below), File::open(chain.path(above)).unwrap(), &mut |_| Ok(()));
        match committed {
            Ok(mut commit) => {
                commit.run(&mut |_| Ok(())).unwrap();
                compare(chain.dir.path(), &raw, &name(below)).unwrap();
                compare(chain.dir.path(), &raw, &name(above)).unwrap();
                taken += 1;
            }
            Err(failure) => {
                assert!(fs::read(chain.path(below)).unwrap() == before, "{chain}\n{failure}");
                refused += 1;
            }
        }
    }
    assert!(refused > 3, "{refused} {taken}");
}

/// What the image below has beside a guest's data would not fit them any more.
#[test]
fn an_image_with_more_than_data_is_refused_and_so_is_one_that_can_t_mark_zeroes() {
    type Change = fn(&Path);
    const V3: &str = "compat=1.1";
    let cases: [(&str, &str, Change, bool); 6] = [
        ("nothing", V3, |_| (), false),
        ("a bitmap", V3, |at| drop(qemu_img(at, &["bitmap", "--add", "below", "b"])), true),
        ("an unknown autoclear bit", V3, |at| put(at, 88), true),
        ("an unknown extension", V3, |at| put(at, 112), true),
        ("no mark for zeroes", "compat=0.10", |_| (), true),
        ("parts of clusters", "extended_l2=on", |_| (), true),
    ];
    for (what, options, change, is_refused) in cases {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        qemu_img(at, &["create", "-q", "-f", "qcow2", "-o", options, "below", "1M"]);
        change(at);
        qemu_img(at, &["create", "-q", "-f", "qcow2", "-b", "below", "-F", "qcow2", "above"]);
        let before = fs::read(at.join("below")).unwrap();
        let below = File::options().read(true).write(true).open(at.join("below")).unwrap();
        let checked = Commit::check(below, File::open(at.join("above")).unwrap(), &mut |_| Ok(()));
        assert_eq!(checked.is_err(), is_refused, "{what}");
        assert!(fs::read(at.join("below")).unwrap() == before, "{what}");
    }
}

/// Something unknown at an offset of the header below.
fn put(at: &Path, offset: u64) {
    File::options().write(true).open(at.join("below")).unwrap().write_all_at(&[0x70; 4], offset).unwrap();
}
