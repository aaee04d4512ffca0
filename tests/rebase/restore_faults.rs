//! `restorePoint` from a NAS, and onto storage, that hangs, goes or has no room in the middle of it: nothing is replaced, no
//! partial file stays for good, and whoever is to blame is named.
#![cfg(feature = "test-hooks")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nasbackup::error::{Code, Result};
use nasbackup::nas::repository::Repository;
use nasbackup::operation::call;
use nasbackup::shorten;
use nasbackup::work::phase::Phase;
use nasbackup::work::stuck;
use serde_json::{Value, json};

use crate::flatten::{Loop, Mounted};
use crate::restore::{FILES, Points, QUICK, all, restore};
use crate::support::{GO_ON, HANG, Nas, Refusal, hangs, refusing, until};

const SIZE: u64 = 3 << 20;
const OLD: &[u8] = b"as it was";
/// How long what hangs is waited for here: it never answers while it is.
const SOON: Duration = Duration::from_secs(1);
/// All that waits for the NAS in the middle of a restore.
const READS: [&str; 3] = ["copy", "sync", "look at the instance's lock"];

/// Points on a NAS that can hang, volumes that are to be replaced, and a folder for others.
struct Restore {
    points: Points,
    nas: Nas,
    out: tempfile::TempDir,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

impl Restore {
    fn begin() -> Restore {
        let nas = Nas::folder();
        let points = Points::make_in(nas.root(), 3, SIZE);
        Restore::of(points, nas.through_fuse(), tempfile::tempdir_in(QUICK).unwrap())
    }

    fn of(points: Points, nas: Nas, out: tempfile::TempDir) -> Restore {
        FILES.iter().for_each(|file| fs::write(out.path().join(file), OLD).unwrap());
        let before = all(out.path());
        Restore { points, nas, out, before }
    }

    fn repository(&self) -> Value {
        json!({"type": "dir", "address": self.nas.root().join(self.points.dir.path().file_name().unwrap())})
    }

    /// Slow enough to be met on its way.
    fn request(&self, format: &str, verify: &str) -> Value {
        let mut request = self.points.request(self.out.path(), format);
        request["repository"] = self.repository();
        (request["verify"], request["rateLimit"]) = (json!(verify), json!(4 << 20));
        request
    }

    /// Restores, and acts once in the phase, when some of the data are there if it is the copy.
    fn run_and(&self, request: &Value, phase: Phase, mut act: impl FnMut()) -> Result<Value> {
        let mut acted = false;
        let ended = call("restorePoint", &request.to_string(), &mut |status| {
            if status.phase == phase && (phase != Phase::Copy || status.done_bytes > 0) && !acted {
                acted = true;
                act();
            }
            Ok(())
        });
        assert!(acted, "'{phase}' was never seen: {ended:?}");
        ended
    }

    fn assert_untouched(&self, what: &str) {
        assert_eq!(all(self.out.path()).keys().collect::<Vec<_>>(), self.before.keys().collect::<Vec<_>>(), "{what}");
        assert!(all(self.out.path()) == self.before, "{what}");
    }

    /// Calls on the repository are not refused, and what is restored is right.
    fn assert_goes_on(&self, format: &str) {
        let mut request = self.request(format, "data");
        request["rateLimit"] = json!(null);
        restore_once_free(&request);
        self.points.assert_restored(self.out.path(), format);
        assert_eq!(all(self.out.path()).len(), FILES.len());
    }

    /// What was left behind has come back.
    fn wait_for_all(&self) {
        let address = self.repository()["address"].as_str().map(str::to_owned);
        let repository = Repository { kind: Some("dir".into()), address, ..Repository::default() };
        let export = Repository::check(Some(repository)).unwrap();
        until("what hung ends", || stuck::stuck(&export) == 0);
    }
}

/// Once the NAS was heard, and what was left behind has let go.
fn restore_once_free(request: &Value) {
    until("it is used again", || match restore(request) {
        Err(error) if matches!(error.code, Code::Busy | Code::NasUnresponsive) => false,
        ended => ended.map(|_| true).unwrap(),
    });
}

/// All of them at once: mostly they wait.
pub(crate) fn each<T: Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| cases.iter().for_each(|case| drop(scope.spawn(|| run(case)))));
}

pub(crate) fn refusal(call: &str, errnos: &[i32]) -> Refusal {
    Refusal { call: call.into(), errnos: errnos.into() }
}

