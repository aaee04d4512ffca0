//! Reads the bits of a persistent dirty bitmap (qcow2 specification, sections "Bitmap table" and "Bitmap data").

use std::fs::File;
use std::ops::Range;

use super::bitmaps::Bitmap;
use super::header::Header;
use super::image::OFFSET;
use super::storage::{Source, read_exact};
use super::{Error, corrupt};

/// QEMU's limits: bytes that one bit stands for, as binary logarithms, and bytes of a bitmap.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
const MAX_BYTES: u64 = 512 << 20;
/// In a table entry without an offset: all of its bits are set.
const ALL_ONES: u64 = 1;
/// Bytes of a bitmap that are read at once.
const PIECE: u64 = 64 << 10;

/// The changes that a bitmap recorded, as ranges of the guest's disk in ascending order that do not touch each other.
#[derive(Debug)]
pub struct Dirty {
    file: File,
    cluster_size: u64,
    virtual_size: u64,
    granularity_bits: u8,
    /// Offset of the bitmap's table.
    table: u64,
    /// Bits of the bitmap.
    bits: u64,
    /// The bit that is looked at next.
    next: u64,
    piece: BitmapPart,
}

/// The part of the bitmap that was read last: bits, and what they are.
#[derive(Debug, Default)]
struct BitmapPart {
    bits: Range<u64>,
    content: Bits,
}

#[derive(Debug)]
enum Bits {
    All(bool),
    Bytes(Vec<u8>),
}

impl Default for Bits {
    fn default() -> Bits {
        Bits::All(false)
    }
}

impl Dirty {
    /// Opens the bitmap `name` of the image if it has recorded all writes since it began; else returns why it has not.
    pub fn open(file: &File, name: &str) -> Result<Result<Dirty, String>, Error> {
        let header = Header::read(file)?;
        let Some((bitmap, table)) = find(&header, file, name)? else { return Ok(Err("is missing".to_owned())) };
        if let Some(reason) = distrust(&bitmap) {
            return Ok(Err(reason));
        }
        let (cluster_size, virtual_size) = (header.cluster_size(), header.virtual_size);
        let bits = virtual_size.div_ceil(1 << bitmap.granularity_bits);
        let entries = bits.div_ceil(cluster_size * 8);
        if (table.end - table.start) / 8 != entries || bits.div_ceil(8) > MAX_BYTES {
            return Ok(Err(format!("is not made for a disk of {virtual_size} bytes")));
        }
        if !table.start.is_multiple_of(cluster_size) || table.start == 0 || table.end > file.length()? {
            return corrupt(format!("bitmap table of {entries} entries at {}", table.start));
        }
        Ok(Ok(Dirty {
            file: file.try_clone()?,
            cluster_size,
            virtual_size,
            granularity_bits: bitmap.granularity_bits,
            table: table.start,
            bits,
            next: 0,
            piece: BitmapPart::default(),
        }))
    }

