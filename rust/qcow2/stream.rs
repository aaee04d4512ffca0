//! Writing an image in one pass, in the order of the guest's disk (qcow2 specification, sections "Host cluster
//! management" and "Cluster mapping"). Data and L2 tables follow each other as they come, the other tables come at the
//! end and the header last: what is unfinished does not even begin like an image.

use super::Error;
use super::create::{self, CLUSTER, CLUSTERS_PER_L2, PAGE, TableOffsets};
use super::storage::Storage;
use super::transfer::Writeback;

/// The table or cluster is named by this one entry only.
const COPIED: u64 = 1 << 63;
/// The cluster reads as zeroes, whatever the backing file holds.
const ZERO: u64 = 1;
/// 16-bit counts in one refcount block.
const COUNTS_PER_BLOCK: u64 = CLUSTER / 2;
/// Bytes of tables that are remembered for the hash of all that is no data: those of 16 GiB that were written.
const MOST_REMEMBERED: usize = 32 * CLUSTER as usize;
static ZEROES: [u8; CLUSTER as usize] = [0; CLUSTER as usize];

/// An image that is being written. Before `finish` the file is no image. Memory: the L1 table and one L2 table, 128 KiB for 4 TiB, and
/// 2 MiB of tables.
#[derive(Debug)]
pub struct Stream<S> {
    storage: S,
    virtual_size: u64,
    backing: Option<String>,
    /// Host offset of the next free cluster.
    end: u64,
    /// Guest offset up to which the content is known.
    said: u64,
    l1: Vec<u64>,
    l2: Vec<u64>,
    /// Which table `l2` is; `None` while it is empty.
    table: Option<usize>,
    writeback: Writeback,
    /// What was written that is not the guest's data, in the file's order without its first cluster; `None` once it is too much, or
    /// somebody else writes the data.
    rest: Option<Vec<u8>>,
}

impl<S: Storage> Stream<S> {
    /// Begins an image for a disk of `virtual_size` bytes in `storage`, which is empty. Size and `backing` are as for `create`.
    pub fn begin(storage: S, virtual_size: u64, backing: Option<&str>) -> Result<Stream<S>, Error> {
        let l1_entries = create::check(virtual_size, backing)?;
        Ok(Stream {
            storage,
            virtual_size,
            backing: backing.map(str::to_owned),
            end: CLUSTER,
            said: 0,
            l1: vec![0; l1_entries],
            l2: vec![0; CLUSTERS_PER_L2 as usize],
            table: None,
            writeback: Writeback::default(),
            rest: Some(Vec::new()),
        })
    }

