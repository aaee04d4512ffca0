//! A domain: its state, its job, the backup job's begin and abort, freeze and thaw.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int};
use std::ptr::null_mut;
use std::time::Duration;

use virt::error::Error as VirtError;
use virt::stream::Stream;
use virt_sys as sys;

use super::block::Block;
use super::connection::connect;
use super::domain_xml::DomainXml;
use super::event::Params;
use super::{at, number};
use crate::error::{Code, Error, Result};

/// What a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its guest runs.
    Running,
    /// Its guest is paused.
    Paused {
        /// Because of an input or output error, and by nobody's wish.
        io_error: bool,
    },
    /// Its guest has suspended itself to memory.
    Sleeping,
    /// Its guest has crashed, and is kept for somebody who wants to look at it.
    Crashed,
    /// Shutting down or shut off: no job can begin.
    Other,
}

impl State {
    /// What its guest does in place of running; `None` when it runs.
    pub fn idle(self) -> Option<&'static str> {
        match self {
            State::Running => None,
            State::Paused { .. } => Some("the guest is paused"),
            State::Sleeping => Some("the guest sleeps"),
            State::Crashed => Some("the guest has crashed"),
            State::Other => Some("the guest has stopped"),
        }
    }

    /// Does its guest wait for storage that has failed?
    pub fn waits_for_storage(self) -> bool {
        self == State::Paused { io_error: true }
    }
}

/// What the job of a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// There is none.
    None,
    /// One is under way.
    Running,
    /// The last one completed.
    Completed,
    /// The last one failed or was cancelled.
    Failed,
}

/// The statistics of a domain's job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPicture {
    /// What it does.
    pub state: JobState,
    /// Is it a backup?
    pub backup: bool,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do in all.
    pub total: u64,
    /// Why it failed, if libvirt says so.
    pub error: Option<String>,
}

/// A domain that libvirt knows.
#[derive(Debug, Clone)]
pub struct Domain {
    pub(super) inner: virt::domain::Domain,
    uri: String,
    name: String,
    uuid: String,
}

impl Domain {
    /// Looks a domain of the libvirt at `uri` up by name; `None` when there is no such domain.
    pub fn find(uri: &str, name: &str) -> Result<Option<Domain>> {
        const STEP: &str = "look up the domain";
        let inner = match connect(uri)?.lookup_domain_by_name(name) {
            Ok(inner) => inner,
            Err(error) if number(&error) == sys::VIR_ERR_NO_DOMAIN => return Ok(None),
            Err(error) => return Err(at(STEP)(error)),
        };
        let uuid = inner.uuid_string().map_err(at(STEP))?;
        Ok(Some(Domain { inner, uri: uri.to_owned(), name: name.to_owned(), uuid }))
    }

    /// Starts a transient domain, whose guest is still paused. libvirt ends it when this process, or its connection, ends.
    pub fn create_paused(uri: &str, xml: &str) -> Result<Domain> {
        const STEP: &str = "start the domain";
        let flags = sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY;
        let inner = connect(uri)?.create_domain_xml(xml, flags).map_err(at(STEP))?;
        let name = inner.name().map_err(at(STEP))?;
        let uuid = inner.uuid_string().map_err(at(STEP))?;
        Ok(Domain { inner, uri: uri.to_owned(), name, uuid })
    }

    /// Ends it at once; one that is gone is success.
    pub fn destroy(&self) -> Result<()> {
        match self.inner.destroy() {
            Err(error) if number(&error) == sys::VIR_ERR_NO_DOMAIN => Ok(()),
            // it has just ended, and is about to be gone
            Err(error) if number(&error) == sys::VIR_ERR_OPERATION_INVALID && !self.is_active().unwrap_or(true) => {
                Ok(())
            }
            destroyed => destroyed.map_err(at("end the domain")),
        }
    }