#[test]
fn a_nas_that_hangs_replaces_nothing_is_marked_and_is_nobody_else_s_business() {
    each(
        &[("raw", "data", Phase::Copy), ("qcow2", "chain", Phase::Copy), ("qcow2", "data", Phase::Sync)],
        |(format, verify, phase)| {
            let what = format!("{format} {verify} {phase}");
            let restoring = Restore::begin();
            let request = restoring.request(format, verify);
            let error = restoring
                .run_and(&request, *phase, || {
                    restoring.nas.hang();
                    shorten(&READS, SOON);
                })
                .unwrap_err();
            assert_eq!(error.code, Code::NasUnresponsive, "{what}: {error}");
            if *phase == Phase::Copy {
                assert!(
                    error.leftovers && error.cause.contains("a read that the NAS does not answer"),
                    "{what}: {error}"
                );
            }
            restoring.assert_untouched(&what);
            // whoever comes next need not wait for it
            let error = restore(&request).unwrap_err();
            assert_eq!(error.code, Code::NasUnresponsive, "{what}: {error}");
            assert!(error.cause.contains("has not answered for"), "{what}: {error}");
            restoring.assert_untouched(&what);
            // another repository answers, for the same machine as well
            let out = tempfile::tempdir_in(QUICK).unwrap();
            restoring.points.restore(out.path(), format).unwrap();
            restoring.points.assert_restored(out.path(), format);
            restoring.nas.go_on();
            restoring.wait_for_all();
            restoring.assert_untouched(&what);
            restoring.assert_goes_on(format);
        },
    );
}

#[test]
fn a_nas_that_goes_replaces_nothing_and_is_named() {
    each(&[("raw", "data"), ("qcow2", "chain")], |(format, verify)| {
        let what = format!("{format} {verify}");
        let mut restoring = Restore::begin();
        let request = restoring.request(format, verify);
        let error = restoring.run_and(&request, Phase::Copy, || restoring.nas.die()).unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::Io, false), "{what}: {error}");
        assert!(error.cause.contains("i-1/T") && error.disk.is_some(), "{what}: {error}");
        restoring.assert_untouched(&what);
        restoring.nas = Nas::folder();
        let request = restoring.points.request(restoring.out.path(), format);
        restore(&request).unwrap();
        restoring.points.assert_restored(restoring.out.path(), format);
    });
}

