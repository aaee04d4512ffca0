//! Rebases that are cut off anywhere, and errors at any write.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use nasbackup::error::{Stopped, errno};
use nasbackup::qcow2::{Error, Progress, Rebase};
use rustix::io::Errno;

use crate::chains::{Chain, Kind, Random, name};
use crate::differential::{check, compare, rebase, seeds};
use crate::journal::{Journal, Loss, Op, crash};

/// Small chains, and every fourth one whose refcounts have to grow.
fn small_chains(variable: &str, default: u64) -> impl Iterator<Item = Chain> {
    seeds(variable, default).map(|seed| Chain::make(seed, if seed % 4 == 1 { Kind::Growing } else { Kind::Small }))
}

/// All places up to `end`; without a soak a few, and the last ones.
pub(crate) fn sample(end: usize) -> impl Iterator<Item = usize> {
    let step = if std::env::var("NASBACKUP_SOAK_ERRORS").is_ok() { 1 } else { end.div_ceil(16) };
    (0..end).filter(move |at| at % step == 0 || at + 6 > end)
}

/// The raw contents of the target and all that stands on it.
fn raws(chain: &Chain) -> Vec<PathBuf> {
    (chain.target..chain.images).map(|image| chain.raw(image)).collect()
}

/// What must be true of each state that a crash leaves: all reads as before, nothing is damaged.
fn sound(chain: &Chain, raws: &[PathBuf], leaks_allowed: bool) -> Result<(), String> {
    for (image, raw) in (chain.target..).zip(raws) {
        compare(chain.dir.path(), raw, &name(image)).map_err(|error| format!("image {image}: {error}"))?;
    }
    match check(chain.dir.path(), &name(chain.target)) {
        (0, 0) => Ok(()),
        (0, _) if leaks_allowed => Ok(()),
        (errors, leaks) => Err(format!("{errors} errors, {leaks} leaks")),
    }
}

/// Writes the state, looks at it, and rebases from it; how long the file is then.
fn recovers(chain: &Chain, raws: &[PathBuf], state: &[u8]) -> Result<u64, String> {
    let target = chain.path(chain.target);
    fs::write(&target, state).unwrap();
    sound(chain, raws, true)?;
    rebase(chain.open(chain.target), chain).map_err(|failure| format!("second run: {failure}"))?;
    sound(chain, raws, false).map_err(|error| format!("after the second run: {error}"))?;
    Ok(fs::metadata(&target).unwrap().len())
}

#[test]
fn whatever_reaches_the_disk_the_chain_reads_as_before_and_a_second_run_converges() {
    let mut states = 0;
    let most_each = if std::env::var("NASBACKUP_SOAK_CRASHES").is_ok() { 100 } else { 15 };
    for chain in small_chains("NASBACKUP_SOAK_CRASHES", 8) {
        let before = fs::read(chain.path(chain.target)).unwrap();
        let raws = raws(&chain);
        let journal = Journal::new(before.clone(), chain.seed.is_multiple_of(2));
        rebase(&journal, &chain).unwrap_or_else(|failure| panic!("{chain}\n{failure}"));
        let (after, log) = journal.into_parts();
        let mut random = Random(chain.seed);
        let mut seen = HashSet::new();
        let mut cuts: Vec<_> = (1..=log.len())
            .flat_map(|cut| {
                [Loss::Nothing, Loss::Everything, Loss::Writes, Loss::Sectors, Loss::Sectors].map(|loss| (cut, loss))
            })
            .collect();
        // in any order, but two in three at the end, where tables and header are changed after much data
        let late = |cut: usize| cut + 40 > log.len();
        cuts.sort_by_cached_key(|(cut, _)| random.below(300) * if late(*cut) { 1 } else { 3 });
        for (cut, loss) in cuts {
            if seen.len() >= most_each {
                break;
            }
            let state = crash(&before, &log, cut, loss, &mut random);
            if !seen.insert(state.clone()) {
                continue;
            }
            match recovers(&chain, &raws, &state) {
                // one more table, or refcount block, may have found no other place
                Ok(length) if length <= after.len() as u64 + (after.len() as u64 / 8).max(8 << 16) => {}
                Ok(length) => {
                    panic!("{chain}\ncut at {cut} of {}, {loss:?}: {length} bytes, not {}", log.len(), after.len())
                }
                Err(error) => panic!("{chain}\ncut at {cut} of {}, {loss:?}: {error}", log.len()),
            }
        }
        states += seen.len();
        fs::write(chain.path(chain.target), &before).unwrap();
    }
    println!("{states} states");
    assert!(states >= 60, "only {states} states");
}

