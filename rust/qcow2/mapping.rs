//! Which clusters an image itself provides, and a hash of all else that its file holds. Both are for images as this library
//! and `qemu-img` make them by default: clusters of 64 KiB, none of them compressed or in parts.

use std::fs::File;
use std::ops::Range;

use super::create::CLUSTER;
use super::image::{Image, What};
use super::storage::{Source, read_exact, read_padded};
use super::{Error, Pulse};

/// How much of a table is read at once.
const SLICE: u64 = 64 << 10;
/// Host clusters that are told apart in one pass over the tables: 32 MiB of memory, 16 TiB of the file.
const WINDOW: u64 = 1 << 28;
/// Bytes that are read at once, and clusters of data that are passed over.
const CHUNK: u64 = 1 << 20;
const SKIP: u64 = 1 << 22;

/// A part of the guest's disk that an image provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Guest offset, at the begin of a cluster.
    pub guest: u64,
    /// In bytes: whole clusters but for the end of the disk.
    pub length: u64,
    /// Offset in the image's file where its data lie, one after the other; none when it reads as zeroes.
    pub host: Option<u64>,
}

/// The parts that an image provides, in the order of the guest's disk. Memory: 128 KiB.
#[derive(Debug)]
pub struct Mapping<S = File> {
    image: Image<S>,
    at: u64,
}

impl<S: Source> Mapping<S> {
    /// Reads the header. `Error::Unsupported` for images of another kind than said above.
    pub fn open(source: S) -> Result<Mapping<S>, Error> {
        let mut image = Image::open(source, SLICE)?;
        if image.cluster_size() != CLUSTER || image.has_subclusters() {
            return Err(Error::Unsupported("its clusters are not of 64 KiB".into()));
        }
        // so that there is no more to be seen than the file holds
        image.check_tables_are_distinct()?;
        Ok(Mapping { image, at: 0 })
    }

    /// Size that the guest sees, in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.image.virtual_size()
    }

    /// The image's file.
    pub fn source(&self) -> &S {
        &self.image.storage
    }

    /// Fills the buffer with what lies at the offset `host` of the image's file; what lies beyond its end reads as zeroes.
    pub fn read(&self, host: u64, buffer: &mut [u8]) -> Result<(), Error> {
        Ok(read_padded(&self.image.storage, buffer, host)?)
    }

    /// The next part; none at the end of the disk. Parts that lie side by side may be told one by one.
    pub fn next_part(&mut self) -> Result<Option<Mapped>, Error> {
        while self.at < self.virtual_size() {
            let (guest, extent) = (self.at, self.image.extent(self.at)?);
            self.at += extent.length;
            let host = match extent.what {
                What::Unallocated => continue,
                What::Zero => None,
                What::Data(host) => Some(host),
                What::Compressed(_) => return Err(Error::Unsupported("it has compressed clusters".into())),
            };
            return Ok(Some(Mapped { guest, length: extent.length, host }));
        }
        Ok(None)
    }
}

/// The hash of all that is not guest data in an image's file, in the file's order: header, tables, counts, padding. Errors as
/// those of `Mapping::open`. Told are the bytes that were hashed, and the file's length, of which they are a part. Memory: 8 MiB for
/// a file of 4 TiB, at most 32 MiB.
pub fn hash_rest<S: Source>(source: S, pulse: &mut Pulse<'_>) -> Result<blake3::Hash, Error> {
    let mut rest = Rest {
        mapping: Mapping::open(source)?,
        hasher: blake3::Hasher::new(),
        window: 0..0,
        data: Vec::new(),
        cut: None,
        buffer: Vec::new(),
        hashed: 0,
    };
    let clusters = rest.length().div_ceil(CLUSTER);
    while rest.window.end < clusters {
        rest.begin_window(rest.window.end..(rest.window.end + WINDOW).min(clusters));
        rest.mark_data(pulse)?;
        let mut next = rest.window.start;
        while next < rest.window.end {
            next = rest.hash(next)?;
            pulse(rest.hashed, rest.length())?;
        }
    }
    Ok(rest.hasher.finalize())
}

struct Rest<S> {
    mapping: Mapping<S>,
    hasher: blake3::Hasher,
    /// Host clusters that are told apart now.
    window: Range<u64>,
    /// A bit for each of them that holds guest data.
    data: Vec<u64>,
    /// Where the guest data of a last cluster end that the disk's end cuts short.
    cut: Option<u64>,
    buffer: Vec<u8>,
    hashed: u64,
}

impl<S: Source> Rest<S> {
    fn length(&self) -> u64 {
        self.mapping.image.length
    }

    fn begin_window(&mut self, window: Range<u64>) {
        let words = (window.end - window.start).div_ceil(64);
        self.data.clear();
        self.data.resize(usize::try_from(words).unwrap_or(0), 0);
        self.window = window;
    }

