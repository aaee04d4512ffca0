//! What was broken on purpose, and what came of it.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Counts of one kind of fault.
#[derive(Debug)]
pub(crate) struct Tally {
    what: &'static str,
    faults: usize,
    lost: usize,
    leaks: usize,
    said: Vec<String>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(what: &'static str) -> Tally {
        Tally { what, faults: 0, lost: 0, leaks: 0, said: Vec::new() }
    }

    /// One fault: `restores` looks at the points, `clean` at what is left.
    pub(crate) fn fault(&mut self, name: &str, clean: impl FnOnce(), restores: impl FnOnce()) {
        self.faults += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(clean)) {
            self.leaks += 1;
            self.said.push(format!("{name}: left behind: {}", text(&*panic)));
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(restores)) {
            self.lost += 1;
            self.said.push(format!("{name}: lost: {}", text(&*panic)));
        }
    }

    /// Writes the counts where a soak gathers them. Nothing may be lost, or left.
    pub(crate) fn end(self, at_least: usize) {
        let Tally { what, faults, lost, leaks, said } = self;
        let line = format!("| {what} | {faults} | {} | {lost} | {leaks} |", faults - said.len().min(faults));
        println!("{line}");
        if let Some(folder) = std::env::var_os("NASBACKUP_SOAK_REPORT").map(PathBuf::from) {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("rows"));
            writeln!(file.unwrap(), "{line}").unwrap();
        }
        assert!(said.is_empty(), "{}", said.join("\n"));
        assert!(faults >= at_least, "only {faults} faults");
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let str = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    str.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// How many times as much a soak does.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("NASBACKUP_SOAK_REPORT").is_some()
}
