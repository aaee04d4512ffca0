//! Our texts: each command in them runs, or is one that could, and what they tell of errors, settings, log lines and dependencies is
//! the code's. DocsTest runs the SQL.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../command/arguments.rs"]
#[allow(dead_code, reason = "its grammar alone is asked")]
mod arguments;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use clap::error::ErrorKind;
use nasbackup::config::Config;
use nasbackup::operation::take_backup::TakeBackupRequest;
use support::{Disk, Guest, Image, MIB, Nas, Story, assert_holds, assert_same, by, folder, run};

/// What no lab can run, by how it begins, and why.
const NOT_RUN: [(&str, &str); 6] = [
    ("make ", "it builds: make test, tests/install and tests/packages are what runs these"),
    (
        "(. /usr/share/nasbackup/",
        "it wants an installed CloudStack: DoctorTest, SignPointsTest and tests/packages run it",
    ),
    ("systemctl restart ", "a lab has no systemd and no CloudStack"),
    ("setsebool ", "a lab has no SELinux"),
    ("mount -t nfs ", "a lab has no NFS server: tests/real_nas mounts what one exports"),
    ("mvn ", "it wants CloudStack's sources, which are not here"),
];

/// The volumes of the machine that our texts name.
const VOLUMES: [&str; 2] = ["0a1b2c3d-0000-4000-8000-00000000000a", "0a1b2c3d-0000-4000-8000-00000000000b"];
/// What `/etc/fstab` says in that machine.
const FSTAB: &str = "/dev/vda / ext4 defaults 0 1\n";

fn source(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The texts with commands, by name.
fn texts() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned()];
    let docs = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.extend(docs.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")));
    names.sort();
    names.into_iter().map(|name| (name.clone(), source(&name))).collect()
}

/// The commands of a text, block by block.
fn blocks(text: &str) -> Vec<&str> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

fn runs_here(block: &&str) -> bool {
    !NOT_RUN.iter().any(|(begin, _)| block.starts_with(begin))
}

/// The machine, the repository and the points that our texts name, at the places that they name.
struct Site {
    story: Story,
}

impl Site {
    fn new() -> Site {
        let [first, second] = VOLUMES;
        let guest = Guest::named("i-2-10-VM", [Disk::root().named(first), with_files(second)]);
        guest.start();
        let mut story = Story::new(guest, Nas::folder());
        let place = folder("mnt");
        for name in ["nas", "point", "primary", "restored", "byhand"] {
            std::fs::create_dir(place.join(name)).unwrap();
        }
        std::fs::write(place.join("primary").join(VOLUMES[0]), "old").unwrap();
        run("mount", ["--bind", place.to_str().unwrap(), "/mnt"]);
        run("mount", ["--bind", story.nas.path(), "/mnt/nas"]);
        for (mode, name, at) in
            [("full", "2026.11.22.01.00.00", 5 * MIB), ("incremental", "2026.11.23.01.00.00", 20 * MIB)]
        {
            story.guest.write(0, 0x51, at, MIB);
            story.guest.write(1, 0x52, at, MIB);
            let path = Some(format!("i-2-10-VM/{name}"));
            let request = TakeBackupRequest { backup_path: path, ..by("pull", story.request(mode)) };
            story.accept(request);
        }
        Site { story }
    }

    /// Runs a block as it stands. Returns what it prints.
    fn run(&self, text: &str, block: &str) -> String {
        let command = Path::new(env!("CARGO_BIN_EXE_nasbackup")).parent().unwrap();
        let path = format!("{}:{}", command.display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        let output = bash.args(["-euo", "pipefail", "-c", block]).env("PATH", path).current_dir("/").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{text}\n{block}{out}{err}");
        assert!(output.status.success(), "{text}: {}\n{block}\n{out}{err}", output.status);
        out.into_owned()
    }
}

/// A disk with a file system in its first MiB, in which are the files that our texts name.
fn with_files(volume: &str) -> Disk {
    let (seed, raw, image) = (folder("seed"), folder("raw").join("raw"), folder("disk").join(volume));
    std::fs::create_dir_all(seed.join("home/x")).unwrap();
    std::fs::create_dir(seed.join("etc")).unwrap();
    std::fs::write(seed.join("etc/fstab"), FSTAB).unwrap();
    std::fs::File::create(&raw).unwrap().set_len(64 * MIB).unwrap();
    let [seed, raw, image] = [&seed, &raw, &image].map(|path| path.to_str().unwrap());
    run("mkfs.ext4", ["-q", "-F", "-b", "4096", "-N", "1024", "-O", "^has_journal", "-d", seed, raw]);
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, image]);
    Disk::existing(image.into(), Image::Qcow2)
}

impl Drop for Site {
    fn drop(&mut self) {
        // what a test that failed has left goes with its lab
        if !std::thread::panicking() {
            run("umount", ["/mnt/nas"]);
            run("umount", ["/mnt"]);
        }
    }
}

