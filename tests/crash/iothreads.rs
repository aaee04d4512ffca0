//! A guest whose disks have iothreads, on a QEMU that dies when an NBD client closes its connection to one.

use nasbackup::operation::take_backup::TakeBackupRequest;

use crate::support::{Agent, Bus, Disk, Ended, Guest, MIB, Nas, Story, own_host, take_json};

fn story() -> Story {
    let mut guest = Guest::stopped([
        Disk::root().driver("cache='none' iothread='1'"),
        Disk::new().driver("cache='none' iothread='2' queues='4'"),
        Disk::new().bus(Bus::Scsi),
    ]);
    guest.elements = "<iothreads>3</iothreads>";
    guest.scsi = "<driver iothread='3'/>";
    guest.start();
    Story::new(guest, Nas::folder().slow(16))
}

fn write(story: &mut Story, pattern: u8) {
    (0..story.guest.disks.len()).for_each(|disk| story.guest.write(disk, pattern, 5 * MIB, 6 * MIB));
}

/// The agent is made to do what the library refuses: it could be killed, and that closes its connections.
#[test]
fn it_lives_through_pulls_that_fetch_all_replies_then_abort_and_close_last() {
    let mut story = story();
    for (pattern, mode, wait, ended) in [
        (0x51, "full", None, Ended::Done),
        (0x52, "incremental", None, Ended::Done),
        (0x53, "incremental", Some(1), Ended::Failed),
        (0x54, "incremental", None, Ended::Done),
    ] {
        write(&mut story, pattern);
        let engine = Some("pull".to_owned());
        let request = TakeBackupRequest { engine, wait_seconds: wait, ..story.request(mode) };
        let content = story.content();
        let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]).daring();
        assert_eq!(agent.run(), ended);
        assert_eq!(story.guest.state(), "running");
        if ended == Ended::Done {
            story.adopt(request.backup_path.unwrap(), content);
        } else {
            story.skip();
        }
    }
    story.assert_all_restore();
}