    /// Starts again with the first range.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    fn next_range(&mut self) -> Result<Option<Range<u64>>, Error> {
        let first = self.find(self.next, true)?;
        if first == self.bits {
            self.next = first;
            return Ok(None);
        }
        let end = self.find(first, false)?;
        self.next = end;
        let offset = |bit: u64| bit.saturating_mul(1 << self.granularity_bits).min(self.virtual_size);
        Ok(Some(offset(first)..offset(end)))
    }

    /// The first bit from `from` on that is `set`; the number of bits if there is none.
    fn find(&mut self, from: u64, set: bool) -> Result<u64, Error> {
        let mut bit = from;
        while bit < self.bits {
            if !self.piece.bits.contains(&bit) {
                self.piece = self.read_piece(bit)?;
            }
            let Range { start, end } = self.piece.bits;
            match &self.piece.content {
                Bits::All(value) if *value == set => return Ok(bit),
                Bits::All(_) => bit = end,
                Bits::Bytes(bytes) => {
                    while bit < end {
                        let byte = bytes[((bit - start) / 8) as usize];
                        let rest = (if set { byte } else { !byte }) >> (bit % 8);
                        if rest != 0 {
                            return Ok((bit + u64::from(rest.trailing_zeros())).min(self.bits));
                        }
                        bit = (bit / 8 + 1) * 8;
                    }
                }
            }
        }
        Ok(self.bits)
    }

    /// The part of the bitmap that `bit` is in.
    fn read_piece(&self, bit: u64) -> Result<BitmapPart, Error> {
        let cluster_bits = self.cluster_size * 8;
        let index = bit / cluster_bits;
        let mut entry = [0; 8];
        read_exact(&self.file, &mut entry, self.table + index * 8, "bitmap table")?;
        let entry = u64::from_be_bytes(entry);
        let (offset, first) = (entry & OFFSET, index * cluster_bits);
        let of_cluster = first..(first + cluster_bits).min(self.bits);
        if offset == 0 && entry & !ALL_ONES == 0 {
            return Ok(BitmapPart { bits: of_cluster, content: Bits::All(entry == ALL_ONES) });
        }
        if entry != offset || !offset.is_multiple_of(self.cluster_size) {
            return corrupt(format!("bitmap table entry {index} is {entry:#x}"));
        }
        let piece_bits = self.cluster_size.min(PIECE) * 8;
        let start = bit / piece_bits * piece_bits;
        let bits = start..(start + piece_bits).min(of_cluster.end);
        let mut bytes = vec![0; (bits.end - bits.start).div_ceil(8) as usize];
        read_exact(&self.file, &mut bytes, offset + (start - first) / 8, "bitmap")?;
        Ok(BitmapPart { bits, content: Bits::Bytes(bytes) })
    }
}

impl Iterator for Dirty {
    type Item = Result<Range<u64>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_range().transpose()
    }
}

/// Finds the directory entry of the bitmap `name`, and where its table is said to lie.
fn find(header: &Header, file: &File, name: &str) -> Result<Option<(Bitmap, Range<u64>)>, Error> {
    let Some(directory) = header.bitmaps.as_ref().filter(|_| header.bitmaps_are_kept()) else { return Ok(None) };
    let mut found = None;
    directory.walk(file, header.cluster_size(), |bitmap, table| {
        if bitmap.name != name {
            return Ok(());
        }
        match found.replace((bitmap, table)) {
            None => Ok(()),
            Some(_) => corrupt(format!("two bitmaps named '{name}'")),
        }
    })?;
    Ok(found)
}

