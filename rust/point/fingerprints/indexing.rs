//! Makes the index of an image by reading the image.

use std::fs::File;
use std::io::Write;

use super::contents::Contents;
use super::{Content, Digest, Recorder};
use crate::qcow2::{CLUSTER, Error, Pulse, hash_rest};

/// Reads `image`, and writes its index to `to`, which is empty; syncs nothing. Returns the hashes of the index and of the image's rest.
/// The present data count as right, since nothing can tell whether they are. The pulse gets the bytes of the file that were read, and
/// its length. Errors as those of `Mapping::open`. Memory: 3 MiB and a bit for each cluster of the file.
pub fn index_image<W: Write>(image: File, to: W, pulse: &mut Pulse<'_>) -> Result<(Digest, Digest), Error> {
    let length = image.metadata()?.len();
    let mut contents = Contents::open(image.try_clone()?)?;
    let mut recorder = Recorder::begin(to, contents.virtual_size())?;
    while let Some((piece, bytes)) = contents.next_piece()? {
        if piece.host.is_none() {
            recorder.add(piece.guest, Content::Zero, piece.length)?;
        }
        let mut at = piece.guest;
        for cluster in bytes.chunks(CLUSTER as usize) {
            recorder.add(at, Content::of(cluster), cluster.len() as u64)?;
            at += cluster.len() as u64;
        }
        pulse(contents.read, length)?;
    }
    let (_, hash) = recorder.finish()?;
    let rest = hash_rest(image, &mut |hashed, _| pulse(contents.read + hashed, length))?;
    Ok((hash, rest.into()))
}
