//! The command `nasbackup`, as a shell runs it.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "command/files.rs"]
mod files;
mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{Disk, Guest, Nas, Point, Story, assert_holds, assert_same, by, folder, mounted_at, run, until};

/// A host with settings of its own, and the repository of `story`.
struct Host {
    settings: std::path::PathBuf,
    nas: String,
    /// The only folder in which the command looks for tools, if that is not the system's.
    tools: Option<std::path::PathBuf>,
}

impl Host {
    fn new(nas: &Path) -> Host {
        let place = folder("command");
        let settings = place.join("nasbackup.properties");
        let text = format!(
            "stateDir = {0}/state\nmountDir = {0}/mounts\nrepository.nas = {1}\n",
            place.display(),
            nas.display()
        );
        std::fs::write(&settings, text).unwrap();
        Host { settings, nas: nas.to_str().unwrap().to_owned(), tools: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nasbackup"));
        command.arg("--settings").arg(&self.settings);
        command.envs(self.tools.iter().map(|tools| ("NASBACKUP_TOOLS", tools)));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// What it prints when it succeeds.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), complaint.as_ref()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its status and its complaint when it fails.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

#[test]
fn chains_are_drawn_with_what_each_point_takes_and_what_is_wrong() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for mode in ["full", "incremental", "incremental"] {
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        story.take(mode);
    }
    let host = Host::new(story.nas.root());
    let paths: Vec<_> = story.points.iter().map(|point| point.path.clone()).collect();
    let drawn = host.says(&["--repo", "nas", "list", &story.guest.name]);
    let lines: Vec<_> = drawn.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for (line, (begin, deletion)) in lines[1..].iter().zip([
        (format!("{} full 2 ", name(&paths[0])), " merges "),
        (format!("├ {} incremental 2 ", name(&paths[1])), " merges "),
        (format!("└ {} incremental 2 ", name(&paths[2])), " frees "),
    ]) {
        assert!(line.starts_with(&begin) && line.contains(deletion), "{drawn}");
    }
    assert_eq!(host.says(&["--repo", &host.nas, "list"]), drawn, "named by its folder, all machines");

    let listed: Value = serde_json::from_str(&host.says(&["-r", "nas", "--json", "list"])).unwrap();
    let points = listed["machines"][0]["points"].as_array().unwrap();
    for (i, point) in points.iter().enumerate() {
        let images = points[..i].iter().flat_map(|point| point["disks"].as_array().unwrap());
        let below: u64 = images.map(|disk| disk["size"].as_u64().unwrap()).sum();
        let chain = Some(below + point["size"].as_u64().unwrap());
        assert_eq!((&point["backupPath"], point["chainSize"].as_u64()), (&Value::from(paths[i].as_str()), chain));
        assert_eq!(point["parents"], Value::from_iter(i.checked_sub(1).map(|parent| paths[parent].as_str())));
    }

    let (svg, html) = (folder("drawn").join("a.svg"), folder("drawn").join("a.html"));
    host.says(&["-r", "nas", "list", "--svg", svg.to_str().unwrap(), "--html", html.to_str().unwrap()]);
    let [picture, page] = [&svg, &html].map(|file| std::fs::read_to_string(file).unwrap());
    assert!(page.contains(&picture) && paths.iter().all(|path| picture.contains(path)), "{page}");

    let metrics = host.says(&["-r", "nas", "metrics"]);
    for sample in ["points{machine=\"MACHINE\"} 3", "verdicts{machine=\"MACHINE\",verdict=\"none\"} 3"] {
        assert!(
            metrics.contains(&format!("nasbackup_{}\n", sample.replace("MACHINE", &story.guest.name))),
            "{metrics}"
        );
    }

    let parent = story.nas.at(&paths[1]);
    std::fs::rename(&parent, parent.with_file_name(".deleted-1")).unwrap();
    let drawn = host.says(&["-r", "nas", "list"]);
    for says in ["unfinished: .deleted-1", "which is not there"] {
        assert!(drawn.contains(says), "{drawn}");
    }
}

#[test]
fn a_point_tells_of_itself_and_gives_the_domain_s_xml() {
    let mut story = Story::with_full();
    story.take("incremental");
    let host = Host::new(story.nas.root());
    let (full, last) = (&story.points[0], story.last());
    let shown = host.says(&["-r", "nas", "show", &last.path]);
    for says in [&last.taken.point_id, "kind      incremental", &last.taken.disks[1].file, &full.taken.disks[1].file] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    let xml = host.says(&["-r", "nas", "show", "--xml", &last.path]);
    assert!(xml.starts_with("<domain ") && xml.contains(&story.guest.name), "{xml}");
    std::fs::remove_file(story.nas.at(&last.path).join("domain-config.xml")).unwrap();
    assert_eq!(host.fails(&["-r", "nas", "show", "--xml", &last.path]).0, 3);
    assert_eq!(host.fails(&["-r", "nas", "show", &format!("{}/gone", story.guest.name)]).0, 3);
}

#[test]
fn a_point_is_verified_and_the_status_is_the_verdict() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let request = by("pull", story.request("full"));
    story.accept(request);
    let host = Host::new(story.nas.root());
    let point = story.last().path.clone();
    for data in [&[][..], &["--data"]] {
        let said = host.says(&[&["-r", "nas", "verify", &point], data].concat());
        assert!(said.lines().all(|line| line.starts_with("good ")), "{said}");
    }
    let listed = host.says(&["-r", "nas", "list"]);
    assert!(listed.contains(" good data 2"), "the chain alone was looked at before: {listed}");
    let since = ["-r", "nas", "verify", "--all", "--not-verified-since", "1d"];
    let due = host.says(&[&since[..], &["--data"]].concat());
    assert_eq!(due, "nothing is due: each point was verified within 1d\n");
    let noted = story.nas.at(&story.guest.name).join(format!(".nasbackup.verified-{}", name(&point)));
    std::fs::rename(&noted, noted.with_extension("gone")).unwrap();
    std::fs::create_dir(&noted).unwrap();
    let (status, complaint) = host.fails(&since);
    assert!(status == 0 && complaint.contains("is not noted beside it"), "the verdict stands: {complaint}");
    let index = std::fs::read_dir(story.nas.at(&point)).unwrap().map(|entry| entry.unwrap().path());
    let index = index.into_iter().find(|path| path.extension().is_some_and(|end| end == "fingerprints")).unwrap();
    std::fs::rename(&index, index.with_extension("gone")).unwrap();
    assert_eq!(host.run(&["-r", "nas", "verify", "--data", &point]).status.code(), Some(1), "an index is a part of it");
    std::fs::remove_dir(&noted).unwrap();
    assert_eq!(host.run(&["-r", "nas", "verify", "--data", &point]).status.code(), Some(1));
    assert!(host.says(&["-r", "nas", "show", &point]).contains("verified  bad data 2"));
    let image = story.nas.at(&story.last().files()[0]);
    // where the header says that its L1 table is
    let file = std::fs::File::options().write(true).open(image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 8], 40).unwrap();
    let output = host.run(&["-r", "nas", "verify", &point]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("bad  "), "{said}");
}

#[test]
fn a_verdict_is_told_before_the_next_point_is_looked_at() {
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    for mode in ["full", "incremental"] {
        story.take(mode);
    }
    let host = Host::new(story.nas.root());
    let [first, second] = [0, 1].map(|i| story.points[i].path.as_str());
    let mut verify = host.command();
    verify.env("NASBACKUP_INTERRUPT_AT", "open the repository, done:2").args(["-r", "nas", "verify", first, second]);
    let ended = verify.output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), format!("{first}: good\n"));
}

