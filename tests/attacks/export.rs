//! The export of a guest is that guest's and nobody else's. The thread here does what a process of QEMU's user can do, to
//! which libvirt's folders for each guest belong.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use nasbackup::config;
use nasbackup::operation::take_backup::{self, TakeBackupRequest, TakenBackup};
use nasbackup::work::phase::Phase;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};

use crate::support::{Agent, Disk, Guest, MIB, Nas, Story, folder, host, run, slow_story_on, take, take_json};

fn by_pull(request: TakeBackupRequest) -> TakeBackupRequest {
    TakeBackupRequest { engine: Some("pull".into()), ..request }
}

/// The folder that libvirt has made for the guest's QEMU.
fn folder_of(guest: &Guest) -> PathBuf {
    let all = fs::read_dir("/var/lib/libvirt/qemu").unwrap().map(|entry| entry.unwrap().path());
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("domain-") && name.ends_with(&format!("-{}", guest.name))
    };
    all.into_iter().find(is_its).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Runs a backup while a thread waits for its socket, and does something with it, if it comes in time.
fn attacked(
    guest: &Guest,
    request: TakeBackupRequest,
    attack: impl Fn(&Path) -> std::io::Result<()> + Sync,
) -> nasbackup::error::Result<TakenBackup> {
    let (within, over) = (folder_of(guest), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = || {
            while !over.load(Relaxed) {
                for entry in fs::read_dir(&within).unwrap().flatten() {
                    let name = entry.file_name().into_string().unwrap();
                    let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
                    if name.starts_with("nasbackup-") && is_socket {
                        // it may be gone again
                        if attack(&entry.path()).is_ok() {
                            return;
                        }
                    }
                }
            }
        };
        scope.spawn(watch);
        let taken = take(request);
        over.store(true, Relaxed);
        taken
    })
}

/// Backs the guest up under attack until the attack has come in time, and says what the backup then failed with. One that
/// does not fail is right.
fn fails_under(story: &mut Story, attack: impl Fn(&Path) -> std::io::Result<()> + Sync + Copy) -> String {
    for _ in 0..20 {
        let request = by_pull(story.request("full"));
        let (path, content) = (request.backup_path.clone().unwrap(), story.content());
        match attacked(&story.guest, request, attack) {
            Ok(_) => story.adopt(path, content),
            Err(error) => {
                story.skip();
                assert_eq!((error.code.as_str(), error.leftovers), ("JOB_FAILED", false), "{error}");
                story.assert_nothing_half_made();
                story.guest.assert_no_job();
                return error.cause;
            }
        }
    }
    panic!("no attack came in time");
}

#[test]
fn a_pull_s_socket_lies_in_libvirt_s_folder_and_is_gone_when_data_flow() {
    let mut story = slow_story_on(Nas::folder());
    let within = folder_of(&story.guest);
    let before = names(&within);
    let mut seen = Vec::new();
    let request = by_pull(story.request("full"));
    story.accept_with(request, |request| {
        let vm = request.vm_name.clone().unwrap();
        take_backup::run(request, &mut |status| {
            if status.phase == Phase::Copy && status.total_bytes > 0 && seen.is_empty() {
                let job = run("virsh", ["backup-dumpxml", &vm]);
                let socket = job.split_once("socket='").and_then(|(_, rest)| rest.split_once('\'')).unwrap().0;
                seen.push((PathBuf::from(socket), names(&within)));
            }
            Ok(())
        })
    });
    let [(socket, meanwhile)] = &seen[..] else { panic!("{seen:?}") };
    let name = socket.file_name().unwrap().to_str().unwrap();
    assert_eq!((socket.parent(), name.len()), (Some(within.as_path()), "nasbackup-".len() + 32));
    assert_eq!((meanwhile, &names(&within)), (&before, &before));
    story.assert_all_restore();
}

