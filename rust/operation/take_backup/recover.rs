//! Undoes what a backup has left whose process died, or which could not clear up: at load, and before the next backup of the
//! same virtual machine. What the library finds decides, and not what the record expects: a job is ours if it writes into our
//! folder, a point is published if it has its name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::call::ask;
use super::{found, quiesce, stopped};
use crate::config::Config;
use crate::engine::{leftover, scratch};
use crate::error::{Code, Error, Result};
use crate::host::{self, Begun, HostState};
use crate::libvirt::{Domain, JobState, State};
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::lock::InstanceLock;
use crate::nas::path::{PointPath, partial_name};
use crate::nas::purpose::Purpose;
use crate::nas::removal;
use crate::work::deadline::{self, bounded};
use crate::work::owner::WorkFor;

/// Undoes what dead processes' backups have left on this host. Failures are logged; the next load, or the next backup of the
/// virtual machine, tries again.
pub(crate) fn at_load(config: Arc<Config>) {
    let undone = deadline::ask("undo what was left", limits::RECOVERY, move || {
        // first: one guest that does not answer must not hold up the end of every other guest's job
        scratch::sweep(&config, None);
        for vm in host::unfinished(&config.state_dir) {
            let _for = WorkFor::guest(&vm);
            let undone = match HostState::lock_to_undo(&config.state_dir, &vm) {
                Err(error) if error.code == Code::Busy => Ok(()),
                host => host.and_then(|host| undo(&config, host, PointLookup::OrLater)).map(drop),
            };
            if let Err(error) = undone {
                log::error!("{vm}: unable to undo an earlier backup, leaving it to the next one: {error}");
            }
        }
        Ok(())
    });
    if let Err(error) = undone {
        log::warn!("{error}");
    }
}

/// How the library looks for a point on a NAS that may not answer, or may be slow to remove the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PointLookup {
    /// Removes what is left of the point; if the NAS does not answer, leaves all of it for later.
    OrLater,
    /// Looks no longer than this, and removes nothing: a removal that hangs would hold the lock that the waiting backup needs.
    /// The next backup on that NAS removes what is left.
    Within(Duration),
}

/// Thaws the guest if a backup has left it frozen.
pub(super) fn thaw_left(config: &Arc<Config>, mut host: HostState) -> Result<HostState> {
    if host.frozen() && thaw(config, host.vm())? {
        host.set_frozen(false)?;
    }
    Ok(host)
}

/// Undoes what the record of a virtual machine names, a freeze first.
pub(super) fn undo(config: &Arc<Config>, host: HostState, how: PointLookup) -> Result<HostState> {
    let host = thaw_left(config, host)?;
    let Some(begun) = host.begun().cloned() else { return Ok(host) };
    log::warn!("{}: undoing the backup to '{}' (job '{}'), which ended early", begun.vm, begun.point, begun.job);
    let aborted = end_job(config, &begun)?;
    let there = match look_for_point(&begun, how) {
        Err(error)
            if error.code == Code::Busy || (how == PointLookup::OrLater && error.code == Code::NasUnresponsive) =>
        {
            return Err(error);
        }
        there => there.unwrap_or_else(|error| {
            log::warn!("{}: unable to look at '{}', leaving it to the next backup: {error}", begun.vm, begun.point);
            None
        }),
    };
    let (fate, uri) = (decide_fate(aborted, there), config.connection_uri.clone());
    ask("clear the bitmaps", move || Ok(remove_superfluous(&uri, &begun, fate, host)))
}

/// Thaws a guest that may be frozen; true if the guest is not frozen any more.
fn thaw(config: &Arc<Config>, vm: &str) -> Result<bool> {
    let (config, vm) = (config.clone(), vm.to_owned());
    deadline::ask("thaw what was left", 2 * limits::LIBVIRT_CALL, move || {
        match Domain::find(&config.connection_uri, &vm)? {
            Some(domain) if domain.state()? != State::Other => Ok(quiesce::thaw_left(&domain, &config)),
            _ => Ok(true),
        }
    })
}

/// What has become of the restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Published,
    Unpublished,
    /// Its repository can't be looked at.
    Unknown,
}

/// Decides the point's fate by whether its job still ran, and whether the point has its own name.
fn decide_fate(aborted: bool, there: Option<bool>) -> Fate {
    match (aborted, there) {
        (_, Some(true)) => Fate::Published,
        (true, _) | (_, Some(false)) => Fate::Unpublished,
        (false, None) => Fate::Unknown,
    }
}