#[test]
fn disks_are_restored_and_a_dry_run_writes_nothing() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for mode in ["full", "incremental"] {
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        let request = by("pull", story.request(mode));
        story.accept(request);
    }
    let host = Host::new(story.nas.root());
    let to = folder("to");
    for point in &story.points {
        let restore = ["-r", "nas", "restore", &point.path];
        for (format, options) in [("qcow2", &["--verify-data"][..]), ("raw", &["--format", "raw"])] {
            let place = to.join(format!("{}-{format}", name(&point.path)));
            let place_text = place.to_str().unwrap();
            let arguments = [&restore[..], &["--to", place_text], options].concat();
            let would = host.says(&[&arguments[..], &["--dry-run"]].concat());
            assert!(would.lines().count() == 2 && !place.exists(), "{would}");
            host.says(&arguments);
            assert_eq!(host.fails(&arguments).0, 4, "what is there stays");
            for disk in &point.taken.disks {
                let restored = place.join(format!("{}.{format}", disk.volume));
                match format {
                    "raw" => assert_same(&restored, point.content(&disk.volume)),
                    _ => assert_holds(&restored, point.content(&disk.volume)),
                }
            }
        }
    }
    let (point, disk) = (story.last(), &story.last().taken.disks[0]);
    let output = to.join("one");
    std::fs::write(&output, "old").unwrap();
    let restore = ["-r", "nas", "restore", &point.path, "--volume", &disk.volume, "--keep-old", "--output"];
    let said = host.says(&[&restore[..], &[output.to_str().unwrap()]].concat());
    assert_holds(&output, point.content(&disk.volume));
    let kept = said.lines().find_map(|line| line.strip_prefix("  what was there is in '")?.strip_suffix('\''));
    assert_eq!(std::fs::read(kept.unwrap_or_else(|| panic!("{said}"))).unwrap(), b"old");
    let again = [&restore[..], &["one", "--dry-run"]].concat();
    let would = host.command().current_dir(&to).args(again).output().unwrap();
    let would = String::from_utf8_lossy(&would.stdout);
    assert!(would.contains(&format!("to '{}', replacing what is there\n", output.display())), "{would}");
    let new = to.join("new/er");
    let limited = ["-r", "nas", "restore", &point.path, "--rate-limit", "65535", "--to", new.to_str().unwrap()];
    let (status, complaint) = host.fails(&limited);
    assert!(status == 2 && complaint.contains("less than 65536") && !to.join("new").exists(), "{complaint}");
    let unknown = ["-r", "nas", "restore", &point.path, "--dry-run", "--volume", "x", "--output", "/a"];
    assert_eq!(host.fails(&unknown).0, 3);
    for arguments in [&["--volume", "x", "--output", "/a", "--output", "/b"][..], &["--output", "/a"], &[]] {
        let (status, complaint) = host.fails(&[&["-r", "nas", "restore", &point.path], arguments].concat());
        assert_eq!(status, 2, "{complaint}");
    }
}

#[test]
fn a_disk_of_a_long_chain_becomes_one_image() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for mode in ["full", "incremental", "incremental"] {
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        story.take(mode);
    }
    let host = Host::new(story.nas.root());
    let (point, disk) = (story.last(), &story.last().taken.disks[0]);
    let (of_disk, to) = (format!("{}:{}", point.path, disk.volume), folder("to").join("disk"));
    let flatten =
        |what: &str, more: &[&str]| host.run(&[&["-r", "nas", "flatten", what, to.to_str().unwrap()], more].concat());
    let would = flatten(&of_disk, &["--dry-run"]);
    assert!(would.status.success() && !to.exists(), "{would:?}");
    for (what, status) in [(point.path.as_str(), 2), (&format!("{}:x", point.path), 3)] {
        let refused = flatten(what, &[]);
        let complaint = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(status) && complaint.contains(&disk.volume), "{complaint}");
    }
    for (place, status) in [(to.parent().unwrap().to_owned(), 2), (to.join("in/no/folder"), 3), ("/dev/null".into(), 2)]
    {
        let place = place.to_str().unwrap();
        let restore = ["restore", &point.path, "--volume", &disk.volume, "--output", place];
        for arguments in [&["flatten", &of_disk, place][..], &restore] {
            for more in [&[][..], &["--dry-run"]] {
                let refused = host.fails(&[&["-r", "nas"], arguments, more].concat());
                assert_eq!(refused.0, status, "{place}: {more:?}: {}", refused.1);
            }
        }
    }
    assert!(flatten(&of_disk, &[]).status.success());
    let info = run("qemu-img", ["info", to.to_str().unwrap()]);
    assert!(info.contains("file format: qcow2") && !info.contains("backing file"), "{info}");
    assert_holds(&to, point.content(&disk.volume));
    for more in [&[][..], &["--dry-run"]] {
        assert_eq!(flatten(&of_disk, more).status.code(), Some(4), "what is there stays");
    }
    std::fs::remove_file(&to).unwrap();
    let mut raw = host.command();
    raw.current_dir(to.parent().unwrap()).args(["-r", "nas", "flatten", &of_disk, "disk", "--format", "raw"]);
    assert!(raw.output().unwrap().status.success());
    assert_same(&to, point.content(&disk.volume));
}

#[test]
fn nothing_is_written_where_restore_points_are_and_a_dry_run_says_so() {
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    story.take("full");
    let host = Host::new(story.nas.root());
    let (point, volume) = (&story.last().path, &story.last().taken.disks[0].volume);
    let (of_disk, beside) = (format!("{point}:{volume}"), folder("beside"));
    let (file, link) = (beside.join("file"), beside.join("link"));
    std::fs::write(&file, "").unwrap();
    symlink(story.nas.root(), &link).unwrap();
    let listed = host.says(&["-r", "nas", "list"]);
    let nas = |name: &str| format!("{}/{name}", host.nas);
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    let restore = |to: String| vec!["restore".to_owned(), point.clone(), "--to".to_owned(), to];
    let one = |output: String| ["restore", point, "--volume", volume, "--output", &output].map(str::to_owned).to_vec();
    let flatten = |output: String| vec!["flatten".to_owned(), of_disk.clone(), output];
    let refused = "where the repository's restore points are";
    for (arguments, says) in [
        (restore(nas("x")), refused),
        (restore(nas("x/y/z")), refused),
        (restore(nas(point)), refused),
        (restore(at(&link.join("x"))), refused),
        (one(nas(&format!("{point}/x"))), refused),
        (flatten(nas(&format!("{}/x", story.guest.name))), refused),
        (
            restore(format!("{}/new/..{}{}", at(&beside), "/..".repeat(beside.components().count()), nas("x"))),
            "lies in no folder",
        ),
        (restore(at(&file)), "lies in no folder"),
        (restore(at(&file.join("x"))), "lies in no folder"),
        (one(at(&file.join("x"))), "lies in no folder"),
    ] {
        for more in [&["--dry-run"][..], &[]] {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let (status, complaint) = host.fails(&[&["-r", "nas"], &arguments[..], more].concat());
            assert!(status == 2 && complaint.contains(says), "{arguments:?} {more:?}: {status} {complaint}");
            assert_eq!(complaint.lines().count(), 1, "{complaint}");
        }
    }
    assert_eq!(host.says(&["-r", "nas", "list"]), listed, "nothing was made");
    assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 2);
    let to = beside.join("new/er");
    for more in [&["--dry-run"][..], &[]] {
        host.says(&[&["-r", "nas", "restore", point, "--to", to.to_str().unwrap()], more].concat());
    }
    assert_holds(&to.join(format!("{volume}.qcow2")), story.last().content(volume));
}

