//! Reference counts (qcow2 specification, "Host cluster management").

use std::ops::Range;

use super::image::Image;
use super::storage::{Source, read_exact};
use super::{Error, corrupt};

/// The counts of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Binary logarithm of the bits of a count, 0 to 6.
    order: u32,
    /// Clusters that one refcount block counts.
    pub(super) per_block: u64,
    /// Where the refcount table lies.
    pub(super) table: u64,
    /// Its entries.
    pub(super) blocks: u64,
}

impl Geometry {
    pub(super) fn of<S: Source>(image: &Image<S>) -> Geometry {
        let tables = &image.header.tables;
        let order = tables.refcount_order;
        Geometry {
            order,
            per_block: (image.cluster_size() * 8) >> order,
            table: tables.refcount_offset,
            blocks: u64::from(tables.refcount_clusters) * image.cluster_size() / 8,
        }
    }

    /// The bytes of a block, from its start on, that hold the counts `within` it.
    pub(super) fn bytes(&self, within: &Range<u64>) -> Range<u64> {
        (within.start << self.order) / 8..(within.end << self.order).div_ceil(8)
    }

    /// The first count of which the byte at `offset` of a block holds a part.
    pub(super) fn first_of(&self, offset: u64) -> u64 {
        (offset * 8) >> self.order
    }

    /// The count `index` of those that begin with the first byte of `counts`.
    pub(super) fn get(&self, counts: &[u8], index: u64) -> u64 {
        let bit = index << self.order;
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        match self.order {
            0..=2 => u64::from(counts[byte]) >> (bit % 8) & ((1 << (1 << self.order)) - 1),
            _ => {
                counts[byte..byte + (1 << (self.order - 3))].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
        }
    }

    /// Sets the count `index` of those that begin with the first byte of `counts` to 0 or 1, which fit any width.
    pub(super) fn set(&self, counts: &mut [u8], index: u64, used: bool) {
        let bit = index << self.order;
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        match self.order {
            0..=2 => {
                let width = 1_u32 << self.order;
                let mask = u8::try_from(((1_u32 << width) - 1) << (bit % 8)).expect("less than 8 bits within a byte");
                counts[byte] = counts[byte] & !mask | u8::from(used) << (bit % 8);
            }
            _ => {
                let count = &mut counts[byte..byte + (1 << (self.order - 3))];
                count.fill(0);
                count[(1 << (self.order - 3)) - 1] = u8::from(used);
            }
        }
    }
}

/// Where the refcount blocks lie, entry by entry; 0 for those that are not there.
pub(super) fn read_table<S: Source>(image: &Image<S>, entries: Range<u64>) -> Result<Vec<u64>, Error> {
    let geometry = Geometry::of(image);
    let mut bytes = vec![0; usize::try_from((entries.end - entries.start) * 8).unwrap_or(0)];
    read_exact(&image.storage, &mut bytes, geometry.table + entries.start * 8, "refcount table")?;
    let (entries, _) = bytes.as_chunks();
    let entries = entries.iter().map(|entry| u64::from_be_bytes(*entry));
    entries
        .map(|entry| match entry {
            0 => Ok(0),
            entry if entry & 0x1ff != 0 => corrupt(format!("refcount table entry {entry:#x}")),
            entry => image.check_lies_inside("refcount block", entry, image.cluster_size()).map(|()| entry),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_told_apart() {
        for order in 0..=6 {
            let geometry = Geometry { order, per_block: (512 * 8) >> order, table: 512, blocks: 64 };
            assert_eq!(geometry.bytes(&(0..geometry.per_block)), 0..512);
            let mut block = vec![0xff; 512];
            let most = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
            geometry.set(&mut block, 3, false);
            geometry.set(&mut block, 4, true);
            let all: Vec<u64> = (2..6).map(|index| geometry.get(&block, index)).collect();
            assert_eq!(all, [most, 0, 1, most], "order {order}");
        }
        // the specification's own words: bit 0 is the least significant one
        let bits = Geometry { order: 1, per_block: 2048, table: 512, blocks: 64 };
        assert_eq!((0..4).map(|index| bits.get(&[0b11_10_01_00], index)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
