//! How a running guest's backup is undone: at once, or on a thread that waits for the end of its job.

use super::super::call::ask;
use super::super::found::{self, FoundGuest};
use super::super::snapshots::DiskImage;
use super::super::take::Attempt;
use super::super::targets::TargetWriter;
use super::guest::{OwnedJob, Running};
use crate::config::Engine;
use crate::engine::leftover;
use crate::error::{Error, Result};
use crate::host::HostState;
use crate::libvirt::State;
use crate::limits;
use crate::work::owner::keep_owner;

/// Undoes everything because of `error`: at once, or, when the job can't be ended now, on a thread that waits for
/// its end and keeps the virtual machine locked until then.
pub(super) fn abandon(mut attempt: Attempt<Running>, error: Error) -> (Error, Option<HostState>) {
    if !attempt.guest.job.may_run() {
        return undo(attempt, error);
    }
    if attempt.guest.engine.kind == Engine::Push {
        attempt.targets.give_room_back();
    }
    let name = attempt.guest.found.domain.name().to_owned();
    let error = error.with_leftover("the hypervisor's job, which does not end; all is cleared when it does");
    let cause = error.clone();
    let of = name.clone();
    let wait = std::thread::Builder::new().name("nasbackup-clear".to_owned()).spawn(keep_owner(move || {
        wait_for_end(&mut attempt);
        let (error, _) = undo(attempt, cause);
        log::info!("{of}: cleared after its job ended: {error}");
    }));
    if let Err(failed) = wait {
        log::error!("{name}: unable to start the thread that clears up: {failed}");
    }
    (error, None)
}

/// Waits until our job runs no more. A push job on a NAS that hangs can't be ended by anybody.
fn wait_for_end(attempt: &mut Attempt<Running>) {
    let folder = attempt.job_folder();
    loop {
        std::thread::sleep(limits::LONG_LOOK);
        attempt.guest.found.refresh();
        let domain = &attempt.guest.found.domain;
        match leftover::abort_in(domain, &folder) {
            Ok(Some(false)) => return,
            Ok(_) => {}
            Err(error) if domain.state() == Ok(State::Other) => {
                log::info!("{}: {error}", domain.name());
                return;
            }
            Err(error) => log::debug!("{}: {error}", domain.name()),
        }
    }
}

/// Undoes everything; no job runs any more.
fn undo(attempt: Attempt<Running>, error: Error) -> (Error, Option<HostState>) {
    let Attempt { guest, bitmap, mut host, targets, .. } = attempt;
    let Running { mut found, engine, job, images } = guest;
    let (name, owner) = (found.domain.name().to_owned(), found.xml.owner);
    let may_begin = matches!(job, OwnedJob::Unknown);
    let cleared = ask("clear the guest", move || {
        found.refresh();
        remove_bitmap(&found, &mut host, bitmap.as_deref());
        // A begin that libvirt carries out after all this makes the bitmap then: the next run has to know it.
        if let Some(bitmap) = bitmap.filter(|_| may_begin) {
            host.remember(&bitmap)?;
        }
        leftover::resume(&found.domain, !found.state.waits_for_storage());
        let guest = found.domain.state();
        Ok((found, host, guest))
    });
    let guest = cleared.as_ref().map_err(Error::clone).and_then(|(.., guest)| guest.clone());
    let error = targets.discard(error, target_writer(engine.kind, &guest, owner));
    // Once more: a write of the guest may have failed while the bitmap was being removed.
    let resumed = cleared.and_then(|(found, host, _)| {
        ask("resume the guest", move || {
            leftover::resume(&found.domain, !found.state.waits_for_storage());
            Ok(host)
        })
    });
    // last, for a Ceph that hangs keeps waiting
    images.iter().for_each(DiskImage::remove);
    let mut host = resumed.inspect_err(|failed| log::error!("{name}: {failed}")).ok();
    if let Some(host) = &mut host {
        host.end_unless(error.leftovers);
    }
    let host = host.filter(|_| !error.leftovers);
    (error, host)
}

/// Removes the new bitmap of a point that could not be published because of `error`.
pub(super) fn drop_bitmap(mut found: FoundGuest, bitmap: Option<&str>, mut host: HostState, error: Error) -> Error {
    let (name, bitmap, leftovers) = (found.domain.name().to_owned(), bitmap.map(str::to_owned), error.leftovers);
    let removed = ask("delete the new checkpoint", move || {
        found.refresh();
        remove_bitmap(&found, &mut host, bitmap.as_deref());
        host.end_unless(leftovers);
        Ok(())
    });
    if let Err(failed) = removed {
        log::error!("{name}: unable to remove the new bitmap: {failed}");
    }
    error
}

/// Removes the bitmap of a run that failed: as a parent it would hide a hole in the chain. What can't be removed stays in
/// this host's record, for the next run.
fn remove_bitmap(found: &FoundGuest, host: &mut HostState, bitmap: Option<&str>) {
    let Some(bitmap) = bitmap else { return };
    if found.domain.state() == Ok(State::Other) {
        log::info!(
            "{}: the guest is gone, what is left of bitmap '{bitmap}' goes with the next backup",
            found.domain.name()
        );
        return;
    }
    // Looked at anew: the guest may have been restarted since, and what is stored in its disks be another.
    let removed = found::bitmaps(&found.domain, Some(&found.xml)).and_then(|now| now.remove(&found.domain, bitmap));
    if let Err(error) = removed.and_then(|()| host.forget(bitmap)) {
        log::warn!("{}: bitmap '{bitmap}' stays until the next backup: {error}", found.domain.name());
    }
}

/// Who has written the targets of a job that failed, so that a full NAS may be the reason; not where the guest's end is it.
fn target_writer(engine: Engine, guest: &Result<State>, owner: Option<(u32, u32)>) -> TargetWriter {
    match guest {
        Ok(State::Other) | Err(_) => TargetWriter::Ours,
        Ok(_) if engine == Engine::Push => TargetWriter::Qemu(owner),
        Ok(_) => TargetWriter::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_full_nas_is_looked_for_only_where_a_qemu_that_lives_has_written_to_it() {
        let (owner, lost) = (Some((1, 2)), Err(Error::new(Code::Libvirt, "ask", "the connection was lost")));
        for (engine, guest, writer) in [
            (Engine::Push, Ok(State::Running), TargetWriter::Qemu(owner)),
            (Engine::Push, Ok(State::Other), TargetWriter::Ours),
            (Engine::Push, lost, TargetWriter::Ours),
            (Engine::Pull, Ok(State::Running), TargetWriter::Ours),
        ] {
            assert_eq!(target_writer(engine, &guest, owner), writer, "{engine:?} {guest:?}");
        }
    }
}
