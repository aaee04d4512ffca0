//! While an NFS server does not answer, whoever writes to it, or reads from it, starts processes and uses other repositories all
//! the same.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nasbackup::error::Result;
use nasbackup::operation::take_backup::{self, TakeBackupRequest};
use nasbackup::work::job::JobStatus;
use nasbackup::work::phase::Phase;
use serde_json::json;

use crate::chain::Chain;
use crate::served::{Alone, ROOT, Stopped, cifs, mount, nfs};
use crate::support::{Disk, Guest, MIB, PATIENCE, Story, by, folder, until};

/// Does a thread of this process wait for what it can't be kept from waiting for?
fn waits() -> bool {
    let is = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, told)| told.trim_start().starts_with('D'))
    };
    std::fs::read_dir("/proc/self/task").unwrap().any(|task| is(task.unwrap()))
}

/// Begins what has to end although the server has stopped; each tells by its name that it has succeeded.
fn begin_others(other: &mut Option<Chain>, tell: &mpsc::Sender<(&'static str, Option<Chain>)>) {
    let begin = |name, mut command: Command| {
        let tell = tell.clone();
        thread::spawn(move || command.status().is_ok_and(|ended| ended.success() && tell.send((name, None)).is_ok()));
    };
    begin("posix_spawn", Command::new("true"));
    // which posix_spawn can't do
    let mut by_fork = Command::new("true");
    by_fork.uid(0);
    begin("fork", by_fork);
    // by which another repository is mounted, and qemu-img run
    let (mut chain, tell) = (other.take().unwrap(), tell.clone());
    thread::spawn(move || {
        chain.take().unwrap();
        drop(tell.send(("a backup", Some(chain))));
    });
}

/// Stops the server when an operation is in the middle, and looks whether all else goes on once it waits for the server.
fn assert_others_go_on(
    alone: &Alone,
    other: &mut Option<Chain>,
    is_middle: impl Fn(&JobStatus) -> bool,
    operation: impl FnOnce(&mut dyn FnMut(&JobStatus) -> Result<()>) -> Result<()>,
) {
    let (stop, stopped) = mpsc::channel();
    thread::scope(|scope| {
        let ended = scope.spawn(move || {
            let Ok::<Stopped, _>(server) = stopped.recv() else { return Vec::new() };
            until("it waits for the server", waits);
            let (tell, told) = mpsc::channel();
            begin_others(other, &tell);
            let mut ended = Vec::new();
            while ended.len() < 3
                && let Ok((name, chain)) = told.recv_timeout(PATIENCE)
            {
                ended.push(name);
                *other = other.take().or(chain);
            }
            drop(server);
            ended.sort();
            ended
        });
        let mut stop = Some(stop);
        let answer = operation(&mut |status| {
            if is_middle(status)
                && let Some(stop) = stop.take()
            {
                stop.send(Stopped::now(alone)).unwrap();
            }
            Ok(())
        });
        drop(stop);
        assert_eq!(
            ended.join().unwrap(),
            ["a backup", "fork", "posix_spawn"],
            "none: it was never in the middle; {answer:?}"
        );
    });
}

fn other() -> Option<Chain> {
    let mut chain = Chain::new(cifs("nas", ROOT));
    chain.take().unwrap();
    Some(chain)
}

/// From the begin of the copy on: before a push hears its limit, QEMU can have copied all that there is.
fn copies(status: &JobStatus) -> bool {
    status.phase == Phase::Copy
}

#[test]
#[ignore = "make nas"]
fn processes_start_and_others_are_mounted_while_a_server_does_not_answer() {
    let (alone, mut other) = (Alone::now(), other());
    let mut story = Story::new(Guest::new([Disk::root()]), nfs("nas", "vers=4.2"));
    let slowly = |request| TakeBackupRequest { rate_limit: Some(4 * MIB), ..request };
    for (engine, mode) in [("pull", "full"), ("push", "full")] {
        story.guest.write(0, 0x21, 8 * MIB, 24 * MIB);
        let request = slowly(by(engine, story.request(mode)));
        assert_others_go_on(&alone, &mut other, copies, |tell| {
            take_backup::run(request, &mut |status| tell(status)).map(drop)
        });
        story.skip();
    }
    story.guest.stop();
    let request = slowly(story.stopped_request("full"));
    assert_others_go_on(&alone, &mut other, copies, |tell| {
        take_backup::run(request, &mut |status| tell(status)).map(drop)
    });
}

#[test]
#[ignore = "make nas"]
fn processes_start_while_what_is_done_with_a_chain_waits_for_its_server() {
    let (alone, mut other, mut chain) = (Alone::now(), other(), Chain::new(nfs("nas", "vers=4.2")));
    for at in 0_u8..3 {
        // each beside the others: what a child hides of its parent is not absorbed
        chain.write(0x20 + at, 8 + 28 * u64::from(at), 24);
        chain.take().unwrap();
    }
    let restored = chain.restored_to(1, &folder("restored").join("disk"));
    for (operation, phase, point, more) in [
        ("rebasePoint", Phase::Absorb, 2, json!({"newParent": chain.path(0)})),
        ("verifyChain", Phase::CheckImages, 1, json!({})),
        ("restorePoint", Phase::Copy, 1, json!({"volumes": restored, "rateLimit": 4 * MIB})),
    ] {
        let is_middle = |status: &JobStatus| status.phase == phase;
        assert_others_go_on(&alone, &mut other, is_middle, |mut tell| {
            chain.ask_and(operation, point, more, &mut tell).map(drop)
        });
    }
}

/// Primary storage is NFS, too, with most who have it.
#[test]
#[ignore = "make nas"]
fn processes_start_while_a_restore_waits_for_the_server_of_its_output() {
    let (alone, mut other, mut chain) = (Alone::now(), other(), Chain::new(cifs("nas", ROOT)));
    chain.write(0x20, 8, 64);
    chain.take().unwrap();
    let primary = nfs("nas", "vers=4.2");
    let seen = mount(&primary);
    let mut volumes = chain.restored_to(0, &seen.path.join("disk"));
    volumes[0]["output"]["format"] = json!("qcow2");
    let request = json!({"volumes": volumes, "rateLimit": 4 * MIB});
    assert_others_go_on(&alone, &mut other, copies, |mut tell| {
        chain.ask_and("restorePoint", 0, request, &mut tell).map(drop)
    });
}
