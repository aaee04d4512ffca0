//! Guests whose disks are images in Ceph: they carry no bitmap, and only fingerprints tell what changed. QEMU locks nothing
//! there.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::operation::{call, cancel};
use nasbackup::point::Kind::{Full, Incremental};
use nasbackup::work::phase::Phase;

use serde_json::{Value, json};
use support::{
    Agent, Ceph, Disk, Ended, Guest, MIB, Nas, Story, ceph, listing, own_host, repository_json, run_as_agent, take,
    take_and, take_json, until,
};

/// Not a test: what another process of this binary runs.
#[test]
fn agent() {
    run_as_agent();
}

/// A running guest with a disk in Ceph.
fn on_rbd() -> Story {
    let mut story = Story::new(Guest::new([Disk::rbd()]), Nas::folder());
    story.guest.write(0, 0x41, 0, 16 * MIB);
    story
}

/// The same, stopped.
fn stopped() -> Story {
    let story = on_rbd();
    story.guest.stop();
    story
}

/// The command lines of the `qemu-nbd` that export the guest's disk, as `/proc` has them.
fn servers(story: &Story) -> Vec<String> {
    servers_of(story.guest.disks[0].volume())
}

/// The same of any image.
fn servers_of(image: &str) -> Vec<String> {
    let lines = processes_of(image).into_iter().map(|(_, line)| line);
    lines.filter(|line| line.starts_with("/usr/bin/qemu-nbd\0")).collect()
}

/// Those of all processes that have to do with it.
fn command_lines(story: &Story) -> Vec<String> {
    processes(story).into_iter().map(|(_, line)| line).collect()
}

/// Their folders in `/proc`, too.
fn processes(story: &Story) -> Vec<(std::path::PathBuf, String)> {
    processes_of(story.guest.disks[0].volume())
}

fn processes_of(image: &str) -> Vec<(std::path::PathBuf, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    // a process may end meanwhile
    let lines = processes.filter_map(|path| Some((path.clone(), std::fs::read(path.join("cmdline")).ok()?)));
    let lines = lines.map(|(path, line)| (path, String::from_utf8_lossy(&line).into_owned()));
    lines.filter(|(_, line)| line.contains(image)).collect()
}

#[test]
fn a_running_guest_is_compared() {
    let mut story = on_rbd();
    story.take("full").assert_full(false);
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    story.guest.write_zeroes(0, 8 * MIB, MIB);
    story.guest.discard(0, 12 * MIB, 4 * MIB);
    let point = story.take("incremental");
    assert_eq!(point.kinds(), [Incremental]);
    assert!(point.taken.size < 2 * MIB, "{:?}", point.taken);
    let by_push = TakeBackupRequest { engine: Some("push".into()), ..story.request("incremental") };
    assert_eq!(story.accept(by_push).kinds(), [Full]);
    story.assert_all_restore();
}

#[test]
fn a_stopped_guest_is_compared_too() {
    let mut story = stopped();
    let point = story.take_stopped("full");
    point.assert_full(false);
    let detail =
        format!("disk rbd:cloudstack/{}: it carries no bitmap: it is an image in Ceph", point.taken.disks[0].volume);
    assert_eq!(point.taken.details, detail);
    story.guest.start();
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    story.guest.write_zeroes(0, 8 * MIB, MIB);
    story.guest.discard(0, 12 * MIB, 4 * MIB);
    story.guest.stop();
    let point = story.take_stopped("incremental");
    assert_eq!(point.kinds(), [Incremental]);
    assert!(point.taken.size < 2 * MIB, "{:?}", point.taken);
    let point = story.take_stopped("incremental");
    assert!(point.taken.size <= 6 * (64 << 10), "{:?}", point.taken);
    story.guest.start();
    story.guest.write(0, 0x52, 5 * MIB, MIB);
    assert_eq!(story.take("incremental").kinds(), [Incremental]);
    ceph().resize(story.guest.disks[0].volume(), 72 * MIB + 512);
    story.guest.restart();
    story.guest.write(0, 0x53, 63 * MIB, 9 * MIB + 512);
    story.guest.stop();
    assert_eq!(story.take_stopped("incremental").kinds(), [Incremental]);
    story.assert_all_restore();
}

