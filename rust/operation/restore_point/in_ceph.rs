//! Outputs that are images in Ceph. Nothing locks these, so the library asks Ceph who else has them open.

use std::sync::Arc;

use super::request::WantedDisk;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nbd;
use crate::operation::ceph::{Access, CephImage, Rbd, Server, can_be_asked, clients};
use crate::work::job::Reporter;

const STEP: &str = "open the outputs";

/// An image that is open. The drop closes it.
#[derive(Debug)]
pub(super) struct InCeph {
    rbd: Rbd,
    pub(super) image: Arc<CephImage>,
    _server: Server,
}

/// Opens the images in Ceph among the outputs of the machine `vm`. The servers of these images end with this thread at the latest.
/// `DOMAIN_STATE` when somebody else has one of them open.
pub(super) fn open(volumes: &[WantedDisk], vm: &str, job: &mut Reporter<'_>) -> Result<Vec<Option<InCeph>>> {
    let one = |wanted: &WantedDisk| {
        let Some(rbd) = &wanted.rbd else { return Ok(None) };
        InCeph::open(rbd, vm, job).map(Some).map_err(|error| error.on_disk(&rbd.name))
    };
    volumes.iter().map(one).collect()
}

impl InCeph {
    fn open(rbd: &Rbd, vm: &str, job: &mut Reporter<'_>) -> Result<InCeph> {
        nbd::available()
            .map_err(|e| Error { cause: format!("an image in Ceph is written as pull reads; {}", e.cause), ..e })?;
        // this is known before anything opens the image
        can_be_asked()?;
        let server = Server::start(rbd, Access::Write, (&config::current(), vm), limits::STORAGE_LONG_STEP, job)?;
        let image = Arc::new(CephImage::open(&server)?);
        // the server's client is one of them; whoever opens the image from now on is seen by `check_alone`
        let clients = clients(rbd, limits::CEPH, || job.tell())?;
        let opened = InCeph { rbd: rbd.clone(), image, _server: server };
        opened.check(
            clients,
            STEP,
            "it is in use: does the guest run? (a client that was killed counts for half a minute)",
        )?;
        Ok(opened)
    }

    /// `DOMAIN_STATE` when somebody else has opened the image since.
    pub(super) fn check_alone(&self, job: &mut Reporter<'_>) -> Result<()> {
        let clients = clients(&self.rbd, limits::CEPH, || job.tell())?;
        self.check(clients, "look at the outputs", "somebody has opened it while it was written")
    }

    fn check(&self, clients: usize, step: &'static str, why: &str) -> Result<()> {
        if clients < 2 { Ok(()) } else { Err(Error::new(Code::DomainState, step, why).on_disk(&self.rbd.name)) }
    }
}
