//! One image: where its tables say that a guest's bytes are (qcow2 specification, "Cluster mapping").

use std::ops::Range;

use super::header::{self, Header};
use super::storage::{Source, read_exact};
use super::{Error, corrupt};

/// Bits 9 to 55 of an L1 or L2 entry.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The reference count of what the entry names is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// In a standard descriptor without subclusters: the cluster reads as zeroes.
pub(super) const ZERO: u64 = 1 << 0;
/// QEMU's limits on the tables.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Bytes that are begun to be read before it is known that they are needed: the tables of a disk of half a GiB.
const BEGUN: u64 = 256 << 10;
/// Pieces that one look-up joins, so that it ends in time.
const MAX_JOINED: u32 = 1 << 18;

/// What an image holds from some guest offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// In bytes, never 0.
    pub(super) length: u64,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The backing file's content, zeroes without one.
    Unallocated,
    Zero,
    /// At this offset of the image's file.
    Data(u64),
    /// In the cluster that holds the guest offset.
    Compressed(Compressed),
}

/// Where a compressed cluster lies in the image's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compressed {
    pub(super) offset: u64,
    /// At most; what follows the cluster's data is not its own.
    pub(super) length: u64,
}

impl Extent {
    /// The rest of it, `skip` bytes later.
    pub(super) fn after(self, skip: u64) -> Extent {
        let what = match self.what {
            What::Data(offset) => What::Data(offset + skip),
            same => same,
        };
        Extent { length: self.length - skip, what }
    }

    pub(super) fn limit(self, length: u64) -> Extent {
        Extent { length: self.length.min(length), ..self }
    }

    /// Joins what follows, if both are one.
    fn join(&mut self, next: Extent) -> bool {
        let one = match (self.what, next.what) {
            (What::Data(first), What::Data(second)) => first + self.length == second,
            (What::Compressed(_), _) => false,
            (first, second) => first == second,
        };
        if one {
            self.length += next.length;
        }
        one
    }
}

/// One entry of an L2 table as it stands there; the bitmap is 0 without extended L2 entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct L2Entry {
    pub(super) descriptor: u64,
    pub(super) subclusters: u64,
}

impl L2Entry {
    /// Offset of a standard cluster in the file, 0 if it has none.
    pub(super) fn host(self) -> u64 {
        self.descriptor & OFFSET
    }

    pub(super) fn is_compressed(self) -> bool {
        self.descriptor & COMPRESSED != 0
    }

    /// Subclusters that the image holds itself, data or zeroes, one bit each.
    pub(super) fn present(self) -> u32 {
        low(self.subclusters) | low(self.subclusters >> 32)
    }
}

/// The low half.
fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("masked to 32 bits")
}

/// A part of a table, as it was last read.
#[derive(Debug, Default)]
struct Slice {
    at: u64,
    data: Vec<u8>,
}

impl Slice {
    fn covers(&self, offset: u64) -> bool {
        (self.at..self.at + self.data.len() as u64).contains(&offset)
    }
}

/// An image opened for its tables.
#[derive(Debug)]
pub(super) struct Image<S> {
    pub(super) storage: S,
    pub(super) header: Header,
    /// Length of the file when it was opened; of one in use, more than any file has.
    pub(super) length: u64,
    /// The file that the data are in, and its length as above, if they are not in that of the tables.
    data: Option<(S, u64)>,
    slice_size: u64,
    l1: Slice,
    l2: Slice,
    last: Option<(u64, Extent)>,
}

impl<S: Source> Image<S> {
    /// Reads the header and refuses what can't be read or relied on. Tables are read in slices of `slice_size`
    /// bytes, a power of two from 4096 on, and two of them kept.
    pub(super) fn open(storage: S, slice_size: u64) -> Result<Image<S>, Error> {
        let header = Header::read(&storage)?;
        if header.incompatible & header::DIRTY != 0 {
            return corrupt("it is marked dirty: its reference counts are stale");
        }
        let length = storage.length()?;
        Image::with_header(storage, header, length, None, slice_size)
    }

