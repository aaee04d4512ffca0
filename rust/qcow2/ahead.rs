//! What a flattening deals with next, looked up early, so that the kernel reads it meanwhile: pieces in the guest's
//! order lie anywhere in the images, and one after the other each would wait for the disk.

use std::collections::VecDeque;
use std::ops::Range;

use super::absorb::Failure;
use super::chain::{Chain, Provided};
use super::image::What;

/// Bytes that the kernel is asked to read before they are needed.
const READ_AHEAD: u64 = 8 << 20;
/// Of one piece it is asked for no more: it finds out by itself what follows.
const MOST_OF_ONE: u64 = 512 << 10;
/// Pieces that are looked up, 80 KiB of memory.
const MOST_PIECES: usize = 2048;

/// The pieces from the position on.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pieces: VecDeque<Provided>,
    /// Up to this guest offset they are looked up.
    end: u64,
    /// What there is to read early of all of them, in bytes.
    bytes: u64,
}

impl Ahead {
    /// The piece at the position, none at `disk`, the guest's end. `read_soon` is told what will be read of which image.
    pub(super) fn next(
        &mut self,
        chain: &mut Chain,
        disk: u64,
        mut read_soon: impl FnMut(&Chain, usize, Range<u64>),
    ) -> Result<Option<Provided>, Failure> {
        while self.end < disk && !self.is_full() {
            let all = 0..chain.images.len();
            let piece = chain.provider(all, self.end, disk - self.end)?;
            if let Some(range) = early(&piece) {
                read_soon(chain, piece.image, range);
            }
            self.push(piece);
        }
        Ok(self.pieces.front().copied())
    }

    fn is_full(&self) -> bool {
        self.bytes >= READ_AHEAD || self.pieces.len() >= MOST_PIECES
    }

    fn push(&mut self, piece: Provided) {
        self.end += piece.extent.length;
        self.bytes += early_bytes(&piece);
        self.pieces.push_back(piece);
    }

    /// So many bytes of the first piece are dealt with.
    pub(super) fn advance(&mut self, bytes: u64) {
        let Some(first) = self.pieces.front_mut() else { return };
        self.bytes -= early_bytes(first);
        if bytes < first.extent.length {
            first.extent = first.extent.after(bytes);
            self.bytes += early_bytes(first);
        } else {
            self.pieces.pop_front();
        }
    }
}

/// Where in its image's file the first bytes of the piece are.
fn early(piece: &Provided) -> Option<Range<u64>> {
    let (offset, length) = match piece.extent.what {
        What::Unallocated | What::Zero => return None,
        What::Data(offset) => (offset, piece.extent.length),
        What::Compressed(compressed) => (compressed.offset, compressed.length),
    };
    Some(offset..offset + length.min(MOST_OF_ONE))
}

fn early_bytes(piece: &Provided) -> u64 {
    early(piece).map_or(0, |range| range.end - range.start)
}

#[cfg(test)]
mod tests {
    use super::super::image::{Compressed, Extent};
    use super::*;

    const MIB: u64 = 1 << 20;

    fn piece(length: u64, what: What) -> Provided {
        Provided { extent: Extent { length, what }, image: 0 }
    }

    #[test]
    fn the_first_part_of_what_lies_in_a_file_is_read_early() {
        let compressed = What::Compressed(Compressed { offset: 700, length: 1536 });
        for (piece, expected) in [
            (piece(MIB, What::Unallocated), None),
            (piece(MIB, What::Zero), None),
            (piece(65536, What::Data(MIB)), Some(MIB..MIB + 65536)),
            (piece(1 << 30, What::Data(0)), Some(0..MOST_OF_ONE)),
            (piece(65536, compressed), Some(700..2236)),
        ] {
            assert_eq!(early(&piece), expected, "{piece:?}");
        }
    }

    #[test]
    fn no_more_is_looked_up_than_memory_and_the_page_cache_should_hold() {
        let many = |piece: Provided| {
            let mut ahead = Ahead::default();
            while !ahead.is_full() {
                ahead.push(piece);
            }
            (ahead.pieces.len() as u64, ahead.bytes)
        };
        assert_eq!(many(piece(65536, What::Data(0))), (READ_AHEAD / 65536, READ_AHEAD));
        assert_eq!(many(piece(1 << 40, What::Data(0))), (READ_AHEAD / MOST_OF_ONE, READ_AHEAD));
        assert_eq!(many(piece(65536, What::Zero)), (MOST_PIECES as u64, 0));
    }

    #[test]
    fn a_piece_is_dealt_with_part_by_part() {
        let mut ahead = Ahead::default();
        ahead.push(piece(MIB, What::Data(5 * MIB)));
        ahead.push(piece(MIB, What::Zero));
        ahead.advance(MIB - 4096);
        assert_eq!(ahead.pieces.front(), Some(&piece(4096, What::Data(6 * MIB - 4096))));
        assert_eq!(ahead.bytes, 4096);
        ahead.advance(4096);
        assert_eq!(ahead.pieces.front(), Some(&piece(MIB, What::Zero)));
        ahead.advance(MIB);
        assert_eq!((ahead.pieces.len(), ahead.bytes, ahead.end), (0, 0, 2 * MIB));
    }
}