/// The reason not to trust the bitmap, if there is one.
fn distrust(bitmap: &Bitmap) -> Option<String> {
    if bitmap.in_use {
        return Some("was not stored after its last use".to_owned());
    }
    if !bitmap.auto {
        return Some("is disabled".to_owned());
    }
    if bitmap.has_extra || !GRANULARITY_BITS.contains(&bitmap.granularity_bits) {
        return Some("is of a kind that is not known here".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("failed"), "{program} {arguments:?}: {text}");
    }

    struct Disk {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Disk {
        fn new(size: u64, cluster: u64, granularity: u64) -> Disk {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk");
            let disk = Disk { _folder: folder, path };
            let (size, cluster) = (size.to_string(), format!("cluster_size={cluster}"));
            run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &cluster, disk.text(), &size]);
            disk.bitmap(&["--add", "-g", &granularity.to_string()], "ours");
            disk
        }

        fn text(&self) -> &str {
            self.path.to_str().unwrap()
        }

        fn bitmap(&self, actions: &[&str], name: &str) {
            run("qemu-img", &[&["bitmap"], actions, &["-f", "qcow2", self.text(), name]].concat());
        }

        fn write(&self, commands: &[String]) {
            for commands in commands.chunks(50) {
                let commands: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).collect();
                run("qemu-io", &[&["-f", "qcow2"], &commands[..], &[self.text()]].concat());
            }
        }

        fn resize(&self, size: u64) {
            run("qemu-img", &["resize", "-q", "--shrink", "-f", "qcow2", self.text(), &size.to_string()]);
        }

        fn open(&self) -> Result<Result<Dirty, String>, Error> {
            Dirty::open(&File::open(&self.path).unwrap(), "ours")
        }

        fn dirty(&self) -> Vec<Range<u64>> {
            let mut dirty = self.open().unwrap().unwrap();
            let found: Vec<_> = dirty.by_ref().map(Result::unwrap).collect();
            dirty.rewind();
            assert_eq!(dirty.map(Result::unwrap).collect::<Vec<_>>(), found, "the second time");
            found
        }

        fn distrusted(&self) -> String {
            self.open().unwrap().err().unwrap()
        }

        fn patch(&self, offset: u64, bytes: &[u8]) {
            File::options().write(true).open(&self.path).unwrap().write_all_at(bytes, offset).unwrap();
        }

        /// Where in the file the bitmap's entry of the directory begins.
        fn entry(&self) -> u64 {
            let header = Header::read(&File::open(&self.path).unwrap()).unwrap();
            header.bitmaps.unwrap().span().start
        }

        fn u64_at(&self, offset: u64) -> u64 {
            let mut bytes = [0; 8];
            File::open(&self.path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
            u64::from_be_bytes(bytes)
        }
    }

    /// What the bitmap of that granularity has to say of these writes.
    fn expected(writes: &[Range<u64>], granularity: u64, size: u64) -> Vec<Range<u64>> {
        let whole =
            |write: &Range<u64>| write.start / granularity * granularity..write.end.next_multiple_of(granularity);
        let mut whole: Vec<_> = writes.iter().map(whole).collect();
        whole.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in whole {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined.into_iter().map(|range| range.start..range.end.min(size)).collect()
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn bitmaps_of_any_granularity_say_what_was_written() {
        // clusters of bits that are all set, all clear, or neither; a size that no bit ends at; many pieces
        for (size, cluster, granularity) in [
            (64 * MIB, 64 * KIB, 64 * KIB),
            (64 * MIB + 512, 64 * KIB, 4 * KIB),
            (3 * MIB + 1536, 512, 512),
            (2 * GIB, 4 * KIB, 512),
            (5 * GIB, 2 * MIB, 512),
            (40 * GIB + 7 * 512, 64 * KIB, MIB),
            (10 * GIB, 64 * KIB, 2 * GIB),
        ] {
            let disk = Disk::new(size, cluster, granularity);
            assert_eq!(disk.dirty(), [] as [Range<u64>; 0], "{size} {cluster} {granularity}");
            let mut random = 1_u64;
            let mut below = |limit: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % limit
            };
            let mut writes: Vec<_> = (0..60)
                .map(|_| {
                    let start = below(size / 512) * 512;
                    start..(start + (1 + below(40)) * 512).min(size)
                })
                .collect();
            writes.push(size - 512..size);
            writes.push(0..(MIB + 512).min(size));
            let commands = writes.iter().map(|write| format!("write -z {} {}", write.start, write.end - write.start));
            disk.write(&commands.collect::<Vec<_>>());
            assert_eq!(disk.dirty(), expected(&writes, granularity, size), "{size} {cluster} {granularity}");
            let all = (0..size).step_by(GIB as usize);
            disk.write(&all.map(|at| format!("write -z {at} {}", GIB.min(size - at))).collect::<Vec<_>>());
            assert_eq!(disk.dirty(), std::slice::from_ref(&(0..size)), "all of {size} {cluster} {granularity}");
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_resized_disk_has_a_resized_bitmap() {
        let disk = Disk::new(GIB, 64 * KIB, 4 * KIB);
        disk.write(&["write 0 8k".to_owned(), "write 1020M 1M".to_owned()]);
        disk.resize(9 * GIB);
        let kept = [0..8 * KIB, 1020 * MIB..1021 * MIB];
        assert_eq!(disk.dirty(), kept);
        disk.write(&["write 8G 4k".to_owned()]);
        let (grown, [first, second]) = (8 * GIB..8 * GIB + 4 * KIB, kept);
        assert_eq!(disk.dirty(), [first, second, grown]);
        disk.resize(1020 * MIB + 512);
        assert_eq!(disk.dirty(), [0..8 * KIB, 1020 * MIB..1020 * MIB + 512]);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn only_what_was_kept_up_to_date_is_trusted() {
        let disk = Disk::new(64 * MIB, 64 * KIB, 64 * KIB);
        disk.bitmap(&["--add"], "theirs");
        assert!(Dirty::open(&File::open(&disk.path).unwrap(), "other").unwrap().is_err());
        disk.bitmap(&["--disable"], "ours");
        assert_eq!(disk.distrusted(), "is disabled");
        disk.bitmap(&["--enable"], "ours");
        assert!(disk.open().unwrap().is_ok());
        let flags = disk.entry() + 12;
        disk.patch(flags, &3_u32.to_be_bytes());
        assert_eq!(disk.distrusted(), "was not stored after its last use");
        disk.patch(flags, &2_u32.to_be_bytes());
        assert!(disk.open().unwrap().is_ok());
        // whoever wrote it last knew nothing of bitmaps
        disk.patch(88, &[0; 8]);
        assert_eq!(disk.distrusted(), "is missing");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_bitmap_below_an_overlay_is_not_the_overlay_s() {
        let disk = Disk::new(64 * MIB, 64 * KIB, 64 * KIB);
        let overlay = disk.path.with_extension("overlay");
        let backing = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk.text(), overlay.to_str().unwrap()];
        run("qemu-img", &backing);
        assert_eq!(Dirty::open(&File::open(&overlay).unwrap(), "ours").unwrap().err().unwrap(), "is missing");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn damage_is_an_error_or_a_reason_and_no_range() {
        let disk = || {
            let disk = Disk::new(64 * MIB, 64 * KIB, 64 * KIB);
            disk.write(&["write 0 64k".to_owned()]);
            disk
        };
        let ranges = |disk: &Disk| match disk.open() {
            Ok(Ok(mut dirty)) => dirty.try_fold(0, |n, range| range.map(|_| n + 1)).map(Ok),
            Ok(Err(reason)) => Ok(Err(reason)),
            Err(error) => Err(error),
        };
        assert!(matches!(ranges(&disk()), Ok(Ok(1))));
        // its entries, size and granularity
        for (at, bytes) in [(8, &[0, 0, 0, 2][..]), (8, &[0xff; 4]), (8, &[0; 4]), (17, &[63]), (17, &[8])] {
            let disk = disk();
            disk.patch(disk.entry() + at, bytes);
            assert!(matches!(ranges(&disk), Ok(Err(_)) | Err(Error::Corrupt(_))), "{at} {bytes:?}");
        }
        // its table's offset
        for offset in [0_u64, 512, 1 << 40, 1 << 63] {
            let disk = disk();
            disk.patch(disk.entry(), &offset.to_be_bytes());
            assert!(matches!(ranges(&disk), Err(Error::Corrupt(_))), "{offset}");
        }
        // the offset in its table
        for entry in [2, 3, 1 << 8, 1 << 60, 512, 1 << 40, 65536 | 1] {
            let disk = disk();
            disk.patch(disk.u64_at(disk.entry()), &u64::to_be_bytes(entry));
            assert!(matches!(ranges(&disk), Err(Error::Corrupt(_))), "{entry:#x}");
        }
        let disk = disk();
        disk.patch(disk.u64_at(disk.entry()), &ALL_ONES.to_be_bytes());
        assert_eq!(disk.dirty(), std::slice::from_ref(&(0..64 * MIB)));
    }
}
