//! Boot tests of restore points: `bootPoint`, and the command's `boot`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nasbackup::config;
use nasbackup::digest::Digest;
use nasbackup::error::{Code, Error};
use nasbackup::nas::folder::Folder;
use nasbackup::operation;
use nasbackup::point::{MANIFEST, Manifest};
use nasbackup::work::phase::Phase;
use serde_json::{Value, json};
use support::{Guest, MIB, Nas, READY, Story, Then, bootable_guest, certificate, folder, run, secret, until};

/// A host with settings and folders of its own.
struct Host {
    place: PathBuf,
}

impl Host {
    fn new(nas: &Path, more: &str) -> Host {
        let place = folder("command");
        let text = format!(
            "stateDir = {0}/state\nmountDir = {0}/mounts\nrepository.nas = {1}\n{more}",
            place.display(),
            nas.display()
        );
        std::fs::write(place.join("settings"), text).unwrap();
        Host { place }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // not what the umask leaves
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "-", env!("CARGO_BIN_EXE_nasbackup")]);
        command.arg("--settings").arg(self.place.join("settings")).args(["-r", "nas"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The status, and the answer, which is null after an error.
    fn boot(&self, arguments: &[&str]) -> (i32, Value) {
        told(self.run(&[&["--json", "boot"], arguments].concat()))
    }

    /// A test that waits for what does not come, with the guest's domain.
    fn wait_in_vain(&self, point: &str) -> (Child, String) {
        let mut command = self.command(&["boot", point, "--wait", "console:^never$"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut found = None;
        let mine = format!("nasbackup-boot-{}-", child.id());
        until("the guest boots", || {
            found = domains().into_iter().find(|name| name.starts_with(&mine));
            found.is_some()
        });
        (child, found.unwrap())
    }

    /// What lies in its scratch.
    fn scratch(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.place.join("state/scratch")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing of a test is left.
    fn assert_bare(&self) {
        assert_eq!(self.scratch(), [""; 0]);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.place.to_str().unwrap()), "{mounts}");
    }
}

fn told(output: Output) -> (i32, Value) {
    let complaint = String::from_utf8_lossy(&output.stderr);
    let status = output.status.code().unwrap();
    eprint!("{complaint}");
    (status, serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// The names of the domains of boot tests.
fn domains() -> Vec<String> {
    let all = run("virsh", ["list", "--all", "--name"]);
    all.lines().filter(|name| name.starts_with("nasbackup-boot-")).map(str::to_owned).collect()
}

/// The hash of each file of the repository but for what is noted of verdicts, and the locks.
fn hashes(nas: &Path) -> String {
    let script = "cd \"$1\" && find . -type f ! -name '.nasbackup.*' -print0 | sort -z | xargs -0 sha256sum; \
                  find . -type f ! -name '.nasbackup.*' -printf '%p %u %m %T@\\n' | sort";
    run("sh", ["-c", script, "-", nas.to_str().unwrap()])
}

fn story(then: Then) -> Story {
    let mut story = Story::new(bootable_guest(then), Nas::folder());
    story.take("full");
    story
}

fn ready() -> String {
    format!("console:{READY}")
}

#[test]
fn a_good_point_boots_also_beside_another_test_and_stays_what_it_is() {
    let mut story = story(Then::Rest);
    story.guest.write(1, 0x51, 0, MIB);
    story.take("incremental");
    let host = Host::new(story.nas.root(), "");
    let point = story.last().path.clone();
    let before = hashes(story.nas.root());
    let (mut other, domain) = host.wait_in_vain(&point);
    let xml = run("virsh", ["dumpxml", &domain]);
    assert!(!xml.contains("<interface") && !xml.contains("<graphics"), "{xml}");
    assert_eq!(host.run(&["delete", &point]).status.code(), Some(5), "its point is locked");

    let picture = folder("picture").join("a.png");
    let picture_text = picture.to_str().unwrap();
    for _ in 0..2 {
        let (status, booted) = host.boot(&[&point, "--wait", &ready(), "--screenshot", picture_text]);
        assert_eq!((status, booted["verdict"].as_str()), (0, Some("good")), "{booted}");
        assert_eq!((booted["screenshotFailure"].as_str(), booted["leftOut"].as_array().unwrap().len()), (None, 0));
        assert_eq!(booted["memory"], 64 * MIB);
    }
    let pixels =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&picture).unwrap())).read_info().unwrap();
    assert!(pixels.info().width >= 640, "{:?}", pixels.info());
    assert!(domains().contains(&domain), "the other one runs on");

    rustix::process::kill_process(rustix::process::Pid::from_child(&other), rustix::process::Signal::INT).unwrap();
    assert_eq!(other.wait().unwrap().code(), Some(130));
    assert!(!domains().contains(&domain));
    host.assert_bare();
    assert_eq!(hashes(story.nas.root()), before);
    let listed = String::from_utf8(host.run(&["list"]).stdout).unwrap();
    assert_eq!(listed.matches(" good 2").count(), 1, "{listed}");
    let shown: Value = serde_json::from_slice(&host.run(&["--json", "show", &point]).stdout).unwrap();
    let booted = &shown["point"]["booted"];
    assert_eq!((&booted[0]["scope"], &booted[0]["current"], booted[1].is_null()), (&json!("boot"), &json!(true), true));
    assert_eq!(host.run(&["delete", &point]).status.code(), Some(0));
    drop(story.points.pop().unwrap());
    story.assert_all_restore();
}

#[test]
fn what_a_killed_test_leaves_ends_and_the_next_one_clears_it() {
    let story = story(Then::Rest);
    let host = Host::new(story.nas.root(), "");
    let point = story.last().path.clone();
    let (mut killed, domain) = host.wait_in_vain(&point);
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("libvirt ends its domain", || !domains().contains(&domain));
    assert_eq!(host.scratch().len(), 1);
    let (status, booted) = host.boot(&[&point, "--wait", &ready()]);
    assert_eq!(status, 0, "{booted}");
    host.assert_bare();
    assert_eq!(host.run(&["delete", &point]).status.code(), Some(0), "its lock went with it");
}

#[test]
fn an_agent_s_start_ends_what_a_killed_test_has_left_where_libvirt_does_not() {
    let story = story(Then::Rest);
    let host = Host::new(story.nas.root(), "");
    let (mut killed, domain) = host.wait_in_vain(&story.last().path);
    // as libvirt starts it for whoever does not ask to have it ended
    let xml = run("virsh", ["dumpxml", &domain]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("libvirt ends its domain", || !domains().contains(&domain));
    let begin = xml.find("<disk ").unwrap();
    let end = xml.rfind("</disk>").unwrap() + "</disk>".len();
    let left = folder("left").join("xml");
    std::fs::write(&left, [&xml[..begin], &xml[end..]].concat()).unwrap();
    run("virsh", ["create", left.to_str().unwrap()]);
    let settings =
        json!({"stateDir": host.place.join("state"), "mountDir": host.place.join("mounts"), "logLevel": "warn"});
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["--exact", "an_agent", "--nocapture"]).env("NASBACKUP_TEST_INIT", settings.to_string());
    assert!(agent.status().unwrap().success());
    assert!(!domains().contains(&domain));
    host.assert_bare();
}

/// Not a test: what a process of its own does.
#[test]
fn an_agent() {
    if let Ok(settings) = std::env::var("NASBACKUP_TEST_INIT") {
        operation::call("init", &settings, &mut |_| Ok(())).unwrap();
    }
}

#[test]
fn a_point_that_does_not_boot_is_bad_and_the_one_below_stays_good() {
    let mut story = story(Then::Rest);
    story.guest.write(0, 0, 0, MIB);
    story.take("incremental");
    let host = Host::new(story.nas.root(), "");
    let paths: Vec<_> = story.points.iter().map(|point| point.path.clone()).collect();
    let before = hashes(story.nas.root());
    let mut command = host.command(&["--json", "boot", &paths[1], "--wait", &ready()]);
    // nobody waits ten minutes for what can't come
    let (status, booted) = told(command.env("NASBACKUP_LIMITS", "boot the guest=10000").output().unwrap());
    assert_eq!((status, &booted["verdict"]), (1, &json!("bad")), "{booted}");
    assert!(booted["cause"].as_str().unwrap().contains("console has not shown"), "{booted}");
    let (status, booted) = host.boot(&[&paths[0], "--wait", &ready()]);
    assert_eq!(status, 0, "{booted}");
    assert_eq!(hashes(story.nas.root()), before);
    let listed = String::from_utf8(host.run(&["list"]).stdout).unwrap();
    assert!(listed.contains(" bad 2") && listed.contains(" good 2"), "{listed}");

    // its image has no header any more
    let image = std::fs::File::options().write(true).open(story.nas.at(&story.last().files()[0])).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &[0; 4096], 0).unwrap();
    let (status, booted) = host.boot(&[&paths[1], "--wait", &ready()]);
    assert_eq!((status, booted["waitedFor"].is_null()), (1, true), "{booted}");
    host.assert_bare();
}

