//! A guest whose disks have iothreads, on a QEMU that dies when an NBD client closes its connection to one.

use nasbackup::operation::take_backup::TakeBackupRequest;

use crate::support::{Agent, Bus, Disk, Guest, MIB, Nas, Story, own_host, take_json};

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
    for (pattern, mode, cancelled) in
        [(0x51, "full", false), (0x52, "incremental", false), (0x53, "incremental", true), (0x54, "incremental", false)]
    {
        write(&mut story, pattern);
        let request = TakeBackupRequest { engine: Some("pull".into()), ..story.request(mode) };
        let content = story.content();
        let agent = Agent::new(&own_host(), &[("takeBackup", take_json(&request))]).daring();
        if cancelled {
            agent.cancelled_in_copy().fail_with("CANCELLED");
            story.skip();
        } else {
            agent.succeed();
            story.adopt(request.backup_path.unwrap(), content);
        }
        assert_eq!(story.guest.state(), "running");
    }
    story.assert_all_restore();
}