/// A pool of CloudStack's may lie on the NAS that the repository is on, and be reached through its root.
#[test]
fn a_disk_goes_to_a_pool_beside_the_machines_folders() {
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    story.take("full");
    let host = Host::new(story.nas.root());
    let (point, volume) = (&story.last().path, &story.last().taken.disks[0].volume);
    let pool = story.nas.at("pool");
    std::fs::create_dir_all(pool.join("deeper")).unwrap();
    std::fs::write(pool.join("another"), "").unwrap();
    for name in ["disk", "deeper/disk"] {
        let disk = pool.join(name);
        let restore = ["-r", "nas", "restore", point, "--volume", volume, "--output", disk.to_str().unwrap()];
        host.says(&[&restore[..], &["--dry-run"]].concat());
        host.says(&restore);
        assert_holds(&disk, story.last().content(volume));
        // what a killed call leaves does not make it a machine's
        std::fs::write(pool.join(".disk.nasbackup-0123456789abcdef"), "").unwrap();
    }
    for of_a_machine in ["2026.11.22.01.00.00", ".nasbackup.lock", ".partial-2026.11.22.01.00.00-1", ".deleted-1"] {
        let other = story.nas.at("other");
        std::fs::create_dir_all(other.join(of_a_machine)).unwrap();
        let disk = other.join("disk");
        let restore = ["-r", "nas", "restore", point, "--volume", volume, "--output", disk.to_str().unwrap()];
        let (status, complaint) = host.fails(&restore);
        assert!(status == 2 && complaint.contains("where the repository's restore points are"), "{complaint}");
        std::fs::remove_dir_all(other).unwrap();
    }
}

#[test]
fn a_dry_run_refuses_what_the_call_would_of_a_device() {
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    story.take("full");
    let host = Host::new(story.nas.root());
    let (point, volume) = (&story.last().path, &story.last().taken.disks[0].volume);
    let image = folder("device").join("image");
    run("truncate", ["--size=128M", image.to_str().unwrap()]);
    let device = run("losetup", ["--find", "--show", image.to_str().unwrap()]);
    let restore = ["-r", "nas", "restore", point, "--volume", volume, "--output", device.trim()];
    let kept_there = format!("{}/{point}", host.nas);
    let all: Vec<_> = [
        (&[][..], "takes the format 'raw' only"),
        (&["--format", "raw", "--keep-old"], "--keep-old-in: is missing"),
        (&["--format", "raw", "--keep-old", "--keep-old-in", &kept_there], "where the repository's restore points are"),
        (&["--format", "raw", "--rate-limit", "1"], "is less than 65536"),
    ]
    .into_iter()
    .flat_map(|(arguments, says)| {
        [&[][..], &["--dry-run"]].map(|more| (host.fails(&[&restore, arguments, more].concat()), says))
    })
    .collect();
    let would = host.run(&[&restore[..], &["--format", "raw", "--dry-run"]].concat());
    run("losetup", ["--detach", device.trim()]);
    for ((status, complaint), says) in all {
        assert!(status == 2 && complaint.contains(says), "{status} {complaint}");
    }
    assert!(String::from_utf8_lossy(&would.stdout).contains("replacing what is there"), "{would:?}");
}

#[test]
fn uefi_variables_are_shown_and_restored_with_all_disks() {
    let mut guest = Guest::stopped([Disk::root()]);
    guest.os = " firmware='efi'";
    guest.start();
    guest.suspend();
    let mut story = Story::new(guest, Nas::folder());
    story.take("full");
    let (host, point) = (Host::new(story.nas.root()), story.last());
    let shown = host.says(&["-r", "nas", "show", &point.path]);
    assert!(
        shown.lines().any(|line| line.trim_start().starts_with("holds ") && line.ends_with("UEFI variables: nvram.fd"))
    );
    let (place, one) = (folder("restored").join("all"), folder("restored").join("one"));
    let to = |place: &Path| ["-r", "nas", "restore", &point.path, "--to", place.to_str().unwrap()].map(str::to_owned);
    let restore = to(&place);
    let restore: Vec<_> = restore.iter().map(String::as_str).collect();
    let would = host.says(&[&restore[..], &["--dry-run"]].concat());
    assert!(would.contains("would restore 'UEFI variables' to '") && !place.exists(), "{would}");
    assert!(host.says(&restore).contains("'nvram.fd' is in '"));
    let held = std::fs::read(story.nas.at(&point.path).join("nvram.fd")).unwrap();
    assert!(std::fs::read(place.join("nvram.fd")).unwrap() == held);
    let volume = &point.taken.disks[0].volume;
    std::fs::remove_file(place.join(format!("{volume}.qcow2"))).unwrap();
    let (_, complaint) = host.fails(&restore);
    assert!(complaint.contains("ALREADY_EXISTS") && complaint.contains("nvram.fd"), "{complaint}");
    let restore = to(&one);
    let restore: Vec<_> = restore.iter().map(String::as_str).collect();
    host.says(&[&restore[..], &["--volume", volume]].concat());
    assert_eq!(std::fs::read_dir(one).unwrap().count(), 1);
}

#[test]
fn a_point_in_the_middle_goes_when_what_stands_on_it_was_merged() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for mode in ["full", "incremental", "incremental"] {
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        story.take(mode);
    }
    let host = Host::new(story.nas.root());
    let [first, middle, last] = [0, 1, 2].map(|i| story.points[i].path.clone());
    let (status, complaint) = host.fails(&["-r", "nas", "delete", &middle]);
    assert!(status == 6 && complaint.contains(&last) && complaint.contains("--merge"), "{complaint}");
    assert_eq!(host.fails(&["-r", "nas", "delete", &format!("{middle}x")]).0, 3, "it is not there");
    let delete = ["-r", "nas", "delete", "--merge", &middle];
    let would = host.says(&[&delete[..], &["--dry-run"]].concat());
    assert!(would.contains(&format!("'{last}' stand on '{first}'")) && story.nas.at(&middle).exists(), "{would}");
    assert_eq!(host.fails(&["-r", "nas", "rebase", "--dry-run", "--parent", &last, &middle]).0, 7);
    host.says(&delete);
    assert!(!story.nas.at(&middle).exists());
    drop(story.points.remove(1));
    story.assert_all_restore();
    host.says(&["-r", "nas", "verify", &last, &first]);
    host.says(&["-r", "nas", "rebase", "--alone", &last]);
    let listed = host.says(&["-r", "nas", "list"]);
    assert_eq!(listed.matches("good chain 2").count(), 2, "{listed}");
    assert_eq!(listed.matches(", changed since").count(), 1, "the one that was rebased: {listed}");
    host.says(&["-r", "nas", "delete", &first]);
    let noted = std::fs::read_dir(story.nas.at(&story.guest.name)).unwrap().map(|entry| entry.unwrap().file_name());
    let noted: Vec<_> = noted.filter(|name| name.to_str().unwrap().contains("verified")).collect();
    assert_eq!(noted, [format!(".nasbackup.verified-{}", name(&last)).as_str()], "what is noted goes with it");
    drop(story.points.remove(0));
    story.assert_all_restore();
    story.assert_goes_on();
}

#[test]
fn a_ctrl_c_ends_a_restore_that_has_replaced_nothing_and_a_terminal_that_goes_does_not() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let request = by("pull", story.request("full"));
    story.accept(request);
    let host = Host::new(story.nas.root());
    let (point, disk) = (story.last(), &story.last().taken.disks[0]);
    let place = folder("to");
    let output = place.join("disk");
    std::fs::write(&output, "old").unwrap();
    // as nohup begins it
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_nasbackup")]);
    command.arg("--settings").arg(&host.settings).args(["-r", "nas", "restore", &point.path, "--rate-limit", "65536"]);
    command.args(["--volume", &disk.volume, "--output"]).arg(&output).stderr(std::process::Stdio::piped());
    let restore = command.spawn().unwrap();
    until("it writes beside the output", || std::fs::read_dir(&place).unwrap().count() > 1);
    let pid = rustix::process::Pid::from_child(&restore);
    let status = std::fs::read_to_string(format!("/proc/{}/status", restore.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "SIGHUP stays ignored");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = restore.wait_with_output().unwrap();
    let complaint = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(130) && complaint.contains("CANCELLED"), "{complaint}");
    assert_eq!(std::fs::read(&output).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
}

