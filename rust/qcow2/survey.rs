//! Counting who refers to each cluster of an image, and comparing it with the reference counts: what is damaged is
//! refused, what nobody refers to may be used.

use std::ops::Range;
use std::time::Instant;

use super::image::{Image, OFFSET};
use super::refcount::{Geometry, read_table};
use super::storage::{Source, read_exact};
use super::{Error, corrupt};

/// Clusters that are counted in one pass over the tables: 20 MiB of memory, 1.25 TiB of clusters of 64 KiB.
const WINDOW: u64 = 20 << 20;
/// More passes than any real image needs.
const MAX_WINDOWS: u64 = 1024;
/// Runs of unused clusters that are remembered, 4 MiB; the rest is for the next time.
const MAX_LEAKS: usize = 256 << 10;
/// The cluster holds a table; nothing else may be in it.
const METADATA: u8 = 1 << 7;
const MOST: u8 = METADATA - 1;
/// Entries that are read at once.
const CHUNK: usize = 8 << 10;

/// The state of a count that is made piece by piece.
#[derive(Debug)]
pub(super) struct Survey {
    geometry: Geometry,
    cluster: u64,
    /// Clusters of the file, the last perhaps in part.
    clusters: u64,
    /// Clusters that the file has or the refcount blocks cover.
    covered: u64,
    window: Range<u64>,
    counts: Vec<u8>,
    /// The next L1 entry; none before the window was begun.
    l1: Option<u64>,
    tables: u64,
    found: Found,
}

/// What a survey has found in an image that is not damaged.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Behind the last cluster that something refers to.
    pub(super) end: u64,
    /// Behind the last cluster with a reference count.
    pub(super) counted_end: u64,
    /// Clusters that are counted as used and that nothing refers to, in order.
    pub(super) leaks: Vec<Range<u64>>,
    /// Clusters with a higher count than references, those of `leaks` included.
    pub(super) leaked: u64,
}

impl Survey {
    pub(super) fn begin<S: Source>(image: &Image<S>) -> Result<Survey, Error> {
        if image.header.tables.snapshots > 0 {
            return Err(Error::Unsupported("it has internal snapshots".into()));
        }
        let (cluster, geometry) = (image.cluster_size(), Geometry::of(image));
        let clusters = image.length.div_ceil(cluster);
        let mut survey = Survey {
            geometry,
            cluster,
            clusters,
            covered: clusters,
            window: 0..0,
            counts: Vec::new(),
            l1: None,
            tables: 0,
            found: Found::default(),
        };
        survey.each_block(image, |survey, index, _| {
            survey.covered = survey.covered.max((index + 1) * geometry.per_block);
            Ok(())
        })?;
        if survey.covered.div_ceil(WINDOW) > MAX_WINDOWS {
            return Err(Error::Unsupported(format!("{} clusters", survey.covered)));
        }
        Ok(survey)
    }