/// Ceph would have the guest's next start wait for a client that was killed.
#[test]
fn the_image_is_closed_when_the_backup_is_over() {
    let mut story = stopped();
    story.take_stopped("full");
    assert_eq!(servers(&story), [] as [&str; 0]);
    assert!(ceph().is_closed(story.guest.disks[0].volume()));
    let cancelled = take_backup::run(story.stopped_request("full"), &mut |status| match status.phase {
        Phase::Copy if !servers(&story).is_empty() => Err(Error::new(Code::Cancelled, "test", "cancelled")),
        _ => Ok(()),
    });
    let error = cancelled.unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::Cancelled, false), "{error}");
    assert_eq!(servers(&story), [] as [&str; 0]);
    assert!(ceph().is_closed(story.guest.disks[0].volume()));
}

/// The root disk's bitmap is begun and used; the other disk is compared.
#[test]
fn a_stopped_guest_may_have_disks_of_both_kinds() {
    let mut story = Story::new(Guest::new([Disk::root(), Disk::rbd()]), Nas::folder());
    story.guest.write(0, 0x41, 5 * MIB, MIB);
    story.guest.write(1, 0x42, 0, 16 * MIB);
    story.guest.stop();
    story.take_stopped("full").assert_full(true);
    story.guest.start();
    for disk in [0, 1] {
        story.guest.write(disk, 0x51, 3 * MIB, MIB);
    }
    story.guest.stop();
    let point = story.take_stopped("incremental");
    point.assert_incremental();
    assert_eq!(point.kinds(), [Incremental; 2]);
    assert!(point.taken.size < 4 * MIB, "{:?}", point.taken);
    story.assert_all_restore();
}

#[test]
fn the_key_is_seen_nowhere() {
    let mut story = stopped();
    let key = &ceph().key;
    let mut seen = Vec::new();
    let taken = take_backup::run(story.stopped_request("full"), &mut |_| {
        seen.extend(command_lines(&story));
        Ok(())
    });
    taken.unwrap();
    assert!(seen.iter().any(|line| line.starts_with("/usr/bin/qemu-nbd\0")), "it was never seen at work");
    assert!(!seen.iter().any(|line| line.contains(key)));
    for (file, length) in listing(story.nas.root()) {
        if length > 0 && file.extension().is_none_or(|extension| extension != "qcow2") {
            assert_lacks(&std::fs::read(story.nas.at(file.to_str().unwrap())).unwrap(), key);
        }
    }

    let mut host = own_host();
    host["logLevel"] = "trace".into();
    story.skip();
    let agent = Agent::new(&host, &[("takeBackup", take_json(&story.stopped_request("full")))]);
    let output = agent.output().to_owned();
    assert_eq!(agent.run(), Ended::Done);
    let log = std::fs::read(output).unwrap();
    assert!(String::from_utf8_lossy(&log).contains(&story.guest.name), "it has logged");
    assert_lacks(&log, key);
}

fn assert_lacks(bytes: &[u8], key: &str) {
    assert!(!bytes.windows(key.len()).any(|part| part == key.as_bytes()));
}

/// Whoever takes it over by way of Ceph has no right of root's, of QEMU's, or of another export.
#[test]
fn the_export_is_a_user_s_that_nobody_else_is() {
    let story = stopped();
    let mut users = std::collections::BTreeSet::new();
    let taken = take_backup::run(story.stopped_request("full"), &mut |_| {
        for process in processes(&story).into_iter().filter(|(_, line)| line.starts_with("/usr/bin/qemu-nbd\0")) {
            // it may end meanwhile
            let Ok(status) = std::fs::read_to_string(process.0.join("status")) else { continue };
            let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            if of("NoNewPrivs:") == "1" {
                assert_eq!(["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(of), ["0000000000000000"; 4]);
                assert_eq!(of("Groups:"), "");
                users.insert(of("Uid:"));
            }
        }
        Ok(())
    });
    taken.unwrap();
    assert!(!users.is_empty(), "it was never seen at work");
    for ids in users {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0] && *id >= 0x7000_0000), "{ids:?}");
    }
}

