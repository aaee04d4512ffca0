//! A disk of the point, open for reading, and its fingerprints.

use std::fs::File;

use super::request::Verify;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::RepoPath;
use crate::operation::checked_chain::CheckedDisk as Source;
use crate::point::Link;
use crate::point::fingerprints::{self, Base, Fingerprints};
use crate::qcow2::{self, ImageFailure, Images, Pieces};

const STEP: &str = "open the outputs";

/// A disk of the point, open for reading.
pub(super) struct Readable {
    pub(super) volume: String,
    /// The image's file name.
    pub(super) file: String,
    /// Paths of the images, the newest first.
    pub(super) names: Vec<String>,
    pub(super) pieces: Pieces,
    pub(super) images: Images,
    pub(super) indexes: Option<Indexes>,
    pub(super) base: Option<Base<File>>,
}

impl Readable {
    pub(super) fn open(root: &Folder, source: Source) -> Result<Readable> {
        let indexes = Indexes::of(&source)?;
        let Source { volume, chain, .. } = source;
        let base = indexes.as_ref().map(|indexes| indexes.open(root)).transpose();
        let base = base.map_err(|error| error.on_disk(&volume))?;
        let file = chain.first().map_or("", |link| link.path.name()).to_owned();
        let names: Vec<_> = chain.iter().map(|link| link.path.to_string()).collect();
        let opened = Pieces::open(chain.into_iter().map(|link| link.file).collect());
        let (pieces, images) = opened.map_err(|ImageFailure { image, error }| {
            let image = image.checked_sub(1).and_then(|image| names.get(image));
            error.at("open the chain", image.map_or("", String::as_str)).on_disk(&volume)
        })?;
        Ok(Readable { volume, file, names, pieces, images, indexes, base })
    }

    pub(super) fn verify(&self) -> Verify {
        if self.base.is_some() { Verify::Data } else { Verify::Chain }
    }
}

/// Drops the recorded fingerprints of a disk if the request wants no comparison; an error if it wants one and there are none.
pub(super) fn choose_verification(source: &mut Source, verify: Option<Verify>) -> Result<()> {
    match (verify, &source.recorded) {
        (Some(Verify::Chain), _) => source.recorded = None,
        (Some(Verify::Data), None) => {
            let cause = "verify: its image, or one below it, has no fingerprints to compare its data with";
            return Err(Error::new(Code::InvalidArgument, STEP, cause).on_disk(&source.volume));
        }
        _ => {}
    }
    Ok(())
}

/// Size that the guest sees of a chain, in bytes.
fn size_of(chain: &[Link]) -> Result<u64> {
    let newest = chain.first().ok_or_else(|| Error::new(Code::Internal, STEP, "a chain without an image"))?;
    Ok(qcow2::inspect(&newest.file).map_err(|e| e.at(STEP, newest.path.as_str()))?.virtual_size)
}

/// The recorded fingerprints of a disk's images.
pub(super) struct Indexes {
    images: Vec<(RepoPath, Fingerprints)>,
    disk: u64,
}

impl Indexes {
    /// `None` if the data are not to be compared.
    fn of(source: &Source) -> Result<Option<Indexes>> {
        let Some(recorded) = &source.recorded else { return Ok(None) };
        let images = source.chain.iter().map(|link| link.path.clone()).zip(recorded.iter().cloned()).collect();
        Ok(Some(Indexes { images, disk: size_of(&source.chain)? }))
    }

    /// Opens the fingerprints of all images, as one base.
    pub(super) fn open(&self, root: &Folder) -> Result<Base<File>> {
        let open = |(image, recorded): &(RepoPath, Fingerprints)| fingerprints::open(root, image, recorded);
        let indexes = self.images.iter().map(open).collect::<Result<Vec<_>>>()?;
        let newest = self.images.first().map_or("", |(image, _)| image.as_str());
        Base::begin(indexes, self.disk).map_err(|e| fingerprints::failed("read the fingerprints", newest, e))
    }
}