    /// The same for an image that a guest may be writing to: its file grows meanwhile, and whether its reference counts
    /// are stale is its writer's business. `data` is the file that its data are in, if not in its own.
    pub(super) fn open_in_use(storage: S, data: Option<S>, slice_size: u64) -> Result<Image<S>, Error> {
        let header = Header::read(&storage)?;
        let data = data.map(|data| (data, OFFSET));
        Image::with_header(storage, header, OFFSET, data, slice_size)
    }

    /// The same for one that is only read: stale reference counts do no harm to the data.
    pub(super) fn open_at_rest(storage: S, data: Option<S>, slice_size: u64) -> Result<Image<S>, Error> {
        let header = Header::read(&storage)?;
        let length = storage.length()?;
        let with_length = |data: S| data.length().map(|length| (data, length));
        let data = data.map(with_length).transpose()?;
        Image::with_header(storage, header, length, data, slice_size)
    }

    fn with_header(
        storage: S,
        header: Header,
        length: u64,
        data: Option<(S, u64)>,
        slice_size: u64,
    ) -> Result<Image<S>, Error> {
        refuse_unsupported(&header, data.is_some())?;
        let (l1, l2) = (Slice::default(), Slice::default());
        let image = Image { storage, header, length, data, slice_size, l1, l2, last: None };
        image.check_tables()?;
        image.begin_reading_tables();
        Ok(image)
    }

    /// Tables that lie together, as ours do, are begun to be read at once: from a NAS each slice is a way there and back.
    fn begin_reading_tables(&self) {
        let first = self.header.tables.l1_offset.min(self.header.tables.refcount_offset);
        self.storage.begin_reading(first, self.length.saturating_sub(first).min(BEGUN));
    }

    /// Begins to read these L2 tables. What is wrong with one is found when it is read.
    pub(super) fn begin_reading_l2(&mut self, indexes: Range<u64>) {
        let tables = indexes.map_while(|index| self.l1_entry(index).ok()).map(|entry| entry & OFFSET);
        let mut tables: Vec<u64> = tables.filter(|table| *table != 0).collect();
        tables.sort_unstable();
        for run in tables.chunk_by(|one, next| one + self.cluster_size() == *next) {
            self.storage.begin_reading(run[0], run.len() as u64 * self.cluster_size());
        }
    }

    /// One whose header was looked at before, for its data alone.
    pub(super) fn of(storage: S, header: Header, length: u64) -> Image<S> {
        let (l1, l2) = (Slice::default(), Slice::default());
        Image { storage, header, length, data: None, slice_size: 0, l1, l2, last: None }
    }

    /// Where its data are, and the length of that.
    pub(super) fn data(&self) -> (&S, u64) {
        self.data.as_ref().map_or((&self.storage, self.length), |(data, length)| (data, *length))
    }

    pub(super) fn virtual_size(&self) -> u64 {
        self.header.virtual_size
    }

    pub(super) fn cluster_size(&self) -> u64 {
        self.header.cluster_size()
    }

    pub(super) fn has_subclusters(&self) -> bool {
        self.header.incompatible & header::EXTENDED_L2 != 0
    }

    /// Length of an L2 entry.
    pub(super) fn entry_size(&self) -> u64 {
        if self.has_subclusters() { 16 } else { 8 }
    }

    /// Guest bytes that one L2 table stands for.
    pub(super) fn table_covers(&self) -> u64 {
        self.cluster_size() / self.entry_size() * self.cluster_size()
    }

    /// L1 entries that the disk needs; there may be more.
    pub(super) fn l1_entries(&self) -> u64 {
        self.virtual_size().div_ceil(self.table_covers())
    }

    /// What is remembered of the tables is no longer what they hold.
    pub(super) fn forget(&mut self) {
        (self.l1, self.l2, self.last) = (Slice::default(), Slice::default(), None);
    }

