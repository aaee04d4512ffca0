//! An editor changes an image: it takes clusters, fills and counts them, and only then lets tables name them.
//!
//! At each moment the file reads as before, whichever of the writes since the last sync have reached the disk:
//!
//! 1. Data, new L2 tables and new refcount blocks go into clusters that nothing names; their counts become 1. Sync.
//! 2. The refcount table, or the header's pointer to a larger one, names the new blocks. Sync.
//! 3. L2 entries and L1 entries name the rest.
//!
//! A cut between leaves at worst clusters that are counted and not named: leaks, which the next survey finds.

use std::collections::BTreeMap;
use std::ops::Range;

use super::image::{COPIED, Image, OFFSET, ZERO};
use super::refcount::{Geometry, read_table};
use super::storage::{Storage, read_exact};
use super::survey::SurveyFindings;
use super::{Error, corrupt};

/// QEMU's limit.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Where the refcount table's offset and length stand in the header.
const HEADER_REFCOUNT_TABLE: u64 = 48;
const ALL: u64 = 0xffff_ffff;
/// Bytes of new L2 tables that are written at once.
const MAX_TABLES: usize = 1 << 20;

/// A part of the guest's disk that the image is to hold itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    /// Guest offset, aligned to a cluster, or to a subcluster where only some of a cluster are meant.
    pub(super) guest: u64,
    /// In bytes; the last cluster of a disk may be cut short.
    pub(super) length: u64,
    pub(super) content: FillSource,
    /// Offset of the data in the target's file, once they have a place.
    pub(super) host: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FillSource {
    /// Whole clusters that lie one after the other in a backing image's file.
    Image { index: usize, offset: u64 },
    /// Whole clusters, to be read through the chain.
    Chain,
    /// Subclusters of a cluster that the target has already, to be read through the chain.
    Subclusters,
    /// Zeroes, for which the tables have a mark.
    Zero,
}

impl Fill {
    /// The rest of it from `skip` bytes on, without a place.
    pub(super) fn after(&self, skip: u64) -> Fill {
        let content = match self.content {
            FillSource::Image { index, offset } => FillSource::Image { index, offset: offset + skip },
            same => same,
        };
        Fill { guest: self.guest + skip, length: self.length - skip, content, host: 0 }
    }
}

/// What is needed to free clusters that no table names yet.
#[derive(Debug, Default)]
struct Undo {
    /// Length of the file before.
    length: u64,
    /// Clusters whose counts may be 1 already.
    counted: Vec<Range<u64>>,
}

/// An image that is being changed.
#[derive(Debug)]
pub(super) struct Editor<T> {
    pub(super) image: Image<T>,
    /// The first cluster behind all that was ever used.
    tail: u64,
    /// From this cluster on the file read as zeroes before anything was written.
    fresh: u64,
    /// Unused clusters before the tail, the next ones last.
    free: Vec<Range<u64>>,
    /// Taken and not yet counted.
    taken: Vec<Range<u64>>,
    /// New refcount blocks that the table does not name yet.
    blocks: BTreeMap<u64, u64>,
    /// A larger refcount table that the header does not name yet.
    table: Option<Range<u64>>,
    /// None while tables are being changed.
    undo: Option<Undo>,
    /// Something was changed that `abandon` does not undo.
    changed: bool,
    /// Pieces take the place of what the tables name there; else there may be nothing.
    replaces: bool,
}