/// A call that is interrupted at one of its steps, on a copy of the repository; with a folder of its own.
struct Interrupted {
    host: Host,
    place: std::path::PathBuf,
}

impl Interrupted {
    fn copy_of(nas: &Path) -> Interrupted {
        let place = folder("interrupted");
        run("cp", [Path::new("--archive"), nas, &place.join("nas")]);
        Interrupted { host: Host::new(&place.join("nas")), place: place.join("to") }
    }

    /// Each point that is there holds what the guest had: its images are those of the story, or read as they did.
    fn assert_whole(&self, story: &Story) {
        let nas = Path::new(&self.host.nas);
        let is_as_it_was =
            |file: String| std::fs::read(nas.join(&file)).ok() == std::fs::read(story.nas.at(&file)).ok();
        if story.points.iter().flat_map(Point::files).all(is_as_it_was) {
            return;
        }
        for point in &story.points {
            if nas.join(&point.path).exists() {
                point.assert_restores_from(nas);
            }
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nasbackup"));
        command.arg("--settings").arg(&self.host.settings).args(["-r", "nas"]);
        command
            .args(arguments.iter().map(|text| if *text == "PLACE" { self.place.as_os_str() } else { text.as_ref() }));
        command
    }
}

/// The steps of a call, each `NAME:N`, those of the same name once.
fn steps(nas: &Path, arguments: &[&str]) -> Vec<String> {
    let run = Interrupted::copy_of(nas);
    let log = run.place.with_extension("steps");
    let ended = run.command(arguments).env("NASBACKUP_STEP_LOG", &log).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().filter(|line| line.ends_with(":1")).map(str::to_owned).collect()
}

#[test]
fn a_ctrl_c_at_any_step_leaves_all_points_whole_and_the_same_call_then_ends() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for mode in ["full", "incremental", "incremental"] {
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        let request = by("pull", story.request(mode));
        story.accept(request);
    }
    story.assert_all_restore();
    let [middle, last] = [1, 2].map(|i| story.points[i].path.as_str());
    for (arguments, again) in [
        (&["delete", "--merge", middle][..], Some(3)),
        (&["rebase", "--alone", last], None),
        (&["restore", last, "--to", "PLACE"], Some(4)),
        (&["verify", "--data", last], None),
    ] {
        let steps = steps(story.nas.root(), arguments);
        assert!(steps.len() > 2, "{steps:?}");
        for step in steps {
            let run = Interrupted::copy_of(story.nas.root());
            let ended = run.command(arguments).env("NASBACKUP_INTERRUPT_AT", &step).output().unwrap();
            let complaint = String::from_utf8_lossy(&ended.stderr);
            let is_told = ended.status.code() == Some(130) && complaint.contains("CANCELLED");
            let is_done = ended.status.success();
            // before there is something to undo
            let is_killed = ended.status.signal() == Some(rustix::process::Signal::INT.as_raw());
            assert!(is_told || is_done || is_killed, "{arguments:?} at {step}: {complaint}");
            run.assert_whole(&story);
            let ended = run.command(arguments).output().unwrap();
            let expected = if is_done { again.unwrap_or(0) } else { 0 };
            assert_eq!(ended.status.code(), Some(expected), "{arguments:?} at {step}: {ended:?}");
            run.assert_whole(&story);
            run.host.says(&["-r", "nas", "verify", "--all"]);
        }
    }
}

#[test]
fn what_gets_an_output_s_name_before_the_output_does_is_not_replaced() {
    let mut story = Story::new(Guest::new([Disk::root()]), Nas::folder());
    story.take("full");
    let host = Host::new(story.nas.root());
    let (point, volume) = (&story.last().path, &story.last().taken.disks[0].volume);
    let place = folder("place");
    let file = place.join(format!("{volume}.qcow2"));
    let [place_text, file_text] = [&place, &file].map(|path| path.to_str().unwrap());
    let of_disk = format!("{point}:{volume}");
    for arguments in [["restore", point, "--to", place_text].to_vec(), vec!["flatten", &of_disk, file_text]] {
        // when the command has looked, and before the library opens the output, or has it whole
        for step in ["check the point:1", "give an output its name:1"] {
            let mut command = host.command();
            command.env("NASBACKUP_STOP_AT", step).args(["-r", "nas"]).args(&arguments);
            let writer = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
            let state = || std::fs::read_to_string(format!("/proc/{}/stat", writer.id())).unwrap();
            until("it is stopped", || state().rsplit(") ").next().unwrap().starts_with('T'));
            std::fs::write(&file, "somebody's").unwrap();
            run("kill", ["-CONT", &writer.id().to_string()]);
            let ended = writer.wait_with_output().unwrap();
            let complaint = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(4), "{arguments:?} at {step}: {complaint}");
            assert_eq!(std::fs::read(&file).unwrap(), b"somebody's", "{arguments:?} at {step}");
            std::fs::remove_file(&file).unwrap();
            assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "{arguments:?} at {step}");
        }
    }
}

/// A command that runs, and what it has complained of so far.
struct Waiting {
    child: std::process::Child,
    told: std::path::PathBuf,
}