/// As an NFS server does that was set up anew, or whose disk fails.
#[test]
fn a_nas_that_answers_reads_by_errors_replaces_nothing_and_is_named() {
    let cases = [("raw", "data", libc::ESTALE), ("qcow2", "data", libc::ENOTCONN), ("qcow2", "chain", libc::EIO)];
    each(&cases, |case| {
        let (format, verify, errno) = *case;
        let restoring = Restore::of(Points::make(3, SIZE), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
        let nas = restoring.points.dir.path();
        let mut request = restoring.points.request(restoring.out.path(), format);
        request["verify"] = json!(verify);
        // else the kernel copies, and it is not asked
        let calls = |errnos: &[i32]| [refusal("pread", errnos), refusal("copy_file_range from", &[libc::EXDEV])];
        let (ended, met) = refusing(nas, &calls(&[GO_ON]), || restore(&request));
        ended.unwrap();
        for after in [met["pread"] / 2, met["pread"] * 3 / 4] {
            let restoring = Restore::of(Points::make(3, SIZE), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
            let mut request = restoring.points.request(restoring.out.path(), format);
            request["verify"] = json!(verify);
            let errnos: Vec<_> = std::iter::repeat_n(GO_ON, after).chain([errno]).collect();
            let (ended, _) = refusing(restoring.points.dir.path(), &calls(&errnos), || restore(&request));
            let error = ended.unwrap_err();
            assert_eq!((error.code, error.leftovers), (Code::Io, false), "{case:?} {after}: {error}");
            assert!(error.cause.contains(&format!("(os error {errno})")), "{case:?} {after}: {error}");
            assert!(error.cause.contains("i-1/T"), "{case:?} {after}: {error}");
            restoring.assert_untouched(verify);
        }
    });
}

/// Somebody changes the point while it is read, on a NAS on which he may.
#[test]
fn an_image_that_is_cut_off_or_removed_under_the_read_is_restored_as_it_was_or_not_at_all() {
    let cut = |path: &Path| File::options().write(true).open(path).unwrap().set_len(3 << 16).unwrap();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    type Act<'a> = (&'a str, &'a (dyn Fn(&Path) + Sync));
    let acts: [Act<'_>; 2] = [("cut", &cut), ("remove", &remove)];
    let cases =
        ["data", "chain"].map(|verify| [1, 3].map(|point| acts.map(|act| (verify, point, act)))).concat().concat();
    each(&cases, |(verify, point, (act, perform))| {
        let what = format!("{verify} {act} {point}");
        let restoring = Restore::of(Points::make(3, SIZE), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
        let image = restoring.points.dir.path().join(format!("i-1/T{point}/{}", FILES[1]));
        let mut request = restoring.points.request(restoring.out.path(), "raw");
        (request["verify"], request["rateLimit"]) = (json!(verify), json!(2 << 20));
        // some of it was read, and all tables
        match restoring.run_and(&request, Phase::Copy, || perform(&image)) {
            Ok(_) => restoring.points.assert_restored(restoring.out.path(), "raw"),
            Err(error) => {
                assert!(*act == "cut" && matches!(error.code, Code::CorruptImage | Code::Io), "{what}: {error}");
                assert_eq!(error.disk.as_deref(), Some("b"), "{what}: {error}");
                restoring.assert_untouched(&what);
            }
        }
    });
}

#[test]
fn storage_that_is_full_half_way_keeps_what_it_had_and_its_room() {
    each(&[("raw", "data"), ("qcow2", "data"), ("raw", "chain"), ("qcow2", "chain")], |(format, verify)| {
        let what = format!("{format} {verify}");
        let storage = Mounted::make("mkfs.ext4 -q -N 64 -O ^has_journal -m 0", 16);
        let out = tempfile::tempdir_in(storage.path()).unwrap();
        let restoring = Restore::of(Points::make(3, SIZE), Nas::folder(), out);
        let mut request = restoring.points.request(restoring.out.path(), format);
        request["verify"] = json!(verify);
        let filler = storage.path().join("filler");
        let fill = || {
            let free = rustix::fs::statvfs(storage.path()).unwrap();
            // there was room for all when that was looked at, and there is some for a part
            let left = 6 << 16;
            let filler = File::create(&filler).unwrap();
            rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, free.f_bavail * free.f_bsize - left)
                .unwrap();
        };
        let mut acted = false;
        let error = call("restorePoint", &request.to_string(), &mut |status| {
            if status.phase == Phase::Copy && !std::mem::replace(&mut acted, true) {
                fill();
            }
            Ok(())
        })
        .unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::NoSpace, false), "{what}: {error}");
        assert!(
            error.disk.is_some() && error.cause.contains(restoring.out.path().to_str().unwrap()),
            "{what}: {error}"
        );
        restoring.assert_untouched(&what);
        fs::remove_file(filler).unwrap();
        restoring.points.restore(restoring.out.path(), format).unwrap();
        restoring.points.assert_restored(restoring.out.path(), format);
    });
}

/// As NFS does that is full, or fails: no write says so.
#[test]
fn storage_whose_sync_fails_gets_nothing_new() {
    for (errno, code) in [(libc::ENOSPC, Code::NoSpace), (libc::EDQUOT, Code::NoSpace), (libc::EIO, Code::Io)] {
        for call in ["fsync", "fdatasync"] {
            let restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
            let request = restoring.points.request(restoring.out.path(), "raw");
            // of the second file, and later ones
            let errnos = [GO_ON, errno];
            let (ended, met) = refusing(restoring.out.path(), &[refusal(call, &errnos)], || restore(&request));
            let error = ended.unwrap_err();
            assert_eq!((error.code, error.leftovers), (code, false), "{call}: {error}, {met:?}");
            restoring.assert_untouched(call);
        }
    }
}

/// Whoever writes to it waits, and so does whoever makes that durable; the NAS is not to blame.
#[test]
fn storage_that_hangs_in_a_write_or_a_sync_is_named_and_no_nas_is() {
    let cases = [
        ("raw", "data", "pwrite", "copy"),
        ("qcow2", "data", "pwrite", "copy"),
        ("raw", "chain", "pwrite", "copy"),
        ("qcow2", "chain", "pwrite", "copy"),
        // the volume as it was, with which it is compared
        ("raw", "data", "pread", "copy"),
        ("raw", "data", "fdatasync", "sync"),
        ("qcow2", "chain", "fdatasync", "sync"),
    ];
    each(&cases, |(format, verify, call, step)| {
        let what = format!("{format} {verify} {call}");
        let mut restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
        if *call == "pread" {
            FILES.iter().for_each(|file| fs::write(restoring.out.path().join(file), vec![1; 1 << 20]).unwrap());
            restoring.before = all(restoring.out.path());
        }
        let mut request = restoring.points.request(restoring.out.path(), format);
        request["verify"] = json!(verify);
        // nothing is on both of them, for which the kernel can tell no difference
        let refusals = [refusal(call, &[HANG]), refusal("copy_file_range", &[libc::EXDEV])];
        let ((), _) = refusing(restoring.out.path(), &refusals, || {
            let ended = nasbackup::operation::call("restorePoint", &request.to_string(), &mut |_| {
                if hangs(restoring.out.path()) {
                    shorten(&[step], SOON);
                }
                Ok(())
            });
            let error = ended.unwrap_err();
            assert_eq!((error.code, error.step, error.leftovers), (Code::Io, *step, true), "{what}: {error}");
            assert!(error.cause.contains("the outputs' storage does not answer"), "{what}: {error}");
            // names go, for these it answers
            restoring.assert_untouched(&what);
        });
        // the repository is used by whoever does not ask that storage
        let out = tempfile::tempdir_in(QUICK).unwrap();
        restoring.points.restore(out.path(), format).unwrap();
        restoring.points.assert_restored(out.path(), format);
        restoring.wait_for_all();
        until("what hung ends", || restoring.points.restore(restoring.out.path(), format).is_ok());
        restoring.points.assert_restored(restoring.out.path(), format);
        assert_eq!(all(restoring.out.path()).len(), FILES.len(), "{what}");
    });
}

/// It answers nothing at all, and nobody can take away what was made there before it goes on.
#[test]
fn storage_that_hangs_altogether_keeps_what_it_had_and_partial_files_are_named() {
    each(&[("raw", Phase::Copy), ("qcow2", Phase::Sync), ("raw", Phase::PublishOutputs)], |(format, phase)| {
        let what = format!("{format} {phase}");
        let storage = Nas::folder().through_fuse();
        let out = tempfile::tempdir_in(storage.root()).unwrap();
        let restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), out);
        let mut request = restoring.points.request(restoring.out.path(), format);
        request["rateLimit"] = json!(1 << 20);
        let error = restoring
            .run_and(&request, *phase, || {
                storage.hang();
                shorten(&["copy", "sync", "publish the outputs", "remove the partial outputs"], SOON);
            })
            .unwrap_err();
        assert_eq!(error.code, Code::Io, "{what}: {error}");
        assert!(error.leftovers || *phase == Phase::PublishOutputs, "{what}: {error}");
        let out = tempfile::tempdir_in(QUICK).unwrap();
        restoring.points.restore(out.path(), format).unwrap();
        storage.go_on();
        // what was late is told to nobody, and changes nothing
        until("partial files go", || fs::read_dir(restoring.out.path()).unwrap().count() == FILES.len());
        restoring.assert_untouched(&what);
        request["rateLimit"] = json!(null);
        until("it is used again", || restore(&request).is_ok());
        restoring.points.assert_restored(restoring.out.path(), format);
        assert_eq!(all(restoring.out.path()).len(), FILES.len(), "{what}");
    });
}