/// What Ceph refuses is told by QEMU's own words, before anything is made on the NAS, and without the key.
#[test]
fn what_ceph_refuses_is_refused() {
    type Change = fn(&str) -> String;
    let story = stopped();
    let cases: [(&str, Change); 4] = [
        ("No such file or directory", |path| path.replacen("/", "/no-", 1)),
        ("error connecting", |path| path.replace(":id=cloudstack", ":id=nobody")),
        ("error connecting", |path| path.replace(&ceph().key, "AQBIZ0NlAAAAABAAm0nBTl9hqyGdXqmRjCQXtA==")),
        ("error connecting", |path| path.replace(":6789", ":1").replace("timeout=30", "timeout=1")),
    ];
    for (reason, change) in cases {
        let mut request = story.stopped_request("full");
        let disk = &mut request.disks.as_mut().unwrap()[0];
        disk.path = disk.path.as_deref().map(change);
        let error = take(request).unwrap_err();
        assert_eq!(error.code, Code::JobFailed, "{error}");
        assert!(error.cause.contains(reason) && !error.cause.contains("=="), "{error}");
        assert!(!error.cause.contains('\n'), "{error}");
        assert_eq!(listing(story.nas.root()), []);
    }
}

#[test]
fn a_guest_that_is_started_meanwhile_fails_the_backup() {
    let mut story = stopped();
    story.take_stopped("full");
    let error: Error = take_and(story.stopped_request("incremental"), |_| story.guest.start()).unwrap_err();
    assert_eq!(error.code, Code::DomainState, "{error}");
    assert!(error.cause.contains("was started"), "{error}");
    story.assert_nothing_half_made();
    story.guest.write(0, 0x51, 3 * MIB, MIB);
    assert_eq!(story.take("incremental").kinds(), [Incremental]);
    story.assert_all_restore();
}

/// Nobody else would end the server.
#[test]
fn an_agent_that_is_killed_takes_the_export_with_it() {
    let mut story = stopped();
    let mut request = take_json(&story.stopped_request("full"));
    request["rateLimit"] = (1 << 20).into();
    let mut agent = Agent::new(&own_host(), &[("takeBackup", request)]).spawn();
    until("the image is exported", || !servers(&story).is_empty());
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("the export ends", || servers(&story).is_empty());
    story.take_stopped("full").assert_full(false);
    story.assert_all_restore();
}

/// The call comes back in time, and the next one has nothing to do with it.
#[test]
fn a_ceph_that_hangs_fails_the_backup_at_its_deadline() {
    let ceph = Box::leak(Box::new(Ceph::start()));
    let mut story = Story::new(Guest::new([Disk::in_ceph(ceph)]), Nas::folder());
    story.guest.write(0, 0x41, 0, 16 * MIB);
    story.guest.stop();
    for opened in [false, true] {
        let mut hangs = false;
        let request =
            TakeBackupRequest { wait_seconds: Some(3), rate_limit: Some(MIB), ..story.stopped_request("full") };
        let failed = take_backup::run(request, &mut |status| {
            if !hangs && (status.done_bytes > 0 || !opened) {
                ceph.hang();
                hangs = true;
            }
            Ok(())
        });
        let error = failed.unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::Timeout, false), "{error}");
        assert!(hangs);
        assert_eq!(servers(&story), [] as [&str; 0]);
        ceph.go_on();
        story.assert_nothing_half_made();
    }
    story.take_stopped("full").assert_full(false);
    story.assert_all_restore();
}

/// The disk of the last point of a stopped guest, onto this image.
fn onto(story: &Story, image: &str) -> Value {
    json!({
        "repository": repository_json(&story.nas.repository()),
        "backupPath": story.last().path,
        "volumes": [{
            "volume": story.guest.disks[0].volume(),
            "output": {"path": ceph().source(image), "format": "raw"},
        }],
    })
}

fn restore(request: &Value) -> Result<Value> {
    call("restorePoint", &request.to_string(), &mut |_| Ok(()))
}

/// A stopped guest of which there is a point, and its disk's content.
fn restorable() -> (Story, Vec<u8>) {
    let mut story = on_rbd();
    story.guest.write_zeroes(0, 8 * MIB, 4 * MIB);
    story.guest.stop();
    story.take_stopped("full");
    let content = ceph().content(story.guest.disks[0].volume());
    (story, content)
}

/// Another image, full of something else.
fn other(story: &Story, name: &str, bytes: u64) -> String {
    let image = format!("{name}-{}", story.guest.disks[0].volume());
    ceph().import(&image, &vec![9; bytes as usize]);
    image
}