/// Has the lab's `/etc` hold a folder of settings that our texts name, in which can be written.
fn put_settings() {
    let [layer, settings] = ["etc", "settings"].map(folder);
    std::fs::create_dir(layer.join("nasbackup")).unwrap();
    std::fs::write(settings.join("nasbackup.properties"), "repository.nas = /mnt/nas\n").unwrap();
    run("mount", ["-t", "overlay", "none", "-o", &format!("lowerdir={}:/etc", layer.display()), "/etc"]);
    run("mount", ["--bind", settings.to_str().unwrap(), "/etc/nasbackup"]);
}

#[test]
fn each_command_of_our_texts_runs() {
    put_settings();
    for (name, text) in texts() {
        let blocks: Vec<_> = blocks(&text).into_iter().filter(runs_here).collect();
        if blocks.is_empty() {
            continue;
        }
        let site = Site::new();
        let restores = name == "docs/restore.md";
        if restores {
            assert_drawn_as_now(&site);
            site.story.guest.stop();
        }
        blocks.iter().for_each(|block| _ = site.run(&name, block));
        if restores {
            assert_restored(&site.story);
        }
    }
}

/// The README's picture of a chain has the columns that the command draws.
fn assert_drawn_as_now(site: &Site) {
    const LIST: &str = "nasbackup -r /mnt/nas list\n";
    let columns = |drawn: &str| Vec::from_iter(drawn.lines().next().unwrap().split_whitespace().map(str::to_owned));
    let readme = source("README.md");
    let (_, shown) = readme.split_once(&format!("$ {LIST}")).unwrap();
    assert_eq!(columns(shown), columns(&site.run("README.md", LIST)));
}

/// What docs/restore.md has written is what the point holds, and the machine runs on it.
fn assert_restored(story: &Story) {
    let [first, second] = VOLUMES;
    let disks = story.guest.virsh(&["domblklist"]);
    assert!(VOLUMES.iter().all(|volume| disks.contains(&format!("/mnt/byhand/{volume}.qcow2"))), "{disks}");
    let chain = story.guest.virsh(&["dumpxml"]);
    assert!(!chain.contains("<backingStore type"), "a disk stands on something: {chain}");
    story.guest.stop();
    let place = |name: String| PathBuf::from("/mnt").join(name);
    for (name, volume) in [
        (format!("restored/{first}.qcow2"), first),
        (format!("restored/{second}.qcow2"), second),
        (format!("primary/{first}"), first),
        (format!("byhand/{first}.qcow2"), first),
        (format!("byhand/{second}.qcow2"), second),
        ("byhand/elsewhere/restored".to_owned(), first),
    ] {
        assert_holds(&place(name), story.last().content(volume));
    }
    assert_same(&place("byhand/device".to_owned()), story.last().content(first));
    assert_eq!(std::fs::read_to_string("/mnt/restored/fstab").unwrap(), FSTAB);
    assert!(Path::new("/mnt/restored/x").is_dir());
    let domain = std::fs::read_to_string("/mnt/restored/domain.xml").unwrap();
    assert!(domain.contains("i-2-10-VM"), "{domain}");
}

/// Each begin of a block that is not run stands in a text, and nothing but its own commands hides behind it.
#[test]
fn what_is_not_run_is_named() {
    let texts = texts();
    let all: Vec<_> = texts.iter().flat_map(|(_, text)| blocks(text)).collect();
    for (begin, why) in NOT_RUN {
        assert!(all.iter().any(|block| block.starts_with(begin)), "nothing begins with '{begin}': {why}");
    }
    for block in all.iter().filter(|block| !runs_here(block)) {
        let (begin, _) = NOT_RUN.iter().find(|(begin, _)| block.starts_with(begin)).unwrap();
        assert!(block.lines().all(|line| line.starts_with(begin)), "a command that could run stands in:\n{block}");
    }
}

/// What stands in code type in the sentences and tables of our texts, and of which text it is.
fn in_sentences() -> Vec<(String, String)> {
    let mut texts = texts();
    texts.extend(["SECURITY.md", "CONTRIBUTING.md"].map(|name| (name.to_owned(), source(name))));
    let told = |(name, text): &(String, String)| {
        let sentences: String = text.split("\n```").step_by(2).collect();
        quoted(&sentences).map(|code| (name.clone(), code.replace('\n', " "))).collect::<Vec<_>>()
    };
    texts.iter().flat_map(told).collect()
}

#[test]
fn each_command_in_a_sentence_is_one() {
    let told = in_sentences();
    let commands: Vec<_> = told.iter().filter(|(_, code)| code.starts_with("nasbackup ")).collect();
    assert!(commands.len() > 5, "{commands:?}");
    for (name, code) in commands {
        let parsed = arguments::Arguments::command().try_get_matches_from(code.split_whitespace());
        // a sentence may leave out what the command works on
        if let Err(error) = parsed.map_err(|error| error.kind()) {
            assert_eq!(error, ErrorKind::MissingRequiredArgument, "{name}: '{code}'");
        }
    }
}