impl Waiting {
    fn begin(host: &Host, arguments: &[&str]) -> Waiting {
        let mut command = host.command();
        command.env("NASBACKUP_LINE_MILLIS", "100").args(arguments);
        Waiting::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Waiting {
        let told = folder("told").join("stderr");
        let output = std::process::Stdio::null();
        let child = command.stdout(output).stderr(std::fs::File::create(&told).unwrap()).spawn().unwrap();
        Waiting { child, told }
    }

    /// One whose NAS hangs from the step on.
    fn hung_at(host: &Host, nas: &Nas, step: &str, arguments: &[&str]) -> Waiting {
        let waiting = Waiting::spawn(host.command().env("NASBACKUP_STOP_AT", step).args(arguments));
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", waiting.child.id())).unwrap();
        until(step, || state().rsplit(") ").next().unwrap().starts_with('T'));
        nas.hang();
        run("kill", ["-CONT", &waiting.child.id().to_string()]);
        waiting
    }

    fn complaint(&self) -> String {
        std::fs::read_to_string(&self.told).unwrap()
    }

    fn until_it_says(&self, text: &str) {
        until(text, || self.complaint().contains(text));
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
}

#[test]
fn while_a_nas_hangs_it_is_told_what_is_waited_for_and_a_ctrl_c_is_heeded() {
    let nas = Nas::folder().through_fuse();
    let host = Host::new(nas.root());
    nas.hang();
    for what in [&["list"][..], &["delete", "i-1/T"], &["verify", "i-1/T"], &["restore", "i-1/T", "--to", "/none"]] {
        let mut waiting = Waiting::begin(&host, &[&["-r", "nas"], what].concat());
        waiting.until_it_says("open the repository, nothing heard for ");
        waiting.interrupt();
        waiting.until_it_says("interrupted: waiting until the step 'open the repository' can be left safely");
        let status = waiting.child.wait().unwrap();
        // and not because the NAS was waited for in vain
        assert_eq!(status.code(), Some(130), "{what:?}: {}", waiting.complaint());
    }
    // which nothing cuts short
    let mut doctor = Waiting::begin(&host, &["doctor"]);
    doctor.until_it_says("try repository 'nas', nothing heard for ");
    doctor.interrupt();
    doctor.until_it_says("interrupted: ");
    doctor.interrupt();
    doctor.until_it_says("still waiting for the step 'try repository 'nas'': a step that gets no answer");
    let place = folder("place");
    let mut mount = Waiting::begin(&host, &["-r", "nas", "mount", "i-1/T", place.to_str().unwrap()]);
    mount.until_it_says("mount the point, nothing heard for ");
    nas.go_on();
    doctor.child.wait().unwrap();
    assert_eq!(mount.child.wait().unwrap().code(), Some(3), "{}", mount.complaint());
}

#[test]
fn a_ctrl_c_ends_a_mount_that_hangs_and_leaves_nothing_of_it() {
    let (tools, started) = (folder("tools"), folder("started").join("pid"));
    let script = format!("#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}; exec sleep 1000\n", started.display());
    std::fs::write(tools.join("mount"), script).unwrap();
    std::fs::set_permissions(tools.join("mount"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut host = Host::new(&folder("nas"));
    host.tools = Some(tools);
    for json in [&[][..], &["--json"]] {
        let mut list = Waiting::begin(&host, &[json, &["-r", "nfs:192.0.2.1:/x", "list"]].concat());
        until("it mounts", || started.exists());
        list.interrupt();
        let status = list.child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{}", list.complaint());
        assert_eq!(list.complaint().is_empty(), !json.is_empty(), "{}", list.complaint());
        let mount = std::fs::read_to_string(&started).unwrap();
        assert!(!Path::new("/proc").join(mount.trim()).exists(), "it goes on");
        let mounts = std::fs::read_dir(host.settings.with_file_name("mounts")).unwrap();
        assert_eq!(mounts.count(), 0);
        std::fs::remove_file(&started).unwrap();
    }
}

/// Nothing is mounted in the folder, and it holds nothing.
fn is_bare(folder: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    !mounts.contains(folder.to_str().unwrap()) && std::fs::read_dir(folder).unwrap().count() == 0
}

/// Has a process in the foreground hold the point, once that is mounted.
fn holder(host: &Host, point: &str, place: &Path) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nasbackup"));
    command.arg("--settings").arg(&host.settings).args(["-r", "nas", "mount", "--foreground", point]).arg(place);
    let mut holder = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()), &mut told).unwrap();
    assert!(told.contains(".raw"), "{told}");
    holder
}

#[test]
fn a_mounted_point_is_what_the_guest_saw_and_stays_so_until_it_is_unmounted() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    for mode in ["full", "incremental", "incremental"] {
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        story.take(mode);
    }
    let host = Host::new(story.nas.root());
    let (point, place) = (story.last(), folder("place"));
    let place_text = place.to_str().unwrap();
    let mount = ["-r", "nas", "mount", &point.path, place_text];
    let told = host.says(&mount);
    let raw = |volume: &str| place.join(format!("{volume}.raw"));
    for disk in &point.taken.disks {
        assert!(told.contains(raw(&disk.volume).to_str().unwrap()), "{told}");
        assert_same(&raw(&disk.volume), point.content(&disk.volume));
        assert!(std::fs::File::options().write(true).open(raw(&disk.volume)).is_err());
    }
    assert_eq!(host.fails(&mount).0, 5, "a point is mounted there");
    let (status, complaint) = host.fails(&["-r", "nas", "delete", &point.path]);
    assert!(status == 5 && complaint.contains("mounted, by process "), "{complaint}");
    assert!(complaint.contains(" (nasbackup) of this host"), "{complaint}");
    let would = ["-r", "nas", "delete", "--dry-run", &point.path];
    assert_eq!(host.fails(&would), (status, complaint), "a dry run looks, too");
    let first = raw(&point.taken.disks[0].volume);
    let device = run("losetup", ["--find", "--show", "--read-only", first.to_str().unwrap()]);
    run("cmp", [Path::new(device.trim()), point.content(&point.taken.disks[0].volume)]);
    let (status, complaint) = host.fails(&["umount", place_text]);
    assert!(status == 5 && complaint.contains("is in use"), "{complaint}");
    run("losetup", ["--detach", device.trim()]);
    let path = point.path.clone();
    story.take("incremental");
    let unmounted: Value = serde_json::from_str(&host.says(&["--json", "umount", place_text])).unwrap();
    assert!(is_bare(&place) && unmounted["unmounted"] == place_text);
    assert_eq!(host.fails(&["umount", place_text]).0, 3);
    host.says(&["-r", "nas", "delete", "--merge", &path]);
    drop(story.points.remove(2));
    story.assert_all_restore();
}

#[test]
fn whoever_holds_a_mounted_point_may_be_ended_in_any_way() {
    use rustix::process::{Pid, Signal, kill_process};
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full");
    let host = Host::new(story.nas.root());
    let (point, place) = (story.last(), folder("place"));
    let place_text = place.to_str().unwrap();
    let first = place.join(format!("{}.raw", point.taken.disks[0].volume));

    let mut interrupted = holder(&host, &point.path, &place);
    kill_process(Pid::from_child(&interrupted), Signal::INT).unwrap();
    assert_eq!(interrupted.wait().unwrap().code(), Some(0));
    assert!(is_bare(&place));

    let kill = || {
        let mut killed = holder(&host, &point.path, &place);
        killed.kill().unwrap();
        killed.wait().unwrap();
        until("nobody serves the disks", || first.metadata().is_err());
        assert!(mounted_at(&first), "the kernel keeps it");
    };
    kill();
    host.says(&["umount", place_text]);
    assert!(is_bare(&place));
    kill();
    host.says(&["-r", "nas", "mount", &point.path, place_text]);
    assert_same(&first, point.content(&point.taken.disks[0].volume));
    host.says(&["umount", place_text]);
    assert!(is_bare(&place));

    // what is there is not taken for a rest
    std::fs::write(place.join("a.raw"), "").unwrap();
    assert_eq!(host.fails(&["-r", "nas", "mount", &point.path, place_text]).0, 4);
    assert_eq!(host.fails(&["umount", place_text]).0, 3);
    assert!(place.join("a.raw").exists());
}

#[test]
fn another_host_leaves_a_mounted_point_alone_and_one_taken_for_dead_unmounts() {
    let under = Nas::folder();
    let (other, lease) = (under.same(), under.same());
    let mut story = Story::new(Guest::ordinary(), under.through_fuse());
    story.take("full");
    let (host, there) = (Host::new(story.nas.root()), Host::new(other.root()));
    let (point, place) = (story.last(), folder("place"));
    let held = holder(&host, &point.path, &place);
    assert_eq!(there.fails(&["-r", "nas", "delete", &point.path]).0, 5);
    let instance = lease.at(&story.guest.name);
    let take_claim_away = || {
        let names = std::fs::read_dir(&instance).unwrap().map(|entry| entry.unwrap().file_name());
        let ours = names.into_iter().find(|name| name.as_encoded_bytes().starts_with(b".nasbackup.reader-")).unwrap();
        std::fs::remove_file(instance.join(ours)).unwrap();
    };
    take_claim_away();
    let ended = held.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(5), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(is_bare(&place));
    // one in the background, which has nobody else to tell
    let log = folder("log").join("log");
    let told = std::os::unix::net::UnixDatagram::bind(&log).unwrap();
    let mut mount = host.command();
    mount.env("NASBACKUP_HOST_LOG", &log).args(["-r", "nas", "mount", &point.path]).arg(&place);
    assert!(mount.output().unwrap().status.success());
    take_claim_away();
    told.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
    let mut line = [0; 4096];
    let length = told.recv(&mut line).expect("the host's log is told");
    let line = std::str::from_utf8(&line[..length]).unwrap();
    assert!(line.starts_with("<27>nasbackup[") && line.contains("BUSY"), "{line}");
    until("it is unmounted", || is_bare(&place));
    there.says(&["-r", "nas", "delete", &point.path]);
}

#[test]
fn two_hosts_mount_a_point_and_a_third_removes_it_once_both_have_let_go() {
    let under = Nas::folder();
    let (second, third) = (under.same(), under.same());
    let mut story = Story::new(Guest::ordinary(), under.through_fuse());
    story.take("full");
    let (point, disk) = (story.last(), &story.last().taken.disks[0]);
    let there = Host::new(third.root());
    let held = [story.nas.root(), second.root()].map(|nas| {
        let place = folder("place");
        let held = holder(&Host::new(nas), &point.path, &place);
        assert_same(&place.join(format!("{}.raw", disk.volume)), point.content(&disk.volume));
        held
    });
    for mut held in held {
        assert_eq!(there.fails(&["-r", "nas", "delete", &point.path]).0, 5);
        rustix::process::kill_process(rustix::process::Pid::from_child(&held), rustix::process::Signal::INT).unwrap();
        assert_eq!(held.wait().unwrap().code(), Some(0));
    }
    there.says(&["-r", "nas", "delete", &point.path]);
}

