//! What may be a parent: everything else is never extended, and says why.

use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::json;

use crate::support::{Guest, MIB, Nas, Story, run};

/// An incremental on a parent that `harm` made unfit is a full, and the chain goes on from there.
fn falls_back_after(harm: impl FnOnce(&mut Story, &mut TakeBackupRequest)) {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    let mut request = story.request("incremental");
    harm(&mut story, &mut request);
    story.accept(request).assert_fallback();
    story.guest.write(1, 0x52, 10 * MIB, MIB);
    story.take("incremental").assert_incremental();
    let harmed = story.points.remove(0);
    story.assert_all_restore();
    drop(harmed);
}

#[test]
fn a_missing_parent_is_not_extended() {
    falls_back_after(|story, _| std::fs::remove_dir_all(story.nas.at(&story.last().path)).unwrap());
}

#[test]
fn a_missing_file_of_one_disk_is_not_extended() {
    falls_back_after(|story, _| std::fs::remove_file(story.nas.at(&story.last().files()[1])).unwrap());
}

#[test]
fn a_truncated_file_is_not_extended() {
    falls_back_after(|story, _| {
        let file = std::fs::File::options().write(true).open(story.nas.at(&story.last().files()[0])).unwrap();
        file.set_len(MIB).unwrap();
    });
}

#[test]
fn a_file_that_is_no_image_is_not_extended() {
    falls_back_after(|story, _| {
        let path = story.nas.at(&story.last().files()[0]);
        let length = path.metadata().unwrap().len();
        std::fs::write(&path, "no image").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
    });
}

#[test]
fn a_file_larger_than_the_disk_is_not_extended() {
    falls_back_after(|story, _| {
        let path = story.nas.at(&story.last().files()[1]);
        run("qemu-img", ["resize", "-q", "-f", "qcow2", path.to_str().unwrap(), "+16M"]);
    });
}

#[test]
fn a_point_without_a_manifest_is_not_extended() {
    falls_back_after(|story, _| {
        std::fs::remove_file(story.nas.at(&story.last().path).join("manifest.json")).unwrap();
    });
}

#[test]
fn a_manifest_that_cannot_be_read_is_not_trusted() {
    falls_back_after(|story, _| {
        std::fs::write(story.nas.at(&story.last().path).join("manifest.json"), "{").unwrap();
    });
}

#[test]
fn a_point_of_another_machine_is_not_extended() {
    falls_back_after(|story, _| {
        story.change_manifest(&story.last().path, |manifest| manifest["vmName"] = json!("i-2-99-VM"));
    });
}

#[test]
fn a_point_that_began_another_bitmap_is_not_extended() {
    falls_back_after(|story, _| {
        story.change_manifest(&story.last().path, |manifest| manifest["bitmap"] = json!("backup-1"));
    });
}

#[test]
fn an_older_point_than_the_bitmap_s_is_not_extended() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental").assert_incremental();
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    let mut request = story.request("incremental");
    request.parent_paths = Some(story.points[0].files());
    story.accept(request).assert_fallback();
    story.assert_all_restore();
}

#[test]
fn the_point_that_owns_the_bitmap_was_deleted() {
    let mut story = Story::with_full();
    story.guest.write(0, 0x51, 5 * MIB, MIB);
    story.take("incremental").assert_incremental();
    let deleted = story.points.pop().unwrap();
    std::fs::remove_dir_all(story.nas.at(&deleted.path)).unwrap();
    story.guest.write(0, 0x52, 6 * MIB, MIB);
    // The server has gone back to the full; its bitmap is gone, the newer one is not its.
    story.take("incremental").assert_fallback();
    story.assert_all_restore();
}

#[test]
fn parent_paths_are_hints_of_the_folder() {
    let mut story = Story::with_full();
    story.guest.write(1, 0x51, 5 * MIB, MIB);
    let mut request = story.request("incremental");
    // Old servers send the root disk's file only, and by uuid.
    request.parent_paths = Some(vec![format!("{}/root.11111111-2222-3333-4444-555555555555.qcow2", story.last().path)]);
    story.accept(request).assert_incremental();
    story.assert_all_restore();
}

#[test]
fn a_bitmap_of_the_parent_s_name_in_another_guest_is_not_used() {
    let mut story = Story::with_full();
    let path = story.last().path.clone();
    let mut other = Story::new(Guest::ordinary(), Nas::folder());
    let mut first = other.request("full");
    first.bitmap_new = Some(story.bitmap());
    other.accept(first).assert_full(true);
    // Its own parent is asked for, but the point given is the other machine's.
    let from = story.nas.at(&path);
    let to = other.nas.at(&path);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    run("cp", ["-r", from.to_str().unwrap(), to.to_str().unwrap()]);
    let mut request = other.request("incremental");
    request.parent_paths = Some(story.last().files());
    other.guest.write(0, 0x51, 5 * MIB, MIB);
    other.accept(request).assert_fallback();
    other.assert_all_restore();
    story.take("incremental").assert_incremental();
}