#[test]
fn an_image_becomes_what_was_backed_up_and_what_is_zero_takes_no_room() {
    let (story, content) = restorable();
    for (operation, longer) in [("restorePoint", 3 * MIB + 512), ("restorePoint", 0), ("flatten", 512)] {
        let image = other(&story, operation, content.len() as u64 + longer);
        let mut request = onto(&story, &image);
        if operation == "flatten" {
            let volume = request.as_object_mut().unwrap().remove("volumes").unwrap()[0].clone();
            request.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
        }
        let restored = call(operation, &request.to_string(), &mut |_| Ok(())).unwrap();
        let mut expected = content.clone();
        expected.resize(content.len() + longer as usize, 0);
        assert!(ceph().content(&image) == expected, "{operation}, {longer}");
        let data = [(0, 8 * MIB), (12 * MIB, 4 * MIB)];
        for (begin, length) in ceph().extents(&image, None) {
            let within = |(from, bytes): &(u64, u64)| *from <= begin && begin + length <= from + bytes;
            assert!(data.iter().any(within), "{operation}: {length} bytes at {begin}");
        }
        if operation == "restorePoint" {
            let volume = &restored["volumes"][0];
            assert_eq!(volume["output"], format!("rbd:cloudstack/{image}"));
            assert_eq!((&volume["verified"], &volume["kept"]), (&json!("data"), &json!(null)));
            assert_eq!((&restored["details"], &restored["bytesRead"]), (&json!(""), &json!(12 * MIB)));
        }
        assert!(servers_of(&image).is_empty() && ceph().is_closed(&image));
        ceph().remove(&image);
    }
}

#[test]
fn of_an_image_no_more_is_read_and_written_than_what_differs() {
    let (story, content) = restorable();
    let mut old = content.clone();
    old[5 * MIB as usize..6 * MIB as usize].fill(9);
    old[9 * MIB as usize..10 * MIB as usize].fill(9);
    let image = format!("changed-{}", story.guest.disks[0].volume());
    ceph().import(&image, &old);
    ceph().snapshot(&image, "before");
    let restored = restore(&onto(&story, &image)).unwrap();
    assert!(ceph().content(&image) == content);
    assert_eq!((&restored["bytesRead"], &restored["bytesKept"]), (&json!(MIB), &json!(11 * MIB)));
    assert_eq!(ceph().extents(&image, Some("before")), [(5 * MIB, MIB)]);
}

#[test]
fn an_image_that_is_too_small_or_in_use_or_to_be_kept_nowhere_is_left_alone() {
    let (story, content) = restorable();
    let small = other(&story, "small", content.len() as u64 - 512);
    let error = restore(&onto(&story, &small)).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    for bytes in [content.len(), content.len() - 512] {
        assert!(error.cause.contains(&bytes.to_string()), "{error}");
    }
    let image = story.guest.disks[0].volume();
    for request in [onto(&story, image), {
        let mut twice = onto(&story, &small);
        let volumes = twice["volumes"].as_array_mut().unwrap();
        volumes.push(volumes[0].clone());
        twice
    }] {
        let two = request["volumes"].as_array().unwrap().len() == 2;
        if !two {
            story.guest.start();
        }
        let error = restore(&request).unwrap_err();
        let code = if two { Code::InvalidArgument } else { Code::DomainState };
        assert_eq!(error.code, code, "{error}");
        assert!(!error.cause.contains("overwritten") && !error.cause.contains("=="), "{error}");
        if !two {
            story.guest.stop();
        }
    }
    assert!(ceph().content(image) == content);
    assert!(ceph().content(&small) == vec![9; content.len() - 512]);
    // without a place for what it holds, and with one
    let mut kept = onto(&story, &other(&story, "kept", content.len() as u64 + 512));
    kept["keepOld"] = json!(true);
    let error = restore(&kept).unwrap_err();
    assert!(error.code == Code::InvalidArgument && error.cause.starts_with("keepOldIn: is missing"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    kept["keepOldIn"] = json!(folder.path());
    let restored = restore(&kept).unwrap();
    let copy = std::fs::read(restored["volumes"][0]["kept"].as_str().unwrap()).unwrap();
    assert!(copy == vec![9; content.len() + 512]);
}

/// As when the machine is started on another host: nothing keeps it from that.
#[test]
fn an_image_that_is_opened_meanwhile_fails_the_restore() {
    let (story, _) = restorable();
    let (request, mut started) = (onto(&story, story.guest.disks[0].volume()), false);
    let failed = call("restorePoint", &request.to_string(), &mut |status| {
        if status.phase == Phase::Copy && !started {
            story.guest.start();
            started = true;
        }
        Ok(())
    });
    let error = failed.unwrap_err();
    assert_eq!(error.code, Code::DomainState, "{error}");
    assert!(error.cause.contains("somebody has opened it"), "{error}");
}

/// It says what is lost, and closes the image in order.
#[test]
fn a_restore_that_is_given_up_says_that_the_image_is_overwritten() {
    let (story, content) = restorable();
    let image = other(&story, "cancelled", content.len() as u64);
    let mut request = onto(&story, &image);
    request["rateLimit"] = json!(4 * MIB);
    let mut seen = Vec::new();
    let error = call("restorePoint", &request.to_string(), &mut |status| {
        seen.extend(processes_of(&image).into_iter().map(|(_, line)| line));
        assert!(status.done_bytes < MIB || cancel(&status.job).found);
        Ok(())
    })
    .unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::Cancelled, false), "{error}");
    assert!(error.cause.contains(&format!("what 'rbd:cloudstack/{image}' held is overwritten")), "{error}");
    assert!(servers_of(&image).is_empty() && ceph().is_closed(&image));
    for program in ["qemu-nbd", "rbd"] {
        assert!(seen.iter().any(|line| line.starts_with(&format!("/usr/bin/{program}\0"))), "{program} was not seen");
    }
    assert!(!seen.iter().any(|line| line.contains(&ceph().key)));
    request["rateLimit"] = json!(null);
    restore(&request).unwrap();
    assert!(ceph().content(&image) == content);
}