impl<T: Storage> Editor<T> {
    /// Begins to change `image`, with the findings of its survey, and frees the clusters that nothing refers to. It frees none if something
    /// unknown in the image may refer to them. `changed` tells that the image differs already from what it was.
    pub(super) fn begin(image: Image<T>, found: SurveyFindings, changed: bool) -> Result<Editor<T>, Error> {
        let cluster = image.cluster_size();
        let in_file = image.length.div_ceil(cluster);
        let known = !image.header.layout.has_unknown;
        let tail = if known { found.end } else { in_file.max(found.counted_end) };
        let mut editor = Editor {
            image,
            tail,
            fresh: if known { found.end } else { tail },
            free: Vec::new(),
            taken: Vec::new(),
            blocks: BTreeMap::new(),
            table: None,
            undo: None,
            changed,
            replaces: false,
        };
        if known {
            editor.changed |= !found.leaks.is_empty();
            editor.drop_leaks(found.leaks)?;
            if editor.image.length > tail * cluster {
                editor.changed = true;
                editor.image.storage.set_length(tail * cluster)?;
                editor.image.length = tail * cluster;
            }
        }
        editor.undo = Some(Undo { length: editor.image.length, counted: Vec::new() });
        Ok(editor)
    }

    /// Lets pieces take the place of what the tables name: the file reads, at each moment, as before or with some of the pieces, in
    /// whole clusters. What they replace is leaked.
    pub(super) fn replacing(self) -> Editor<T> {
        Editor { replaces: true, ..self }
    }

    fn drop_leaks(&mut self, leaks: Vec<Range<u64>>) -> Result<(), Error> {
        for leak in &leaks {
            self.count(leak.clone(), false)?;
        }
        self.free = leaks;
        self.free.retain_mut(|run| {
            run.end = run.end.min(self.tail);
            !run.is_empty()
        });
        self.free.reverse();
        Ok(())
    }

    /// Takes up to `most` clusters that lie one after the other.
    pub(super) fn take(&mut self, most: u64) -> Result<Range<u64>, Error> {
        let Some(last) = self.free.last_mut() else { return self.take_tail(most) };
        let run = last.start..last.end.min(last.start + most);
        last.start = run.end;
        if last.is_empty() {
            self.free.pop();
        }
        Ok(self.note(run))
    }

    fn take_tail(&mut self, clusters: u64) -> Result<Range<u64>, Error> {
        let end = self.tail.checked_add(clusters);
        let fits = end.and_then(|end| end.checked_mul(self.image.cluster_size())).is_some_and(|end| end <= OFFSET);
        let Some(end) = end.filter(|_| fits) else {
            return Err(Error::Unsupported("the file would grow beyond what a table can name".into()));
        };
        let run = self.tail..end;
        self.tail = end;
        Ok(self.note(run))
    }

