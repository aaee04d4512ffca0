//! A process that is started gets what the table of descriptors of its parent has, and closes it: where the NAS hangs that may take
//! for ever. So nothing that is written to there is in that table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use serde_json::json;

use crate::run;
use crate::support::{Guest, MIB, Nas, Story, by, folder, take};

/// The files below `root` that are open for writing in the table of this task.
fn written(task: &Path, root: &Path) -> BTreeSet<PathBuf> {
    let is_written = |fd: &str| {
        let told = fs::read_to_string(task.join("fdinfo").join(fd)).unwrap_or_default();
        let flags = told.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 3 != 0)
    };
    let listed = fs::read_dir(task.join("fd")).into_iter().flatten().flatten();
    let path = |entry: fs::DirEntry| {
        let path = fs::read_link(entry.path()).ok().filter(|path| path.starts_with(root))?;
        is_written(entry.file_name().to_str()?).then_some(path)
    };
    listed.filter_map(path).collect()
}

/// The task that keeps the NAS's files.
fn keeper() -> Option<PathBuf> {
    let is =
        |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("keep the NAS's"));
    fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path()).find(is)
}

/// Runs `work`, during which files below `root` are written to, and none of them is ever in the table that processes get.
fn assert_apart<T>(root: &Path, work: impl FnOnce() -> T) -> T {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let (mut here, mut apart) = (BTreeSet::new(), BTreeSet::new());
            while !done.load(Relaxed) {
                here.append(&mut written(Path::new("/proc/self"), root));
                apart.append(&mut keeper().map(|task| written(&task, root)).unwrap_or_default());
            }
            (here, apart)
        });
        let result = {
            let _done = Done(&done);
            work()
        };
        let (here, apart) = seen.join().unwrap();
        assert!(here.is_empty(), "{here:?}");
        assert!(!apart.is_empty(), "nothing was seen");
        result
    })
}

#[test]
fn nothing_that_is_written_to_is_in_the_table_that_processes_get() {
    let mut story = Story::new(Guest::ordinary(), Nas::folder());
    let root = story.nas.root().to_owned();
    for (engine, mode) in [("pull", "full"), ("push", "incremental"), ("pull", "incremental")] {
        story.guest.write(0, 0x51, 5 * MIB, MIB);
        story.accept_with(by(engine, story.request(mode)), |request| assert_apart(&root, || take(request)));
    }
    story.guest.stop();
    story.accept_with(story.stopped_request("incremental"), |request| assert_apart(&root, || take(request)));
    let [onto, gone, rebased] = [0, 1, 2].map(|at| story.points[at].path.clone());
    let request = json!({"backupPath": rebased, "newParent": onto});
    assert_apart(&root, || run(&story.nas, "rebasePoint", request)).unwrap();
    let restored = folder("restored");
    for format in ["raw", "qcow2"] {
        let output = |volume: &String| json!({"path": restored.join(volume), "format": format});
        let volumes = story.points[2].taken.volumes.keys();
        let wanted = volumes.map(|volume| json!({"volume": volume, "output": output(volume)})).collect::<Vec<_>>();
        let request = json!({"backupPath": story.points[2].path, "volumes": wanted});
        // the second time onto what is there
        assert_apart(&restored, || run(&story.nas, "restorePoint", request)).unwrap();
    }
    run(&story.nas, "deleteBackup", json!({"backupPath": gone})).unwrap();
    story.points.remove(1);
    story.assert_all_restore();
}