/// Files are whole by then, and have no name yet.
#[test]
fn a_nas_that_hangs_while_a_device_is_written_has_nothing_more_written_to_it() {
    let restoring = Restore::begin();
    let device = Loop::full(4 << 20);
    let content = || {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut device.open(), &mut content).unwrap();
        content
    };
    let mut request = restoring.request("raw", "data");
    (request["volumes"][0]["output"]["path"], request["rateLimit"]) = (json!(device.device), json!(1 << 20));
    let (mut files_are_whole, mut hung, mut done) = (false, false, 0);
    let error = call("restorePoint", &request.to_string(), &mut |status| {
        files_are_whole |= status.phase == Phase::Sync;
        let of_device = files_are_whole && status.phase == Phase::Copy;
        if of_device && done == 0 {
            done = status.done_bytes;
        } else if of_device && status.done_bytes > done && !hung {
            hung = true;
            restoring.nas.hang();
            shorten(&READS, SOON);
        }
        Ok(())
    })
    .unwrap_err();
    assert_eq!((hung, error.code, error.leftovers), (true, Code::NasUnresponsive, true), "{error}");
    assert!(error.cause.contains(device.device.to_str().unwrap()), "{error}");
    restoring.assert_untouched("beside a device");
    let written = content();
    restoring.nas.go_on();
    restoring.wait_for_all();
    assert!(content() == written);
    restoring.assert_untouched("beside a device");
    request["rateLimit"] = json!(null);
    restore_once_free(&request);
    assert!(content()[..SIZE as usize] == restoring.points.disks[0]);
    assert!(fs::read(restoring.out.path().join(FILES[1])).unwrap() == restoring.points.disks[1]);
}