/// The bitmaps to remove: the new one if its point was not published, because nothing can stand on it; else the older ones,
/// which are useless beside the new one. None if the new one is not `ours` any more: it was removed before a late publication.
fn superfluous(begun: &Begun, fate: Fate, ours: &BTreeSet<String>) -> BTreeSet<String> {
    match (fate, &begun.bitmap) {
        (Fate::Unpublished, Some(new)) => BTreeSet::from([new.clone()]),
        (Fate::Published, Some(new)) if ours.contains(new) => {
            ours.iter().filter(|name| *name != new).cloned().collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Ends our job on the guest; true if one ran. `BUSY` when another job runs.
fn end_job(config: &Arc<Config>, begun: &Begun) -> Result<bool> {
    let (config, begun) = (config.clone(), begun.clone());
    ask("end what was left", move || {
        let Some(domain) = Domain::find(&config.connection_uri, &begun.vm)? else { return Ok(false) };
        if domain.state()? == State::Other {
            return Ok(false);
        }
        // libvirt may still be about to begin what the dead process has asked for
        domain.settle()?;
        scratch::sweep(&config, Some(&begun.vm));
        let mut aborted = false;
        for folder in folders(&begun) {
            aborted |= leftover::end_job(&domain, &folder)?;
        }
        if domain.job()?.state == JobState::Running {
            return Err(Error::new(Code::Busy, "end what was left", "another job runs on the domain"));
        }
        leftover::resume(&domain, begun.may_resume);
        Ok(aborted)
    })
}

/// The folders that a push job may write into: what QEMU sees of the point, and, where nothing could be mounted, the
/// point's own.
fn folders(begun: &Begun) -> Vec<PathBuf> {
    let own = PointPath::parse("point", &begun.point).ok();
    let own = own.map(|point| begun.root.join(point.instance()).join(partial_name(&point)));
    begun.view.clone().into_iter().chain(own).collect()
}

/// Is the point there under its own name? If not, what there is of it is removed, should that be asked for. `None` when its
/// instance's folder is not there: then it is not the repository that it was.
fn look_for_point(begun: &Begun, how: PointLookup) -> Result<Option<bool>> {
    let (root, point) = (begun.root.clone(), PointPath::parse("point", &begun.point)?);
    let _on = WorkFor::repository(root.display());
    let (limit, removes) = match how {
        PointLookup::OrLater => (limits::STORAGE_LONG_STEP, true),
        PointLookup::Within(most) => (limits::STORAGE_STEP.min(most), false),
    };
    bounded("look at what was left", limit, move || {
        let instance = match Folder::open_root(&root).and_then(|root| root.open_dir(&point.instance_folder())) {
            Err(error) if error.code == Code::NotFound => return Ok(None),
            instance => instance?,
        };
        let _lock = InstanceLock::take_within(limit, &instance, Purpose::Add)?;
        let published = instance.kind(point.name())?.is_some();
        if !published && removes {
            removal::clear_partial(&instance, &partial_name(&point))?;
        }
        instance.sync()?;
        Ok(Some(published))
    })
}

/// Removes the superfluous bitmaps. Those that can't be removed stay in the record, for the next backup.
fn remove_superfluous(uri: &str, begun: &Begun, fate: Fate, mut host: HostState) -> HostState {
    for name in superfluous(begun, fate, host.bitmaps()) {
        let removed = remove_bitmap(uri, begun, &name);
        match removed {
            Ok(true) => drop(host.forget(&name).inspect_err(|error| log::warn!("{error}"))),
            Ok(false) => {}
            Err(error) => log::warn!("{}: bitmap '{name}' stays until the next backup: {error}", begun.vm),
        }
    }
    host.end();
    host
}

/// Removes a bitmap from a running guest's disks, or from those of a stopped one that got it. False when it can't be told
/// where it may be: the guest ran then and does not now.
fn remove_bitmap(uri: &str, begun: &Begun, name: &str) -> Result<bool> {
    match Domain::find(uri, &begun.vm)? {
        Some(domain) if domain.is_active()? => {
            found::bitmaps(&domain, None)?.remove(&domain, name)?;
            Ok(true)
        }
        _ => {
            for disk in &begun.disks {
                let exists = Path::new(disk).try_exists();
                if exists.map_err(|e| Error::io("look at the disk", disk, e))? {
                    stopped::remove_if_there(disk, name)?;
                }
            }
            Ok(!begun.disks.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_ran_was_of_an_unpublished_point_and_what_was_not_seen_is_not_known() {
        for (aborted, there, expected) in [
            (true, Some(false), Fate::Unpublished),
            (true, None, Fate::Unpublished),
            (false, Some(false), Fate::Unpublished),
            (false, Some(true), Fate::Published),
            (true, Some(true), Fate::Published),
            (false, None, Fate::Unknown),
        ] {
            assert_eq!(decide_fate(aborted, there), expected, "{aborted} {there:?}");
        }
    }

    #[test]
    fn only_what_is_no_parent_any_more_goes() {
        let ours = BTreeSet::from(["old".to_owned(), "new".to_owned()]);
        let begun = |bitmap: Option<&str>| Begun {
            vm: "i-1-VM".into(),
            job: "j".into(),
            root: "/nas".into(),
            point: "i-1-VM/T".into(),
            bitmap: bitmap.map(str::to_owned),
            may_resume: true,
            disks: Vec::new(),
            view: Some("/run/nas-1-0/mount".into()),
        };
        for (bitmap, fate, expected) in [
            (Some("new"), Fate::Unpublished, vec!["new"]),
            (Some("new"), Fate::Published, vec!["old"]),
            (Some("new"), Fate::Unknown, vec![]),
            (None, Fate::Published, vec![]),
            (None, Fate::Unpublished, vec![]),
        ] {
            let found = superfluous(&begun(bitmap), fate, &ours);
            assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{bitmap:?} {fate:?}");
        }
        let without = BTreeSet::from(["old".to_owned()]);
        assert_eq!(superfluous(&begun(Some("new")), Fate::Published, &without), BTreeSet::new());
        assert_eq!(folders(&begun(None)), ["/run/nas-1-0/mount", "/nas/i-1-VM/.partial-T"].map(PathBuf::from));
    }
}
