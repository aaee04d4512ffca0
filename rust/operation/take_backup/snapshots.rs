//! Snapshots of a guest's images in Ceph: what a disk held at one instant, and since which Ceph tells what has changed. That of the
//! newest point stays in its image.
//!
//! Of a running guest the snapshot is taken right before the job begins, and another one, for a moment, right after: what has changed
//! from the parent's to that is all that has changed from the parent's instant to this one, and a little more.

use std::sync::mpsc::Sender;
use std::time::Duration;

use super::call::Call;
use super::plan::{DiskPlan, Strategy};
use crate::engine::{Changes, GoOn, LateChanges};
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::operation::ceph::{self, ListedSnapshot, Rbd};
use crate::point::Snapshot;
use crate::work::job::Reporter;

const STEP: &str = "take a snapshot of the image in Ceph";
/// What the names of ours begin with. The id of the point follows, so many digits.
const PREFIX: &str = "nasbackup-";
const ID: usize = 32;
/// What the names of those end with that are taken for a moment.
const END: &str = "-end";
/// The feature by which one client at a time has an image to itself.
const EXCLUSIVE: &str = "exclusive-lock";
/// The feature of an image whose data still lies in another one.
const MIGRATING: &str = "migrating";

/// An image of which this backup takes a snapshot.
#[derive(Debug, Clone)]
pub(super) struct DiskImage {
    /// The position of its disk.
    pub disk: usize,
    /// The disk's name.
    target: String,
    image: Rbd,
    name: String,
    /// Ceph was asked for the snapshot.
    may_be_there: bool,
    /// Of a disk that is compared: the parent's snapshot, since which Ceph tells what has changed, or why it can't.
    since: Option<std::result::Result<Snapshot, String>>,
    /// The names of ours that were there before.
    older: Vec<String>,
}

impl DiskImage {
    pub(super) fn new(disk: usize, target: &str, image: Rbd, call: &Call<'_>) -> DiskImage {
        let name = format!("{PREFIX}{}", call.point_id);
        DiskImage { disk, target: target.to_owned(), image, name, may_be_there: false, since: None, older: Vec::new() }
    }

    /// Takes the snapshot, and notes it in the plan of the disk. Of an image that a guest has open it is refused unless that guest's
    /// QEMU takes it itself: else the snapshot may hold writes that come after it.
    pub(super) fn take(
        &mut self,
        is_open: bool,
        disk: &mut DiskPlan,
        call: &Call<'_>,
        job: &mut Reporter<'_>,
    ) -> Result<()> {
        let limit = limits::CEPH.min(call.left());
        let refuse = |cause: &str| Err(Error::new(Code::JobFailed, STEP, cause));
        let info = ceph::info(&self.image, limit, || job.tell())?;
        let has = |feature: &str| info.features.iter().any(|known| known == feature);
        let is_exclusive = has(EXCLUSIVE);
        let image = match info.id {
            None => return refuse("it is of format 1, and has no id"),
            // Ceph 16 lets what such an image's snapshots hold change, and does not tell all that has changed since
            Some(_) if has(MIGRATING) => return refuse("'rbd migration' is under way"),
            Some(_) if is_open && !is_exclusive => return refuse("it is without the feature 'exclusive-lock'"),
            Some(image) => image,
        };
        let taken = ceph::take(&self.image, &self.name, limit, || job.tell());
        // what Ceph refuses it does not do late
        self.may_be_there = !matches!(&taken, Err(error) if error.code == Code::JobFailed);
        taken?;
        self.look(image, (is_open, is_exclusive), disk, limit, job)
    }

    /// Looks at the image, of which the snapshot is taken.
    fn look(
        &mut self,
        image: String,
        (is_open, is_exclusive): (bool, bool),
        disk: &mut DiskPlan,
        limit: Duration,
        job: &mut Reporter<'_>,
    ) -> Result<()> {
        // not before: who opens it now knows of the snapshot
        if is_open || !is_exclusive {
            let clients = ceph::clients(&self.image, limit, || job.tell())?;
            if let Some(cause) = stranger(is_open, clients) {
                return Err(Error::new(Code::JobFailed, STEP, cause));
            }
        }
        let there = ceph::list(&self.image, limit, || job.tell())?;
        let now = there.iter().find(|listed| listed.name == self.name).ok_or_else(|| self.gone(&self.name))?;
        if matches!(disk.strategy, Strategy::Compared(..)) {
            self.since = Some(match disk.since.take().filter(|since| is_ours(&since.name)) {
                Some(since) => doubt(&since, &image, &there, now.size).map_or(Ok(since), Err),
                None => Err("the parent point names no snapshot of it".to_owned()),
            });
        }
        let names = there.iter().map(|listed| &listed.name);
        self.older = names.filter(|name| is_ours(name) && **name != self.name).cloned().collect();
        disk.snapshot = Some(Snapshot { image, id: now.id, name: now.name.clone() });
        Ok(())
    }