/// The first output has its name when the second one's storage hangs, and the call is given up.
#[test]
fn a_call_given_up_between_two_names_gives_no_more_and_the_next_one_gives_the_rest() {
    // on a machine that is busy the first may have none by then
    assert!([1, 4, 16, 64].into_iter().any(is_given_up_between_two_names));
}

/// A restore of two disks into a folder each, which keeps what was there; the second one's folder and output.
fn into_two_folders() -> (Restore, Value, tempfile::TempDir, PathBuf) {
    let second = tempfile::tempdir_in(QUICK).unwrap();
    let restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
    let path = second.path().join(FILES[1]);
    fs::write(&path, OLD).unwrap();
    let mut request = restoring.points.request(restoring.out.path(), "raw");
    (request["volumes"][1]["output"]["path"], request["keepOld"]) = (json!(path), json!(true));
    (restoring, request, second, path)
}

/// After so many seconds; whether it was between them.
fn is_given_up_between_two_names(seconds: u64) -> bool {
    let (restoring, request, second, path) = into_two_folders();
    let is_new = || {
        let now = [fs::read(restoring.out.path().join(FILES[0])).unwrap(), fs::read(&path).unwrap()];
        [0, 1].map(|i| now[i] == restoring.points.disks[i])
    };
    let ((error, held), _) = refusing(second.path(), &[refusal("rename", &[HANG])], || {
        shorten(&["publish the outputs"], Duration::from_secs(seconds));
        (restore(&request).unwrap_err(), is_new())
    });
    assert_eq!(error.code, Code::Io, "{error}");
    if held != [true, false] {
        assert_eq!(held, [false, false], "{error}");
        return false;
    }
    assert!(error.leftovers && error.cause.contains("the next restore onto all of them"), "{error}");
    // the rename that was under way may still be made
    let mut failing = request.clone();
    failing["volumes"][1]["output"]["size"] = json!(512);
    until("what hung ends", || restore(&failing).unwrap_err().code == Code::InvalidArgument);
    assert_eq!(is_new(), [true, true]);
    let mut left = all(restoring.out.path());
    left.extend(all(second.path()));
    let kept = left.iter().filter(|(path, old)| path.to_str().unwrap().contains(".kept-") && *old == OLD);
    assert_eq!(kept.count(), 2, "{:?}", left.keys());
    restore(&request).unwrap();
    assert_eq!(is_new(), [true, true]);
    true
}

/// The name is given, and only whether it outlasts a power cut is not known: nobody may take the volume for the old one.
#[test]
fn a_volume_that_is_new_though_the_call_fails_is_told() {
    let (points, out) = (Points::make(2, 1 << 20), tempfile::tempdir_in(QUICK).unwrap());
    let pool = out.path().join("pool");
    fs::create_dir(&pool).unwrap();
    let mut request = points.request(&pool, "raw");
    request["volumes"] = json!([request["volumes"][0]]);
    let volume = pool.join(request["volumes"][0]["output"]["path"].as_str().unwrap());
    fs::write(&volume, OLD).unwrap();
    let (ended, met) = refusing(out.path(), &[refusal("folder fsync", &[libc::EIO])], || restore(&request));
    let is_new = fs::read(&volume).unwrap() != OLD;
    let error = ended.map_err(|error| format!("{met:?}: {error:?}")).map(|_| met).unwrap_err();
    assert!(is_new && error.contains("leftovers: true"), "new: {is_new}, {error}");
}