#[test]
fn an_agent_that_is_killed_takes_the_server_of_what_it_restores_with_it() {
    let (story, content) = restorable();
    let image = other(&story, "killed", content.len() as u64);
    let mut request = onto(&story, &image);
    request["rateLimit"] = json!(MIB);
    let mut agent = Agent::new(&own_host(), &[("restorePoint", request.clone())]).spawn();
    until("the image is exported", || !servers_of(&image).is_empty());
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("the export ends", || servers_of(&image).is_empty());
    request["rateLimit"] = json!(null);
    match restore(&request) {
        Ok(_) => assert!(ceph().content(&image) == content),
        // until Ceph takes it for gone
        Err(error) => assert_eq!(error.code, Code::DomainState, "{error}"),
    }
}

#[test]
fn a_ceph_that_hangs_holds_up_no_restore_that_is_given_up() {
    let (story, content) = restorable();
    let hanging = Box::leak(Box::new(Ceph::start()));
    hanging.import("image", &vec![9; content.len()]);
    let mut request = onto(&story, "image");
    request["volumes"][0]["output"]["path"] = json!(hanging.source("image"));
    request["rateLimit"] = json!(4 * MIB);
    let (mut hangs, mut told) = (false, 0);
    let error = call("restorePoint", &request.to_string(), &mut |status| {
        if status.done_bytes > MIB && !hangs {
            hanging.hang();
            hangs = true;
        }
        told += u32::from(hangs);
        assert!(told != 20 || cancel(&status.job).found);
        Ok(())
    })
    .unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::Cancelled, true), "{error}");
    assert!(error.cause.contains("may still be made") && error.cause.contains("is overwritten"), "{error}");
    assert_eq!(servers_of("cloudstack/image"), [] as [&str; 0]);
    hanging.go_on();
}

#[cfg(feature = "test-hooks")]
#[test]
fn where_ceph_can_not_be_asked_who_has_the_image_open_nothing_is_restored_to_it() {
    let (story, content) = restorable();
    let image = other(&story, "unasked", content.len() as u64);
    let tools = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/usr/bin/qemu-nbd", tools.path().join("qemu-nbd")).unwrap();
    let agent = Agent::new(&own_host(), &[("restorePoint", onto(&story, &image))]).with_tools(tools.path());
    let output = agent.output().to_owned();
    agent.fail_with("INVALID_ARGUMENT");
    let said = std::fs::read_to_string(output).unwrap();
    assert!(said.contains("install 'rbd', package ceph-common") && !said.contains("overwritten"), "{said}");
    assert!(ceph().content(&image) == vec![9; content.len()]);
}