    fn check_tables(&self) -> Result<(), Error> {
        let (cluster, tables) = (self.cluster_size(), &self.header.tables);
        let (l1_entries, l1_bytes) = (u64::from(tables.l1_entries), u64::from(tables.l1_entries) * 8);
        if l1_entries < self.l1_entries() || l1_bytes > MAX_L1_BYTES {
            return corrupt(format!("L1 table of {l1_entries} entries for {} bytes", self.virtual_size()));
        }
        self.check_lies_inside("L1 table", tables.l1_offset, l1_bytes)?;
        let refcount_bytes = u64::from(tables.refcount_clusters) * cluster;
        if tables.refcount_order > 6 || refcount_bytes == 0 || refcount_bytes > MAX_REFCOUNT_TABLE {
            let order = tables.refcount_order;
            return corrupt(format!("refcount table of {refcount_bytes} bytes, counts of 2^{order} bits"));
        }
        // QEMU looks at it even where there are none
        if !tables.snapshots_offset.is_multiple_of(cluster) || tables.snapshots_offset > i64::MAX as u64 {
            return corrupt(format!("snapshot table at {}", tables.snapshots_offset));
        }
        self.check_lies_inside("refcount table", tables.refcount_offset, refcount_bytes)
    }

    /// What was read of it is all that it had: somebody may have cut its file off meanwhile, whose end reads as zeroes then.
    pub(super) fn check_whole(&self) -> Result<(), Error> {
        let own = (&self.storage, self.length);
        for (storage, length) in
            [Some(own), self.data.as_ref().map(|(data, length)| (data, *length))].into_iter().flatten()
        {
            let now = if length == OFFSET { length } else { storage.length()? };
            if now < length {
                return corrupt(format!("its file of {length} bytes was cut off at {now} while it was read"));
            }
        }
        Ok(())
    }

