//! Which engine copies a running guest's disks: the one that the caller chose, else pull where the host can do it.

use super::pull;
use super::scratch::Scratch;
use crate::config::Config;
use crate::config::Engine;
use crate::error::{Code, Error, Result};
use crate::libvirt::Domain;
use crate::limits;
use crate::nbd;
use crate::work::deadline::ask;

/// The first version of libvirt that has all that both engines need.
pub(crate) const LEAST_LIBVIRT: u64 = 7_002_000;
/// The first version of QEMU that has all that both engines need.
pub(crate) const LEAST_QEMU: u64 = 4_002_000;
/// Older versions of QEMU abort (assertion in `nbd_blockdev_client_closed`, fixed by QEMU's commit f816310d0c32), and end the
/// guest, when an NBD client closes the connection to a disk that an iothread serves. No order of closing avoids this: the
/// kernel closes the connection when this process is killed.
pub(crate) const IOTHREADS_FIXED: u64 = 9_000_000;

/// What the host offers for a pull; an error says why it lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PullSupport {
    /// libvirt's version as libvirt counts: 9.0.0 is 9,000,000.
    libvirt: u64,
    /// QEMU's version, counted alike.
    qemu: u64,
    /// Whether libnbd can be loaded.
    libnbd: Result<(), String>,
    /// Whether there is a scratch folder with room in it.
    scratch: Result<(), String>,
}

/// What the choice of an engine needs to know of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskToPull {
    /// The disk's name in the domain.
    pub target: String,
    /// Size that the guest sees, in bytes.
    pub bytes: u64,
    /// True if QEMU serves the disk on an iothread.
    pub iothread: bool,
}

/// The engine that was chosen.
#[derive(Debug)]
pub struct Choice {
    /// Where QEMU keeps old blocks during a pull; `None` means push.
    pub scratch: Option<Scratch>,
    /// Why the library fell back to push although the caller left the choice to it.
    pub details: Option<String>,
}

/// Chooses the engine for a backup of `domain`, whose QEMU runs as `owner`, and makes the scratch files of the `disks` for a
/// pull. `asked` is the caller's wish, `refused` says why an earlier attempt by pull failed. `DOMAIN_STATE` when the caller
/// asks for a pull that would end the guest.
pub fn choose_engine(
    asked: Engine,
    refused: Option<String>,
    config: &Config,
    domain: &Domain,
    owner: Option<(u32, u32)>,
    disks: &[DiskToPull],
) -> Result<Choice> {
    let danger = || {
        let with = disks.iter().find(|disk| disk.iothread && !is_dared())?;
        let asked = domain.clone();
        let version = ask("find out which QEMU the guest runs", limits::LIBVIRT_CALL, move || asked.qemu_version());
        danger_of_pull(&with.target, version.map_err(|error| error.to_string()))
    };
    let make = || {
        let mut scratch = Scratch::make(config, domain.name(), owner)?;
        scratch.place_socket(&domain.emulator()?)?;
        pull::check_scratch(&mut scratch)?;
        scratch.make_files(disks.iter().map(|disk| (disk.target.as_str(), disk.bytes)))?;
        Ok(scratch)
    };
    let push =
        |reason: Option<String>| Choice { scratch: None, details: reason.map(|reason| format!("by push: {reason}")) };
    Ok(match (asked, refused) {
        (Engine::Push, _) => push(None),
        (Engine::Pull, _) => match danger() {
            None => Choice { scratch: Some(make()?), details: None },
            Some(reason) => return Err(Error::new(Code::DomainState, "choose the engine", reason)),
        },
        (Engine::Auto, Some(reason)) => push(Some(reason)),
        (Engine::Auto, None) => {
            if let Some(reason) = danger() {
                return Ok(push(Some(reason)));
            }
            let asked = domain.clone();
            let (libvirt, qemu) =
                ask("ask for the versions of libvirt and QEMU", limits::LIBVIRT_CALL, move || asked.versions())?;
            let (libnbd, scratch) = (nbd::available().map_err(|e| e.to_string()), make());
            let found = scratch.as_ref().map(drop).map_err(|e| e.to_string());
            match reason_against_pull(&PullSupport { libvirt, qemu, libnbd, scratch: found }) {
                None => Choice { scratch: Some(scratch?), details: None },
                reason => push(reason),
            }
        }
    })
}