    /// The image as the snapshot shows it.
    pub(super) fn frozen(&self) -> Rbd {
        self.image.at(&self.name)
    }

    /// What has to be read of the snapshot, and what is told of that.
    pub(super) fn changes(&self, call: &Call<'_>, job: &mut Reporter<'_>) -> Result<(Changes, Option<String>)> {
        self.changes_until(&self.name, call.left(), &mut || job.tell())
    }

    /// What has to be read of the disk of a running guest whose job has begun. What is told of that goes to `told`.
    pub(super) fn late_changes(&self, limit: Duration, told: Sender<String>) -> LateChanges {
        let image = self.clone();
        LateChanges(Box::new(move |go_on| {
            let (changes, line) = match &image.since {
                Some(Ok(_)) => image.changes_until_now(limit, go_on)?,
                _ => image.changes_until(&image.name, limit, go_on)?,
            };
            if let Some(line) = line {
                // fails when nobody waits any more
                let _ = told.send(line);
            }
            Ok(changes)
        }))
    }

    /// What has changed until now, by a snapshot that is taken for that.
    fn changes_until_now(&self, limit: Duration, go_on: GoOn<'_>) -> Result<(Changes, Option<String>)> {
        let end = format!("{}{END}", self.name);
        let taken = ceph::take(&self.image, &end, limits::CEPH.min(limit), &mut *go_on);
        let changes = match or_refused(taken) {
            Ok(Err(reason)) => return Ok(self.whole(&reason)),
            Ok(Ok(())) => self.changes_until(&end, limit, go_on),
            Err(error) => Err(error),
        };
        match ceph::remove(&self.image, &end) {
            Ok(()) => changes,
            // then it may have been gone before all was told
            Err(error) => changes.map(|_| self.whole(&error.cause)),
        }
    }

    fn changes_until(&self, end: &str, limit: Duration, go_on: GoOn<'_>) -> Result<(Changes, Option<String>)> {
        let told = match &self.since {
            None => return Ok((Changes::All, None)),
            Some(Err(reason)) => Err(reason.clone()),
            Some(Ok(since)) => or_refused(ceph::changes(&self.image, (&since.name, end), limit, go_on))?,
        };
        let ranges = match told {
            Ok(ranges) => ranges,
            Err(reason) => return Ok(self.whole(&reason)),
        };
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let line = format!("disk {}: of it {bytes} bytes were read, which Ceph says may have changed", self.target);
        Ok((Changes::Ranges(ranges.into()), Some(line)))
    }

    fn whole(&self, reason: &str) -> (Changes, Option<String>) {
        (Changes::All, Some(format!("disk {}: read whole: {reason}", self.target)))
    }

    /// Fails if somebody has removed the parent's snapshot, which then may not have told all, or the snapshot that was `shown`, of
    /// which zeroes are read then.
    pub(super) fn check_there(&self, shown: Option<&Snapshot>, call: &Call<'_>, job: &mut Reporter<'_>) -> Result<()> {
        let needed: Vec<_> = self.since.iter().flatten().chain(shown).collect();
        if needed.is_empty() {
            return Ok(());
        }
        let there = ceph::list(&self.image, limits::CEPH.min(call.left()), || job.tell())?;
        let gone = |needed: &&&Snapshot| !there.iter().any(|listed| listed.id == needed.id);
        needed.iter().find(gone).map_or(Ok(()), |lost| Err(self.gone(&lost.name)))
    }

    fn gone(&self, name: &str) -> Error {
        let cause = format!("somebody has removed the snapshot '{name}' of it");
        Error::new(Code::JobFailed, "look at the image in Ceph", cause).on_disk(&self.target)
    }

