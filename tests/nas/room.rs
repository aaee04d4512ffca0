//! Room that was given back, and does not show yet: Btrfs shows it with its next commit.

use crate::machine::Machine;
use crate::support::{Fs, MIB, Nas, run as command};

fn free(nas: &Nas) -> u64 {
    let found = rustix::fs::statvfs(nas.root()).unwrap();
    found.f_bavail * found.f_frsize
}

#[test]
fn what_a_delete_gives_back_is_there_when_it_returns() {
    let mut machine = Machine::new("i-2-68-VM", Nas::image(Fs::Btrfs, 320), 64);
    let before = free(&machine.nas);
    machine.back_up(1).unwrap();
    assert!(free(&machine.nas) < before - 100 * MIB);
    let freed = machine.delete(1).unwrap()["freedBytes"].as_u64().unwrap();
    assert!(freed > 128 * MIB);
    let after = free(&machine.nas);
    assert!(after > before - 16 * MIB, "{before} bytes, then {after}");
}

/// And the preflight's estimate is of what there is. The file system commits by itself every 30 s unless told otherwise, and
/// with room that shows already this would say nothing.
#[test]
fn no_backup_is_refused_for_room_that_does_not_show_yet() {
    let mut machine = Machine::new("i-2-69-VM", Nas::image(Fs::Btrfs, 320), 64);
    command("mount", ["-o", "remount,commit=86400", machine.nas.path()]);
    let before = free(&machine.nas);
    let other = machine.nas.at("other");
    std::fs::write(&other, vec![7; 180 << 20]).unwrap();
    std::fs::File::open(&other).unwrap().sync_all().unwrap();
    let error = machine.back_up(1).unwrap_err();
    assert_eq!((error.code.as_str(), error.step), ("NO_SPACE", "look at the free space"), "{error}");
    std::fs::remove_file(&other).unwrap();
    assert!(free(&machine.nas) < before - 100 * MIB, "it does not show yet");
    machine.back_up(2).unwrap();
}
