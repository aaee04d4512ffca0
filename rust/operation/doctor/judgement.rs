//! What facts mean for backups. These are pure functions.

use std::path::Path;

use rustix::io::Errno;

use super::finding::{Finding, State};
use super::probe::Tried;
use crate::config::{Engine, LEAST_SCRATCH};
use crate::engine::choice::{IOTHREADS_FIXED, LEAST_LIBVIRT, LEAST_QEMU, version};
use crate::error::{Code, Error, Result as Tries};
use crate::lacking;
use crate::plain::size;

/// What was asked, or why there is no answer.
pub(super) type Asked<T> = Result<T, String>;

/// It makes bitmaps in the disks of stopped guests from then on.
const LEAST_QEMU_IMG: u64 = 5_001_000;

/// A fault of versions before the first: what it is, and what to do.
const DEFECTS: [(u64, &str, &str); 1] = [(
    IOTHREADS_FIXED,
    "a guest whose disks have iothreads could die of a backup by pull",
    "such guests are backed up by push, and refused with 'engine = pull'; start them anew with a newer QEMU",
)];

/// Mount options by which locks end at this host.
const LOCAL_LOCKS: [&str; 5] = ["nolock", "local_lock=all", "local_lock=flock", "nobrl", "nobrlock"];

impl Finding {
    fn new(what: impl Into<String>, state: State, found: impl Into<String>) -> Finding {
        Finding { what: what.into(), state, found: found.into(), advice: None, stops: false }
    }

    fn ok(what: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(what, State::Ok, found)
    }

    fn lacks(what: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(what, State::Lacks, found)
    }

    fn untried(what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(what, State::Untried, why)
    }

    fn advise(self, advice: impl Into<String>) -> Finding {
        Finding { advice: Some(advice.into()), ..self }
    }

    fn stops(self, stops: bool) -> Finding {
        Finding { stops, ..self }
    }
}

pub(super) fn rights(lacking: &Asked<Vec<&str>>) -> Finding {
    const WHAT: &str = "rights";
    match lacking {
        Ok(lacking) if lacking.is_empty() => Finding::ok(WHAT, "root's"),
        Ok(lacking) => {
            Finding::lacks(WHAT, format!("without {}", lacking.join(", "))).advise("run as root").stops(true)
        }
        Err(why) => Finding::untried(WHAT, why).stops(true),
    }
}

pub(super) fn libvirt(found: &Asked<u64>) -> Finding {
    match found {
        Ok(found) => at_least("libvirt", *found, LEAST_LIBVIRT),
        Err(why) => {
            let advice = "start its daemon (libvirtd, or virtqemud), or name it in 'connectionUri'";
            Finding::lacks("libvirt", why).advise(advice).stops(true)
        }
    }
}

/// And a finding for each known fault of that version.
pub(super) fn qemu(found: &Asked<u64>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => *found,
        Err(why) => return vec![Finding::untried("QEMU", why).stops(true)],
    };
    let defects = DEFECTS.into_iter().filter(|(fixed, ..)| found < *fixed).map(|(fixed, fault, advice)| {
        Finding::new("QEMU", State::Defect, format!("{fault}, before {}", version(fixed))).advise(advice)
    });
    std::iter::once(at_least("QEMU", found, LEAST_QEMU)).chain(defects).collect()
}

fn at_least(what: &str, found: u64, needed: u64) -> Finding {
    if found >= needed {
        return Finding::ok(what, version(found));
    }
    let older = Finding::lacks(what, format!("{} is older than {}", version(found), version(needed)));
    older.advise("upgrade it").stops(true)
}

/// `told` is what it says of its version.
pub(super) fn qemu_img(told: &Asked<String>) -> Finding {
    const WHAT: &str = "qemu-img";
    match told.as_ref().map(|told| (told, version_in(told))) {
        Ok((_, Some(found))) => at_least(WHAT, found, LEAST_QEMU_IMG),
        Ok((told, None)) => Finding::untried(WHAT, format!("tells no version: {}", told.trim())).stops(true),
        Err(why) => {
            Finding::lacks(WHAT, why).advise("install package qemu-utils (Debian, Ubuntu) or qemu-img").stops(true)
        }
    }
}