    /// The clusters from `offset` on hold `bytes`, whole clusters but for the end of the disk. Clusters of zeroes take
    /// no room.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.check_next(offset, bytes.len() as u64)?;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (zero, length) = alike(rest, CLUSTERS_PER_L2 - at / CLUSTER % CLUSTERS_PER_L2);
            let (run, after) = rest.split_at(length);
            if zero {
                self.zero_clusters(at, length as u64)?;
            } else {
                self.enter_table(at)?;
                let host = self.end;
                self.append(run)?;
                self.remember(&[], host + length as u64);
                (0..length as u64).step_by(CLUSTER as usize).for_each(|i| self.set(at + i, (host + i) | COPIED));
            }
            (at, rest) = (at + length as u64, after);
        }
        self.said = at;
        Ok(())
    }

    /// Reserves space for `length` bytes, as `data` does, and returns their offset in the file. The caller writes them there before
    /// `finish`, perhaps while others reserve. The bytes belong to one L2 table.
    pub fn place(&mut self, offset: u64, length: u64) -> Result<u64, Error> {
        self.check_next(offset, length)?;
        let last = offset + length.saturating_sub(1);
        if table_of(offset) != table_of(last) {
            return Err(Error::Unsupported(format!("room for {length} bytes at {offset}, of two tables")));
        }
        self.enter_table(offset)?;
        let host = self.end;
        self.rest = None;
        (0..length).step_by(CLUSTER as usize).for_each(|i| self.set(offset + i, (host + i) | COPIED));
        self.end += length.next_multiple_of(CLUSTER);
        self.said = offset + length;
        Ok(host)
    }

    /// The clusters from `offset` on read as zeroes, up to `offset + length`: a multiple of the cluster size, or the end
    /// of the disk.
    pub fn zeroes(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.check_next(offset, length)?;
        self.zero_clusters(offset, length)?;
        self.said = offset + length;
        Ok(())
    }

    /// Writes the tables and the header. Clusters that were not mentioned read as the backing file has them, or as zeroes. Syncs nothing.
    pub fn finish(self) -> Result<S, Error> {
        self.finish_and_hash().map(|(storage, _)| storage)
    }

    /// The same, with what `hash_rest` would tell of the image, if so much is remembered.
    pub fn finish_and_hash(mut self) -> Result<(S, Option<blake3::Hash>), Error> {
        self.write_table()?;
        let l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        // Blocks and table count themselves, too.
        let used = self.end / CLUSTER + (l1.len() as u64).div_ceil(CLUSTER);
        let (mut blocks, mut table) = (0, 0);
        while (used + blocks + table).div_ceil(COUNTS_PER_BLOCK) > blocks || (blocks * 8).div_ceil(CLUSTER) > table {
            blocks = (used + blocks + table).div_ceil(COUNTS_PER_BLOCK);
            table = (blocks * 8).div_ceil(CLUSTER);
        }
        let clusters = used + blocks + table;
        let first_block = self.end;
        for block in 0..blocks {
            let counts = (clusters - (block * COUNTS_PER_BLOCK).min(clusters)).min(COUNTS_PER_BLOCK);
            self.append_table(&1_u16.to_be_bytes().repeat(counts as usize))?;
        }
        let refcount_table = self.end;
        let entries: Vec<u8> = (0..blocks).flat_map(|block| (first_block + block * CLUSTER).to_be_bytes()).collect();
        self.append_table(&entries)?;
        let places = TableOffsets { l1: self.end, refcount_table, refcount_clusters: table as u32 };
        // Of the last cluster no more is needed: so no length has to be set, which on NFS waits until all before is written.
        self.append_table(&l1)?;
        let mut header = create::header(self.virtual_size, self.l1.len() as u32, &places, self.backing.as_deref());
        // a whole page, of which nothing has to be read from a NAS later
        header.resize(PAGE, 0);
        self.storage.write_at(&header, 0)?;
        let hash = self.rest.map(|rest| {
            let mut hasher = blake3::Hasher::new();
            // no further than the file goes
            let rest = &rest[..rest.len() - (l1.len().next_multiple_of(CLUSTER as usize) - l1.len())];
            hasher.update(&header).update(&ZEROES[PAGE..]).update(rest);
            hasher.finalize()
        });
        Ok((self.storage, hash))
    }

    /// Checks that the caller mentions each cluster once, in order, whole and within the disk.
    fn check_next(&self, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset.saturating_add(length);
        let whole = offset.is_multiple_of(CLUSTER) && (end.is_multiple_of(CLUSTER) || end == self.virtual_size);
        if whole && offset >= self.said && end <= self.virtual_size {
            Ok(())
        } else {
            Err(Error::Unsupported(format!("{length} bytes at {offset}, after {}", self.said)))
        }
    }

    /// Marks zeroes, unless they read as such without a backing file.
    fn zero_clusters(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        if self.backing.is_some() {
            for cluster in (offset..offset + length).step_by(CLUSTER as usize) {
                self.enter_table(cluster)?;
                self.set(cluster, ZERO);
            }
        }
        Ok(())
    }

    fn set(&mut self, offset: u64, entry: u64) {
        self.l2[(offset / CLUSTER % CLUSTERS_PER_L2) as usize] = entry;
        self.table = Some(table_of(offset));
    }

    /// Makes room for the entry of the cluster at `offset`.
    fn enter_table(&mut self, offset: u64) -> Result<(), Error> {
        if self.table.is_some_and(|table| table != table_of(offset)) { self.write_table() } else { Ok(()) }
    }

    fn write_table(&mut self) -> Result<(), Error> {
        if let Some(table) = self.table.take() {
            self.l1[table] = self.end | COPIED;
            let entries: Vec<u8> = self.l2.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.append_table(&entries)?;
            self.l2.fill(0);
        }
        Ok(())
    }

    fn append_table(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.end + bytes.len() as u64;
        self.append(bytes)?;
        self.remember(bytes, end);
        Ok(())
    }

    /// Remembers what was written up to the offset `end`, and the rest of the cluster there, which reads as zeroes.
    fn remember(&mut self, bytes: &[u8], end: u64) {
        let padding = (end.next_multiple_of(CLUSTER) - end) as usize;
        self.rest = self.rest.take().filter(|rest| rest.len() + bytes.len() + padding <= MOST_REMEMBERED);
        if let Some(rest) = &mut self.rest {
            rest.extend(bytes);
            rest.resize(rest.len() + padding, 0);
        }
    }

    /// Appends to the file; what follows begins in a new cluster.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.storage.write_at(bytes, self.end)?;
        self.writeback.wrote(&self.storage, self.end, bytes.len() as u64);
        self.end += (bytes.len() as u64).next_multiple_of(CLUSTER);
        Ok(())
    }
}

