//! Limits of bandwidth: what is copied takes its time.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod support;

use std::thread;
use std::time::Instant;

use nasbackup::error::Code;
use nasbackup::operation::take_backup::TakeBackupRequest;
use nasbackup::operation::verify_chain::{self, Verdict, VerifyChainRequest};
use nasbackup::operation::verify_data;
use support::{Guest, MIB, Nas, Story, by, configured, details, take};

/// Runs what is limited to so many bytes a second, of which it copies `bytes`: a busy machine makes it slower, and none faster.
/// QEMU was seen to copy 1.15 times its limit where it had been kept from running.
fn within<T>(limit: u64, bytes: u64, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let ran = run();
    let allowed = 1.5 * limit as f64 * begun.elapsed().as_secs_f64();
    assert!(bytes as f64 <= allowed, "{bytes} bytes within {:?}, the limit is {limit} a second", begun.elapsed());
    ran
}

#[test]
fn a_backup_keeps_its_limit() {
    let _configured = configured(|_| {});
    let mut story = Story::new(Guest::full_of_data(32), Nas::folder());
    let request = TakeBackupRequest { rate_limit: Some(4 * MIB), ..by("pull", story.request("full")) };
    story.accept_with(request, |request| within(4 * MIB, 32 * MIB, || take(request)));
    story.assert_all_restore();
}

#[test]
fn a_stopped_guest_s_backup_keeps_its_limit() {
    let _configured = configured(|config| config.rate_limit = Some(4 * MIB));
    let mut story = Story::new(Guest::full_of_data(32), Nas::folder());
    story.guest.stop();
    let request = story.stopped_request("legacy");
    story.accept_with(request, |request| within(4 * MIB, 32 * MIB, || take(request)));
    story.assert_all_restore();
}

#[test]
fn a_push_keeps_its_limit() {
    let _configured = configured(|config| config.rate_limit = Some(5 * MIB));
    // What QEMU had begun before it was told comes without a limit: 64 requests of 1 MiB, and whatever a busy machine
    // takes to tell it, in which a fast disk could get everything.
    let mut story = Story::new(Guest::full_of_data(224), Nas::folder().slow(64));
    let request = by("push", story.request("full"));
    story.accept_with(request, |request| within(5 * MIB, 64 * MIB, || take(request)));
    assert_eq!(details(&story.last().taken), "");
    story.assert_all_restore();
}

#[test]
fn all_backups_of_the_host_share_its_limit() {
    let _configured = configured(|config| config.host_rate_limit = Some(4 * MIB));
    let stories = [0, 1].map(|_| Story::new(Guest::full_of_data(20), Nas::folder()));
    let requests = stories.each_ref().map(|story| by("pull", story.request("legacy")));
    let both = || {
        thread::scope(|scope| {
            for request in requests {
                scope.spawn(|| take(request).unwrap());
            }
        });
    };
    within(4 * MIB, 40 * MIB, both);
}

#[test]
fn a_verification_keeps_its_limit() {
    let _configured = configured(|_| {});
    let mut story = Story::new(Guest::full_of_data(16), Nas::folder());
    story.accept(by("pull", story.request("full")));
    let request = VerifyChainRequest {
        repository: story.request("full").repository,
        backup_path: Some(story.last().path.clone()),
        rate_limit: Some(4 * MIB),
        ..VerifyChainRequest::default()
    };
    let begun = Instant::now();
    let verified = verify_data::run(request.clone(), &mut |_| Ok(())).unwrap();
    assert_eq!(verified.verdict, Verdict::Good);
    // what the first request reads is not waited for
    assert!(begun.elapsed().as_secs() >= 3, "16 MiB in {:?}", begun.elapsed());
    let refused = verify_chain::run(request, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument, "it reads no data");
}