    /// A picture of its first screen, as QEMU makes it: at most so many bytes.
    pub fn screenshot(&self, most: usize) -> Result<Vec<u8>> {
        const STEP: &str = "take a screenshot";
        let stream = Stream::new(&connect(&self.uri)?, 0).map_err(at(STEP))?;
        self.inner.screenshot(&stream, 0, 0).map_err(at(STEP))?;
        let (mut picture, mut piece) = (Vec::new(), [0; 64 << 10]);
        while picture.len() <= most {
            let read = usize::try_from(stream.recv(&mut piece).map_err(at(STEP))?).unwrap_or(0);
            if read == 0 {
                return stream.finish().map(|()| picture).map_err(at(STEP));
            }
            picture.extend_from_slice(&piece[..read]);
        }
        let aborted = stream.abort().map_err(at(STEP));
        aborted.and(Err(Error::new(Code::Libvirt, STEP, format!("it has more than {most} bytes"))))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID, as libvirt writes it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// The same domain on the connection of now, should the daemon have been restarted; `None` when it is gone.
    pub fn again(&self) -> Result<Option<Domain>> {
        Ok(Domain::find(&self.uri, &self.name)?.filter(|found| found.uuid == self.uuid))
    }

    /// What it does; `State::Other` when it is gone.
    pub fn state(&self) -> Result<State> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the domain is live; the call only writes the two integers.
        let done = unsafe { sys::virDomainGetState(self.inner.as_ptr(), &mut state, &mut reason, 0) };
        if done < 0 {
            let error = VirtError::last_error();
            return if number(&error) == sys::VIR_ERR_NO_DOMAIN {
                Ok(State::Other)
            } else {
                Err(at("ask the domain's state")(error))
            };
        }
        Ok(match state as u32 {
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => State::Running,
            sys::VIR_DOMAIN_PAUSED if reason as u32 == sys::VIR_DOMAIN_PAUSED_CRASHED => State::Crashed,
            sys::VIR_DOMAIN_PAUSED => State::Paused { io_error: reason as u32 == sys::VIR_DOMAIN_PAUSED_IOERROR },
            sys::VIR_DOMAIN_PMSUSPENDED => State::Sleeping,
            sys::VIR_DOMAIN_CRASHED => State::Crashed,
            _ => State::Other,
        })
    }

    /// Does it have a process, in whatever state?
    pub fn is_active(&self) -> Result<bool> {
        self.inner.is_active().map_err(at("ask whether the domain runs"))
    }

    /// Does QEMU not answer, or has it left a question open for longer than `patience`? Asks libvirtd only.
    pub fn monitor_hangs(&self, patience: Duration) -> Result<bool> {
        let mut info = sys::virDomainControlInfo { state: 0, details: 0, stateTime: 0 };
        // SAFETY: the domain is live; the call only writes `info`.
        if unsafe { sys::virDomainGetControlInfo(self.inner.as_ptr(), &mut info, 0) } < 0 {
            return Err(at("ask for the domain's monitor")(VirtError::last_error()));
        }
        Ok(match info.state {
            sys::VIR_DOMAIN_CONTROL_ERROR => true,
            sys::VIR_DOMAIN_CONTROL_OCCUPIED => Duration::from_millis(info.stateTime) > patience,
            _ => false,
        })
    }

    /// Does a block job (copy, commit, pull) run on the disk `target`?
    pub fn in_block_job(&self, target: &str) -> Result<bool> {
        let disk = c_string(target)?;
        let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
        // SAFETY: the domain is live, the name is NUL-terminated, the call only writes `info`.
        match unsafe { sys::virDomainGetBlockJobInfo(self.inner.as_ptr(), disk.as_ptr(), &mut info, 0) } {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(at("ask for the disk's block job")(VirtError::last_error())),
        }
    }

    /// Its live XML, as text and parsed, without secrets.
    pub fn xml(&self) -> Result<(String, DomainXml)> {
        let text = self.inner.xml_desc(0).map_err(at("read the domain's XML"))?;
        let parsed = DomainXml::parse(&text)?;
        Ok((text, parsed))
    }

