//! The power of the NAS fails: what its file system had not written by then is gone. A clone of the device's file at a
//! moment is that state, for what was not synced has not reached the file, and a clone shows one moment.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use nasbackup::operation::take_backup::TakeBackupRequest;

use crate::support::{Fs, Guest, MIB, Nas, Story, folder, run, succeeds, unmounted_image};
use crate::tally::{Tally, is_soak};

/// A moment: the clone, and how many points had been published before it.
struct Cut {
    clone: PathBuf,
    published: usize,
}

/// Clones the device's file at moments that come as they come, until `end`.
fn cuts(image: &Path, published: &AtomicUsize, end: &AtomicBool) -> Vec<Cut> {
    let mut cuts = Vec::new();
    while !end.load(SeqCst) {
        let clone = image.with_file_name(format!("cut-{}", cuts.len()));
        let published = published.load(SeqCst);
        run("cp", ["--reflink=always", image.to_str().unwrap(), clone.to_str().unwrap()]);
        cuts.push(Cut { clone, published });
        // the time between two moments
        std::thread::sleep(Duration::from_millis(37 + 41 * (cuts.len() as u64 % 7)));
    }
    cuts
}

/// What the NAS shows when its power is back.
fn look(story: &Story, fs: Fs, cut: &Cut) {
    let view = folder("after");
    // XFS refuses a second file system with the same name, which the living one is
    let options = if fs == Fs::Xfs { "loop,nouuid" } else { "loop" };
    run("mount", ["-o", options, cut.clone.to_str().unwrap(), view.to_str().unwrap()]);
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for (n, point) in story.points.iter().enumerate() {
            let there = view.join(&point.path).exists();
            assert!(there || n >= cut.published, "'{}' was published and is gone", point.path);
            if there {
                point.assert_restores_from(&view);
            }
        }
    }));
    assert!(succeeds("umount", [view.to_str().unwrap()]));
    std::fs::remove_file(&cut.clone).unwrap();
    if let Err(panic) = looked {
        std::panic::resume_unwind(panic);
    }
}

fn power_cuts(what: &'static str, fs: Fs) {
    let device = Nas::image(Fs::Xfs, 3000);
    let image = device.at("device");
    std::fs::copy(unmounted_image(fs, 700), &image).unwrap();
    let mut story = Story::new(Guest::ordinary(), Nas::of(&image));
    let (published, end) = (AtomicUsize::new(0), AtomicBool::new(false));
    let points = if is_soak() { 30 } else { 3 };
    let cuts = std::thread::scope(|scope| {
        let cuts = scope.spawn(|| cuts(&image, &published, &end));
        for n in 0..points {
            story.guest.write(0, 0x30 + n, (4 + u64::from(n)) * MIB, MIB);
            let engine = if n % 2 == 0 { "push" } else { "pull" };
            let mode = if n % 6 == 0 { "full" } else { "incremental" };
            story.accept(TakeBackupRequest { engine: Some(engine.into()), ..story.request(mode) });
            published.fetch_add(1, SeqCst);
        }
        end.store(true, SeqCst);
        cuts.join().unwrap()
    });
    let mut tally = Tally::new(what);
    let step = if is_soak() { 1 } else { cuts.len().div_ceil(5) };
    for (n, cut) in cuts.iter().enumerate().filter(|(n, _)| n % step == 0 || n + 1 == cuts.len()) {
        tally.fault(&format!("cut {n}, {} points", cut.published), || (), || look(&story, fs, cut));
    }
    tally.end(3);
}

#[test]
fn published_points_outlive_it_on_ext4() {
    power_cuts("power cut: ext4", Fs::Ext4);
}

#[test]
fn published_points_outlive_it_on_xfs() {
    power_cuts("power cut: XFS", Fs::Xfs);
}
