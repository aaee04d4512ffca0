//! Guests that AppArmor confines, as Debian's and Ubuntu's libvirt has it: by profiles as they are installed, with no rule of
//! ours.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nasbackup::config;
use nasbackup::config::Engine;
use nasbackup::operation::boot_point::{self, BootPointRequest, Wait};
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::operation::verify_chain::Verdict;
use nasbackup::work::phase::Phase;
use rustix::fs::{Gid, Uid};
use serde_json::json;

use crate::life;
use crate::served::nfs;
use crate::support::{Disk, Guest, MIB, READY, Story, Then, bootable_guest, by, listing, run};

const PROBE: &str = "NASBACKUP_TEST_PROBE";

/// A running guest that is confined. Its disks lie where CloudStack mounts its pools, and virt-aa-helper may look for what they
/// stand on.
fn confined(disks: impl IntoIterator<Item = Disk>) -> Guest {
    // else the kernel drops lines where there are many
    fs::write("/proc/sys/kernel/printk_ratelimit", "0").unwrap();
    let pool = Path::new("/mnt/pool");
    fs::create_dir_all(pool).unwrap();
    let disks = disks.into_iter().map(|mut disk| {
        disk.path = pool.join(disk.path.file_name().unwrap());
        disk
    });
    let mut guest = Guest::stopped(disks);
    guest.confined = true;
    // QEMU's own firmware, which the profile lets it read
    guest.boot = "<boot dev='hd'/>".to_owned();
    guest.start();
    assert!(qemu_of(&guest).is_some(), "the guest is not confined");
    guest
}

/// The profile that libvirt has made for the guest.
fn profile(guest: &Guest) -> String {
    format!("libvirt-{}", guest.virsh(&["domuuid"]).trim())
}

/// The process of the guest's QEMU, if it is confined by the guest's profile.
fn qemu_of(guest: &Guest) -> Option<PathBuf> {
    process_of(&profile(guest))
}

/// The process that this profile confines.
fn process_of(profile: &str) -> Option<PathBuf> {
    let confined = format!("{profile} (enforce)");
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let is_so = |process: &PathBuf| {
        fs::read_to_string(process.join("attr/current")).is_ok_and(|label| label.trim_end() == confined)
    };
    processes.into_iter().find(is_so)
}

/// User and group that a process runs as.
fn user_of(process: &Path) -> (u32, u32) {
    let status = fs::read_to_string(process.join("status")).unwrap();
    let number = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (number("Uid:"), number("Gid:"))
}

/// What the kernel has denied to whom has this profile.
fn denied(profile: &str) -> Vec<String> {
    let profile = format!("profile=\"{profile}\"");
    let log = run("dmesg", [] as [&str; 0]);
    let lines = log.lines().filter(|line| line.contains("apparmor=\"DENIED\"") && line.contains(&profile));
    lines.map(str::to_owned).collect()
}

/// What a process gets of these paths: with the rights of this user, and confined by this profile if there is one.
fn probe(profile: Option<&str>, (user, group): (u32, u32), paths: &[PathBuf]) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "confined::the_probe", "--nocapture"]);
    command.env(PROBE, json!({"profile": profile, "user": user, "group": group, "paths": paths}).to_string());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("got: its end"), "{text}");
    let got = text.lines().filter_map(|line| line.strip_prefix("got: ")).filter(|got| *got != "its end");
    got.map(str::to_owned).collect()
}

/// Not a test: what another process of this binary runs.
#[test]
fn the_probe() {
    let Some(spec) = std::env::var_os(PROBE) else { return };
    let spec: serde_json::Value = serde_json::from_str(spec.to_str().unwrap()).unwrap();
    let number = |name: &str| u32::try_from(spec[name].as_u64().unwrap()).unwrap();
    let (user, group) = (Uid::from_raw(number("user")), Gid::from_raw(number("group")));
    // these are this thread's alone
    if let Some(profile) = spec["profile"].as_str() {
        fs::write("/proc/thread-self/attr/current", format!("changeprofile {profile}")).unwrap();
    }
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
    println!();
    for path in spec["paths"].as_array().unwrap().iter().map(|path| Path::new(path.as_str().unwrap())) {
        try_all(path);
    }
    println!("got: its end");
}