    /// What libvirt and QEMU know of the disks, by their names: one question to QEMU for all of them. Not while a job runs:
    /// QEMU would stat its targets.
    pub fn blocks(&self) -> Result<BTreeMap<String, Block>> {
        let mut records = null_mut();
        // SAFETY: the domain is live, the list of domains ends with a null; on success `records` is ours, as below.
        let count = unsafe {
            let mut domains = [self.inner.as_ptr(), null_mut()];
            sys::virDomainListGetStats(domains.as_mut_ptr(), sys::VIR_DOMAIN_STATS_BLOCK, &mut records, 0)
        };
        if count < 0 {
            return Err(at("ask for the disks")(VirtError::last_error()));
        }
        // SAFETY: `records` holds that many pointers to records, each of which lives until the list is freed, once, after
        // the last use.
        unsafe {
            let found = (count > 0).then(|| blocks(&Params::new((**records).params, (**records).nparams)));
            sys::virDomainStatsRecordListFree(records);
            found.unwrap_or_else(|| Ok(BTreeMap::new()))
        }
    }

    /// The statistics of the job that runs now.
    pub fn job(&self) -> Result<JobPicture> {
        self.job_stats(0)
    }

    /// The statistics of the job that ended last, kept for others.
    pub fn ended_job(&self) -> Result<JobPicture> {
        self.job_stats(sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED)
    }

    /// Makes libvirt forget the job that ended last, so that it is not taken for the next one.
    pub fn forget_ended_job(&self) -> Result<()> {
        self.job_stats(sys::VIR_DOMAIN_JOB_STATS_COMPLETED).map(drop)
    }

    fn job_stats(&self, flags: u32) -> Result<JobPicture> {
        let (mut kind, mut params, mut count) = (0, null_mut(), 0);
        // SAFETY: the domain is live; on success the parameters are ours until freed below.
        if unsafe { sys::virDomainGetJobStats(self.inner.as_ptr(), &mut kind, &mut params, &mut count, flags) } < 0 {
            return Err(at("ask for the job's statistics")(VirtError::last_error()));
        }
        // SAFETY: as libvirt has just returned them; freed once, after the last use.
        let picture = unsafe {
            let read = Params::new(params, count);
            let picture = JobPicture {
                state: match kind as u32 {
                    sys::VIR_DOMAIN_JOB_NONE => JobState::None,
                    sys::VIR_DOMAIN_JOB_COMPLETED => JobState::Completed,
                    sys::VIR_DOMAIN_JOB_FAILED | sys::VIR_DOMAIN_JOB_CANCELLED => JobState::Failed,
                    _ => JobState::Running,
                },
                backup: read.int(sys::VIR_DOMAIN_JOB_OPERATION) == Some(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP as c_int),
                done: read.ulong(sys::VIR_DOMAIN_JOB_DISK_PROCESSED).unwrap_or(0),
                total: read.ulong(sys::VIR_DOMAIN_JOB_DISK_TOTAL).unwrap_or(0),
                error: read.string(sys::VIR_DOMAIN_JOB_ERRMSG),
            };
            sys::virTypedParamsFree(params, count);
            picture
        };
        Ok(picture)
    }

    /// Bounds the block job that runs on the disk `target`, a backup's too, to so many bytes a second.
    pub fn limit_block_job(&self, target: &str, bytes_per_second: u64) -> Result<()> {
        let disk = c_string(target)?;
        let flags = sys::VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES;
        // SAFETY: the domain is live and the name is NUL-terminated.
        if unsafe { sys::virDomainBlockJobSetSpeed(self.inner.as_ptr(), disk.as_ptr(), bytes_per_second, flags) } < 0 {
            return Err(at("limit the job's speed")(VirtError::last_error()).on_disk(target));
        }
        Ok(())
    }

    /// The versions of libvirt and of QEMU on this host: 9.0.0 is 9,000,000.
    pub fn versions(&self) -> Result<(u64, u64)> {
        let connection = connect(&self.uri)?;
        let step = "ask for the versions of libvirt and QEMU";
        let libvirt = connection.lib_version().map_err(at(step))?;
        let qemu = connection.hyp_version().map_err(at(step))?;
        Ok((libvirt.into(), qemu.into()))
    }