#[test]
fn a_point_whose_xml_was_changed_is_bad_whatever_that_would_have_waited_for() {
    let mut guest = Guest::stopped([support::Disk::new()]);
    guest.devices = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>".to_owned();
    guest.start();
    let mut story = Story::new(guest, Nas::folder());
    story.take("full");
    let host = Host::new(story.nas.root(), "");
    let file = story.nas.at(&story.last().path).join("domain-config.xml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("org.qemu.guest_agent.0", "none")).unwrap();
    let (status, booted) = host.boot(&[&story.last().path, "--wait", "1"]);
    assert_eq!((status, &booted["verdict"]), (1, &json!("bad")), "{booted}");
    assert!(booted["cause"].as_str().unwrap().contains("domain-config.xml' is not what was written"), "{booted}");
    host.assert_bare();
}

#[test]
fn a_guest_that_ends_is_bad_whatever_was_waited_for() {
    let story = story(Then::PowerOff);
    let host = Host::new(story.nas.root(), "");
    for wait in ["console:^never$", "600"] {
        let (status, booted) = host.boot(&[&story.last().path, "--wait", wait]);
        assert_eq!((status, &booted["cause"]), (1, &json!("the guest has stopped")), "{booted}");
        assert!(booted["console"].as_str().unwrap().ends_with("1 boots\nready"), "{booted}");
    }
    host.assert_bare();
}

#[test]
fn a_guest_that_writes_on_and_on_is_ended_and_nothing_is_said_of_its_point() {
    let story = story(Then::WriteOn);
    for limit in ["scratchPerVm", "scratchPerHost"] {
        let host = Host::new(story.nas.root(), &format!("{limit} = 67108864\n"));
        let (status, booted) = host.boot(&[&story.last().path, "--wait", "console:^never$"]);
        assert_eq!((status, &booted["verdict"]), (23, &json!("aborted")), "{limit}: {booted}");
        assert!(booted["cause"].as_str().unwrap().contains(limit), "{booted}");
        host.assert_bare();
    }
}

/// libvirt ends a domain when the process ends that has started it. An agent's goes on.
#[test]
fn a_test_that_is_cancelled_ends_its_domain_itself() {
    let story = story(Then::Rest);
    let request = json!({"repository": {"type": "dir", "address": story.nas.root()}, "backupPath": story.last().path,
        "wait": {"console": "^never$"}});
    let own = format!("nasbackup-boot-{}-", std::process::id());
    let mut domain = None;
    let error = operation::call("bootPoint", &request.to_string(), &mut |status| {
        if status.phase == Phase::BootGuest {
            domain = domains().into_iter().find(|name| name.starts_with(&own));
            return Err(Error::new(Code::Cancelled, "a test", "it is enough"));
        }
        Ok(())
    });
    let (error, domain) = (error.unwrap_err(), domain.unwrap());
    assert_eq!(error.code, Code::Cancelled, "{error}");
    assert!(!domains().contains(&domain));
    let folder = config::current().state_dir.join("scratch").join(domain.strip_prefix("nasbackup-").unwrap());
    assert!(!folder.exists());
}

#[test]
fn the_guest_s_agent_is_waited_for_where_there_is_one() {
    let story = story(Then::Linux);
    let host = Host::new(story.nas.root(), "");
    let (status, booted) = host.boot(&[&story.last().path, "--memory", "160M"]);
    assert_eq!((status, &booted["waitedFor"], &booted["memory"]), (0, &json!("agent"), &json!(160 * MIB)), "{booted}");
    host.assert_bare();
}

#[test]
fn a_guest_with_uefi_boots_by_the_host_s_firmware_on_a_copy_of_its_variables() {
    // the end of the file, where the firmware keeps nothing
    const MARK: &[u8] = b"of this machine";
    let mut guest = Guest::stopped([support::Disk::new()]);
    guest.os = " firmware='efi'";
    guest.start();
    let live = format!("/var/lib/libvirt/qemu/nvram/{}_VARS.fd", guest.name);
    let file = std::fs::File::options().write(true).open(&live).unwrap();
    let end = file.metadata().unwrap().len() - MARK.len() as u64;
    std::os::unix::fs::FileExt::write_all_at(&file, MARK, end).unwrap();
    let mut story = Story::new(guest, Nas::folder());
    story.take("full");
    let variables = || std::fs::read_dir("/var/lib/libvirt/qemu/nvram").into_iter().flatten().count();
    let before = variables();
    let own = format!("nasbackup-boot-{}-", std::process::id());
    let request = json!({"repository": {"type": "dir", "address": story.nas.root()}, "backupPath": story.last().path,
        "wait": {"console": "BdsDxe"}});
    let scratch = config::current().state_dir.join("scratch");
    let own_folders = || {
        let paths = std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().as_encoded_bytes().starts_with(b"boot-")).collect::<Vec<_>>()
    };
    let mut copied = false;
    let booted = operation::call("bootPoint", &request.to_string(), &mut |status| {
        // its guest is still paused
        if status.phase == Phase::BootGuest && !copied {
            copied = std::fs::read(own_folders()[0].join("variables")).unwrap().ends_with(MARK);
            assert!(copied);
        }
        Ok(())
    });
    let booted = booted.unwrap();
    assert_eq!(booted["verdict"], "good", "{booted}");
    assert_eq!(variables(), before);
    assert!(!domains().iter().any(|name| name.starts_with(&own)));
    assert_eq!(own_folders(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_guest_has_the_tpm_whose_state_its_point_holds_and_none_of_it_stays() {
    let with_tpm = |encryption: &str| {
        let mut guest = bootable_guest(Then::Rest);
        guest.stop();
        guest.devices = format!("<tpm model='tpm-crb'><backend type='emulator'>{encryption}</backend></tpm>");
        guest.start();
        Story::new(guest, Nas::folder())
    };
    let mut story = with_tpm("");
    story.take("full");
    let host = Host::new(story.nas.root(), "");
    let point = story.last().path.clone();
    let held = std::fs::read(story.nas.at(&point).join("tpm2-00.permall")).unwrap();
    let states = || {
        let folders = std::fs::read_dir("/var/lib/libvirt/swtpm").unwrap().map(|entry| entry.unwrap().path());
        folders.collect::<std::collections::BTreeSet<_>>()
    };
    let before = states();
    let (status, booted) = host.boot(&[&point, "--wait", &ready()]);
    assert_eq!((status, &booted["tpm"]), (0, &json!(true)), "{booted}");
    assert_eq!(states(), before);

    let (mut killed, domain) = host.wait_in_vain(&point);
    let own = Path::new("/var/lib/libvirt/swtpm").join(run("virsh", ["domuuid", &domain]).trim());
    let state = own.join("tpm2/tpm2-00.permall");
    assert!(certificate(&std::fs::read(&state).unwrap()) == certificate(&held), "it has another TPM");
    let swtpm = run("pgrep", ["--full", "--list-full", own.to_str().unwrap()]);
    assert!(swtpm.contains("/swtpm socket "), "{swtpm}");
    killed.kill().unwrap();
    killed.wait().unwrap();
    until("libvirt ends its domain", || !domains().contains(&domain));
    // as of one that was killed before libvirt knew of the domain
    std::fs::create_dir_all(own.join("tpm2")).unwrap();
    std::fs::write(&state, held).unwrap();
    let (status, booted) = host.boot(&[&point, "--wait", &ready()]);
    assert_eq!((status, states()), (0, before.clone()), "{booted}");
    host.assert_bare();

    // forged, and nothing that swtpm takes
    let place = story.nas.at(&point);
    std::fs::write(place.join("tpm2-00.permall"), [0; 64]).unwrap();
    let manifest = Manifest::read(&Folder::open_root(&place).unwrap()).unwrap().unwrap();
    let mut forged = Manifest { checksum: None, ..manifest };
    forged.texts.as_mut().unwrap().insert("tpm2-00.permall".to_owned(), Digest::of(&[0; 64]));
    let text = |manifest: &Manifest| serde_json::to_string_pretty(manifest).unwrap() + "\n";
    forged.checksum = Some(Digest::of(text(&forged).as_bytes()));
    std::fs::write(place.join(MANIFEST), text(&forged)).unwrap();
    let (status, booted) = host.boot(&[&point, "--wait", &ready()]);
    assert_eq!((status, states()), (23, before), "{booted}");
    assert!(booted["cause"].as_str().unwrap().contains("tpm-emulator"), "{booted}");
    host.assert_bare();

    // what nobody here can decrypt
    let uuid = secret("<usage type='vtpm'><name>of-a-boot-test</name></usage>", "c2VjcmV0");
    let mut story = with_tpm(&format!("<encryption secret='{uuid}'/>"));
    story.take("full");
    let scratch = format!("scratchDir = {}", folder("scratch").join("new").display());
    let (status, booted) = Host::new(story.nas.root(), &scratch).boot(&[&story.last().path, "--wait", &ready()]);
    assert_eq!((status, &booted["tpm"]), (0, &json!(false)), "{booted}");
}

#[test]
fn a_test_that_is_cancelled_while_the_nas_hangs_ends_at_once_and_leaves_nothing() {
    let mut guest = bootable_guest(Then::Rest);
    guest.write(1, 0x51, 5 * MIB, MIB);
    let mut story = Story::new(guest, Nas::folder().through_fuse());
    story.take("full");
    let host = Host::new(story.nas.root(), "");
    let point = story.last().path.as_str();
    let end = |child: Child, at: &str| {
        let mine = format!("nasbackup-boot-{}-", child.id());
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
        let ended = child.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&ended.stderr);
        let left = host.scratch();
        story.nas.go_on();
        assert_eq!((ended.status.code(), left), (Some(130), Vec::new()), "{at}: {complaint}");
        assert!(!domains().iter().any(|name| name.starts_with(&mine)), "{at}");
    };
    for step in ["read the manifest:1", "follow the chains:1", "mount the point:1", "start the machine:1"] {
        let mut command = host.command(&["boot", point, "--wait", "console:^never$"]);
        let child = command.env("NASBACKUP_STOP_AT", step).stderr(Stdio::piped()).spawn().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        until(step, || state().rsplit(") ").next().unwrap().starts_with('T'));
        story.nas.hang();
        run("kill", ["-CONT", &child.id().to_string()]);
        end(child, step);
    }
    let (child, domain) = host.wait_in_vain(point);
    until("its guest runs", || run("virsh", ["domstate", &domain]).trim() == "running");
    story.nas.hang();
    let read = "qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend \"aio_read 5M 64k\"";
    let read = run("virsh", ["qemu-monitor-command", &domain, "--hmp", read]);
    assert_eq!(read.trim(), "");
    end(child, "a guest that reads");
    host.assert_bare();
}

#[test]
fn what_can_t_be_tried_is_refused_and_noted_nowhere() {
    let story = story(Then::Rest);
    let host = Host::new(story.nas.root(), "");
    let point = story.last().path.clone();
    let status = |arguments: &[&str]| host.boot(&[&[point.as_str()], arguments].concat()).0;
    for (arguments, expected) in [
        (&["--wait", "agent"][..], 2),
        (&["--wait", "console:("], 2),
        (&["--memory", "1K"], 2),
        (&["--screenshot", "/no/such/folder/a.png"], 2),
        (&["--screenshot", "/dev/null"], 2),
    ] {
        assert_eq!(status(arguments), expected, "{arguments:?}");
    }
    std::fs::remove_file(story.nas.at(&point).join("domain-config.xml")).unwrap();
    assert_eq!(status(&[]), 3);
    assert_eq!(host.boot(&[&format!("{point}0")]).0, 3);
    let shown: Value = serde_json::from_slice(&host.run(&["--json", "show", &point]).stdout).unwrap();
    assert_eq!(shown["point"]["booted"], json!([]));
    host.assert_bare();
}