/// Tells what of it can be had. Nothing is changed by this.
fn try_all(path: &Path) {
    let got = |how: &str| println!("got: {how} {}", path.display());
    if File::open(path).is_ok() {
        got(if fs::read_dir(path).is_ok() { "list" } else { "read" });
    }
    if OpenOptions::new().append(true).open(path).is_ok() {
        got("write");
    }
    if UnixStream::connect(path).is_ok() {
        got("connect");
    }
    let own = path.join("probe");
    if File::create(&own).is_ok() {
        fs::remove_file(own).ok();
        got("make files in");
    }
}

/// The folder of the guest's own that libvirt has made.
fn folder_of(guest: &Guest) -> PathBuf {
    let all = fs::read_dir("/var/lib/libvirt/qemu").unwrap().map(|entry| entry.unwrap().path());
    let end = format!("-{}", guest.name);
    let is_its = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("domain-");
    all.into_iter().find(|path| is_its(path) && path.to_str().unwrap().ends_with(&end)).unwrap()
}

/// All that a backup of the guest has, and that an agent has, on this host.
fn theirs(guest: &Guest) -> Vec<PathBuf> {
    let config = config::current();
    let roots = [config.state_dir.clone(), config.mount_dir.clone(), folder_of(guest), "/run/libvirt/qemu".into()];
    let within = |root: &PathBuf| listing(root).into_iter().map(|(path, _)| root.join(path)).collect::<Vec<_>>();
    let mut paths: Vec<_> = roots.iter().flat_map(within).chain(roots.clone()).collect();
    // libvirt's own, with which we have nothing to do
    paths.retain(|path| !fs::metadata(path).is_ok_and(|found| found.file_type().is_socket()));
    for process in [PathBuf::from("/proc").join(std::process::id().to_string()), qemu_of(guest).unwrap()] {
        paths.extend(["mem", "environ", "maps", "fd", "root"].map(|name| process.join(name)));
    }
    paths.extend(["/etc/nasbackup", "/etc/shadow"].map(PathBuf::from));
    paths.extend(guest.disks.iter().map(|disk| disk.path.clone()));
    paths
}

#[test]
#[ignore = "make nas"]
fn a_confined_guest_is_backed_up_with_no_rule_of_ours_and_denied_nothing_that_it_needs() {
    let mut story = Story::new(confined([Disk::root(), Disk::new()]), nfs("nas", "vers=4.2"));
    let profile = profile(&story.guest);
    story.guest.write(0, 0x21, 4 * MIB, 3 * MIB);
    story.accept(by("pull", story.request("full"))).assert_full(true);
    story.guest.write(1, 0x22, 8 * MIB, MIB);
    story.accept(by("pull", story.request("incremental"))).assert_incremental();
    story.guest.write(0, 0x23, 12 * MIB, MIB);
    story.accept(by("push", story.request("incremental"))).assert_incremental();
    // The first of two disks whose job is over takes the other's rule away with its own. QEMU may then open what it has written
    // once more, for reading alone, is denied that, and needs it no more.
    let at_the_end = |line: &String| {
        line.contains("requested_mask=\"r\"") && (line.contains("/scratch/") || line.contains("/mount/"))
    };
    let denials = denied(&profile);
    assert!(denials.iter().all(at_the_end), "{denials:?}");
    story.assert_all_restore();
    life::remove_middle(&mut story, 1);
    life::assert_verified(&story, story.last());
    life::assert_restored(&story, story.last());
    // and one that is would have been seen
    let before = denied(&profile).len();
    assert_eq!(probe(Some(&profile), (0, 0), &["/etc/shadow".into()]), [""; 0]);
    assert!(denied(&profile)[before..].iter().any(|line| line.contains("\"/etc/shadow\"")), "{:?}", denied(&profile));
}

