//! The engine for a running guest: pull wherever it can be had, unless somebody has chosen.

use std::time::Duration;

use super::scratch::Scratch;
use super::{Engine, pull};
use crate::config::Config;
use crate::error::Result;
use crate::libvirt::Domain;
use crate::nas::deadline::ask;
use crate::nbd;

/// How long libvirt may take to say its version.
const CALL: Duration = Duration::from_secs(60);
/// From here on libvirt has all that a backup of either engine needs.
const LIBVIRT: u64 = 7_002_000;
/// The same of QEMU.
const QEMU: u64 = 4_002_000;

/// What was found on the host; an error says why something is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// libvirt's version, as it counts: 9.0.0 is 9,000,000.
    libvirt: u64,
    /// QEMU's, counted alike.
    qemu: u64,
    /// libnbd.
    libnbd: Result<(), String>,
    /// A scratch folder with room in it.
    scratch: Result<(), String>,
}

/// The engine that was chosen.
#[derive(Debug)]
pub struct Choice {
    /// Where a pull keeps old blocks; `None`: push.
    pub scratch: Option<Scratch>,
    /// Why it is push although nobody has chosen that.
    pub details: Option<String>,
}

/// Chooses the engine for a backup of `domain`, whose QEMU runs as `owner`, by what is `asked`, and makes the scratch files
/// of the `disks`, given by name and bytes. `refused`: why an earlier attempt by pull failed.
pub fn choose(
    asked: Engine,
    refused: Option<String>,
    config: &Config,
    domain: &Domain,
    owner: Option<(u32, u32)>,
    disks: &[(&str, u64)],
) -> Result<Choice> {
    let make = || {
        let scratch = Scratch::make(config, domain.name(), owner)?;
        pull::check_scratch(&scratch)?;
        disks.iter().try_for_each(|(target, bytes)| scratch.make_file(target, *bytes))?;
        Ok(scratch)
    };
    let push =
        |reason: Option<String>| Choice { scratch: None, details: reason.map(|reason| format!("by push: {reason}")) };
    Ok(match (asked, refused) {
        (Engine::Push, _) => push(None),
        (Engine::Pull, _) => Choice { scratch: Some(make()?), details: None },
        (Engine::Auto, Some(reason)) => push(Some(reason)),
        (Engine::Auto, None) => {
            let asked = domain.clone();
            let (libvirt, qemu) = ask("ask for the versions of libvirt and QEMU", CALL, move || asked.versions())?;
            let (libnbd, scratch) = (nbd::available().map_err(|e| e.to_string()), make());
            let found = scratch.as_ref().map(drop).map_err(|e| e.to_string());
            match against_pull(&Facts { libvirt, qemu, libnbd, scratch: found }) {
                None => Choice { scratch: Some(scratch?), details: None },
                reason => push(reason),
            }
        }
    })
}

/// Why a guest can't be backed up by pull on this host; `None`: it can.
fn against_pull(facts: &Facts) -> Option<String> {
    let older = |what: &str, found: u64, needed: u64| {
        (found < needed).then(|| format!("{what} is {}, pull needs {}", version(found), version(needed)))
    };
    older("libvirt", facts.libvirt, LIBVIRT)
        .or_else(|| older("QEMU", facts.qemu, QEMU))
        .or_else(|| facts.libnbd.clone().err())
        .or_else(|| facts.scratch.clone().err())
}

fn version(number: u64) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_pull_unless_something_is_missing() {
        let all = Facts { libvirt: 9_000_000, qemu: 7_002_022, libnbd: Ok(()), scratch: Ok(()) };
        let no = |why: &str| Err(why.to_owned());
        for (facts, why) in [
            (all.clone(), None),
            (Facts { libvirt: LIBVIRT, qemu: QEMU, ..all.clone() }, None),
            (Facts { libvirt: 7_001_999, ..all.clone() }, Some("libvirt is 7.1.999, pull needs 7.2.0")),
            (Facts { qemu: 4_001_000, ..all.clone() }, Some("QEMU is 4.1.0, pull needs 4.2.0")),
            (Facts { libnbd: no("no libnbd"), ..all.clone() }, Some("no libnbd")),
            (Facts { scratch: no("full"), ..all.clone() }, Some("full")),
            (Facts { libnbd: no("no libnbd"), scratch: no("full"), ..all.clone() }, Some("no libnbd")),
            (Facts { qemu: 0, libnbd: no("no libnbd"), ..all }, Some("QEMU is 0.0.0, pull needs 4.2.0")),
        ] {
            assert_eq!(against_pull(&facts).as_deref(), why, "{facts:?}");
        }
    }
}