/// The version in a text like `qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)`, as libvirt counts.
fn version_in(told: &str) -> Option<u64> {
    let numbers = told.split_once("version ")?.1.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse::<u64>().ok());
    let (major, minor, micro) = (numbers.next()??, numbers.next()??, numbers.next().unwrap_or(Some(0))?);
    Some(major * 1_000_000 + minor * 1000 + micro)
}

pub(super) fn mount(path: &Asked<String>) -> Finding {
    let lacks = |why| Finding::lacks("mount", why).advise("install package mount, or util-linux").stops(true);
    path.as_ref().map_or_else(lacks, |path| Finding::ok("mount", path))
}

/// Programs that some operations need, and backups of disks in files do not.
pub(super) const SOME_NEED: [(&str, &str); 4] = [
    ("qemu-storage-daemon", "'nasbackup mount' needs it: package qemu-system-common (Debian, Ubuntu) or qemu-kvm-core"),
    (
        "qemu-nbd",
        "stopped guests with disks in Ceph need it, and restores to Ceph: package qemu-utils (Debian, Ubuntu) or qemu-img",
    ),
    ("rbd", "restores to Ceph need it, and without it incrementals of images there read all: package ceph-common"),
    (
        "guestfish",
        "without it this host's kernel reads guests' files, and none in LVM: package guestfish (Debian, Ubuntu) or libguestfs",
    ),
];

pub(super) fn some_need(program: &str, path: &Asked<String>, advice: &str) -> Finding {
    path.as_ref().map_or_else(|why| Finding::lacks(program, why).advise(advice), |path| Finding::ok(program, path))
}

pub(super) fn libnbd(there: &Asked<()>, engine: Engine) -> Finding {
    const WHAT: &str = "libnbd";
    match there {
        Ok(()) => Finding::ok(WHAT, "is there"),
        Err(why) => {
            let advice = "install package libnbd0 (Debian, Ubuntu) or libnbd: without it backups go by push";
            Finding::lacks(WHAT, why).advise(advice).stops(engine == Engine::Pull)
        }
    }
}

/// `room` in bytes.
pub(super) fn scratch(room: &Tries<u64>, engine: Engine) -> Finding {
    const WHAT: &str = "scratch folder";
    let advice =
        "without it backups go by push: make room, let QEMU's user pass, or name another folder in 'scratchDir'";
    match room {
        Ok(room) if *room >= LEAST_SCRATCH => Finding::ok(WHAT, format!("has room for {}", size(*room))),
        Ok(room) => {
            let found = format!("has room for {} alone", size(*room));
            Finding::lacks(WHAT, found).advise(advice).stops(engine == Engine::Pull)
        }
        Err(error) => of_error(WHAT, error).advise(advice).stops(engine == Engine::Pull),
    }
}

/// What is lacking, unless the error says that it could not be found out.
fn of_error(what: impl Into<String>, error: &Error) -> Finding {
    match error.code {
        Code::NasUnresponsive | Code::Io | Code::Timeout | Code::Internal => Finding::untried(what, error.reason()),
        _ => Finding::lacks(what, error.reason()),
    }
}

/// By pull the library alone opens files on the NAS, and it follows no link on any kernel.
pub(super) fn links(known: &Asked<bool>, engine: Engine) -> Finding {
    const WHAT: &str = "links";
    match known {
        Ok(true) => Finding::ok(WHAT, "in a repository are not followed"),
        Ok(false) if engine == Engine::Pull => Finding::ok(WHAT, "a push would follow them, and there is none"),
        Ok(false) => {
            let found = "this kernel follows them in a push: nosymfollow came with Linux 5.14";
            Finding::lacks(WHAT, found).advise("a newer kernel, or 'engine = pull'")
        }
        Err(why) => Finding::untried(WHAT, why),
    }
}

/// The library has refused settings that name one which others may read, or that holds no keys.
pub(super) fn keys(file: Option<&Path>) -> Finding {
    match file {
        Some(file) => Finding::ok("keys", format!("'{}', which nobody else may read", file.display())),
        None => Finding::lacks("keys", "whoever may write on the NAS can forge restore points")
            .advise("'keyFile' names a file of keys, the same on all hosts"),
    }
}