    /// Follows the tables, and marks what of the window holds guest data.
    fn mark_data(&mut self, pulse: &mut Pulse<'_>) -> Result<(), Error> {
        self.mapping.at = 0;
        while let Some(mapped) = self.mapping.next_part()? {
            self.mark(mapped);
            pulse(self.hashed, self.length())?;
        }
        Ok(())
    }

    fn mark(&mut self, mapped: Mapped) {
        let Some(host) = mapped.host else { return };
        let end = host + mapped.length;
        if !end.is_multiple_of(CLUSTER) {
            self.cut = Some(end);
        }
        let within = |cluster: u64| cluster.clamp(self.window.start, self.window.end) - self.window.start;
        for index in within(host / CLUSTER)..within(end.div_ceil(CLUSTER)) {
            if let Some(word) = usize::try_from(index / 64).ok().and_then(|word| self.data.get_mut(word)) {
                *word |= 1 << (index % 64);
            }
        }
    }

    fn is_data(&self, cluster: u64) -> bool {
        let index = cluster - self.window.start;
        let word = usize::try_from(index / 64).ok().and_then(|word| self.data.get(word));
        word.is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    /// Hashes what begins with the host cluster `first` and is of one kind, up to the cluster that it returns.
    fn hash(&mut self, first: u64) -> Result<u64, Error> {
        let kind = self.is_data(first);
        let most = self.window.end.min(first + if kind { SKIP } else { CHUNK / CLUSTER });
        let next = (first..most).find(|cluster| self.is_data(*cluster) != kind).unwrap_or(most);
        let (first, end) = (first * CLUSTER, (next * CLUSTER).min(self.length()));
        if !kind {
            self.hash_bytes(first, end)?;
        } else if let Some(cut) = self.cut.filter(|cut| (first..end).contains(cut)) {
            self.hash_bytes(cut, end.min(cut.next_multiple_of(CLUSTER)))?;
        }
        Ok(next)
    }

    fn hash_bytes(&mut self, start: u64, end: u64) -> Result<(), Error> {
        self.buffer.resize(usize::try_from(end - start).unwrap_or(0), 0);
        read_exact(&self.mapping.image.storage, &mut self.buffer, start, "metadata")?;
        self.hasher.update(&self.buffer);
        self.hashed += end - start;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    const LAST: u64 = 512;

    fn new(path: &Path) -> File {
        File::options().read(true).write(true).create_new(true).open(path).unwrap()
    }

    fn rest_of(file: File) -> Result<blake3::Hash, Error> {
        hash_rest(file, &mut |_, _| Ok(()))
    }

    /// Clusters 1, 2 and the last, short one have data, 5 is zero.
    fn image(dir: &Path) -> File {
        let mut stream = Stream::begin(new(&dir.join("x")), 9 * CLUSTER + LAST, Some("below")).unwrap();
        stream.data(CLUSTER, &[0x41; 2 * CLUSTER as usize]).unwrap();
        stream.zeroes(5 * CLUSTER, CLUSTER).unwrap();
        stream.data(9 * CLUSTER, &[0x42; LAST as usize]).unwrap();
        stream.finish().unwrap()
    }

    #[test]
    fn an_image_tells_what_it_provides() {
        let dir = tempfile::tempdir().unwrap();
        let mut mapping = Mapping::open(image(dir.path())).unwrap();
        let mut parts = Vec::new();
        while let Some(Mapped { guest, length, host }) = mapping.next_part().unwrap() {
            parts.push((guest / CLUSTER, length, host));
        }
        let expected = [(1, 2 * CLUSTER, Some(CLUSTER)), (5, CLUSTER, None), (9, LAST, Some(3 * CLUSTER))];
        assert_eq!(parts, expected);
    }

    #[test]
    fn the_rest_is_all_but_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let file = image(dir.path());
        let hash = rest_of(file.try_clone().unwrap()).unwrap();
        let data = [CLUSTER..3 * CLUSTER, 3 * CLUSTER..3 * CLUSTER + LAST];
        let length = file.metadata().unwrap().len();
        let edges = data.iter().flat_map(|data| [data.start, data.end - 1, data.end]);
        for at in (8..length).step_by(4093).chain(edges) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let is_data = data.iter().any(|data| data.contains(&at));
            // a table that is damaged can't be followed
            let same = rest_of(file.try_clone().unwrap()).is_ok_and(|now| now == hash);
            assert_eq!(same, is_data, "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(rest_of(file.try_clone().unwrap()).unwrap(), hash);
        file.set_len(length + 1).unwrap();
        assert_ne!(rest_of(file).unwrap(), hash, "what is added counts");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn other_kinds_of_images_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for options in ["cluster_size=4096", "extended_l2=on,cluster_size=65536"] {
            let mut command = std::process::Command::new("qemu-img");
            command.args(["create", "-q", "-f", "qcow2", "-o", options]).arg(&path).arg("1M");
            assert!(command.status().unwrap().success());
            assert!(matches!(Mapping::open(File::open(&path).unwrap()), Err(Error::Unsupported(_))), "{options}");
        }
    }
}