#[test]
fn a_ctrl_c_to_what_waits_for_a_hung_nas_is_heard_at_once_and_ends_it() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder().through_fuse());
    story.take("full");
    let host = Host::new(story.nas.root());
    let (point, place) = (story.last().path.as_str(), folder("place"));
    let mount = ["-r", "nas", "mount", "--foreground", point, place.to_str().unwrap()];
    for (step, arguments) in [
        ("follow the chains:1", &mount[..]),
        ("mount the point:1", &mount),
        // of a point that is mounted
        ("look at the instance's lock:1", &mount),
        ("look at the instance's lock:1", &["-r", "nas", "verify", point]),
    ] {
        let mut waiting = Waiting::hung_at(&host, &story.nas, step, arguments);
        waiting.interrupt();
        waiting.until_it_says("interrupted: ");
        let status = waiting.child.wait().unwrap();
        // while the NAS hangs, so that something of it is left
        story.nas.go_on();
        assert_eq!(status.code(), Some(130), "{arguments:?} at {step}: {}", waiting.complaint());
        assert!(is_bare(&place), "{arguments:?} at {step}");
    }
    // which tells that it takes the claims of processes that are gone
    assert_eq!(host.fails(&["-r", "nas", "delete", point]).0, 0);
    let left = std::fs::read_dir(story.nas.at(&story.guest.name)).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_str().unwrap().contains("reader")));
}

#[test]
fn a_terminal_gets_a_bar_and_a_pipe_gets_lines() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let request = by("pull", story.request("full"));
    story.accept(request);
    let host = Host::new(story.nas.root());
    let verify = ["-r", "nas", "verify", "--data", "--rate-limit", "4194304", &story.last().path];
    let piped = host.run(&verify);
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    assert!(!piped.stdout.contains(&0x1b), "{piped:?}");
    // of util-linux: gives the command a terminal, and prints what that shows
    let words =
        [&[env!("CARGO_BIN_EXE_nasbackup"), "--settings", host.settings.to_str().unwrap()][..], &verify].concat();
    let mut script = Command::new("script");
    let shown = script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]).output().unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{text}");
    assert!(text.contains("compare the data") && text.contains('\u{1b}') && text.contains("/s"), "{text}");
    let good = String::from_utf8(piped.stdout).unwrap();
    assert!(good.lines().all(|line| text.contains(line)), "{text}");
}

#[test]
fn bash_takes_the_completions_and_whoever_asks_for_help_gets_all_of_it() {
    let host = Host::new(&folder("nas"));
    let script = folder("completions").join("nasbackup");
    std::fs::write(&script, host.says(&["completions", "bash"])).unwrap();
    let script = script.to_str().unwrap();
    run("bash", ["-n", script]);
    let bash = r#"set -eu; . "$1"; complete -p nasbackup; COMP_WORDS=(nasbackup re) COMP_CWORD=1
        _nasbackup nasbackup re nasbackup; printf '%s\n' "${COMPREPLY[@]}""#;
    let completed = run("bash", ["--norc", "-c", bash, "bash", script]);
    let completed: Vec<_> = completed.lines().collect();
    assert!(completed[0].ends_with(" -F _nasbackup nasbackup"), "{completed:?}");
    assert_eq!(completed[1..], ["restore", "rebase"]);
    assert!(host.says(&["restore", "--help"]).contains("Usage: nasbackup restore"));
    assert!(host.says(&["--version"]).starts_with("nasbackup "));
}

#[test]
fn whoever_reads_no_more_is_no_failure() {
    let mut list = Command::new(env!("CARGO_BIN_EXE_nasbackup"));
    let mut list =
        list.arg("manual").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(list.stdout.take());
    let ended = list.wait_with_output().unwrap();
    assert!(ended.stderr.is_empty() && ended.status.code() != Some(101), "{ended:?}");
}

#[test]
fn a_point_that_is_not_sound_is_not_mounted() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full");
    story.take("incremental");
    let host = Host::new(story.nas.root());
    let (point, place) = (story.last(), folder("place"));
    let image = story.nas.at(&point.files()[0]);
    let secret = folder("secret").join("image");
    let secret = secret.to_str().unwrap();
    run("qemu-img", ["create", "-q", "-f", "qcow2", secret, "64M"]);
    run("qemu-img", ["rebase", "-u", "-F", "qcow2", "-b", secret, image.to_str().unwrap()]);
    let (status, complaint) = host.fails(&["-r", "nas", "mount", &point.path, place.to_str().unwrap()]);
    assert!(status == 9 && is_bare(&place), "{status} {complaint}");
}

#[test]
fn another_process_sees_a_job_and_ends_it() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let request = by("pull", story.request("full"));
    story.accept(request);
    let host = Host::new(story.nas.root());
    assert_eq!(host.says(&["jobs"]), "no jobs\n");
    assert_eq!(host.fails(&["cancel", "x"]).0, 3);
    let to = folder("to");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nasbackup"));
        command.arg("--settings").arg(&host.settings);
        command.args(["-r", "nas", "restore", &story.last().path, "--rate-limit", "65536", "--to"]).arg(&to);
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let jobs = || serde_json::from_slice::<Vec<Value>>(&host.run(&["--json", "jobs"]).stdout).unwrap();
    let restores = || jobs().into_iter().filter(|job| job["operation"] == "restorePoint").collect::<Vec<_>>();
    let restore = start();
    until("it is seen", || !restores().is_empty());
    let job = restores().remove(0);
    assert_eq!((job["operation"].as_str(), job["process"].as_u64()), (Some("restorePoint"), Some(restore.id().into())));
    let asked: Value = serde_json::from_str(&host.says(&["--json", "cancel", job["job"].as_str().unwrap()])).unwrap();
    assert_eq!(asked["asked"], 1);
    let ended = restore.wait_with_output().unwrap();
    let complaint = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(130) && complaint.contains("CANCELLED"), "{complaint}");
    assert!(jobs().is_empty());
    let mut killed = start();
    until("it is seen", || !restores().is_empty());
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (status, complaint) = host.fails(&["jobs"]);
    assert!(status == 0 && complaint.contains("left by a process that was killed"), "{complaint}");
    assert!(jobs().is_empty());
}

#[test]
fn whoever_may_not_look_is_told_so() {
    let nas = folder("nas");
    let host = Host::new(&nas);
    let state = host.settings.with_file_name("state");
    std::fs::create_dir(&state).unwrap();
    for closed in [&state.join("jobs"), &nas.join("i-1")] {
        std::fs::create_dir(closed).unwrap();
        std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(closed, Some(65534), None).unwrap();
    }
    // root without a right of root's
    let fails = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", env!("CARGO_BIN_EXE_nasbackup"), "--settings"]).arg(&host.settings);
        let output = command.args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, says) in [
        (&["jobs"][..], "look for the jobs"),
        (&["cancel", "x"], "look for the jobs"),
        (&["-r", "nas", "verify", "--all"], "nasbackup: i-1: PERMISSION_DENIED"),
        (&["-r", "nas", "files", "i-1/T"], "run as root"),
        (&["-r", "nas", "get", "i-1/T", "/x", "/tmp"], "run as root"),
    ] {
        let (status, complaint) = fails(arguments);
        assert!(status == Some(11) && complaint.contains(says), "{arguments:?}: {status:?} {complaint}");
    }
}

