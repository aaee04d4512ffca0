//! Work on the NAS that takes long, in steps that have a deadline: between two of them the caller is told of progress, and
//! may end it.

use std::time::Duration;

use crate::error::Result;
use crate::nas::deadline::bounded;

/// How long one step takes, about.
pub(super) const STEP: Duration = Duration::from_millis(250);

/// Advances `work` until it has a result or fails. Each step runs on a thread that may be given up, and has a clone of `held`
/// for as long as it runs. `between` is called before each.
pub(super) fn in_steps<H, W, T, E>(
    held: &H,
    step: &'static str,
    limit: Duration,
    mut work: W,
    advance: fn(&mut W) -> Result<Option<T>, E>,
    mut between: impl FnMut(&W) -> Result<()>,
) -> Result<Result<T, E>>
where
    H: Clone + Send + 'static,
    W: Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    loop {
        between(&work)?;
        let held = held.clone();
        let (same, advanced) = bounded(step, limit, move || {
            let (_held, mut work) = (held, work);
            let advanced = advance(&mut work);
            Ok((work, advanced))
        })?;
        work = same;
        match advanced {
            Ok(None) => {}
            Ok(Some(result)) => return Ok(Ok(result)),
            Err(error) => return Ok(Err(error)),
        }
    }
}
