//! Many backups in a row leave this process and this host as they were. One test only: it counts the process's own
//! descriptors, threads and memory.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use nasbackup::operation;
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::json;
use support::{Guest, Leaks, MIB, Nas, Story, repository_json};

/// Backups until the memory that is kept for the next ones has come.
const WARM_UP: usize = 9;

/// The memory of this process, without what it has of files, in KiB. The test's runner has malloc give back at once what is freed.
fn anonymous() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// KiB a backup, by least squares.
fn slope(samples: &[f64]) -> f64 {
    let n = samples.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, samples.iter().sum::<f64>() / n);
    let both = samples.iter().enumerate().map(|(x, y)| (x as f64 - mean_x, y - mean_y));
    let (xy, xx) = both.fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + x * y, xx + x * x));
    xy / xx
}

/// One more backup of the story, and of its points no more than two.
fn one_more(story: &mut Story, n: usize) {
    story.guest.write(0, 0x20 + u8::try_from(n % 200).unwrap(), (n as u64 % 50) * MIB, MIB);
    let mode = if n.is_multiple_of(4) { "full" } else { "incremental" };
    let engine = if n.is_multiple_of(2) { "push" } else { "pull" };
    story.accept(TakeBackupRequest { engine: Some(engine.into()), ..story.request(mode) });
    // once a new full has come, those before it go, the newest first
    if mode == "full" {
        while story.points.len() > 1 {
            let gone = story.points.remove(story.points.len() - 2);
            let request = json!({"repository": repository_json(&story.nas.repository()), "backupPath": gone.path});
            operation::call("deleteBackup", &request.to_string(), &mut |_| Ok(())).unwrap();
        }
    }
}

#[test]
fn backups_in_a_row_of_three_guests_leave_nothing() {
    let backups = std::env::var("NASBACKUP_SOAK_BACKUPS").map_or(12, |n| n.parse().unwrap());
    let mut stories: Vec<_> = (0..3).map(|_| Story::new(Guest::ordinary(), Nas::folder())).collect();
    let (mut before, mut memory) = (None, Vec::new());
    for n in 0..backups + WARM_UP {
        if n == WARM_UP {
            before = Some(Leaks::now());
        }
        one_more(&mut stories[n % 3], n / 3);
        if n >= WARM_UP {
            memory.push(anonymous());
        }
    }
    before.unwrap().assert_none();
    for story in &stories {
        // one bitmap, one checkpoint, no job, nothing half-made
        story.assert_guest_untouched();
        story.assert_nothing_half_made();
        story.assert_all_restore();
    }
    // in the first half libraries still fill their caches
    let slope = slope(&memory[backups / 2..]);
    println!("| backups in a row | {backups} | {backups} | 0 | 0 |");
    println!("{slope:.3} KiB of memory a backup, {} KiB at the end", memory.last().unwrap());
    if let Some(folder) = std::env::var_os("NASBACKUP_SOAK_REPORT").map(std::path::PathBuf::from) {
        let rows =
            format!("| backups in a row ({slope:.3} KiB of memory a backup) | {backups} | {backups} | 0 | 0 |\n");
        std::fs::write(folder.join("load-rows"), rows).unwrap();
    }
    // a leak of one buffer a backup is a hundred times that; few backups show no slope
    assert!(backups < 300 || slope < 2.0, "{slope} KiB a backup");
}