#[test]
fn points_are_taken_by_hand_and_stand_on_the_newest_that_has_a_name() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let host = Host::new(story.nas.root());
    let vm = story.guest.name.clone();
    let take = |how: &[&str]| host.run(&[&["-r", "nas", "--json", "take", &vm], how].concat());
    let points = || {
        let listed: Value = serde_json::from_str(&host.says(&["-r", "nas", "--json", "list"])).unwrap();
        listed["machines"][0]["points"].as_array().cloned().unwrap_or_default()
    };
    assert_eq!(take(&["--incremental"]).status.code(), Some(3), "there is nothing to stand on");
    for (how, status) in [(&["--engine", "x"][..], 2), (&["--exclude", "x"], 2), (&[], 0)] {
        assert_eq!(take(&[&["--full", "--dry-run"], how].concat()).status.code(), Some(status), "{how:?}");
    }
    assert_eq!(host.fails(&["-r", "nas", "take", "--dry-run", "i-none"]).0, 14);
    assert!(!Path::new(&host.nas).join(&vm).exists(), "a dry run makes nothing");
    for (how, kind, count) in [
        (&["--full", "--dry-run"][..], None, 0),
        (&["--full"], Some("full"), 1),
        (&["--incremental", "--engine", "pull"], Some("incremental"), 2),
        (&["--exclude", "vdb"], Some("full"), 3),
        (&["--incremental"], Some("incremental"), 4),
    ] {
        // a point has the second as its name
        let before = jiff::Timestamp::now().as_second();
        until("the next second", || jiff::Timestamp::now().as_second() > before);
        story.guest.write(0, 0x51, 5 << 20, 1 << 20);
        let output = take(how);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{how:?}: {complaint}");
        let taken: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(taken["kind"].as_str(), kind, "{how:?}: {taken}");
        assert_eq!(points().len(), count, "{how:?}");
    }
    let listed = points();
    assert_eq!(listed[3]["parents"], Value::from_iter([listed[1]["backupPath"].as_str()]), "the full has no name");
    let before = jiff::Timestamp::now().as_second();
    until("the next second", || jiff::Timestamp::now().as_second() > before);
    let said = host.says(&["-r", "nas", "take", &vm]);
    assert!(said.contains(" is taken, full, takes ") && said.contains("note: no point can stand on it"), "{said}");
    assert_eq!(points().len(), 5);
}

#[test]
fn what_a_host_lacks_is_told_of_each_thing_and_each_repository() {
    let nas = folder("nas");
    let host = Host::new(&nas);
    let diagnose = |arguments: &[&str]| {
        let output = host.run(&[arguments, &["--json", "doctor"]].concat());
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let state = |what: &str| {
            let found = findings.iter().find(|finding| finding["what"] == what);
            found.unwrap_or_else(|| panic!("{what}: {findings:?}"))["state"].as_str().unwrap().to_owned()
        };
        let repositories = findings.iter().filter(|found| found["what"].as_str().unwrap().starts_with("repository"));
        (output.status.code(), state("libvirt"), state("scratch folder"), repositories.cloned().collect::<Vec<_>>())
    };
    let ok = || "ok".to_owned();
    let (status, libvirt, scratch, repositories) = diagnose(&[]);
    assert_eq!((status, libvirt, scratch), (Some(0), ok(), ok()), "{repositories:?}");
    let told: Vec<_> = repositories.iter().map(|finding| finding["what"].as_str().unwrap()).take(3).collect();
    assert_eq!(told, ["repository 'nas'", "repository 'nas': locks", "repository 'nas': block cloning"]);
    assert_eq!(repositories[1]["state"], "ok");
    let on_root = rustix::fs::stat(&nas).unwrap().st_dev == rustix::fs::stat("/").unwrap().st_dev;
    let said = repositories.iter().any(|finding| finding["what"] == "repository 'nas': mount");
    assert_eq!(said, on_root);
    assert_eq!(std::fs::read_dir(&nas).unwrap().count(), 0, "what it has tried it with is gone");

    let settings = std::fs::read_to_string(&host.settings).unwrap();
    let more = "repository.gone = /no/such/folder\nrepository.odd = x\nconnectionUri = qemu:///none\nengine = pull\n";
    std::fs::write(&host.settings, settings + more).unwrap();
    let (status, libvirt, _, repositories) = diagnose(&[]);
    assert_eq!((status, libvirt.as_str()), (Some(1), "lacks"));
    let of =
        |name: &str| repositories.iter().find(|finding| finding["what"] == format!("repository '{name}'")).unwrap();
    for name in ["gone", "odd"] {
        assert!(of(name)["state"] == "lacks" && of(name)["stops"] == true, "{name}: {repositories:?}");
    }
    assert_eq!(diagnose(&["-r", "nas"]).3.len(), 3 + usize::from(on_root), "that one alone");
    let told = String::from_utf8(host.run(&["doctor"]).stdout).unwrap();
    assert!(told.contains("lacks    libvirt: ") && told.contains("'connectionUri'"), "{told}");
}

#[test]
fn a_scratch_folder_that_qemu_can_t_pass_to_and_what_ceph_alone_needs_stop_no_backup() {
    let mut host = Host::new(&folder("nas"));
    let closed = folder("closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let settings = std::fs::read_to_string(&host.settings).unwrap();
    std::fs::write(&host.settings, format!("{settings}scratchDir = {}/scratch\n", closed.display())).unwrap();
    let diagnose = |host: &Host| {
        let output = host.run(&["--json", "doctor"]);
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), findings)
    };
    let of = |findings: &[Value], what: &str| {
        let found = findings.iter().find(|finding| finding["what"] == what);
        found.unwrap_or_else(|| panic!("{what}: {findings:?}")).clone()
    };
    let (status, findings) = diagnose(&host);
    let scratch = of(&findings, "scratch folder");
    let passing = format!("can't pass through '{}'", closed.display());
    assert!(scratch["state"] == "lacks" && scratch["found"].as_str().unwrap().contains(&passing), "{scratch}");
    assert_eq!((status, &scratch["stops"]), (Some(0), &Value::from(false)));
    // of the tools none but what backups need
    let tools = folder("tools");
    for tool in ["mount", "qemu-img"] {
        symlink(Path::new("/usr/bin").join(tool), tools.join(tool)).unwrap();
    }
    host.tools = Some(tools);
    let (status, findings) = diagnose(&host);
    for (what, package) in [("qemu-nbd", "qemu-utils"), ("rbd", "ceph-common"), ("guestfish", "libguestfs")] {
        let lacks = of(&findings, what);
        assert!(lacks["state"] == "lacks" && lacks["advice"].as_str().unwrap().contains(package), "{lacks}");
    }
    assert_eq!(status, Some(0), "{findings:?}");
}

#[test]
fn a_folder_where_a_nas_is_to_be_mounted_and_is_not_is_no_repository() {
    let nas = folder("nas");
    let mounted = Nas::folder().through_fuse();
    let etc = folder("etc");
    let fstab = etc.join("fstab");
    // of a folder that is mounted itself it is all the same what lies above
    let above = mounted.root().parent().unwrap().display();
    let table = format!("nas:/x {} nfs soft\n/dev/sdb {above} ext4 noauto\n", nas.display());
    std::fs::write(&fstab, table).unwrap();
    let says = |nas: &Path, arguments: &[&str]| {
        let host = Host::new(nas);
        let output = host.command().env("NASBACKUP_ETC", &etc).args(arguments).output().unwrap();
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), told)
    };
    let below = nas.join("below");
    std::fs::create_dir(&below).unwrap();
    for nas in [&nas, &below] {
        for arguments in [&["-r", "nas", "list"][..], &["-r", "nas", "delete", "i-1/T"], &["doctor"]] {
            let (status, told) = says(nas, arguments);
            let refused = told.contains("/fstab', and nothing is mounted there");
            assert!(refused && status == if arguments == ["doctor"] { 1 } else { 13 }, "{arguments:?}: {told}");
        }
    }
    assert_eq!(says(mounted.root(), &["-r", "nas", "list"]).0, 0);
    // a link is what it leads to
    let link = folder("link").join("nas");
    symlink(&nas, &link).unwrap();
    std::fs::write(&fstab, format!("nas:/x {} nfs soft\n", nas.display())).unwrap();
    assert_eq!(says(&link, &["-r", "nas", "list"]).0, 13);
    // systemd has units of its own
    std::fs::remove_file(&fstab).unwrap();
    assert_eq!(says(&link, &["-r", "nas", "list"]).0, 0);
    let units = etc.join("systemd/system");
    std::fs::create_dir_all(&units).unwrap();
    symlink("/dev/null", units.join("masked.mount")).unwrap();
    run("mkfifo", [units.join("a-fifo.mount").to_str().unwrap()]);
    std::fs::write(units.join("x.mount"), format!("[Mount]\nWhat=nas:/x\nWhere = {}\n", nas.display())).unwrap();
    let (status, told) = says(&below, &["-r", "nas", "list"]);
    assert!(status == 13 && told.contains("x.mount', and nothing is mounted there"), "{told}");
}