    /// Is it aligned, not the header, and within the file?
    pub(super) fn check_lies_inside(&self, what: &str, offset: u64, length: u64) -> Result<(), Error> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        if offset == 0 || !offset.is_multiple_of(self.cluster_size()) || !inside {
            return corrupt(format!("{what} of {length} bytes at {offset}, file of {}", self.length));
        }
        Ok(())
    }

    /// Where the L2 table of the L1 entry `index` lies; none if it has none.
    pub(super) fn l2_table(&mut self, index: u64) -> Result<Option<u64>, Error> {
        let offset = self.l1_entry(index)? & OFFSET;
        Ok(if offset == 0 { None } else { Some(offset) })
    }

    /// The L1 entry `index`; its table lies inside the file.
    pub(super) fn l1_entry(&mut self, index: u64) -> Result<u64, Error> {
        let tables = &self.header.tables;
        let (start, end) = (tables.l1_offset, tables.l1_offset + u64::from(tables.l1_entries) * 8);
        let entry = table_entry(&self.storage, &mut self.l1, self.slice_size, start..end, index * 8, "L1 table")?;
        if entry & !(OFFSET | COPIED) != 0 || entry == COPIED {
            return corrupt(format!("L1 entry {index} is {entry:#x}"));
        }
        if entry != 0 {
            self.check_lies_inside("L2 table", entry & OFFSET, self.cluster_size())?;
        }
        Ok(entry)
    }

    /// Each entry of the L1 table is sound, and no two name the same L2 table. Takes as much memory as the L1 table for the
    /// time of the call.
    pub(super) fn check_l1(&mut self) -> Result<(), Error> {
        let entries = 0..u64::from(self.header.tables.l1_entries);
        distinct(entries.filter_map(|index| self.l2_table(index).transpose()).collect::<Result<_, _>>()?)
    }

    /// No L2 table is named twice, so that no more has to be looked at than the file holds. Takes as much memory as the
    /// L1 table for the time of the call.
    pub(super) fn check_tables_are_distinct(&mut self) -> Result<(), Error> {
        let entries = u64::from(self.header.tables.l1_entries);
        let mut tables = Vec::new();
        for index in 0..entries {
            // an entry that is wrong by itself is found when it is followed
            match self.l2_table(index) {
                Ok(table) => tables.extend(table),
                Err(Error::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        distinct(tables)
    }

    /// The entry `index` of the L2 table at `table`.
    pub(super) fn entry(&mut self, table: u64, index: u64) -> Result<L2Entry, Error> {
        let span = table..table + self.cluster_size();
        let mut read = |at| table_entry(&self.storage, &mut self.l2, self.slice_size, span.clone(), at, "L2 table");
        let size = if self.header.incompatible & header::EXTENDED_L2 != 0 { 16 } else { 8 };
        let descriptor = read(index * size)?;
        let subclusters = if size == 16 { read(index * size + 8)? } else { 0 };
        let entry = L2Entry { descriptor, subclusters };
        self.check_entry(entry)?;
        Ok(entry)
    }

    /// The L2 entry of the cluster that holds the guest offset `at`; all zero without a table.
    pub(super) fn entry_at(&mut self, at: u64) -> Result<L2Entry, Error> {
        let (covers, cluster) = (self.table_covers(), self.cluster_size());
        match self.l2_table(at / covers)? {
            None => Ok(L2Entry { descriptor: 0, subclusters: 0 }),
            Some(table) => self.entry(table, at % covers / cluster),
        }
    }

    fn check_entry(&self, entry: L2Entry) -> Result<(), Error> {
        let invalid = || corrupt(format!("L2 entry {:#x} {:#x}", entry.descriptor, entry.subclusters));
        if entry.is_compressed() {
            let compressed = self.compressed(entry);
            let sound = self.data.is_none()
                && entry.descriptor & COPIED == 0
                && entry.subclusters == 0
                && compressed.offset >= self.cluster_size()
                && compressed.offset < self.length;
            return if sound { Ok(()) } else { invalid() };
        }
        let extended = self.has_subclusters();
        let zero = if self.header.version > 2 && !extended { ZERO } else { 0 };
        if entry.descriptor & !(OFFSET | COPIED | zero) != 0 {
            return invalid();
        }
        let (allocated, zeroes) = (low(entry.subclusters), low(entry.subclusters >> 32));
        let host = entry.host();
        if !self.names_data(entry) {
            return if allocated == 0 && entry.descriptor & COPIED == 0 { Ok(()) } else { invalid() };
        }
        // a file of data alone may end in a hole that is not there
        let beyond = self.data.is_none() && host >= self.length;
        if allocated & zeroes != 0 || !host.is_multiple_of(self.cluster_size()) || beyond {
            return invalid();
        }
        Ok(())
    }

    /// Has the entry, of a standard cluster, a place for data? In a file of data alone that may be its begin.
    fn names_data(&self, entry: L2Entry) -> bool {
        entry.host() != 0 || self.data.is_some() && entry.descriptor & COPIED != 0
    }

    /// Where the data of a compressed cluster lie.
    pub(super) fn compressed(&self, entry: L2Entry) -> Compressed {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let descriptor = entry.descriptor & (COMPRESSED - 1);
        let offset = descriptor & ((1 << offset_bits) - 1);
        let sectors = (descriptor >> offset_bits) + 1;
        Compressed { offset, length: sectors * 512 - offset % 512 }
    }

    /// What the image holds at the guest offset `at`, which is below its virtual size, and for how long. What follows
    /// may be more of the same.
    pub(super) fn extent(&mut self, at: u64) -> Result<Extent, Error> {
        if let Some((start, extent)) = self.last
            && (start..start + extent.length).contains(&at)
        {
            return Ok(extent.after(at - start));
        }
        let mut extent = self.piece(at)?;
        for _ in 0..MAX_JOINED {
            let next = at + extent.length;
            if next >= self.virtual_size() || !extent.join(self.piece(next)?) {
                break;
            }
        }
        self.last = Some((at, extent));
        Ok(extent)
    }

    /// The same up to the end of a run of subclusters, a cluster, or of what a missing table stands for.
    fn piece(&mut self, at: u64) -> Result<Extent, Error> {
        let (covers, cluster) = (self.table_covers(), self.cluster_size());
        let rest = self.virtual_size() - at;
        let Some(table) = self.l2_table(at / covers)? else {
            return Ok(Extent { length: (covers - at % covers).min(rest), what: What::Unallocated });
        };
        let entry = self.entry(table, at % covers / cluster)?;
        let within = at % cluster;
        let whole = |what| Extent { length: cluster - within, what };
        let extent = if entry.is_compressed() {
            whole(What::Compressed(self.compressed(entry)))
        } else if self.has_subclusters() {
            subcluster_run(entry, within, cluster / 32)
        } else if entry.descriptor & ZERO != 0 {
            whole(What::Zero)
        } else if !self.names_data(entry) {
            whole(What::Unallocated)
        } else {
            whole(What::Data(entry.host() + within))
        };
        Ok(extent.limit(rest))
    }
}

fn distinct(mut tables: Vec<u64>) -> Result<(), Error> {
    tables.sort_unstable();
    match tables.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => corrupt(format!("the L2 table at {} is named twice", pair[0])),
        None => Ok(()),
    }
}

/// The run of equal subclusters of `size` bytes from `within` the cluster on.
fn subcluster_run(entry: L2Entry, within: u64, size: u64) -> Extent {
    let state = |index: u64| (entry.subclusters >> index & 1, entry.subclusters >> (index + 32) & 1);
    let first = within / size;
    let mut end = first + 1;
    while end < 32 && state(end) == state(first) {
        end += 1;
    }
    let what = match state(first) {
        (0, 0) => What::Unallocated,
        (0, _) => What::Zero,
        _ => What::Data(entry.host() + within),
    };
    Extent { length: end * size - within, what }
}

/// The entry of 8 bytes at `at` of the table that fills `span` of the file, by way of a slice.
fn table_entry(
    storage: &impl Source,
    slice: &mut Slice,
    slice_size: u64,
    span: std::ops::Range<u64>,
    at: u64,
    what: &str,
) -> Result<u64, Error> {
    let offset = span.start + at;
    if !slice.covers(offset) {
        let start = span.start + at / slice_size * slice_size;
        let length = slice_size.min(span.end - start);
        slice.data.resize(usize::try_from(length).unwrap_or(0), 0);
        let read = read_exact(storage, &mut slice.data, start, what);
        slice.at = start;
        read.inspect_err(|_| slice.data.clear())?;
    }
    let index = usize::try_from(offset - slice.at).unwrap_or(usize::MAX);
    let bytes = slice.data.get(index..).and_then(<[u8]>::first_chunk);
    bytes.map_or_else(|| corrupt(format!("{what} ends before entry at {at}")), |bytes| Ok(u64::from_be_bytes(*bytes)))
}

fn refuse_unsupported(header: &Header, has_data_file: bool) -> Result<(), Error> {
    let unknown = header.incompatible & !header::KNOWN_INCOMPATIBLE;
    let has = |bit| header.incompatible & bit != 0;
    let refuse = |why: String| Err(Error::Unsupported(why));
    if unknown != 0 {
        return refuse(format!("unknown incompatible features {unknown:#x}"));
    }
    if header.crypt_method != 0 {
        return refuse("it is encrypted".into());
    }
    if has(header::EXTERNAL_DATA) != has_data_file {
        return refuse("its data are in another file".into());
    }
    if has(header::CORRUPT) {
        return corrupt("it is marked corrupt");
    }
    match (has(header::COMPRESSION_TYPE), header.tables.compression) {
        (false, 0) | (true, 1) => {}
        (_, kind) => return refuse(format!("compression type {kind}")),
    }
    if has(header::EXTENDED_L2) && header.cluster_bits < 14 {
        return corrupt("subclusters of less than 512 bytes");
    }
    Ok(())
}