    /// Goes on until that time; the result once all is counted.
    pub(super) fn advance<S: Source>(&mut self, image: &mut Image<S>, until: Instant) -> Result<Option<Found>, Error> {
        loop {
            let next = match self.l1 {
                None if self.window.end >= self.covered => return Ok(Some(std::mem::take(&mut self.found))),
                None => self.begin_window(image).map(|()| 0)?,
                Some(next) => next,
            };
            let entries = u64::from(image.header.tables.l1_entries);
            let end = (next + 1024).min(entries);
            for index in next..end {
                self.count_table(image, index)?;
            }
            self.l1 = Some(end);
            if end == entries {
                self.compare(image)?;
                self.l1 = None;
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// Counts all but what the L2 tables name.
    fn begin_window<S: Source>(&mut self, image: &Image<S>) -> Result<(), Error> {
        self.window = self.window.end..(self.window.end + WINDOW).min(self.covered);
        self.counts.clear();
        self.counts.resize(usize::try_from(self.window.end - self.window.start).unwrap_or(0), 0);
        self.tables = 0;
        let tables = &image.header.tables;
        self.metadata("header", 0, self.cluster)?;
        self.metadata("L1 table", tables.l1_offset, u64::from(tables.l1_entries) * 8)?;
        self.metadata("refcount table", tables.refcount_offset, u64::from(tables.refcount_clusters) * self.cluster)?;
        self.each_block(image, |survey, _, block| survey.metadata("refcount block", block, survey.cluster))?;
        self.count_bitmaps(image)
    }

    fn each_block<S: Source>(
        &mut self,
        image: &Image<S>,
        mut each: impl FnMut(&mut Survey, u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for start in (0..self.geometry.blocks).step_by(CHUNK) {
            let blocks = read_table(image, start..(start + CHUNK as u64).min(self.geometry.blocks))?;
            for (index, block) in (start..).zip(blocks).filter(|(_, block)| *block != 0) {
                each(self, index, block)?;
            }
        }
        Ok(())
    }

    fn count_bitmaps<S: Source>(&mut self, image: &Image<S>) -> Result<(), Error> {
        // stale ones keep their clusters too, but nobody follows them any more
        let Some(directory) = image.header.bitmaps.as_ref().filter(|_| image.header.bitmaps_are_kept()) else {
            return Ok(());
        };
        let span = directory.span();
        self.metadata("bitmap directory", span.start, span.end - span.start)?;
        let mut bytes = 0_u64;
        directory.walk(&image.storage, self.cluster, |_, table| {
            bytes = bytes.saturating_add(table.end - table.start);
            if bytes > image.length {
                return corrupt("the bitmaps' tables are larger than the file");
            }
            if table.is_empty() {
                return Ok(());
            }
            image.check_lies_inside("bitmap table", table.start, table.end - table.start)?;
            self.metadata("bitmap table", table.start, table.end - table.start)?;
            self.count_bitmap(image, table)
        })
    }

    fn count_bitmap<S: Source>(&mut self, image: &Image<S>, table: Range<u64>) -> Result<(), Error> {
        let mut buffer = Vec::new();
        let mut at = table.start;
        while at < table.end {
            buffer.resize(usize::try_from((table.end - at).min(CHUNK as u64 * 8)).unwrap_or(0), 0);
            read_exact(&image.storage, &mut buffer, at, "bitmap table")?;
            for entry in buffer.as_chunks().0 {
                let entry = u64::from_be_bytes(*entry);
                if entry & !(OFFSET | 1) != 0 {
                    return corrupt(format!("bitmap table entry {entry:#x}"));
                }
                if entry & OFFSET != 0 {
                    self.metadata("bitmap", entry & OFFSET, self.cluster)?;
                }
            }
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn count_table<S: Source>(&mut self, image: &mut Image<S>, index: u64) -> Result<(), Error> {
        let Some(table) = image.l2_table(index)? else { return Ok(()) };
        // each has a cluster of its own, so that tables can't be named again and again
        self.tables += 1;
        if self.tables > self.clusters {
            return corrupt("it names more L2 tables than it has clusters");
        }
        self.metadata("L2 table", table, self.cluster)?;
        for entry in 0..self.cluster / image.entry_size() {
            let entry = image.entry(table, entry)?;
            if entry.is_compressed() {
                let place = image.compressed(entry);
                let end = (place.offset + place.length).min(image.length.next_multiple_of(self.cluster));
                self.data(place.offset / self.cluster..end.div_ceil(self.cluster))?;
            } else if entry.host() != 0 {
                let first = entry.host() / self.cluster;
                self.data(first..first + 1)?;
            }
        }
        Ok(())
    }

    /// The part of the window that the clusters fall into.
    fn counts(&mut self, clusters: &Range<u64>) -> &mut [u8] {
        let within = |cluster: u64| {
            let clipped = cluster.clamp(self.window.start, self.window.end) - self.window.start;
            usize::try_from(clipped).unwrap_or(usize::MAX)
        };
        let (start, end) = (within(clusters.start), within(clusters.end));
        &mut self.counts[start..end]
    }

    fn metadata(&mut self, what: &str, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset.saturating_add(length).div_ceil(self.cluster);
        if !offset.is_multiple_of(self.cluster) || end > self.clusters {
            return corrupt(format!("{what} of {length} bytes at {offset}"));
        }
        for count in self.counts(&(offset / self.cluster..end)) {
            if *count != 0 {
                return corrupt(format!("the {what} at {offset} overlaps with something else"));
            }
            *count = METADATA | 1;
        }
        Ok(())
    }

    fn data(&mut self, clusters: Range<u64>) -> Result<(), Error> {
        let first = clusters.start;
        for count in self.counts(&clusters) {
            if *count & METADATA != 0 {
                return corrupt(format!("data in cluster {first} overlap with a table"));
            }
            *count = (*count + 1).min(MOST);
        }
        Ok(())
    }

    /// Compares the window with the reference counts.
    fn compare<S: Source>(&mut self, image: &Image<S>) -> Result<(), Error> {
        let per_block = self.geometry.per_block;
        let blocks = self.window.start / per_block..self.window.end.div_ceil(per_block);
        for start in blocks.clone().step_by(CHUNK) {
            let end = (start + CHUNK as u64).min(blocks.end);
            let most = self.geometry.blocks;
            let table = read_table(image, start.min(most)..end.min(most))?;
            for index in start..end {
                let block = usize::try_from(index - start).ok().and_then(|index| table.get(index));
                let clusters =
                    (index * per_block).max(self.window.start)..((index + 1) * per_block).min(self.window.end);
                self.compare_block(image, block.copied().unwrap_or(0), clusters)?;
            }
        }
        Ok(())
    }

    fn compare_block<S: Source>(&mut self, image: &Image<S>, block: u64, clusters: Range<u64>) -> Result<(), Error> {
        let within = clusters.start % self.geometry.per_block;
        let mut buffer = Vec::new();
        let mut at = clusters.start;
        while at < clusters.end {
            // a multiple of 8 counts, so that each part begins with a byte
            let part = at..(at + CHUNK as u64 - at % 8).min(clusters.end);
            if block != 0 {
                let first = within + (part.start - clusters.start);
                let bytes = self.geometry.bytes(&(first..first + (part.end - part.start)));
                buffer.resize(usize::try_from(bytes.end - bytes.start).unwrap_or(0), 0);
                read_exact(&image.storage, &mut buffer, block + bytes.start, "refcount block")?;
            }
            for cluster in part.clone() {
                let counted = if block == 0 { 0 } else { self.geometry.get(&buffer, cluster - part.start) };
                self.compare_cluster(cluster, counted)?;
            }
            at = part.end;
        }
        Ok(())
    }

    fn compare_cluster(&mut self, cluster: u64, counted: u64) -> Result<(), Error> {
        let index = usize::try_from(cluster - self.window.start).unwrap_or(usize::MAX);
        let references = u64::from(self.counts[index] & MOST);
        if references > 0 {
            self.found.end = cluster + 1;
        }
        if counted > 0 {
            self.found.counted_end = cluster + 1;
        }
        if references > counted {
            return corrupt(format!("cluster {cluster} has {references} references and a count of {counted}"));
        }
        if counted > references && references < u64::from(MOST) {
            self.found.leaked += 1;
            if references == 0 {
                self.found.leak(cluster);
            }
        }
        Ok(())
    }
}

impl Found {
    fn leak(&mut self, cluster: u64) {
        let known = self.leaks.len();
        match self.leaks.last_mut() {
            Some(last) if last.end == cluster => last.end += 1,
            _ if known < MAX_LEAKS => self.leaks.push(cluster..cluster + 1),
            _ => {}
        }
    }
}
