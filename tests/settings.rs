//! What the configuration changes. One test only: the configuration is the process's own.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use nasbackup::config::{self, Config, QuiesceFailure};
use nasbackup::operation::take_backup::TakeBackupRequest;
use support::Story;

#[test]
fn a_guest_that_can_t_be_frozen_is_backed_up_if_a_warning_is_enough() {
    let mut story = Story::with_full();
    let quiesce = |story: &Story| TakeBackupRequest { quiesce: Some(true), ..story.request("incremental") };
    story.refuse(quiesce(&story), "QUIESCE_FAILED");
    config::set(Config { quiesce_failure: QuiesceFailure::Warn, ..(*config::current()).clone() });
    let request = quiesce(&story);
    let taken = story.accept(request);
    taken.assert_incremental();
    assert!(taken.taken.details.contains("QUIESCE_FAILED"), "{}", taken.taken.details);
    story.assert_all_restore();
}