#[test]
#[ignore = "make nas"]
fn whoever_has_taken_over_a_confined_qemu_gets_nothing_of_other_guests() {
    let attacker = confined([Disk::new()]);
    let guest = confined([Disk::new()]);
    let mut story = Story::new(guest, nfs("nas", "vers=4.2"));
    story.guest.write(0, 0x31, 0, 6 * MIB);
    let (profile, user) = (profile(&attacker), user_of(&qemu_of(&attacker).unwrap()));
    // a push may be over before it tells how far it is
    for (engine, phase, known) in [("pull", Phase::Copy, "/scratch/"), ("push", Phase::Begin, "/mnt/pool/")] {
        let (mut confined, mut free) = (None, Vec::new());
        let slow = TakeBackupRequest { rate_limit: Some(1 << 20), ..by(engine, story.request("full")) };
        // but for the attacker's own
        let paths = || {
            let mut paths = theirs(&story.guest);
            paths.retain(|path| !path.to_str().unwrap().contains(&attacker.name));
            paths
        };
        let taken = take_backup::run(slow, &mut |status| {
            let flows = phase == Phase::Begin || status.total_bytes > 0;
            if status.phase == phase && flows && confined.is_none() {
                free = probe(None, user, &paths());
                confined = Some(probe(Some(&profile), user, &paths()));
            }
            Ok(())
        });
        taken.unwrap();
        story.skip();
        assert_eq!(confined, Some(vec![]), "{engine}");
        // one of the same user that nothing confines gets what it knows the name of
        assert!(free.iter().any(|got| got.starts_with("read") && got.contains(known)), "{engine}: {free:?}");
    }
}

#[test]
#[ignore = "make nas"]
fn a_boot_test_s_guest_is_confined_and_denied_nothing_that_it_needs() {
    run("modprobe", ["fuse"]);
    let mut guest = bootable_guest(Then::Rest);
    guest.stop();
    guest.devices = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>".to_owned();
    guest.start();
    let mut story = Story::new(guest, nfs("nas", "vers=4.2"));
    story.take("full");
    let request = BootPointRequest {
        repository: Some(story.nas.repository()),
        backup_path: Some(story.last().path.clone()),
        wait: Some(Wait::Console(READY.to_owned())),
        ..BootPointRequest::default()
    };
    let mut profile = None;
    let booted = boot_point::run(request, &mut |status| {
        if status.phase == Phase::BootGuest && profile.is_none() {
            let names = run("virsh", ["list", "--name"]);
            let name = names.lines().find(|name| name.starts_with("nasbackup-boot-")).unwrap();
            let found = format!("libvirt-{}", run("virsh", ["domuuid", name]).trim());
            assert!(process_of(&found).is_some(), "the guest is not confined");
            profile = Some(found);
        }
        Ok(())
    });
    let booted = booted.unwrap();
    assert!(booted.verdict == Verdict::Good && booted.tpm, "{booted:?}");
    // libvirt's profile lets no guest's swtpm read how the host wants TLS
    let denied = denied(&profile.unwrap()).into_iter().filter(|line| !line.contains("\"/etc/ssl/openssl.cnf\""));
    assert_eq!(denied.collect::<Vec<_>>(), [""; 0]);
}

/// The profile of this one guest has a rule that takes the scratch away from it again.
#[test]
#[ignore = "make nas"]
fn a_guest_that_is_denied_its_scratch_goes_by_push_and_is_told_where_to_look() {
    let guest = confined([Disk::new()]);
    let rules = Path::new("/etc/apparmor.d/libvirt").join(profile(&guest));
    let text = fs::read_to_string(&rules).unwrap();
    let (before, end) = text.rsplit_once('}').unwrap();
    File::create(&rules).unwrap().write_all(format!("{before}  deny /**/scratch/** rw,\n}}{end}").as_bytes()).unwrap();
    let mut story = Story::new(guest, nfs("nas", "vers=4.2"));
    story.guest.write(0, 0x31, MIB, MIB);
    let taken = &story.accept(by("auto", story.request("full"))).taken;
    assert_eq!(taken.engine, Engine::Push);
    let told = ["by push: ", "Permission denied", "AppArmor confines QEMU (profile 'libvirt-", "says 'deny'"];
    assert!(told.iter().all(|part| taken.details.contains(part)), "{taken:?}");
    let error = story.refuse(by("pull", story.request("full")), "LIBVIRT");
    assert!(error.cause.contains("AppArmor confines QEMU"), "{error}");
    // without it the next backup is again by pull, of the guest that has run on
    fs::write(&rules, text).unwrap();
    assert_eq!(story.accept(by("auto", story.request("incremental"))).taken.engine, Engine::Pull);
    story.assert_all_restore();
}