fn table_of(offset: u64) -> usize {
    (offset / CLUSTER / CLUSTERS_PER_L2) as usize
}

/// Tells whether the first cluster of `bytes` is all zeroes, and how many bytes of clusters, `most` at most, are alike in that.
fn alike(bytes: &[u8], most: u64) -> (bool, usize) {
    let is_zero = |cluster: &[u8]| *cluster == ZEROES[..cluster.len()];
    let mut clusters = bytes.chunks(CLUSTER as usize).take(most as usize);
    let Some(first) = clusters.next() else { return (true, 0) };
    let zero = is_zero(first);
    (zero, first.len() + clusters.take_while(|cluster| is_zero(cluster) == zero).map(<[u8]>::len).sum::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::Path;
    use std::process::Command;

    fn new(path: &Path) -> File {
        File::options().read(true).write(true).create_new(true).open(path).unwrap()
    }

    fn qemu(program: &str, dir: &Path, args: &[&str]) {
        let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("failed"), "{program} {args:?}: {text}");
    }

    fn check(dir: &Path, name: &str) {
        qemu("qemu-img", dir, &["check", "-q", "-f", "qcow2", name]);
    }

    /// A sequence of numbers that is the same on each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    /// Says random things of a disk of which `parent` is the earlier content, and keeps what it must read as.
    fn say(random: &mut Random, stream: &mut Stream<File>, disk: &mut [u8]) {
        let mut at = 0;
        while at < disk.len() {
            let length = ((1 + random.below(20) as usize) * CLUSTER as usize).min(disk.len() - at);
            let range = at..at + length;
            match random.below(4) {
                0 => {}
                1 => {
                    stream.zeroes(at as u64, length as u64).unwrap();
                    disk[range].fill(0);
                }
                kind => {
                    for cluster in disk[range.clone()].chunks_mut(CLUSTER as usize) {
                        cluster.fill(if kind == 2 || random.below(2) == 0 { random.below(256) as u8 } else { 0 });
                    }
                    stream.data(at as u64, &disk[range]).unwrap();
                }
            }
            at += length;
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn chains_of_random_writes_read_back_and_are_sound() {
        for seed in 0..12 {
            let dir = tempfile::tempdir().unwrap();
            let random = &mut Random(seed);
            let size = random.below(24 << 20) / 512 * 512 + 512;
            let mut disk = vec![0; size as usize];
            for point in 0..3 {
                let (name, below) = (format!("{point}.qcow2"), format!("{}.qcow2", point - 1));
                let backing = (point > 0).then_some(below.as_str());
                let mut stream = Stream::begin(new(&dir.path().join(&name)), size, backing).unwrap();
                say(random, &mut stream, &mut disk);
                let (file, hash) = stream.finish_and_hash().unwrap();
                assert_eq!(hash.unwrap(), crate::qcow2::hash_rest(file, &mut |_, _| Ok(())).unwrap());
                check(dir.path(), &name);
                std::fs::write(dir.path().join("raw"), &disk).unwrap();
                qemu("qemu-img", dir.path(), &["compare", "-q", "-f", "raw", "-F", "qcow2", "raw", &name]);
            }
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn tables_are_left_and_entered_at_their_borders() {
        let dir = tempfile::tempdir().unwrap();
        let table = CLUSTERS_PER_L2 * CLUSTER;
        Stream::begin(new(&dir.path().join("p")), 4 << 40, None).unwrap().finish().unwrap();
        check(dir.path(), "p");
        let mut stream = Stream::begin(new(&dir.path().join("x")), 4 << 40, Some("p")).unwrap();
        stream.data(table - CLUSTER, &[0x41; 2 * CLUSTER as usize]).unwrap();
        stream.zeroes(2 * table - CLUSTER, table + 2 * CLUSTER).unwrap();
        stream.data(5 * table - CLUSTER, &[0x42; CLUSTER as usize]).unwrap();
        stream.data(5 * table, &[0x43; CLUSTER as usize]).unwrap();
        stream.data((4 << 40) - CLUSTER, &[0x44; CLUSTER as usize]).unwrap();
        stream.finish().unwrap();
        check(dir.path(), "x");
        for (pattern, at, length) in [
            (0, 0, CLUSTER),
            (0x41, table - CLUSTER, 2 * CLUSTER),
            (0, table + CLUSTER, 1 << 20),
            (0, 2 * table - CLUSTER, table + 2 * CLUSTER),
            (0x42, 5 * table - CLUSTER, CLUSTER),
            (0x43, 5 * table, CLUSTER),
            (0x44, (4 << 40) - CLUSTER, CLUSTER),
        ] {
            let read = format!("read -P {pattern} {at} {length}");
            qemu("qemu-io", dir.path(), &["-r", "-f", "qcow2", "-c", &read, "x"]);
        }
    }

    #[test]
    fn what_is_not_finished_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut stream = Stream::begin(new(&path), 1 << 20, None).unwrap();
        stream.data(0, &[0x41; CLUSTER as usize]).unwrap();
        drop(stream);
        assert!(matches!(super::super::inspect(&File::open(&path).unwrap()), Err(Error::NotQcow2)));
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn disorder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let size = 3 * CLUSTER + 512;
        Stream::begin(new(&dir.path().join("p")), size, None).unwrap().finish().unwrap();
        let mut stream = Stream::begin(new(&dir.path().join("x")), size, Some("p")).unwrap();
        let cluster = [0x41; CLUSTER as usize];
        stream.data(CLUSTER, &cluster).unwrap();
        assert!(stream.data(0, &cluster).is_err(), "before what was said");
        assert!(stream.zeroes(CLUSTER, CLUSTER).is_err(), "said already");
        assert!(stream.data(2 * CLUSTER + 512, &cluster).is_err(), "not at a cluster");
        assert!(stream.data(2 * CLUSTER, &cluster[512..]).is_err(), "a part of a cluster");
        assert!(stream.zeroes(2 * CLUSTER, 2 * CLUSTER).is_err(), "beyond the end");
        stream.data(3 * CLUSTER, &cluster[..512]).unwrap();
        stream.finish().unwrap();
        check(dir.path(), "x");
    }

    /// Keeps what is small: of a cluster's data only its place is of interest.
    struct Tables(File);

    impl crate::qcow2::Source for Tables {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            crate::qcow2::Source::read_at(&self.0, buffer, offset)
        }

        fn length(&self) -> std::io::Result<u64> {
            self.0.length()
        }
    }

    impl Storage for Tables {
        fn write_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
            if data.len() > 1 << 20 { Ok(()) } else { self.0.write_at(data, offset) }
        }

        fn set_length(&self, length: u64) -> std::io::Result<()> {
            self.0.set_length(length)
        }

        fn sync(&self) -> std::io::Result<()> {
            self.0.sync()
        }

        fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> std::io::Result<()> {
            self.0.clone_from(to, source, from, length)
        }

        fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> std::io::Result<u64> {
            self.0.copy_from(to, source, from, length)
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn the_counts_of_large_images_count_themselves() {
        let block = COUNTS_PER_BLOCK * CLUSTER;
        // around the size at which the tables need one block more
        for spare in [-40, -10, -9, -8, -7, -6, -5, -4, -1, 0, 3] {
            let dir = tempfile::tempdir().unwrap();
            let size = (2 * block).strict_add_signed(spare * CLUSTER as i64);
            let mut stream = Stream::begin(Tables(new(&dir.path().join("x"))), size, None).unwrap();
            let piece = vec![0x41; 32 << 20];
            for at in (0..size).step_by(piece.len()) {
                stream.data(at, &piece[..piece.len().min((size - at) as usize)]).unwrap();
            }
            stream.finish().unwrap();
            check(dir.path(), "x");
        }
    }
}