/// `denies` are the operator's rules that deny all guests something; none where AppArmor is not in force. `models` are those by
/// which libvirt confines guests.
pub(super) fn apparmor(denies: &Asked<Option<Vec<String>>>, models: &Asked<Vec<String>>) -> Finding {
    const WHAT: &str = "AppArmor";
    match (denies, models) {
        (Err(why), _) | (Ok(Some(_)), Err(why)) => Finding::untried(WHAT, why),
        (Ok(None), _) => Finding::ok(WHAT, "is not in force"),
        (Ok(Some(_)), Ok(models)) if !models.iter().any(|model| model == "apparmor") => {
            Finding::ok(WHAT, "confines no guests: libvirt does not use it")
        }
        (Ok(Some(denies)), Ok(_)) if denies.is_empty() => {
            Finding::ok(WHAT, "confines guests; libvirt lets them have what a backup needs")
        }
        (Ok(Some(denies)), Ok(_)) => {
            Finding::new(WHAT, State::Defect, format!("guests are denied: {}", denies.join(" "))).advise(
                "a guest that is denied its scratch goes by push, one that is denied a target is not backed up so",
            )
        }
    }
}

/// The rules of a profile that deny something.
pub(super) fn denials(profile: &str) -> Vec<String> {
    let rule = |line: &&str| line.strip_prefix("audit ").unwrap_or(line).trim_start().starts_with("deny ");
    profile.lines().map(str::trim).filter(rule).map(str::to_owned).collect()
}

/// Whether it is in force, and which booleans of libvirt's policy are off; none without SELinux.
pub(super) fn selinux(found: &Asked<Option<(bool, Vec<&str>)>>, engine: Engine) -> Finding {
    const WHAT: &str = "SELinux";
    match found {
        Err(why) => Finding::untried(WHAT, why),
        Ok(None) => Finding::ok(WHAT, "is not in force"),
        Ok(Some((false, _))) => Finding::ok(WHAT, "denies nothing: it is permissive"),
        Ok(Some((true, off))) if off.is_empty() || engine == Engine::Pull => Finding::ok(WHAT, "lets a backup be"),
        Ok(Some((true, off))) => {
            let commands: Vec<_> = off.iter().map(|name| format!("setsebool -P {name} on")).collect();
            Finding::lacks(WHAT, format!("a push is denied the NAS: {} off", off.join(" and ")))
                .advise(format!("{}, as the NAS is NFS or CIFS; or 'engine = pull'", commands.join("; ")))
        }
    }
}

/// What was tried of the repository called `name`.
pub(super) fn repository(name: &str, tried: &Tries<Tried>) -> Vec<Finding> {
    let what = format!("repository '{name}'");
    let tried = match tried {
        Err(error) => return vec![of_error(what, error).stops(true)],
        Ok(tried) => tried,
    };
    let room = tried.room.map(|room| room.available);
    let written = match room {
        Some(0) => Finding::lacks(&what, "is full").advise("remove restore points, or make it larger").stops(true),
        Some(room) => Finding::ok(&what, format!("can be written, has room for {}", size(room))),
        None => Finding::ok(&what, "can be written, tells no room"),
    };
    let left = tried.left.as_ref().map(|left| Finding::new(&what, State::Defect, left).advise("remove it by hand"));
    let mut findings = vec![written];
    findings.extend(left);
    findings.push(locks(format!("{what}: locks"), tried));
    findings.push(clones(format!("{what}: block cloning"), tried.clones));
    findings.extend(tried.on_root.then(|| on_root(format!("{what}: mount"))));
    findings
}