/// A process of QEMU's user that tries, whenever it is told to, what such a one can: by names, and by what the kernel tells all.
struct Neighbour {
    process: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Neighbour {
    fn of(guest: &Guest) -> Neighbour {
        const TRIES: &str = r#"
            while read -r told; do
                [ -e "$1/monitor.sock" ] && echo sees the folder
                bound=$(sed -n "s,.* \($1/nasbackup-[0-9a-f]*\)\$,\1,p" /proc/net/unix | sort -u)
                for socket in "$1"/nasbackup-* $bound; do
                    qemu-io -r -f raw -c 'read 0 512' "nbd+unix:///vda?socket=$socket" >/dev/null 2>&1 && echo got "$socket"
                done
                ls "$2" 2>/dev/null && echo got the names of scratch folders
                for file in "$2"/*/*; do [ -r "$file" ] && echo got "$file"; done
                echo tried
            done"#;
        let config = config::current();
        let scratch = config.scratch_dir.clone().unwrap_or_else(|| config.state_dir.join("scratch"));
        let (user, group) = crate::push::qemu();
        let mut command = Command::new("sh");
        command.args(["-c", TRIES, "sh"]).args([folder_of(guest), scratch]).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).uid(user).gid(group);
        let mut process = command.spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Neighbour { process, answers }
    }

    /// What it saw, and got.
    fn tries(&mut self) -> Vec<String> {
        self.process.stdin.as_mut().unwrap().write_all(b"now\n").unwrap();
        self.answers.by_ref().map(Result::unwrap).take_while(|line| line != "tried").collect()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

#[test]
fn a_neighbour_gets_nothing_of_a_pull_while_its_data_flow() {
    let mut story = slow_story_on(Nas::folder());
    let mut neighbour = Neighbour::of(&story.guest);
    let (mut before, mut meanwhile) = (0, 0);
    let request = by_pull(story.request("full"));
    story.accept_with(request, |request| {
        take_backup::run(request, &mut |status| {
            let tries = match status.phase {
                Phase::Begin => &mut before,
                Phase::Copy if status.total_bytes > 0 && meanwhile < 5 => &mut meanwhile,
                _ => return Ok(()),
            };
            *tries += 1;
            assert_eq!(neighbour.tries(), ["sees the folder"], "{status:?}");
            Ok(())
        })
    });
    assert!(before > 0 && meanwhile > 0, "{before} {meanwhile}");
    story.assert_all_restore();
}

#[test]
fn another_guest_s_socket_in_the_place_of_its_own_brings_no_data_of_the_other() {
    let mut other = Guest::new([Disk::new()]);
    other.write(0, 0xbb, 0, 16 * MIB);
    let (own, scratch) = (folder_of(&other).join("own"), folder("scratch"));
    let xml = scratch.join("backup.xml");
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' type='file'>\
         <scratch file='{}'/></disk></disks></domainbackup>",
        own.display(),
        scratch.join("vda.qcow2").display()
    );
    fs::write(&xml, text).unwrap();
    other.virsh(&["backup-begin", "--backupxml", xml.to_str().unwrap()]);

    let mut story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    story.guest.write(0, 0xaa, 0, 16 * MIB);
    let away = folder_of(&story.guest).join("away");
    let cause = fails_under(&mut story, |socket| fs::rename(socket, &away).and_then(|()| symlink(&own, socket)));
    assert!(cause.contains("is not the socket that the guest's export was given"), "{cause}");
    let within = folder_of(&story.guest);
    for name in names(&within).iter().filter(|name| *name == "away" || name.starts_with("nasbackup-")) {
        fs::remove_file(within.join(name)).unwrap();
    }
    story.accept(by_pull(story.request("full")));
    story.assert_all_restore();
    other.virsh(&["domjobabort"]);
}

/// Of a version that gave QEMU's user a folder in each scratch folder.
#[test]
fn folders_nested_without_end_in_a_scratch_folder_end_no_start_and_no_backup() {
    // in memory, if there is such: some disks take a millisecond for a folder
    let state = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let left = state.path().join("scratch/1-1");
    fs::create_dir_all(left.join("qemu")).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, left.join("qemu"), flags, Mode::empty()).unwrap();
    for _ in 0..15_000 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        rustix::fs::fchown(&at, Some(Uid::from_raw(65534)), None::<Gid>).unwrap();
    }
    let mut story = Story::new(Guest::new([Disk::new()]), Nas::folder());
    let (request, content) = (story.request("full"), story.content());
    let own = host(state.path(), &folder("mounts"));
    Agent::new(&own, &[("takeBackup", take_json(&request))]).succeed();
    assert!(!left.exists());
    story.adopt(request.backup_path.unwrap(), content);
    story.assert_all_restore();
}
