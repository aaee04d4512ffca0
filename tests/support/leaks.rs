//! What a call must not leave behind in this process and in this mount namespace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nasbackup::nas::folder::Folder;

/// Mounts and open descriptors at one moment. Descriptors are those of the whole process: compare them only in a test
/// binary that runs one test.
#[derive(Debug)]
pub struct Leaks {
    mounts: Vec<String>,
    descriptors: BTreeMap<String, usize>,
    threads: usize,
}

impl Leaks {
    /// The state now.
    pub fn now() -> Leaks {
        // the threads that keep the NAS's files, and what leads to them, stay
        let folder = super::folder("first");
        let first = Folder::open_root(&folder).and_then(|folder| folder.create_file("first", 0o600));
        drop(first.unwrap());
        Leaks { mounts: mounts(), descriptors: descriptors(), threads: threads() }
    }

    /// Nothing has come since.
    pub fn assert_none(&self) {
        // A call's helper ends after the call, when its last question is answered.
        super::until("the calls' threads end", || threads() <= self.threads);
        assert_eq!(mounts(), self.mounts, "mounts");
        assert_eq!(descriptors(), self.descriptors, "descriptors");
    }
}

/// Mount points of this namespace, as the kernel writes them.
pub fn mounts() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()
}

/// Is something mounted at `path`?
pub fn mounted_at(path: &Path) -> bool {
    mounts().iter().any(|mount| Path::new(mount) == path)
}

/// What begins the names of the threads that have the table of the NAS's files: the first one, and the others.
const KEEPER: &str = "keep the NAS's";
const WORKER: &str = "use the NAS's";

fn tasks(are: &str) -> impl Iterator<Item = PathBuf> {
    let is = move |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(are));
    entries("/proc/self/task").filter(is)
}

/// Those of the calls: of the others there are as many as were needed at once, for a while.
fn threads() -> usize {
    entries("/proc/self/task").count() - tasks(WORKER).count()
}

/// How many descriptors are open on what, in either table.
fn descriptors() -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let apart = tasks(KEEPER).next().unwrap().join("fd");
    for entry in entries("/proc/self/fd").chain(entries(apart.to_str().unwrap())) {
        // The descriptor of this very listing is gone by now.
        if let Ok(target) = std::fs::read_link(&entry) {
            let target = target.to_string_lossy();
            let kind = if target.starts_with('/') { &target } else { target.split(':').next().unwrap() };
            *count.entry(kind.to_owned()).or_default() += 1;
        }
    }
    count
}

fn entries(folder: &str) -> impl Iterator<Item = PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.into_iter()
}
