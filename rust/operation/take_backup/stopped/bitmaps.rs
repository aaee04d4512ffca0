//! The bitmaps that are stored in a stopped guest's disks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::plan::{DiskPlan, Plan};
use super::super::request::StoppedSource;
use super::super::take::Attempt;
use super::disk::{FoundDisk, Stopped};
use super::questions::answered;
use crate::error::{Error, Result};
use crate::host::HostState;
use crate::limits;
use crate::qcow2;
use crate::qemu::image_file::open_named;
use crate::qemu::img;
use crate::work::call_end::within_call;
use crate::work::side_by_side::side_by_side;

const SEED: &str = "seed the disks";
/// How long the bitmaps of disks may take to be changed: longer than `qemu-img` may for one, where it removes one and adds one.
const CHANGE: Duration = limits::QEMU_IMG.saturating_mul(2);
/// Disks that are changed at a time: `qemu-img` mostly waits, for its own program and for the disk.
const AT_ONCE: usize = 4;

impl Attempt<Stopped> {
    /// Adds the bitmap to each disk that can carry it. One that gets none is told, and backed up all the same; not one whose
    /// storage does not answer, for nothing could be read from that either.
    pub(super) fn seed(&mut self) -> Result<()> {
        let Attempt { guest: Stopped { found, hangs, .. }, plan, bitmap, .. } = self;
        let Some(bitmap) = bitmap.as_deref() else { return Ok(()) };
        let wanted = |planned: &mut DiskPlan| std::mem::take(&mut planned.carries);
        let wanted: Vec<bool> = plan.disks.iter_mut().map(wanted).collect();
        let wanted: Vec<usize> = (0..found.len()).filter(|i| wanted[*i]).collect();
        for some in wanted.chunks(AT_ONCE) {
            let of_disk = |i: &usize| (found[*i].source.path.clone(), found[*i].bitmaps.contains(bitmap));
            let (disks, name) = (some.iter().map(of_disk).collect::<Vec<_>>(), bitmap.to_owned());
            // a bitmap that is added after the library has given up would be nobody's
            let until = Instant::now() + within_call(CHANGE);
            let add = move |(path, stale): &(String, bool)| {
                if *stale {
                    img::bitmap("--remove", path, &name)?;
                }
                img::bitmap_until(until, "--add", path, &name)
            };
            let added = match answered(SEED, CHANGE, move || told(side_by_side(SEED, AT_ONCE, &disks, add))) {
                Ok(added) => added,
                Err(error) if error.leftovers => {
                    *hangs = true;
                    return Err(error);
                }
                Err(error) => vec![Err(error); some.len()],
            };
            for (i, added) in some.iter().zip(added) {
                match added {
                    Ok(()) => plan.disks[*i].carries = true,
                    Err(error) => {
                        let path = &found[*i].source.path;
                        plan.details.push(format!("disk {path}: not seeded: {}", error.cause));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What became of each disk; the error of one in whose storage a process still hangs, which may change it later.
fn told(changed: Vec<Result<()>>) -> Result<Vec<Result<()>>> {
    let told = |changed: Result<()>| match changed {
        Err(error) if error.leftovers => Err(error),
        told => Ok(told),
    };
    changed.into_iter().map(told).collect()
}

/// Removes a bitmap from the disk at `path`, if it is stored there.
pub(in super::super) fn remove_if_there(path: &str, bitmap: &str) -> Result<()> {
    const STEP: &str = "look at the disk";
    let info = qcow2::inspect(&open_named(path)?).map_err(|e| e.at(STEP, path))?;
    let there = info.bitmaps.iter().any(|stored| stored.name == bitmap);
    if there { img::bitmap("--remove", path, bitmap) } else { Ok(()) }
}

/// Removes the new bitmap from the disks that got it. Where that can't be done (the guest was started), it stays in this
/// host's record for the next run; where their storage does not answer, `error` says that somebody is still at it.
pub(super) fn unseed(
    found: &[FoundDisk],
    plan: &Plan,
    bitmap: Option<&str>,
    host: &mut HostState,
    error: Error,
) -> Error {
    let Some(bitmap) = bitmap else { return error };
    let seeded = found.iter().zip(&plan.disks).filter(|(_, planned)| planned.carries);
    let paths: Vec<_> = seeded.map(|(disk, _)| disk.source.path.clone()).collect();
    let name = bitmap.to_owned();
    let removed = answered("remove the new bitmap", CHANGE, move || remove_bitmap(&paths, &name));
    match removed.and_then(|()| host.forget(bitmap)) {
        Ok(()) => error,
        Err(stays) => {
            log::warn!("{}: bitmap '{bitmap}' stays until the next backup: {stays}", host.vm());
            if stays.leftovers { error.with_leftover(stays.cause) } else { error }
        }
    }
}

/// Removes a bitmap from each of the disks, whatever happens on the others; the first failure, or one that left something behind.
fn remove_bitmap(paths: &[String], bitmap: &str) -> Result<()> {
    all_done(side_by_side("remove a bitmap", AT_ONCE, paths, |path| img::bitmap("--remove", path, bitmap)))
}

fn all_done(changed: Vec<Result<()>>) -> Result<()> {
    told(changed)?.into_iter().collect()
}

/// Removes each of these bitmaps from the disks at its paths; what became of it. Once it is given up it begins with none more.
fn remove_bitmaps(bitmaps: Vec<(String, Vec<String>)>) -> Result<Vec<(String, Result<()>)>> {
    let until = Instant::now() + within_call(CHANGE);
    let remove = move |(name, paths): (String, Vec<String>)| {
        let removed = remove_bitmap(&paths, &name);
        (name, removed)
    };
    answered("remove the older bitmaps", CHANGE, move || {
        Ok(bitmaps.into_iter().take_while(|_| Instant::now() < until).map(remove).collect())
    })
}

/// Removes the other bitmaps of ours, from the disks that were left out, too; what could not be done is told, and done by the
/// next run.
pub(super) fn clear_up(
    found: &[FoundDisk],
    left_out: Vec<StoppedSource>,
    ours: &BTreeSet<String>,
    bitmap: &str,
    host: &mut HostState,
) -> Vec<String> {
    let mut details = Vec::new();
    let (stored, unknown) = stored_in(left_out);
    let older = ours.iter().filter(|name| *name != bitmap).map(|name| {
        let disks = found.iter().map(|disk| (&disk.source.path, &disk.bitmaps));
        let there = disks.chain(stored.iter().map(|(path, names)| (path, names)));
        let there = there.filter(|(_, names)| names.contains(name)).map(|(path, _)| path.clone());
        (name.clone(), there.collect())
    });
    let removed = remove_bitmaps(older.collect()).unwrap_or_else(|error| {
        details.push(format!("older bitmaps may stay until the next backup: {error}"));
        Vec::new()
    });
    for (name, removed) in removed {
        // a name that was forgotten while it may be somewhere would be nobody's
        if let Err(error) = removed.and_then(|()| if unknown.is_empty() { host.forget(&name) } else { Ok(()) }) {
            details.push(format!("bitmap '{name}' stays until the next backup: {error}"));
        }
    }
    details.extend(unknown.iter().map(|error| format!("older bitmaps may stay until the next backup: {error}")));
    let foreign =
        found.iter().flat_map(|disk| &disk.bitmaps).filter(|name| !ours.contains(*name)).collect::<BTreeSet<_>>();
    details.extend(foreign.iter().map(|name| format!("bitmap '{name}' is not ours and is left alone")));
    details
}

/// The bitmaps in the disks that were left out, with their paths, and why it is not known of others.
fn stored_in(left_out: Vec<StoppedSource>) -> (Vec<(String, BTreeSet<String>)>, Vec<Error>) {
    const STEP: &str = "look at the disks that are left out";
    let look = |source: StoppedSource| {
        let info = qcow2::inspect(&open_named(&source.path)?).map_err(|error| error.at(STEP, &source.path))?;
        Ok((source.path, info.bitmaps.into_iter().map(|bitmap| bitmap.name).collect()))
    };
    let qcow2 = left_out.into_iter().filter(|source| source.qcow2 && source.rbd.is_none()).collect::<Vec<_>>();
    let looked = answered(STEP, limits::STORAGE_STEP, move || Ok(qcow2.into_iter().map(look).collect()));
    let looked: Vec<Result<_>> = looked.unwrap_or_else(|error| vec![Err(error)]);
    let (mut stored, mut unknown) = (Vec::new(), Vec::new());
    for disk in looked {
        match disk {
            Ok(disk) => stored.push(disk),
            Err(error) => unknown.push(error),
        }
    }
    (stored, unknown)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::error::Code;

    #[test]
    fn a_process_that_hangs_on_one_disk_fails_the_call_and_not_only_the_seed() {
        let changed = Mutex::new(Vec::new());
        let change = |disk: &usize| {
            changed.lock().unwrap().push(*disk);
            match disk {
                1 => Err(Error::new(Code::JobFailed, "seed", "refused")),
                6 => Err(Error::new(Code::NasUnresponsive, "seed", "late").on_disk("six").with_leftover("a process")),
                _ => Ok(()),
            }
        };
        let all = |disks: &[usize]| told(side_by_side(SEED, AT_ONCE, disks, change));
        let told: Vec<_> = all(&[0, 1, 2, 3, 4, 5]).unwrap().iter().map(Result::is_ok).collect();
        assert_eq!(told, [true, false, true, true, true, true]);
        assert!(all_done(side_by_side(SEED, AT_ONCE, &[1, 6], change)).is_err_and(|error| error.leftovers));
        changed.lock().unwrap().clear();
        let hangs = all(&[1, 6, 2, 3, 4]).err();
        // the others were changed all the same: this host's record keeps the bitmap's name
        changed.lock().unwrap().sort_unstable();
        assert_eq!(*changed.lock().unwrap(), [1, 2, 3, 4, 6]);
        let error = answered::<()>("seed", CHANGE, move || hangs.map_or(Ok(()), Err)).unwrap_err();
        assert_eq!((error.code, error.leftovers, error.disk.as_deref()), (Code::Timeout, true, Some("six")), "{error}");
    }
}
