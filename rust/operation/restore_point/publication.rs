//! Publication: the outputs of a call get their names together, or are removed.

use std::sync::Arc;

use super::gate::Gate;
use super::output::Output;
use super::record;
use super::request::Verify;
use crate::error::{Error, Result};
use crate::limits;
use crate::work::deadline::bounded_for_host;
use crate::work::phase::Phase;

const PUBLISH: &str = Phase::PublishOutputs.as_str();

/// An output that is open, and what the answer tells of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: String,
    pub(super) path: String,
    pub(super) verify: Verify,
    pub(super) output: Output,
    /// The path that the replaced volume is to be kept under.
    pub(super) kept: Option<String>,
}

/// Runs `publish` in bounded time. Once the caller has been told that the outputs' storage did not answer, no output gets its name.
pub(super) fn publish_in_time(publish: impl FnOnce(&Gate) -> Result<()> + Send + 'static) -> Result<()> {
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    bounded_for_host(PUBLISH, limits::STORAGE_LONG_STEP, move || publish(&theirs)).map_err(|error| {
        gate.close();
        let begun =
            "outputs of which some may have their names: the next restore onto all of them gives the others theirs";
        // the thread that publishes holds the gate until it ends
        let goes_on = Arc::strong_count(&gate) > 1;
        match gate.is_used() {
            true => error.with_leftover(begun),
            false if goes_on => error.with_leftover("partial outputs, which go when their storage answers"),
            false => error,
        }
    })
}

/// Gives the outputs their names, one after the other. All that is likely to fail is done before the first name is given.
pub(super) fn publish(mut opened: Vec<Opened>, gate: &Gate) -> Result<()> {
    opened.iter_mut().try_for_each(|opened| opened.output.settle())?;
    let _inside = gate.enter(PUBLISH)?;
    opened.iter().try_for_each(|opened| opened.output.check_old())?;
    let names = opened.iter().filter_map(|opened| opened.output.name());
    let names = names.map(|(folder, name)| Ok((folder.open_again()?, name.to_owned()))).collect::<Result<Vec<_>>>()?;
    keep_all_old(&opened)?;
    let recorded = record::write(&opened.iter().map(|opened| &opened.output).collect::<Vec<_>>());
    recorded.and_then(|()| gate.enter(PUBLISH).map(drop)).map_err(|error| {
        record::remove(&names);
        forget_all_old(&opened, error)
    })?;
    name_all(&mut opened, gate)?;
    record::remove(&names);
    Ok(())
}

/// Gives all outputs their names. If one fails, the record and the whole outputs stay, for the next restore to finish.
fn name_all(opened: &mut [Opened], gate: &Gate) -> Result<()> {
    let all = opened.iter_mut().map(|opened| gate.enter(PUBLISH).and_then(|_inside| opened.output.publish()));
    let mut failures = all.collect::<Vec<_>>().into_iter().filter_map(Result::err);
    let Some(error) = failures.next() else { return Ok(()) };
    // a single file has no record, so that the next restore can't finish it: it is removed
    if opened.iter().filter(|opened| opened.output.name().is_some()).count() < 2 {
        return Err(match opened.iter().find(|opened| opened.output.is_published()) {
            Some(new) => {
                let may_be_old = "which is new, and by a power cut may be old";
                error.with_leftover(format!("'{}', {may_be_old}{}", new.path, kept_of_published(opened)))
            }
            None => forget_all_old(opened, error),
        });
    }
    let kept = kept_of_published(opened);
    opened.iter_mut().for_each(|opened| opened.output.leave());
    let whole = "outputs that are whole, which the next restore onto all of them gives their names";
    Err(error.with_leftover(format!("{whole}{kept}")))
}

/// Tells where replaced volumes are kept, for an error's message, as the failed call has no answer that would tell it.
fn kept_of_published(opened: &[Opened]) -> String {
    let published = opened.iter().filter(|opened| opened.output.is_published());
    let kept = published.filter_map(|opened| Some(format!("'{}' is kept as '{}'", opened.path, opened.kept.as_ref()?)));
    kept.map(|told| format!("; what was {told}")).collect()
}

/// Keeps the replaced volumes of all outputs, or of none.
fn keep_all_old(opened: &[Opened]) -> Result<()> {
    for_each_kept(opened, Output::keep_old).map_err(|error| forget_all_old(opened, error))
}

/// Removes the second names of the replaced volumes after this error.
fn forget_all_old(opened: &[Opened], error: Error) -> Error {
    match for_each_kept(opened, Output::forget_old) {
        Ok(()) => error,
        Err(stuck) => error.with_leftover(stuck),
    }
}

fn for_each_kept(opened: &[Opened], act: fn(&Output, &str) -> Result<()>) -> Result<()> {
    let kept = opened.iter().filter_map(|opened| Some((&opened.output, opened.kept.as_deref()?)));
    kept.map(|(output, kept)| act(output, kept)).fold(Ok(()), Result::and)
}

pub(super) fn discard_outputs(opened: Vec<Opened>) -> Result<()> {
    let ended: Vec<_> = opened.into_iter().map(|opened| opened.output.discard()).collect();
    ended.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::output_path::PointFolders;
    use super::*;
    use crate::error::Code;
    use crate::nas::folder::Folder;

    #[test]
    fn nothing_gets_its_name_once_the_caller_was_told_of_failure() {
        let (nas, pool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(nas.path()).unwrap();
        let open = |name: &str| {
            let path = pool.path().join(name).display().to_string();
            std::fs::write(&path, "as it was").unwrap();
            let output = Output::open(&path, true, 512, &PointFolders::of(&root, &root).unwrap()).unwrap();
            let kept = output.choose_kept_name().unwrap();
            Opened { file: name.into(), path, verify: Verify::Data, output, kept }
        };
        let gate = Gate::default();
        let opened = vec![open("a"), open("b")];
        gate.close();
        let error = publish(opened, &gate).unwrap_err();
        assert_eq!((error.code, error.leftovers, gate.is_used()), (Code::Cancelled, false, false), "{error}");
        for name in ["a", "b"] {
            assert_eq!(std::fs::read(pool.path().join(name)).unwrap(), b"as it was");
        }
        assert_eq!(std::fs::read_dir(pool.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_not_replaced_after_all_has_no_second_name() {
        let (nas, pool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(nas.path()).unwrap();
        let path = pool.path().join("a").display().to_string();
        std::fs::write(&path, "as it was").unwrap();
        let output = Output::open(&path, true, 512, &PointFolders::of(&root, &root).unwrap()).unwrap();
        let kept = output.choose_kept_name().unwrap();
        let beside = pool.path().join(output.beside().unwrap().0);
        std::fs::remove_file(&beside).unwrap();
        std::fs::write(&beside, "exchanged").unwrap();
        let opened = vec![Opened { file: "a".into(), path: path.clone(), verify: Verify::Data, output, kept }];
        publish(opened, &Gate::default()).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"as it was");
        let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(&path).unwrap());
        assert_eq!(links, 1, "{:?}", std::fs::read_dir(pool.path()).unwrap().collect::<Vec<_>>());
    }
}