    fn note(&mut self, run: Range<u64>) -> Range<u64> {
        match self.taken.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.taken.push(run.clone()),
        }
        run
    }

    /// True if the cluster reads as zeroes until it is written.
    pub(super) fn is_fresh(&self, cluster: u64) -> bool {
        cluster >= self.fresh
    }

    /// Lets the tables name the pieces, which are in order of the guest's disk and whose data have been written.
    /// The changes of the tables are durable after the next sync.
    pub(super) fn commit(&mut self, pieces: &[Fill]) -> Result<(), Error> {
        let new_tables = self.write_new_tables(pieces)?;
        self.count_taken()?;
        let old_table = self.write_refcount_table()?;
        if self.image.length < self.tail * self.image.cluster_size() {
            self.image.length = self.tail * self.image.cluster_size();
            self.image.storage.set_length(self.image.length)?;
        }
        self.image.storage.sync()?;
        (self.undo, self.changed) = (None, true);
        if !self.blocks.is_empty() || old_table.is_some() {
            self.name_blocks()?;
            self.image.storage.sync()?;
        }
        self.edit_tables(pieces)?;
        self.name_tables(&new_tables)?;
        if let Some(old) = old_table {
            self.count(old, false)?;
        }
        self.image.forget();
        self.undo = Some(Undo { length: self.image.length, counted: Vec::new() });
        Ok(())
    }

    /// True if the image differs from what it was even after `abandon`.
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Frees the clusters taken since the last commit, if no table can name them.
    pub(super) fn abandon(&mut self) -> Result<(), Error> {
        let Some(undo) = self.undo.take() else { return Ok(()) };
        self.blocks.clear();
        for run in undo.counted {
            self.count(run, false)?;
        }
        Ok(self.image.storage.set_length(undo.length)?)
    }

    /// Writes the L2 tables that are missing, and returns the L1 entries that will name them.
    fn write_new_tables(&mut self, pieces: &[Fill]) -> Result<Vec<(u64, u64)>, Error> {
        let cluster = self.image.cluster_size();
        // where the tables in the buffer go, which lie one after the other
        let (mut made, mut buffer, mut start) = (Vec::new(), Vec::new(), 0);
        for_each_table(pieces, self.image.table_covers(), |index, pieces| {
            if self.image.l2_table(index)?.is_some() {
                return Ok(());
            }
            let table = self.take(1)?.start * cluster;
            if buffer.len() >= MAX_TABLES || start + buffer.len() as u64 != table {
                self.write_tables(&buffer, start)?;
                buffer.clear();
                start = table;
            }
            let entries = buffer.len();
            buffer.resize(entries + length(cluster), 0);
            for piece in pieces {
                self.apply(piece, index, 0, &mut buffer[entries..])?;
            }
            made.push((index, table));
            Ok(())
        })?;
        self.write_tables(&buffer, start)?;
        Ok(made)
    }

    fn write_tables(&self, tables: &[u8], start: u64) -> Result<(), Error> {
        if tables.is_empty() { Ok(()) } else { Ok(self.image.storage.write_at(tables, start)?) }
    }

    /// Changes the L2 tables that were there before.
    fn edit_tables(&mut self, pieces: &[Fill]) -> Result<(), Error> {
        let (covers, cluster, size) = (self.image.table_covers(), self.image.cluster_size(), self.image.entry_size());
        let mut buffer = Vec::new();
        for_each_table(pieces, covers, |index, pieces| {
            let Some(table) = self.image.l2_table(index)? else { return Ok(()) };
            let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
            let first = first.guest.saturating_sub(index * covers) / cluster;
            let end = (last.guest + last.length - index * covers).div_ceil(cluster).min(covers / cluster);
            buffer.clear();
            buffer.resize(length((end - first) * size), 0);
            read_exact(&self.image.storage, &mut buffer, table + first * size, "L2 table")?;
            for piece in pieces {
                self.apply(piece, index, first, &mut buffer)?;
            }
            Ok(self.image.storage.write_at(&buffer, table + first * size)?)
        })
    }

    /// Enters `piece` into the L2 table `index`, whose entries from `first` on are in `entries`.
    fn apply(&self, piece: &Fill, index: u64, first: u64, entries: &mut [u8]) -> Result<(), Error> {
        let (covers, cluster, size) = (self.image.table_covers(), self.image.cluster_size(), self.image.entry_size());
        let start = piece.guest.max(index * covers);
        let end = (piece.guest + piece.length).min((index + 1) * covers);
        let mut at = start;
        while at < end {
            let next = ((at / cluster + 1) * cluster).min(end);
            let place = length(((at - index * covers) / cluster - first) * size);
            let entry = &mut entries[place..place + length(size)];
            let (descriptor, subclusters) = (be64(entry), if size == 16 { be64(&entry[8..]) } else { 0 });
            let mask = self.subclusters(at, next);
            let is_free = descriptor == 0 || self.replaces && size == 8;
            let (descriptor, subclusters) = match piece.content {
                FillSource::Image { .. } | FillSource::Chain if is_free => {
                    let host = piece.host + (at - piece.guest);
                    (host | COPIED, if size == 16 { ALL } else { 0 })
                }
                FillSource::Zero if size == 8 && is_free && self.image.header.version > 2 => (ZERO, 0),
                FillSource::Zero if size == 16 && (subclusters | subclusters >> 32) & mask == 0 => {
                    (descriptor, subclusters | mask << 32)
                }
                FillSource::Subclusters
                    if size == 16 && descriptor & OFFSET != 0 && (subclusters | subclusters >> 32) & mask == 0 =>
                {
                    (descriptor, subclusters | mask)
                }
                _ => return corrupt(format!("L2 entry {descriptor:#x} {subclusters:#x} changed meanwhile")),
            };
            entry[..8].copy_from_slice(&descriptor.to_be_bytes());
            if size == 16 {
                entry[8..].copy_from_slice(&subclusters.to_be_bytes());
            }
            at = next;
        }
        Ok(())
    }

    /// The bits of the subclusters that lie between two guest offsets of one cluster; what only reaches the disk's
    /// end counts whole.
    fn subclusters(&self, start: u64, end: u64) -> u64 {
        let (cluster, size) = (self.image.cluster_size(), self.image.cluster_size() / 32);
        let first = start % cluster / size;
        let last = (end - (start - start % cluster)).div_ceil(size);
        ((1 << last) - 1) & !((1 << first) - 1)
    }

    fn name_tables(&mut self, made: &[(u64, u64)]) -> Result<(), Error> {
        let l1 = self.image.header.tables.l1_offset;
        for run in made.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
            let entries: Vec<u8> = run.iter().flat_map(|(_, table)| (table | COPIED).to_be_bytes()).collect();
            self.image.storage.write_at(&entries, l1 + run[0].0 * 8)?;
        }
        Ok(())
    }

    /// Counts what was taken, the new refcount blocks included.
    fn count_taken(&mut self) -> Result<(), Error> {
        while !self.taken.is_empty() {
            for run in std::mem::take(&mut self.taken) {
                if let Some(undo) = &mut self.undo {
                    undo.counted.push(run.clone());
                }
                self.count(run, true)?;
            }
        }
        Ok(())
    }

    /// Sets the counts of clusters to 1 or 0. Where a refcount block is missing, one is made for 1.
    fn count(&mut self, clusters: Range<u64>, used: bool) -> Result<(), Error> {
        let geometry = Geometry::of(&self.image);
        let mut at = clusters.start;
        while at < clusters.end {
            let index = at / geometry.per_block;
            let end = ((index + 1) * geometry.per_block).min(clusters.end);
            let block = match self.block(index)? {
                0 if used => self.make_block(index)?,
                block => block,
            };
            if block != 0 {
                let first = at % geometry.per_block;
                self.set_counts(&geometry, block, first..first + (end - at), used)?;
            }
            at = end;
        }
        Ok(())
    }

    fn set_counts(&self, geometry: &Geometry, block: u64, counts: Range<u64>, used: bool) -> Result<(), Error> {
        let bytes = geometry.bytes(&counts);
        let mut buffer = vec![0; length(bytes.end - bytes.start)];
        read_exact(&self.image.storage, &mut buffer, block + bytes.start, "refcount block")?;
        // the first byte may hold counts before ours
        let skipped = counts.start - geometry.first_of(bytes.start);
        for count in skipped..skipped + (counts.end - counts.start) {
            geometry.set(&mut buffer, count, used);
        }
        Ok(self.image.storage.write_at(&buffer, block + bytes.start)?)
    }

    /// Offset of the refcount block `index`, 0 if there is none.
    fn block(&self, index: u64) -> Result<u64, Error> {
        if let Some(block) = self.blocks.get(&index) {
            return Ok(*block);
        }
        if index >= Geometry::of(&self.image).blocks {
            return Ok(0);
        }
        Ok(read_table(&self.image, index..index + 1)?[0])
    }

    fn make_block(&mut self, index: u64) -> Result<u64, Error> {
        let cluster = self.image.cluster_size();
        if index >= Geometry::of(&self.image).blocks && self.table.is_none() {
            self.table = Some(self.take_larger_table()?);
        }
        if self.table.as_ref().is_some_and(|table| index >= (table.end - table.start) * cluster / 8) {
            return Err(Error::Unsupported("the refcount table can't grow that far".into()));
        }
        let block = self.take(1)?.start * cluster;
        self.image.storage.write_at(&vec![0; length(cluster)], block)?;
        self.blocks.insert(index, block);
        Ok(block)
    }

    /// Takes clusters for a refcount table that can count all taken clusters, its own, and the blocks to come, with a quarter to spare.
    fn take_larger_table(&mut self) -> Result<Range<u64>, Error> {
        let (cluster, geometry) = (self.image.cluster_size(), Geometry::of(&self.image));
        let blocks = self.tail.div_ceil(geometry.per_block);
        let clusters = self.tail + blocks + blocks * 8 / cluster + 16;
        let entries = (clusters + clusters / 4).div_ceil(geometry.per_block).max(geometry.blocks + 1);
        let bytes = (entries * 8).next_multiple_of(cluster);
        if bytes > MAX_REFCOUNT_TABLE {
            return Err(Error::Unsupported("the refcount table would be larger than 8 MiB".into()));
        }
        self.take_tail(bytes / cluster)
    }

    /// Writes the larger refcount table, if one is needed, and returns the clusters of the former one.
    fn write_refcount_table(&mut self) -> Result<Option<Range<u64>>, Error> {
        let Some(table) = &self.table else { return Ok(None) };
        let (cluster, geometry) = (self.image.cluster_size(), Geometry::of(&self.image));
        let mut entries = read_table(&self.image, 0..geometry.blocks)?;
        entries.resize(length((table.end - table.start) * cluster / 8), 0);
        for (index, block) in &self.blocks {
            entries[length(*index)] = *block;
        }
        let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_be_bytes).collect();
        self.image.storage.write_at(&bytes, table.start * cluster)?;
        let first = geometry.table / cluster;
        Ok(Some(first..first + u64::from(self.image.header.tables.refcount_clusters)))
    }

    /// Makes the new refcount blocks part of the image.
    fn name_blocks(&mut self) -> Result<(), Error> {
        let blocks: Vec<(u64, u64)> = std::mem::take(&mut self.blocks).into_iter().collect();
        let Some(table) = self.table.take() else {
            let start = self.image.header.tables.refcount_offset;
            for run in blocks.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
                let entries: Vec<u8> = run.iter().flat_map(|(_, block)| block.to_be_bytes()).collect();
                self.image.storage.write_at(&entries, start + run[0].0 * 8)?;
            }
            return Ok(());
        };
        let offset = table.start * self.image.cluster_size();
        let Ok(clusters) = u32::try_from(table.end - table.start) else {
            return corrupt("the refcount table has too many clusters");
        };
        // one write for both fields, which lie in one sector
        let fields = [&offset.to_be_bytes()[..], &clusters.to_be_bytes()].concat();
        self.image.storage.write_at(&fields, HEADER_REFCOUNT_TABLE)?;
        (self.image.header.tables.refcount_offset, self.image.header.tables.refcount_clusters) = (offset, clusters);
        Ok(())
    }
}

/// Calls `each` with the index of each L2 table and the pieces that concern it.
fn for_each_table(
    pieces: &[Fill],
    covers: u64,
    mut each: impl FnMut(u64, &[Fill]) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut first, mut index) = (0, 0);
    while let Some(piece) = pieces.get(first) {
        index = index.max(piece.guest / covers);
        let table_end = (index + 1) * covers;
        let concerned = pieces[first..].iter().take_while(|piece| piece.guest < table_end).count();
        let of_table = &pieces[first..first + concerned];
        each(index, of_table)?;
        // the last piece may go on in the next table
        first += of_table.iter().take_while(|piece| piece.guest + piece.length <= table_end).count();
        index += 1;
    }
    Ok(())
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// A length that is bounded by a cluster or a table, as the index type.
fn length(value: u64) -> usize {
    usize::try_from(value).expect("tables and clusters fit into memory")
}