#[test]
fn a_repository_that_hangs_could_not_be_tried_and_holds_nothing_up() {
    let nas = Nas::folder().through_fuse();
    let host = Host::new(nas.root());
    let settings = std::fs::read_to_string(&host.settings).unwrap();
    let sound = folder("sound");
    std::fs::write(&host.settings, format!("{settings}repository.sound = {}\n", sound.display())).unwrap();
    nas.hang();
    let mut doctor = host.command();
    doctor.env("NASBACKUP_LIMITS", "open the repository=1000;try the repository=1000").args(["--json", "doctor"]);
    let output = doctor.output().unwrap();
    nas.go_on();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let state = |what: &str| findings.iter().find(|finding| finding["what"] == what).map(|finding| &finding["state"]);
    assert_eq!(output.status.code(), Some(23), "{findings:?}");
    assert_eq!(state("repository 'nas'"), Some(&Value::from("untried")), "{findings:?}");
    assert_eq!(state("repository 'sound'"), Some(&Value::from("ok")), "{findings:?}");
}

#[test]
fn operations_of_several_processes_tell_one_file_what_they_came_to() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    story.take("full");
    let (host, metrics) = (Host::new(story.nas.root()), folder("metrics").join("nasbackup.prom"));
    let settings = std::fs::read_to_string(&host.settings).unwrap();
    std::fs::write(&host.settings, format!("{settings}metricsFile = {}\n", metrics.display())).unwrap();
    let vm = &story.guest.name;
    for _ in 0..2 {
        host.says(&["-r", "nas", "verify", &story.last().path]);
    }
    assert_eq!(host.fails(&["-r", "nas", "verify", &format!("{vm}/gone")]).0, 3);
    let told = std::fs::read_to_string(&metrics).unwrap();
    for (result, count) in [("OK", 2), ("NOT_FOUND", 1)] {
        let sample = format!(
            "nasbackup_operations_total{{operation=\"verifyChain\",machine=\"{vm}\",result=\"{result}\"}} {count}\n"
        );
        assert!(told.contains(&sample), "{sample}: {told}");
    }
    std::fs::remove_file(&metrics).unwrap();
    std::fs::create_dir(&metrics).unwrap();
    let (status, complaint) = host.fails(&["-r", "nas", "verify", &story.last().path]);
    assert!(status == 0 && complaint.contains("metrics are not up to date"), "{complaint}");
}

#[test]
fn an_error_is_one_json_value_too() {
    let host = Host::new(&folder("nas"));
    let place = folder("place");
    for (arguments, status, code) in [
        (&["-r", "nas", "show", "i-1/T"][..], 3, "NOT_FOUND"),
        (&["-r", "nas", "rebase", "--alone", "i-1/T"], 3, "NOT_FOUND"),
        (&["-r", "nas", "mount", "i-1/T", place.to_str().unwrap()], 3, "NOT_FOUND"),
        (&["umount", "/no/such/folder"], 3, "NOT_FOUND"),
        (&["cancel", "x"], 3, "NOT_FOUND"),
        (&["list"], 2, "INVALID_ARGUMENT"),
        (&["list", "--nonsense"], 2, "INVALID_ARGUMENT"),
    ] {
        let output = host.run(&[&["--json"], arguments].concat());
        let told: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"));
        let error = &told["error"];
        assert_eq!((output.status.code(), error["code"].as_str()), (Some(status), Some(code)), "{told}");
        assert!(error["step"].is_string() && error["message"].is_string() && output.stderr.is_empty(), "{output:?}");
    }
    let verified = host.run(&["--json", "-r", "nas", "verify", "i-1/T"]);
    let told: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(told[0]["failure"]["code"] == "NOT_FOUND" && verified.stderr.is_empty(), "{told}");
}

#[test]
fn what_can_t_be_done_is_told_on_one_line_with_a_status_of_its_own() {
    let nas = folder("nas");
    let host = Host::new(&nas);
    for (arguments, status, says) in [
        (&["list"][..], 2, "INVALID_ARGUMENT: check the request: --repo: is missing"),
        (&["-r", "elsewhere", "list"], 2, "--repo: 'elsewhere' is no folder"),
        (&["-r", "/no/such/folder", "list"], 3, "NOT_FOUND"),
        (&["-r", "nas", "list", "i-1"], 3, "NOT_FOUND"),
        (&["-r", "nas", "list", "i-1/T"], 2, "check the request: the machine: 'i-1/T' is no machine's name"),
        (&["list", "--jsn"], 2, "unexpected argument '--jsn' found; tip: a similar argument exists: '--json'"),
        (
            &["show"],
            2,
            "INVALID_ARGUMENT: read the arguments: the following required arguments were not provided: <POINT>",
        ),
        (&["restore", "i-1/T", "--to", "x", "--format", "vmdk"], 2, "[possible values: qcow2, raw]"),
        (&["-r", "nas", "show", "i-1"], 2, "check the request: POINT: 'i-1'"),
        (&["-r", "nas", "rebase", "--parent", "i-1/T", "i-1/T"], 2, "--parent: is the point itself"),
        // the library logs what these come to
        (&["-r", "nas", "rebase", "--alone", "i-1/T"], 3, "NOT_FOUND"),
        (&["-r", "nas", "take", "--full", "i-none"], 14, "DOMAIN_NOT_FOUND"),
        (&["-r", "nas", "verify", "--all"], 3, "no restore points in /"),
        (&["-r", "nas", "verify", "--all", "--not-verified-since", "1d"], 3, "no restore points in /"),
        (&["-r", "nas", "verify", "--data", "--rate-limit", "65535", "i-1/T"], 2, "--rate-limit: is less than 65536"),
        (&["-r", "nas", "boot", "--wait", "0", "i-1/T"], 2, "--wait"),
    ] {
        let (found, complaint) = host.fails(arguments);
        assert!(found == status && complaint.contains(says), "{arguments:?}: {found} {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    assert_eq!(host.fails(&["-r", "nas", "files", "i-1/T", "--partition", "9"]).0, 2, "of which nothing is asked");
    assert_eq!(host.says(&["-r", "nas", "list"]), format!("no restore points in {}\n", nas.display()));
    let settings = std::fs::read_to_string(&host.settings).unwrap();
    std::fs::write(&host.settings, settings + "connectionUri = qemu+unix:///system?socket=/none\n").unwrap();
    let (status, complaint) = host.fails(&["-r", "nas", "take", "--full", "i-none"]);
    assert!(status == 17 && complaint.lines().count() == 1, "libvirt itself prints nothing: {complaint}");
    std::fs::write(&host.settings, "stateDir = /x\nloud = 1\n").unwrap();
    assert!(host.fails(&["list"]).1.contains("loud"));
}