    /// Begins a backup job, with a checkpoint of the same instant if `checkpoint` is given. The files that `backup` names
    /// exist. `BUSY` when another job runs, `PARENT_INVALID` when what it stands on is not good, or gone.
    pub fn begin_backup(&self, backup: &str, checkpoint: Option<&str>) -> Result<()> {
        let backup = c_string(backup)?;
        let checkpoint = checkpoint.map(c_string).transpose()?;
        let checkpoint = checkpoint.as_ref().map_or(std::ptr::null(), |c| c.as_ptr());
        let flags = sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
        // SAFETY: the domain is live and both texts are NUL-terminated and outlive the call.
        if unsafe { sys::virDomainBackupBegin(self.inner.as_ptr(), backup.as_ptr(), checkpoint, flags) } < 0 {
            let error = VirtError::last_error();
            let number = number(&error);
            let error = at("begin the backup")(error);
            return Err(match number {
                sys::VIR_ERR_CHECKPOINT_INCONSISTENT | sys::VIR_ERR_NO_DOMAIN_CHECKPOINT => {
                    Error { code: Code::ParentInvalid, ..error }
                }
                // what libvirt says when somebody else's job came in between
                sys::VIR_ERR_OPERATION_INVALID if self.is_active().unwrap_or(false) => {
                    Error { code: Code::Busy, ..error }
                }
                _ => error,
            });
        }
        Ok(())
    }

    /// The XML of the backup job that runs; `None` when none does.
    pub fn running_backup(&self) -> Result<Option<String>> {
        // SAFETY: the domain is live; the text that comes back is ours, NUL-terminated, and freed after its copy.
        unsafe {
            let text = sys::virDomainBackupGetXMLDesc(self.inner.as_ptr(), 0);
            if text.is_null() {
                let error = VirtError::last_error();
                let none = number(&error) == sys::VIR_ERR_NO_DOMAIN_BACKUP;
                return if none { Ok(None) } else { Err(at("look at the domain's backup job")(error)) };
            }
            let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            Ok(Some(copy))
        }
    }

    /// Asks libvirt to abort the job. Its end is told by an event, not by this call.
    pub fn abort_job(&self) -> Result<()> {
        // SAFETY: the domain is live.
        if unsafe { sys::virDomainAbortJob(self.inner.as_ptr()) } < 0 {
            return Err(at("abort the job")(VirtError::last_error()));
        }
        Ok(())
    }

    /// Returns once every modifying step before it is done: libvirt lets one modify job in at a time, so after a backup
    /// job it returns only when QEMU has closed the targets. It changes nothing.
    pub fn settle(&self) -> Result<()> {
        let uri = Some("urn:nasbackup:none");
        let removed = self.inner.set_metadata(
            sys::VIR_DOMAIN_METADATA_ELEMENT as i32,
            None,
            None,
            uri,
            sys::VIR_DOMAIN_AFFECT_LIVE,
        );
        removed.map(drop).map_err(at("wait for the targets' close"))
    }

    /// Lets a paused guest go on.
    pub fn resume(&self) -> Result<()> {
        self.inner.resume().map_err(at("resume the guest"))
    }

    /// Bounds every later question to the guest's agent, for this and other callers; libvirt's default has no bound.
    pub fn bound_agent(&self, limit: Duration) -> Result<()> {
        let seconds = c_int::try_from(limit.as_secs()).unwrap_or(c_int::MAX);
        // SAFETY: the domain is live.
        if unsafe { sys::virDomainAgentSetResponseTimeout(self.inner.as_ptr(), seconds, 0) } < 0 {
            let error = at("bound the agent's answers")(VirtError::last_error());
            return Err(Error { code: Code::QuiesceFailed, ..error });
        }
        Ok(())
    }