#[test]
fn an_error_at_any_write_leaves_the_chain_as_it_was() {
    for chain in small_chains("NASBACKUP_SOAK_ERRORS", 4) {
        let before = fs::read(chain.path(chain.target)).unwrap();
        let raws = raws(&chain);
        let plain = chain.seed.is_multiple_of(2);
        let journal = Journal::new(before.clone(), plain);
        rebase(&journal, &chain).unwrap();
        let (_, log) = journal.into_parts();
        let mut random = Random(chain.seed);
        for after in sample(log.len()) {
            let given = random.of(&[libc::ENOSPC, libc::EIO]);
            let journal = Journal::new(before.clone(), plain).failing(after, given);
            let (keep, onto) = chain.keep();
            let rebase = Rebase::begin(&journal, chain.backing(), keep, onto.as_deref()).unwrap();
            let mut phase = None;
            let mut tell = |progress: Progress| {
                phase = Some(progress.phase);
                Ok(())
            };
            let done = rebase.check(&mut tell).and_then(|mut absorb| absorb.run(&mut tell));
            let failure = done.expect_err(&format!("{chain}\nno error at write {after}"));
            assert!(
                matches!(&failure.error, Error::Io(error) if errno(error) == Some(Errno::from_raw_os_error(given))),
                "{failure}"
            );
            assert!(phase.is_some() && failure.image == 0);
            let (state, _) = journal.into_parts();
            recovers(&chain, &raws, &state).unwrap_or_else(|e| panic!("{chain}\nerror at {after} ({phase:?}): {e}"));
        }
    }
}

#[test]
fn after_an_error_before_the_tables_change_nothing_is_left_behind() {
    for chain in small_chains("NASBACKUP_SOAK_ERRORS", 4) {
        let before = fs::read(chain.path(chain.target)).unwrap();
        let raws = raws(&chain);
        let journal = Journal::new(before.clone(), true);
        rebase(&journal, &chain).unwrap();
        let (_, log) = journal.into_parts();
        // the first sync is of what was found, the second one of the first data
        let syncs: Vec<_> = log.iter().enumerate().filter(|(_, op)| matches!(op, Op::Sync)).map(|(at, _)| at).collect();
        for after in sample(syncs[1] + 1) {
            let journal = Journal::new(before.clone(), true).failing_once(after, libc::ENOSPC);
            let (keep, onto) = chain.keep();
            let rebase = Rebase::begin(&journal, chain.backing(), keep, onto.as_deref()).unwrap();
            let mut absorb = rebase.check(&mut |_| Ok(())).unwrap();
            absorb.run(&mut |_| Ok(())).unwrap_err();
            absorb.abandon().unwrap();
            let (state, _) = journal.into_parts();
            assert!(state.len() <= before.len(), "{chain}\nerror at {after}: {} bytes", state.len());
            // Reference counts beyond the end, which no tool looks at, included. Where nothing has to be absorbed the
            // new name, which nothing refers to yet, lies in the first cluster already.
            let header = 1 << before[23];
            assert!(state[header..] == before[header..state.len()], "{chain}\nerror at {after}: it was changed");
            fs::write(chain.path(chain.target), &state).unwrap();
            sound(&chain, &raws, false).unwrap_or_else(|e| panic!("{chain}\nerror at {after}: {e}"));
        }
    }
}

#[test]
fn an_abandoned_rebase_leaves_no_trace_of_its_data() {
    for chain in small_chains("NASBACKUP_SOAK_ERRORS", 6) {
        let before = fs::read(chain.path(chain.target)).unwrap();
        let raws = raws(&chain);
        let (keep, onto) = chain.keep();
        let run = |most: usize| {
            let mut left = most;
            fs::write(chain.path(chain.target), &before).unwrap();
            let rebase = Rebase::begin(chain.open(chain.target), chain.backing(), keep, onto.as_deref()).unwrap();
            let mut absorb = rebase.check(&mut |_| Ok(())).unwrap();
            let done = absorb.run(&mut |_| {
                left = left.checked_sub(1).ok_or(Stopped)?;
                Ok(())
            });
            assert!(done.is_ok() || left == 0);
            absorb.abandon().unwrap();
            sound(&chain, &raws, false).unwrap_or_else(|e| panic!("{chain}\nabandoned after {most} words: {e}"));
            (done.is_ok(), most - left)
        };
        let (_, all) = run(usize::MAX);
        for most in sample(all + 1) {
            let (done, _) = run(most);
            assert_eq!(done, most == all);
        }
    }
}
