//! Whether a machine's points are free: asked without a lock, for who only wants to know what a call would come to.

use crate::config;
use crate::error::{Code, Result};
use crate::limits;
use crate::nas::lock;
use crate::nas::path::PointPath;
use crate::nas::purpose::Purpose;
use crate::nas::repository::Repository;
use crate::nas::session::Session;
use crate::work::deadline::bounded;
use crate::work::owner::WorkFor;

/// `BUSY` while a process of this host works on the machine's points in a way that keeps out a call for that purpose.
pub fn check(repository: Option<Repository>, instance: &str, purpose: Purpose) -> Result<()> {
    let export = Repository::check(repository)?;
    let folder = PointPath::parse_instance("instance", instance)?;
    let _on = WorkFor::repository(&export);
    let session = Session::open_bounded(export, config::current())?;
    bounded("look at the instance's lock", limits::NAS_LOOK, move || match session.root().open_dir(&folder) {
        Err(error) if error.code == Code::NotFound => Ok(()),
        folder => lock::refuse_held(&folder?, purpose),
    })
}
