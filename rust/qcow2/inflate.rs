//! The content of compressed clusters.

use std::io::Read;

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::StreamingDecoder;

use super::header::{self, Header};
use super::{Error, corrupt};

/// More than QEMU's encoder asks for: its clusters have 2 MiB at most.
const MAX_ZSTD_WINDOW: u64 = 4 << 20;

/// Fills `cluster` from `data`, which may go on beyond what belongs to the cluster.
pub(super) fn inflate(header: &Header, data: &[u8], cluster: &mut [u8]) -> Result<(), Error> {
    let filled = match header.incompatible & header::COMPRESSION_TYPE {
        0 => {
            let mut deflate = Decompress::new(false);
            // once the cluster is full an error is about what follows it
            drop(deflate.decompress(data, cluster, FlushDecompress::Finish));
            deflate.total_out() == cluster.len() as u64
        }
        _ => StreamingDecoder::new_with_max_window_size(data, MAX_ZSTD_WINDOW)
            .is_ok_and(|mut zstd| zstd.read_exact(cluster).is_ok()),
    };
    if filled { Ok(()) } else { corrupt("a compressed cluster can't be inflated") }
}
