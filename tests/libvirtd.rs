//! The daemon is restarted under a backup. One test only: the daemon is everybody's.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::time::Duration;

use support::{Guest, MIB, Nas, Story, run, succeeds, take_and, until};

fn restart_libvirtd() {
    let pid_file = "/run/libvirt/libvirtd.pid";
    let pid = std::fs::read_to_string(pid_file).unwrap();
    run("kill", ["-9", pid.trim()]);
    until("libvirtd is gone", Duration::from_secs(10), || !succeeds("kill", ["-0", pid.trim()]));
    run("libvirtd", ["--daemon", "--pid-file", pid_file]);
    until("libvirtd answers", Duration::from_secs(30), || succeeds("virsh", ["list"]));
}

#[test]
fn a_restarted_libvirtd_does_not_end_the_wait_and_harms_nothing() {
    let mut story = Story::new(Guest::full_of_data(1), Nas::folder().slow(16));
    story.guest.grow(0, 80 * MIB);
    story.take("full").assert_full(true);
    story.guest.write(0, 0x51, 2 * MIB, 48 * MIB);
    let request = story.request("incremental");
    let taken = story.accept_with(request, |request| take_and(request, |_| restart_libvirtd()));
    taken.assert_incremental();
    // The next one uses what the new daemon knows.
    story.guest.write(0, 0x52, 9 * MIB, MIB);
    story.take("incremental");
    story.assert_all_restore();
}
