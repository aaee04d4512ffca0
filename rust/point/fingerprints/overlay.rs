//! Reads several indexes as one: of those that have a cluster, the youngest counts.

use std::io::{self, Read};

use super::{Content, Index, IndexEntry};

/// Indexes read side by side, the youngest first.
#[derive(Debug)]
pub(super) struct Overlay<R> {
    pub(super) layers: Vec<IndexLayer<R>>,
}

/// One index, and its position.
#[derive(Debug)]
pub(super) struct IndexLayer<R> {
    index: Index<R>,
    /// The entry at the overlay's position, or the next one; `None` once the index has ended.
    here: Option<IndexEntry>,
    pub(super) virtual_size: u64,
}

/// What a layer has at a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// So many clusters of that content.
    Has(Content, u64),
    /// Nothing for so many clusters.
    Lacks(u64),
}

impl<R: Read> IndexLayer<R> {
    fn begin(mut index: Index<R>) -> io::Result<IndexLayer<R>> {
        let virtual_size = index.virtual_size();
        Ok(IndexLayer { here: index.next_entry()?, index, virtual_size })
    }

    /// Looks at `cluster`, which is none before the last one that was looked at.
    pub(super) fn look(&mut self, cluster: u64) -> io::Result<Look> {
        while self.here.is_some_and(|entry| entry.end() <= cluster) {
            self.here = self.index.next_entry()?;
        }
        Ok(match self.here {
            Some(entry) if entry.cluster <= cluster => Look::Has(entry.content, entry.end() - cluster),
            Some(entry) => Look::Lacks(entry.cluster - cluster),
            None => Look::Lacks(u64::MAX),
        })
    }
}

impl<R: Read> Overlay<R> {
    /// Begins with `indexes`, the youngest first.
    pub(super) fn begin(indexes: Vec<Index<R>>) -> io::Result<Overlay<R>> {
        Ok(Overlay { layers: indexes.into_iter().map(IndexLayer::begin).collect::<io::Result<_>>()? })
    }

    /// What all have together at `cluster`, which is none before the last one that was looked at.
    pub(super) fn look(&mut self, cluster: u64) -> io::Result<Look> {
        let mut most = u64::MAX;
        for layer in &mut self.layers {
            match layer.look(cluster)? {
                Look::Has(content, count) => return Ok(Look::Has(content, count.min(most))),
                Look::Lacks(count) => most = most.min(count),
            }
        }
        Ok(Look::Lacks(most))
    }

    /// True if all indexes are of disks of that size. Where a smaller one ends, it hides what is below it.
    pub(super) fn is_of(&self, virtual_size: u64) -> bool {
        self.layers.iter().all(|layer| layer.virtual_size == virtual_size)
    }

    /// Reads all indexes to their ends, so that their hashes are compared.
    pub(super) fn finish(self) -> io::Result<()> {
        self.layers.into_iter().try_for_each(|layer| layer.index.finish())
    }
}