fn locks(what: String, tried: &Tried) -> Finding {
    let apart = "hosts are kept apart by claims alone, which takes seconds";
    let local = |option: &&str| tried.options.iter().any(|options| options.split(',').any(|other| other == *option));
    match (tried.locks, LOCAL_LOCKS.into_iter().find(local)) {
        (Ok(()), None) => Finding::ok(what, "are there"),
        (Ok(()), Some(option)) => Finding::lacks(what, format!("end at this host ('{option}'): {apart}"))
            .advise("mount it without that option"),
        (Err(error), _) if lacking::is_unknown(error) || matches!(error, Errno::BADF | Errno::NOLCK) => {
            Finding::lacks(what, format!("are not there ({error}): {apart}"))
        }
        (Err(error), _) => Finding::untried(what, error.to_string()),
    }
}

fn on_root(what: String) -> Finding {
    Finding::lacks(what, "it lies on the file system of /, is no mount of its own")
        .advise("if it is to be a NAS, mount that: points would lie on this host, and fill its disk")
}

fn clones(what: String, cloned: rustix::io::Result<()>) -> Finding {
    match cloned {
        Ok(()) => Finding::ok(what, "is there"),
        Err(error) if lacking::is_unknown(error) || error == Errno::XDEV => {
            Finding::lacks(what, format!("is not there ({error}): rebases copy data, a push publishes what QEMU wrote"))
                .advise("XFS or Btrfs behind NFS 4.2 have it")
        }
        Err(error) => Finding::untried(what, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nas::folder::Room;

    use State::{Defect, Lacks, Ok as Good, Untried};

    fn no<T>() -> Asked<T> {
        Err("why".to_owned())
    }

    #[test]
    fn each_fact_has_its_state_and_says_whether_backups_fail() {
        let error = |code| Err::<u64, _>(Error::new(code, "try", "why"));
        let models = |model: &str| Ok(vec!["none".to_owned(), model.to_owned()]);
        let deny = || Ok(Some(vec!["deny /x rw,".to_owned()]));
        let off = || Ok(Some((true, vec!["virt_use_nfs"])));
        let told = |text: &str| Ok(text.to_owned());
        for (finding, state, stops) in [
            (rights(&Ok(vec![])), Good, false),
            (rights(&Ok(vec!["CAP_SETUID"])), Lacks, true),
            (rights(&no()), Untried, true),
            (libvirt(&Ok(LEAST_LIBVIRT)), Good, false),
            (libvirt(&Ok(LEAST_LIBVIRT - 1)), Lacks, true),
            (libvirt(&no()), Lacks, true),
            (qemu_img(&told("qemu-img version 5.1.0\nCopyright")), Good, false),
            (qemu_img(&told("qemu-img version 7.2 (Debian)")), Good, false),
            (qemu_img(&told("qemu-img version 4.2.1")), Lacks, true),
            (qemu_img(&told("qemu-img version x")), Untried, true),
            (qemu_img(&no()), Lacks, true),
            (mount(&told("/bin/mount")), Good, false),
            (mount(&no()), Lacks, true),
            (some_need("rbd", &told("/bin/rbd"), "why"), Good, false),
            (some_need("rbd", &no(), "why"), Lacks, false),
            (libnbd(&Ok(()), Engine::Pull), Good, false),
            (libnbd(&no(), Engine::Pull), Lacks, true),
            (libnbd(&no(), Engine::Auto), Lacks, false),
            (scratch(&Ok(LEAST_SCRATCH), Engine::Pull), Good, false),
            (scratch(&Ok(LEAST_SCRATCH - 1), Engine::Pull), Lacks, true),
            (scratch(&error(Code::NoSpace), Engine::Auto), Lacks, false),
            (scratch(&error(Code::Io), Engine::Pull), Untried, true),
            (links(&Ok(true), Engine::Push), Good, false),
            (links(&Ok(false), Engine::Push), Lacks, false),
            (links(&Ok(false), Engine::Pull), Good, false),
            (links(&no(), Engine::Pull), Untried, false),
            (keys(Some(Path::new("/key"))), Good, false),
            (keys(None), Lacks, false),
            (apparmor(&Ok(None), &no()), Good, false),
            (apparmor(&no(), &models("apparmor")), Untried, false),
            (apparmor(&Ok(Some(vec![])), &no()), Untried, false),
            (apparmor(&deny(), &models("dac")), Good, false),
            (apparmor(&Ok(Some(vec![])), &models("apparmor")), Good, false),
            (apparmor(&deny(), &models("apparmor")), Defect, false),
            (selinux(&Ok(None), Engine::Auto), Good, false),
            (selinux(&Ok(Some((false, vec!["virt_use_nfs"]))), Engine::Push), Good, false),
            (selinux(&Ok(Some((true, vec![]))), Engine::Push), Good, false),
            (selinux(&off(), Engine::Push), Lacks, false),
            (selinux(&off(), Engine::Pull), Good, false),
            (selinux(&no(), Engine::Auto), Untried, false),
        ] {
            assert_eq!((finding.state, finding.stops), (state, stops), "{finding:?}");
            assert!(state == Good || !finding.found.is_empty());
        }
    }

    #[test]
    fn a_qemu_with_a_known_fault_has_a_finding_for_it() {
        for (found, states) in [
            (Ok(IOTHREADS_FIXED), &[(Good, false)][..]),
            (Ok(IOTHREADS_FIXED - 1), &[(Good, false), (Defect, false)]),
            (Ok(LEAST_QEMU - 1), &[(Lacks, true), (Defect, false)]),
            (no(), &[(Untried, true)]),
        ] {
            let judged: Vec<_> = qemu(&found).into_iter().map(|finding| (finding.state, finding.stops)).collect();
            assert_eq!(judged, states, "{found:?}");
        }
    }

    #[test]
    fn what_a_repository_lacks_is_told_of_each_thing() {
        let room = |available| Some(Room { total: 1 << 30, free: available, available });
        let all = Tried {
            options: Some("rw,vers=4.2".into()),
            room: room(1 << 20),
            locks: Ok(()),
            clones: Ok(()),
            on_root: false,
            left: None,
        };
        for (tried, states) in [
            (all.clone(), &[Good, Good, Good][..]),
            (Tried { room: room(0), ..all.clone() }, &[Lacks, Good, Good]),
            (Tried { on_root: true, ..all.clone() }, &[Good, Good, Good, Lacks]),
            (Tried { room: None, options: None, ..all.clone() }, &[Good, Good, Good]),
            (Tried { left: Some("x stays".into()), ..all.clone() }, &[Good, Defect, Good, Good]),
            (Tried { locks: Err(Errno::OPNOTSUPP), ..all.clone() }, &[Good, Lacks, Good]),
            (Tried { locks: Err(Errno::NOLCK), ..all.clone() }, &[Good, Lacks, Good]),
            (Tried { locks: Err(Errno::WOULDBLOCK), ..all.clone() }, &[Good, Untried, Good]),
            (Tried { options: Some("rw,vers=3,nolock,local_lock=all".into()), ..all.clone() }, &[Good, Lacks, Good]),
            (Tried { options: Some("rw,local_lock=none".into()), ..all.clone() }, &[Good, Good, Good]),
            (Tried { clones: Err(Errno::OPNOTSUPP), ..all.clone() }, &[Good, Good, Lacks]),
            (Tried { clones: Err(Errno::IO), ..all.clone() }, &[Good, Good, Untried]),
        ] {
            let found = repository("nas", &Ok(tried.clone()));
            assert_eq!(found.iter().map(|finding| finding.state).collect::<Vec<_>>(), states, "{tried:?}");
            assert_eq!(found.iter().any(|finding| finding.stops), tried.room.is_some_and(|room| room.available == 0));
        }
        for (code, state) in [
            (Code::NasUnresponsive, Untried),
            (Code::MountFailed, Lacks),
            (Code::PermissionDenied, Lacks),
            (Code::InvalidArgument, Lacks),
        ] {
            let found = repository("nas", &Err(Error::new(code, "open", "why")));
            assert!(matches!(&found[..], [one] if one.state == state && one.stops), "{found:?}");
        }
    }

    #[test]
    fn only_rules_that_deny_are_denials() {
        let profile = "# deny nothing\n  /x rw,\n  deny /scratch/** w,\n\taudit deny /y r,\ndenying\n";
        assert_eq!(denials(profile), ["deny /scratch/** w,", "audit deny /y r,"]);
    }
}
