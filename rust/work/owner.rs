//! For whom a thread works: the repository, the guest and the job that its calls, and the threads that it begins, count for.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::{Code, Error, Result};
#[cfg(any(test, feature = "test-hooks"))]
use crate::{limits, second_table};

/// Whether somebody has cancelled a job. Clones are of the same job.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// That of the job that this thread works for.
    pub fn of_job() -> Cancel {
        OWNER.with_borrow(|owner| owner.cancel.clone())
    }

    /// The job is to end.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Is the job to end?
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// `CANCELLED` once the job is to end.
    pub fn check(&self, step: &'static str) -> Result<()> {
        if self.is_set() { Err(Error::new(Code::Cancelled, step, "the caller cancelled the job")) } else { Ok(()) }
    }
}

/// The repository, the guest and the job that a thread works for.
#[derive(Debug, Clone, Default)]
pub(super) struct WorkOwner {
    pub repository: Arc<str>,
    pub guest: Arc<str>,
    cancel: Cancel,
}

thread_local! {
    static OWNER: RefCell<WorkOwner> = RefCell::default();
}

impl WorkOwner {
    /// That of this thread.
    pub(super) fn current() -> WorkOwner {
        OWNER.with_borrow(WorkOwner::clone)
    }
}

/// Until the drop of this value, this thread, and those that it begins here, work for the repository and guest that it names.
#[derive(Debug)]
#[must_use]
pub struct WorkFor {
    before: WorkOwner,
    // the drop has to run on this thread
    _not_send: std::marker::PhantomData<*const ()>,
}

impl WorkFor {
    /// Sets the repository, the guest, and what tells of a cancel.
    pub fn job(repository: impl ToString, guest: &str, cancel: Cancel) -> WorkFor {
        let owner = WorkOwner { repository: repository.to_string().into(), guest: guest.into(), cancel };
        WorkFor::begin(|_| owner)
    }

    /// Sets the repository, for work on the NAS.
    pub fn repository(repository: impl ToString) -> WorkFor {
        let repository = repository.to_string().into();
        WorkFor::begin(|before| WorkOwner { repository, ..before })
    }

    /// Sets the guest, for questions to libvirt and work on this host's disks.
    pub fn guest(guest: &str) -> WorkFor {
        let guest = guest.into();
        WorkFor::begin(|before| WorkOwner { guest, ..before })
    }

    fn begin(now: impl FnOnce(WorkOwner) -> WorkOwner) -> WorkFor {
        let before = WorkOwner::current();
        OWNER.set(now(before.clone()));
        WorkFor { before, _not_send: std::marker::PhantomData }
    }
}

impl Drop for WorkFor {
    fn drop(&mut self) {
        OWNER.set(std::mem::take(&mut self.before));
    }
}

/// Wraps `work` for another thread, so that it counts for the repository and guest of this one.
pub fn keep_owner<T>(work: impl FnOnce() -> T + Send) -> impl FnOnce() -> T + Send {
    let owner = WorkOwner::current();
    #[cfg(any(test, feature = "test-hooks"))]
    let work = limits::inherited(second_table::of_the_same_pool(work));
    move || {
        OWNER.set(owner);
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use crate::work::deadline::bounded;

    #[test]
    fn work_that_a_thread_begins_counts_for_its_owner() {
        let owner = || OWNER.with_borrow(|owner| [&owner.repository, &owner.guest].map(ToString::to_string));
        let on = WorkFor::repository("nfs 'a:/'");
        let within = {
            let _for = WorkFor::guest("i-2-10-VM");
            let deeper = move || {
                bounded("outer", limits::STORAGE_STEP, move || {
                    bounded("inner", limits::STORAGE_STEP, move || Ok(owner()))
                })
            };
            deeper().unwrap()
        };
        assert_eq!(within, ["nfs 'a:/'", "i-2-10-VM"]);
        assert_eq!(owner(), ["nfs 'a:/'", ""]);
        drop(on);
        assert_eq!(bounded("of nobody", limits::STORAGE_STEP, move || Ok(owner())).unwrap(), ["", ""]);
    }

    #[test]
    fn a_thread_whose_job_has_ended_works_for_nobody() {
        let owner = || OWNER.with_borrow(|owner| [&owner.repository, &owner.guest].map(ToString::to_string));
        let job = crate::work::job::start(None, "takeBackup", "dir '/srv'", Some("i-2-11-VM".into())).unwrap();
        assert_eq!(owner(), ["dir '/srv'", "i-2-11-VM"]);
        drop(job);
        assert_eq!(owner(), ["", ""]);
    }
}