/// What was deleted and made anew while a restore ran is another volume, which a guest may be using.
#[test]
fn a_volume_that_somebody_has_put_in_the_place_of_the_old_one_meanwhile_stays() {
    for (keep, files) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
        let mut request = restoring.points.request(restoring.out.path(), "raw");
        request["keepOld"] = json!(keep);
        request["volumes"] = json!(request["volumes"].as_array().unwrap()[..files]);
        let path = restoring.out.path().join(FILES[0]);
        let ended = crate::restore::restore_and(&request, || {
            fs::write(restoring.out.path().join("new"), "another").unwrap();
            fs::rename(restoring.out.path().join("new"), &path).unwrap();
        });
        let error = ended.map(|_| "restored").unwrap_err();
        let mut wanted = restoring.before.clone();
        wanted.insert(path, b"another".to_vec());
        assert!(
            all(restoring.out.path()) == wanted,
            "keep {keep}, {files}: {error}, {:?}",
            all(restoring.out.path()).keys()
        );
    }
}

/// Another host has taken this one for dead while it copied files: what it reads may be changed by now, and a device loses what
/// it holds with the first write.
#[test]
fn no_device_is_written_once_the_points_may_be_changed_by_others() {
    let restoring = Restore::of(Points::make(2, SIZE), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
    let device = Loop::full(4 << 20);
    let content = || {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut device.open(), &mut content).unwrap();
        content
    };
    let before = content();
    let mut request = restoring.points.request(restoring.out.path(), "raw");
    request["volumes"][0]["output"]["path"] = json!(device.device);
    let instance = restoring.points.dir.path().join("i-1");
    let error = call("restorePoint", &request.to_string(), &mut |status| {
        if status.phase == Phase::Sync {
            for claim in fs::read_dir(&instance).unwrap().map(|entry| entry.unwrap().path()) {
                if claim.file_name().unwrap().to_str().unwrap().starts_with(".nasbackup.reader-") {
                    fs::rename(&claim, instance.join(".nasbackup.lease-0")).unwrap();
                }
            }
        }
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.code, Code::Busy, "{error}");
    restoring.assert_untouched("beside a device");
    assert!(content() == before, "{error}");
}

/// What was made is as large as the disks, and locked until the storage answers.
#[test]
fn storage_that_hangs_before_the_first_name_leaves_what_was_made_and_that_is_told() {
    let restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
    let request = restoring.points.request(restoring.out.path(), "raw");
    let (error, _) = refusing(restoring.out.path(), &[refusal("chown", &[HANG])], || {
        shorten(&["publish the outputs"], Duration::from_secs(1));
        restore(&request).unwrap_err()
    });
    assert!(error.code == Code::Io && error.leftovers && error.cause.contains("partial outputs"), "{error}");
    until("what hung ends", || all(restoring.out.path()) == restoring.before);
}

/// Before the copy of hours, and not after it.
#[test]
fn storage_without_second_names_is_refused_before_anything_is_copied() {
    let restoring = Restore::of(Points::make(2, 1 << 20), Nas::folder(), tempfile::tempdir_in(QUICK).unwrap());
    let mut request = restoring.points.request(restoring.out.path(), "raw");
    request["keepOld"] = json!(true);
    let mut copied = false;
    let (ended, met) = refusing(restoring.out.path(), &[refusal("link", &[libc::EPERM])], || {
        call("restorePoint", &request.to_string(), &mut |status| {
            copied |= status.phase == Phase::Copy;
            Ok(())
        })
    });
    let error = ended.unwrap_err();
    assert!(error.cause.starts_with("keepOld: ") && !error.leftovers && !copied, "{error}, {met:?}");
    restoring.assert_untouched("no second names");
}

/// No answer tells it.
#[test]
fn where_one_volume_gets_no_name_it_is_told_as_what_the_other_s_old_one_is_kept() {
    let (restoring, request, second, _) = into_two_folders();
    let (ended, met) = refusing(second.path(), &[refusal("rename", &[libc::EIO])], || restore(&request));
    let error = ended.unwrap_err();
    let kept = all(restoring.out.path()).into_iter().filter(|(path, _)| path.to_str().unwrap().contains(".kept-"));
    let kept: Vec<_> = kept.map(|(path, content)| (path.display().to_string(), content)).collect();
    let [(kept, old)] = &kept[..] else { panic!("{kept:?}: {error}, {met:?}") };
    assert!(old == OLD && error.leftovers && error.cause.contains(&format!("kept as '{kept}'")), "{error}");
}