/// True if a test pulls a disk with an iothread nevertheless, to see that the guest survives when the connections close last.
#[cfg(feature = "test-hooks")]
fn is_dared() -> bool {
    std::env::var_os("NASBACKUP_DARE_IOTHREADS").is_some()
}

#[cfg(not(feature = "test-hooks"))]
fn is_dared() -> bool {
    false
}

/// Why a pull could end a guest whose disk `target` has an iothread; `None` if QEMU's version is known to survive it.
fn danger_of_pull(target: &str, qemu: Result<u64, String>) -> Option<String> {
    let found = match qemu {
        Ok(found) if found >= IOTHREADS_FIXED => return None,
        Ok(found) => format!("QEMU is {}", version(found)),
        Err(reason) => format!("the version of the guest's QEMU is not known ({reason})"),
    };
    let fixed = version(IOTHREADS_FIXED);
    Some(format!("disk {target} has an iothread and {found}: before {fixed} the guest could die of a pull"))
}

/// Why this host can't back up a guest by pull; `None` if it can.
fn reason_against_pull(facts: &PullSupport) -> Option<String> {
    let older = |what: &str, found: u64, needed: u64| {
        (found < needed).then(|| format!("{what} is {}, pull needs {}", version(found), version(needed)))
    };
    older("libvirt", facts.libvirt, LEAST_LIBVIRT)
        .or_else(|| older("QEMU", facts.qemu, LEAST_QEMU))
        .or_else(|| facts.libnbd.clone().err())
        .or_else(|| facts.scratch.clone().err())
}

/// A version as people write it.
pub(crate) fn version(number: u64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_an_iothread_is_pulled_only_from_a_qemu_that_is_known_to_live() {
        for (qemu, found) in [
            (Ok(9_000_000), None),
            (Ok(10_001_002), None),
            (Ok(8_002_002), Some("QEMU is 8.2.2")),
            (Err("upgraded".to_owned()), Some("is not known (upgraded)")),
        ] {
            let reason = danger_of_pull("vdb", qemu);
            assert_eq!(reason.is_some(), found.is_some(), "{reason:?}");
            assert!(found.is_none_or(|found| reason.is_some_and(|it| it.contains(found) && it.contains("disk vdb"))));
        }
    }

    #[test]
    fn the_engine_is_pull_unless_the_host_lacks_something() {
        let all = PullSupport { libvirt: 9_000_000, qemu: 7_002_022, libnbd: Ok(()), scratch: Ok(()) };
        let no = |why: &str| Err(why.to_owned());
        for (facts, why) in [
            (all.clone(), None),
            (PullSupport { libvirt: LEAST_LIBVIRT, qemu: LEAST_QEMU, ..all.clone() }, None),
            (PullSupport { libvirt: 7_001_999, ..all.clone() }, Some("libvirt is 7.1.999, pull needs 7.2.0")),
            (PullSupport { qemu: 4_001_000, ..all.clone() }, Some("QEMU is 4.1.0, pull needs 4.2.0")),
            (PullSupport { libnbd: no("no libnbd"), ..all.clone() }, Some("no libnbd")),
            (PullSupport { scratch: no("full"), ..all.clone() }, Some("full")),
            (PullSupport { libnbd: no("no libnbd"), scratch: no("full"), ..all.clone() }, Some("no libnbd")),
            (PullSupport { qemu: 0, libnbd: no("no libnbd"), ..all }, Some("QEMU is 0.0.0, pull needs 4.2.0")),
        ] {
            assert_eq!(reason_against_pull(&facts).as_deref(), why, "{facts:?}");
        }
    }
}
