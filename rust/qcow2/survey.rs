//! A survey counts the references to each cluster of an image, and compares them with the reference counts. Damage is refused, or listed
//! for a check. Clusters that nothing refers to may be used.

use std::collections::HashMap;
use std::ops::Range;

use super::image::{COPIED, Image, OFFSET};
use super::refcount::{Geometry, read_table};
use super::storage::{Source, read_exact};
use super::{Error, Pulse, corrupt};

/// Clusters that are counted in one pass over the tables: 20 MiB of memory, 1.25 TiB of clusters of 64 KiB.
const WINDOW: u64 = 20 << 20;
/// More passes than any real image needs.
const MAX_WINDOWS: u64 = 1024;
/// Runs of unused clusters that are remembered, in 4 MiB; the next survey finds the rest.
const MAX_LEAKS: usize = 256 << 10;
/// The cluster holds a table; nothing else may be in it.
const METADATA: u8 = 1 << 7;
/// An entry says that it is the only one that refers to the cluster.
const SOLE: u8 = 1 << 6;
/// An entry says that it is not.
const SHARED: u8 = 1 << 5;
/// References that are counted beside these marks.
const MOST: u8 = SHARED - 1;
/// Clusters of which more references are counted: many small compressed clusters may lie in one.
const MAX_POPULAR: usize = 256 << 10;
/// Places at which a listing of damage ends.
const MAX_DAMAGE: u64 = 10_000;
/// Places that are described.
const MAX_REASONS: usize = 8;
/// QEMU's limit for the clusters of one bitmap, in bytes.
const MAX_BITMAP: u64 = 512 << 20;
/// More than the tables of all bitmaps of any real image have, in bytes: they are read at one go, in each window.
const MAX_BITMAP_TABLES: u64 = 16 << 20;
/// Entries that are read at once.
const CHUNK: usize = 8 << 10;
/// L2 tables that are read between two calls of the pulse.
const TABLES_A_PULSE: u64 = 16;
/// L2 tables that are begun to be read at once, because each has to be waited for.
const TABLES_AHEAD: u64 = 64;

/// A count of all references to an image's clusters, window by window.
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
    /// References beyond `MOST`, by cluster.
    popular: HashMap<u64, u64>,
    /// The list of damage; `None` if damage is refused.
    damage: Option<Damage>,
    tables: u64,
    found: SurveyFindings,
}

/// What a survey has found in an image that is not damaged.
#[derive(Debug, Default)]
pub(super) struct SurveyFindings {
    /// Behind the last cluster that something refers to.
    pub(super) end: u64,
    /// Behind the last cluster with a reference count.
    pub(super) counted_end: u64,
    /// Clusters that are counted as used and that nothing refers to, in order.
    pub(super) leaks: Vec<Range<u64>>,
    /// Clusters of the file with a higher count than references.
    pub(super) leaked: u64,
}

impl SurveyFindings {
    /// Clusters that something refers to.
    pub(super) fn clusters(&self) -> u64 {
        self.end.saturating_sub(self.leaked)
    }
}

/// Where an image is damaged.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// The number of places.
    pub(super) places: u64,
    /// The first of them.
    pub(super) reasons: Vec<String>,
}