#[test]
fn each_setting_in_a_sentence_is_one() {
    let told = in_sentences();
    let settings: Vec<_> = told.iter().filter_map(|(name, code)| Some((name, code.split_once(" = ")?))).collect();
    assert!(settings.len() > 1, "{settings:?}");
    // the command's alone
    for (name, (key, value)) in settings.into_iter().filter(|(_, (key, _))| !key.starts_with("repository.")) {
        if let Err(error) = Config::of_settings([(key.to_owned(), value.to_owned())]) {
            panic!("{name}: '{key} = {value}': {error}");
        }
    }
}

/// The rows of the tables below a heading of a text.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let text = source(text);
    let section = text.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n"))).unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands in code type in a cell.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// What a source says behind `Code::NAME => `, by name.
fn by_code(path: &str) -> BTreeMap<String, String> {
    let text = source(path);
    let arms =
        text.lines().filter_map(|line| line.trim().strip_prefix("Code::")?.strip_suffix(',')?.split_once(" => "));
    arms.map(|(name, says)| (name.to_owned(), says.trim_matches('"').to_owned())).collect()
}

#[test]
fn each_code_is_told_with_its_cause_and_what_to_do() {
    let statuses = by_code("command/output.rs");
    let codes = by_code("rust/error.rs").into_iter().map(|(name, code)| (format!("`{code}`"), statuses[&name].clone()));
    let told = rows("docs/operate.md", "Errors");
    assert!(told.iter().flatten().all(|cell| !cell.is_empty()), "{told:?}");
    let told = told.into_iter().map(|row| (row[0].clone(), row[1].clone()));
    assert_eq!(told.collect::<BTreeMap<_, _>>(), codes.collect());
}

#[test]
fn each_field_of_a_manifest_is_told() {
    let manifest = source("rust/point/manifest.rs");
    let fields = |name: &str| {
        let (_, rest) = manifest.split_once(&format!("pub struct {name} {{\n")).unwrap();
        let (fields, _) = rest.split_once("\n}").unwrap();
        let fields = fields.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(':'));
        fields.map(|(name, _)| camel_case(name)).collect::<BTreeSet<_>>()
    };
    let rows = rows("docs/format.md", "The manifest");
    let told: BTreeSet<_> = rows.iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect();
    assert_eq!(told, &fields("Manifest") | &fields("ManifestDisk"));
}

/// `back_up_path` as `backUpPath`.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |name, part| name + &part[..1].to_uppercase() + &part[1..])
}

#[test]
fn each_setting_is_told() {
    let config = serde_json::to_value(Config::default()).unwrap();
    let settings: BTreeSet<_> = config.as_object().unwrap().keys().cloned().collect();
    let told = rows("docs/operate.md", "Settings");
    let told: BTreeSet<_> = told.iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect();
    assert_eq!(told, settings);
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest = source("Cargo.toml");
    let sections = manifest.split("\n[").filter(|section| section.split(']').next().unwrap().ends_with("dependencies"));
    let names = sections.flat_map(|section| section.lines().skip(1).filter_map(|line| line.split_once(" = ")));
    let names: BTreeSet<_> = names.map(|(name, _)| name.to_owned()).collect();
    let rows = rows("CONTRIBUTING.md", "Dependencies");
    let told: BTreeSet<_> = rows.iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect();
    assert_eq!(told, names);
}

#[test]
fn each_setting_of_cloudstack_is_told_with_its_default() {
    let keys = source("java/cloudstack-provider/src/main/java/org/apache/cloudstack/backup/NasBackupKeys.java");
    let texts: Vec<_> = keys.split('"').skip(1).step_by(2).collect();
    let keys = texts.windows(2).filter(|pair| pair[0].starts_with("nas.backup."));
    let keys: BTreeSet<_> = keys.map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect();
    let code = |cell: &String| quoted(cell).next().unwrap_or_default().to_owned();
    let told = rows("docs/cloudstack.md", "Settings of CloudStack");
    let told: BTreeSet<_> = told.iter().map(|row| (code(&row[0]), code(&row[2]))).collect();
    assert_eq!(told, keys);
}

#[test]
fn each_log_line_to_watch_is_one_of_the_library() {
    fn read(folder: &Path) -> String {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { read(&path) } else { std::fs::read_to_string(path).unwrap() }).collect()
    }
    let library = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rust"));
    // a text that goes on in the next line
    let library: String =
        library.split("\\\n").enumerate().map(|(i, part)| if i == 0 { part } else { part.trim_start() }).collect();
    for row in rows("docs/operate.md", "Log lines to watch") {
        for part in quoted(&row[0]) {
            assert!(library.contains(part), "no line of the library has '{part}'");
        }
    }
}