    /// Removes the snapshot, because no published point has it.
    pub(super) fn remove(&self) {
        if self.may_be_there
            && let Err(error) = ceph::remove(&self.image, &self.name)
        {
            log::warn!("snapshot '{}' of '{}' stays until the next backup: {error}", self.name, self.image.name);
        }
    }

    /// Removes the older snapshots of ours, which no backup needs any more; what became of that, if it did not succeed.
    pub(super) fn remove_older(&self) -> Option<String> {
        let mut first = None;
        for name in &self.older {
            let Err(error) = ceph::remove(&self.image, name) else { continue };
            // one that is protected keeps none of the others; a Ceph that does not answer is not asked again
            let is_refused = error.code == Code::JobFailed;
            first.get_or_insert_with(|| error.on_disk(name));
            if !is_refused {
                break;
            }
        }
        let error = first?;
        Some(format!("disk {}: older snapshots stay until the next backup: {error}", self.target))
    }
}

/// What is told where there is no snapshot of a disk, for this reason.
pub(super) fn without(target: &str, reason: &str) -> String {
    format!("disk {target}: no snapshot was taken, all of it was read: {reason}")
}

/// What was asked for, or why Ceph, or this host, does not do it: a cluster that is full lets who writes wait, and can be read.
pub(super) fn or_refused<T>(asked: Result<T>) -> Result<Result<T, String>> {
    match asked {
        Err(error) if matches!(error.code, Code::JobFailed | Code::Timeout) => Ok(Err(error.cause)),
        asked => asked.map(Ok),
    }
}

/// Why an image that so many clients have open is not that of a guest, which `is_open`, if so.
fn stranger(is_open: bool, clients: usize) -> Option<&'static str> {
    match (is_open, clients) {
        (true, 0) => Some("nobody has it open for writing: the guest's disk is another image, or read-only"),
        (false, 1..) => Some("somebody has it open, and it is without the feature 'exclusive-lock'"),
        _ => None,
    }
}

/// True of the names that the library gives to snapshots.
fn is_ours(name: &str) -> bool {
    let id = name.strip_prefix(PREFIX).unwrap_or_default();
    let id = id.strip_suffix(END).unwrap_or(id);
    id.len() == ID && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Why the snapshot `since` does not tell what has changed up to one of `size` bytes, if so. `image` is the image's id, and
/// `there` are its snapshots.
fn doubt(since: &Snapshot, image: &str, there: &[ListedSnapshot], size: u64) -> Option<String> {
    if image != since.image {
        return Some("it is another image of that name than at the parent point".to_owned());
    }
    match there.iter().find(|listed| listed.id == since.id && listed.name == since.name) {
        None => Some(format!("its snapshot '{}' is gone", since.name)),
        Some(listed) if listed.size > size => Some(format!("it had {} bytes then and has {size}", listed.size)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_library_gives_are_ours() {
        let id = crate::point::Manifest::new_point_id().unwrap();
        assert!(is_ours(&format!("{PREFIX}{id}")) && is_ours(&format!("{PREFIX}{id}{END}")));
        let upper = format!("{PREFIX}{}", "A".repeat(ID));
        for name in [&id, PREFIX, "", "nasbackup-daily", &format!("{PREFIX}{id}0"), &format!("x{PREFIX}{id}"), &upper] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn a_snapshot_tells_what_has_changed_if_it_is_the_one_that_the_parent_names() {
        let since = Snapshot { image: "10c2".into(), id: 4, name: "a".into() };
        let listed = |id, name: &str, size| ListedSnapshot { id, name: name.into(), size };
        let there = [listed(4, "a", 100), listed(7, "b", 100)];
        for (image, there, size, why) in [
            ("10c2", &there[..], 100, None),
            ("10c2", &there[..], 200, None),
            ("10c3", &there[..], 100, Some("another image")),
            ("10c2", &there[1..], 100, Some("'a' is gone")),
            ("10c2", &[listed(5, "a", 100)], 100, Some("'a' is gone")),
            ("10c2", &[listed(4, "b", 100)], 100, Some("'a' is gone")),
            ("10c2", &there[..], 99, Some("had 100 bytes then and has 99")),
        ] {
            let doubt = doubt(&since, image, there, size);
            assert_eq!(doubt.is_some(), why.is_some(), "{doubt:?}");
            assert!(doubt.unwrap_or_default().contains(why.unwrap_or_default()));
        }
    }
}