impl Damage {
    fn add(&mut self, reason: String) -> Result<(), Error> {
        self.places += 1;
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(reason);
        }
        if self.places >= MAX_DAMAGE { corrupt(format!("damaged in {MAX_DAMAGE} places and more")) } else { Ok(()) }
    }
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
            popular: HashMap::new(),
            damage: None,
            tables: 0,
            found: SurveyFindings::default(),
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

    /// From now on the survey lists damage, and also compares what entries say about shared clusters.
    pub(super) fn list_damage(&mut self) {
        self.damage = Some(Damage::default());
    }

    /// Takes the list of damage so far.
    pub(super) fn damage(&mut self) -> Damage {
        self.damage.take().unwrap_or_default()
    }

    /// Lists damage instead of failing, if the survey lists it.
    fn tolerate(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match (result, &mut self.damage) {
            (Err(Error::Corrupt(reason)), Some(damage)) => damage.add(reason),
            (result, _) => result,
        }
    }

    /// As `tolerate`, for tables that are read in each window and whose damage is listed once.
    fn tolerate_read<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Corrupt(_)) if self.damage.is_some() && self.window.start > 0 => Ok(None),
            Err(error) => self.tolerate(Err(error)).map(|()| None),
        }
    }

    /// Counts all references, window by window. The pulse gets the number of L1 entries that have been followed, and how many that will be
    /// in all windows together.
    pub(super) fn run<S: Source>(
        &mut self,
        image: &mut Image<S>,
        pulse: &mut Pulse<'_>,
    ) -> Result<SurveyFindings, Error> {
        let entries = u64::from(image.header.tables.l1_entries);
        let all = self.covered.div_ceil(WINDOW) * entries;
        let mut before = 0;
        while self.window.end < self.covered {
            pulse(before, all)?;
            self.begin_window(image)?;
            for index in 0..entries {
                if index.is_multiple_of(TABLES_AHEAD) {
                    image.begin_reading_l2(index..entries.min(index + TABLES_AHEAD));
                }
                if index.is_multiple_of(TABLES_A_PULSE) {
                    pulse(before + index, all)?;
                }
                self.count_table(image, index)?;
            }
            before += entries;
            pulse(before, all)?;
            self.compare(image)?;
        }
        Ok(std::mem::take(&mut self.found))
    }

    /// Begins the next window, with the references of all tables but the L2 tables.
    fn begin_window<S: Source>(&mut self, image: &Image<S>) -> Result<(), Error> {
        self.window = self.window.end..(self.window.end + WINDOW).min(self.covered);
        self.popular.clear();
        self.counts.clear();
        self.counts.resize(usize::try_from(self.window.end - self.window.start).unwrap_or(0), 0);
        self.tables = 0;
        let tables = &image.header.tables;
        self.metadata("header", 0, self.cluster)?;
        self.metadata("L1 table", tables.l1_offset, u64::from(tables.l1_entries) * 8)?;
        self.metadata("refcount table", tables.refcount_offset, u64::from(tables.refcount_clusters) * self.cluster)?;
        self.each_block(image, |survey, _, block| survey.metadata("refcount block", block, survey.cluster))?;
        let bitmaps = self.count_bitmaps(image);
        self.tolerate_read(bitmaps).map(drop)
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
        // stale bitmaps keep their clusters too, but nothing follows them any more
        let Some(directory) = image.header.bitmaps.as_ref().filter(|_| image.header.bitmaps_are_kept()) else {
            return Ok(());
        };
        let span = directory.span();
        self.metadata("bitmap directory", span.start, span.end - span.start)?;
        let mut bytes = 0_u64;
        directory.walk(&image.storage, self.cluster, |bitmap, table| {
            let length = table.end - table.start;
            bytes = bytes.saturating_add(length);
            if bytes > image.length {
                return corrupt("the bitmaps' tables are larger than the file");
            }
            image.check_lies_inside("bitmap table", table.start, length)?;
            // a bitmap in use is not looked at, and may have another size; QEMU counts whole sectors only
            let bits = (image.virtual_size() / 512 * 512).div_ceil(1 << bitmap.granularity_bits);
            let needed = (bits.div_ceil(64) * 8).div_ceil(self.cluster) * 8;
            let fits = bitmap.in_use || length == needed;
            let is_long = length / 8 * self.cluster > MAX_BITMAP;
            if table.is_empty() || is_long || !fits || !(9..=31).contains(&bitmap.granularity_bits) {
                return corrupt(format!("bitmap '{}' has a table of {length} bytes", bitmap.name));
            }
            if bytes > MAX_BITMAP_TABLES {
                return Err(Error::Unsupported(format!("its bitmaps' tables have {bytes} bytes and more")));
            }
            self.metadata("bitmap table", table.start, length)?;
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
                let valid = if entry & OFFSET == 0 { entry <= 1 } else { entry & !OFFSET == 0 };
                let sound = if valid { Ok(()) } else { corrupt(format!("bitmap table entry {entry:#x}")) };
                if self.tolerate_read(sound)?.is_some() && entry & OFFSET != 0 {
                    self.metadata("bitmap", entry & OFFSET, self.cluster)?;
                }
            }
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn count_table<S: Source>(&mut self, image: &mut Image<S>, index: u64) -> Result<(), Error> {
        let Some(l1) = self.tolerate_read(image.l1_entry(index))? else { return Ok(()) };
        let table = l1 & OFFSET;
        if table == 0 {
            return Ok(());
        }
        // each table has a cluster of its own; more tables than clusters means that they are named again and again
        self.tables += 1;
        if self.tables > self.clusters {
            return corrupt("it names more L2 tables than it has clusters");
        }
        self.metadata("L2 table", table, self.cluster)?;
        self.mark(table / self.cluster, l1);
        for entry in 0..self.cluster / image.entry_size() {
            let Some(entry) = self.tolerate_read(image.entry(table, entry))? else { continue };
            if entry.is_compressed() {
                let place = image.compressed(entry);
                let end = (place.offset + place.length).min(image.length.next_multiple_of(self.cluster));
                self.data(place.offset / self.cluster..end.div_ceil(self.cluster))?;
            } else if entry.host() != 0 {
                let first = entry.host() / self.cluster;
                self.data(first..first + 1)?;
                self.mark(first, entry.descriptor);
            }
        }
        Ok(())
    }

    /// The part of the clusters that falls into the window, and where it lies there.
    fn inside(&self, clusters: &Range<u64>) -> impl Iterator<Item = (u64, usize)> + use<> {
        let start = self.window.start;
        let within = |cluster: u64| cluster.clamp(self.window.start, self.window.end);
        (within(clusters.start)..within(clusters.end))
            .map(move |cluster| (cluster, usize::try_from(cluster - start).unwrap_or(usize::MAX)))
    }

    fn metadata(&mut self, what: &str, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset.saturating_add(length).div_ceil(self.cluster);
        if !offset.is_multiple_of(self.cluster) || end > self.clusters {
            return self.tolerate_read::<()>(corrupt(format!("{what} of {length} bytes at {offset}"))).map(drop);
        }
        for (cluster, index) in self.inside(&(offset / self.cluster..end)) {
            if self.counts[index] != 0 {
                self.tolerate(corrupt(format!("the {what} at {offset} overlaps with something else")))?;
            }
            self.count(cluster, index);
            self.counts[index] |= METADATA;
        }
        Ok(())
    }

    fn data(&mut self, clusters: Range<u64>) -> Result<(), Error> {
        for (cluster, index) in self.inside(&clusters) {
            if self.counts[index] & METADATA != 0 {
                self.tolerate(corrupt(format!("data in cluster {cluster} overlap with a table")))?;
            }
            self.count(cluster, index);
        }
        Ok(())
    }

    /// Counts one more reference.
    fn count(&mut self, cluster: u64, index: usize) {
        if self.counts[index] & MOST < MOST {
            self.counts[index] += 1;
        } else if self.popular.len() < MAX_POPULAR || self.popular.contains_key(&cluster) {
            *self.popular.entry(cluster).or_default() += 1;
        }
    }

    /// Remembers what the entry says of who else refers to the cluster.
    fn mark(&mut self, cluster: u64, entry: u64) {
        for (_, index) in self.inside(&(cluster..cluster + 1)) {
            self.counts[index] |= if entry & COPIED != 0 { SOLE } else { SHARED };
        }
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
        let (marks, few) = (self.counts[index], u64::from(self.counts[index] & MOST));
        let popular = self.popular.get(&cluster).copied();
        let references = few + popular.unwrap_or(0);
        if references > 0 {
            self.found.end = cluster + 1;
        }
        if counted > 0 {
            self.found.counted_end = cluster + 1;
        }
        if references > counted {
            let cause = format!("cluster {cluster} has {references} references and a count of {counted}");
            self.tolerate(corrupt(cause))?;
        }
        // beyond these limits references were not counted
        let all_known = few < u64::from(MOST) || self.popular.len() < MAX_POPULAR;
        if counted > references && all_known && cluster < self.clusters {
            self.found.leaked += 1;
        }
        if counted > references && references == 0 {
            self.found.leak(cluster);
        }
        let denied = if counted == 1 { SHARED } else { SOLE };
        if self.damage.is_some() && marks & denied != 0 {
            let says = if counted == 1 { "may be shared" } else { "is not shared" };
            self.tolerate(corrupt(format!("an entry says that cluster {cluster}, with a count of {counted}, {says}")))?;
        }
        Ok(())
    }
}

impl SurveyFindings {
    fn leak(&mut self, cluster: u64) {
        let known = self.leaks.len();
        match self.leaks.last_mut() {
            Some(last) if last.end == cluster => last.end += 1,
            _ if known < MAX_LEAKS => self.leaks.push(cluster..cluster + 1),
            _ => {}
        }
    }
}