    /// Asks the guest's agent something harmless, which it answers unless its file systems are frozen; says whether it did.
    /// An error says that it did not even refuse.
    pub fn agent_answers(&self) -> Result<bool> {
        let (mut seconds, mut nanoseconds) = (0, 0);
        // SAFETY: the domain is live; the call only writes the two integers.
        if unsafe { sys::virDomainGetTime(self.inner.as_ptr(), &mut seconds, &mut nanoseconds, 0) } == 0 {
            return Ok(true);
        }
        let error = VirtError::last_error();
        if is_refusal(number(&error), error.domain().to_raw(), || true) {
            Ok(false)
        } else {
            Err(at("ask the guest's agent")(error))
        }
    }

    /// Freezes the guest's file systems at these mount points, all of them where none is named; how many. The inner error
    /// is the agent's refusal: it has done nothing. After the outer one the agent may still carry the freeze out.
    pub fn freeze(&self, mount_points: &[String]) -> Result<Result<u32>> {
        let names = mount_points.iter().map(|point| c_string(point)).collect::<Result<Vec<_>>>()?;
        let mut points: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let (first, count) = (if points.is_empty() { null_mut() } else { points.as_mut_ptr() }, points.len() as u32);
        // SAFETY: the domain is live; the names are NUL-terminated and outlive the call, which takes so many of them.
        let frozen = unsafe { sys::virDomainFSFreeze(self.inner.as_ptr(), first, count, 0) };
        u32::try_from(frozen).map(Ok).or_else(|_| {
            let error = VirtError::last_error();
            let answers = || self.agent_answers().is_ok();
            let refused = is_refusal(number(&error), error.domain().to_raw(), answers);
            let error = Error { code: Code::QuiesceFailed, ..at("freeze the guest's file systems")(error) };
            if refused { Ok(Err(error)) } else { Err(error) }
        })
    }

    /// Thaws all the guest's file systems; how many. libvirt can't thaw some of them.
    pub fn thaw(&self) -> Result<u32> {
        // SAFETY: the domain is live; no mount points are named, which means all.
        let thawed = unsafe { sys::virDomainFSThaw(self.inner.as_ptr(), null_mut(), 0, 0) };
        u32::try_from(thawed).map_err(|_| at("thaw the guest's file systems")(VirtError::last_error()))
    }
}

/// Is that error of libvirt's, from this part of it, what the guest's agent has answered in words of its own? At first libvirt
/// had no number for it but the one that it also gives the end of the connection to the agent, or an answer that makes no
/// sense: nobody knows what the agent does then, unless it `answers` the next question.
fn is_refusal(number: u32, from: u32, answers: impl FnOnce() -> bool) -> bool {
    let from_agent = number == sys::VIR_ERR_INTERNAL_ERROR && from == sys::VIR_FROM_QEMU;
    number == sys::VIR_ERR_AGENT_COMMAND_FAILED || (from_agent && answers())
}

/// The disks in the statistics of a domain (libvirt-domain.h, virConnectGetAllDomainStats).
fn blocks(stats: &Params<'_>) -> Result<BTreeMap<String, Block>> {
    let mut blocks = BTreeMap::new();
    for disk in 0.. {
        let Some(name) = stats.string(&c_string(&format!("block.{disk}.name"))?) else { break };
        let capacity = stats.ulong(&c_string(&format!("block.{disk}.capacity"))?);
        let path = stats.string(&c_string(&format!("block.{disk}.path"))?);
        blocks.insert(name, Block { capacity, path });
    }
    Ok(blocks)
}

/// Text for libvirt; `INVALID_ARGUMENT` when it holds a NUL.
pub(super) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid("text for libvirt", "contains a NUL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_agent_s_refusal_where_it_goes_on_answering() {
        for (number, from, answers, expected) in [
            (sys::VIR_ERR_AGENT_COMMAND_FAILED, sys::VIR_FROM_QEMU, false, true),
            (sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_QEMU, true, true),
            (sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_QEMU, false, false),
            (sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_RPC, true, false),
            (sys::VIR_ERR_AGENT_UNRESPONSIVE, sys::VIR_FROM_QEMU, true, false),
        ] {
            assert_eq!(is_refusal(number, from, || answers), expected, "{number} {from} {answers}");
        }
    }
}
