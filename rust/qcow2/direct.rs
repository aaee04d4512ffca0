//! Reads and writes past the page cache. A backup moves data once, so the cache would only take memory from guests, and copy the data
//! once more.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use log::Level;
use memmap2::{Advice, MmapMut};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::storage::{Source, Storage};
use crate::apart::Descriptor;
use crate::error::errno;
use crate::lacking;

/// Direct I/O has to lie at multiples of this, in memory and in the file. No device has larger blocks.
const BLOCK: usize = 4096;
/// A huge page.
const HUGE: usize = 2 << 20;
/// A shorter buffer gets none, because the kernel fills a huge page with zeroes first.
const LEAST_HUGE: usize = 512 << 10;

/// A file whose whole blocks are read and written past the page cache, where its file system allows that; all else goes through it.
/// For that it is opened once more, when the first of them come.
#[derive(Debug)]
pub struct Direct<F = File> {
    file: F,
    direct: OnceLock<Option<F>>,
    refused: AtomicBool,
}

impl<F: Descriptor> Direct<F> {
    /// The file, for what it is open for.
    pub fn new(file: F) -> Direct<F> {
        Direct { file, direct: OnceLock::new(), refused: AtomicBool::new(false) }
    }

    /// Its descriptor that goes through the page cache.
    pub fn file(&self) -> &F {
        &self.file
    }

    /// Writes all of `data`, beyond the end too. How many bytes of it went through the page cache.
    pub fn write(&self, data: &[u8], offset: u64) -> io::Result<u64> {
        let (blocks, rest) = data.split_at(data.len() - data.len() % BLOCK);
        if self.attempt(blocks.as_ptr(), blocks.len(), offset, |direct| direct.write_at(blocks, offset))?.is_some() {
            self.file.with(|file| file.write_at(rest, offset + blocks.len() as u64))?;
            return Ok(rest.len() as u64);
        }
        self.file.with(|file| file.write_at(data, offset))?;
        Ok(data.len() as u64)
    }

    /// Runs the request past the page cache. `None` if that is impossible, for this memory or for this file.
    fn attempt<T: Send>(
        &self,
        memory: *const u8,
        length: usize,
        offset: u64,
        act: impl FnOnce(&File) -> io::Result<T> + Send,
    ) -> io::Result<Option<T>> {
        let is_aligned = memory.align_offset(BLOCK) == 0 && offset.is_multiple_of(BLOCK as u64);
        if length == 0 || !is_aligned || self.refused.load(Relaxed) {
            return Ok(None);
        }
        let open = || open(&self.file).inspect_err(|error| tell(&self.file, *error)).ok();
        let Some(direct) = self.direct.get_or_init(open) else { return Ok(None) };
        match direct.with(act) {
            // the device has larger blocks, or a file system below allows no direct I/O
            Err(error) if errno(&error) == Some(Errno::INVAL) => {
                tell(direct, Errno::INVAL);
                self.refused.store(true, Relaxed);
                Ok(None)
            }
            done => done.map(Some),
        }
    }
}

impl<F: Descriptor> Source for Direct<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (memory, whole) = (buffer.as_ptr(), buffer.len() - buffer.len() % BLOCK);
        match self.attempt(memory, whole, offset, |direct| Source::read_at(direct, &mut buffer[..whole], offset))? {
            Some(read) => Ok(read),
            None => self.file.with(|file| Source::read_at(file, buffer, offset)),
        }
    }

    fn length(&self) -> io::Result<u64> {
        self.file.with(Source::length)
    }

    fn begin_reading(&self, from: u64, length: u64) {
        self.file.with(|file| file.begin_reading(from, length));
    }
}

impl<F: Descriptor + Storage> Storage for Direct<F> {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }

    fn write_past_cache(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write(data, offset).map(drop)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn begin_writing(&self, from: u64, length: u64) -> io::Result<()> {
        self.file.begin_writing(from, length)
    }

    fn give_back(&self, from: u64, length: u64) -> io::Result<()> {
        self.file.give_back(from, length)
    }

    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
        self.file.clone_from(to, source, from, length)
    }

    fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64> {
        self.file.copy_from(to, source, from, length)
    }
}

/// Opens the same file once more, for the same.
fn open<F: Descriptor>(file: &F) -> Result<F, Errno> {
    let mode = file.with(|file| rustix::fs::fcntl_getfl(file))? & OFlags::RWMODE;
    file.open_again(mode | OFlags::DIRECT)
}

fn tell(file: &impl Descriptor, error: Errno) {
    let instead = "what is moved goes through the page cache";
    file.with(|file| lacking::tell(Level::Debug, file, "O_DIRECT", error, instead));
}

/// Memory that can go past the page cache: pages of its own, which no process gets that is started meanwhile. Of pages that two
/// processes share, a kernel copies the one that is written next, older ones up to 2 MiB around it, and a device that still reads
/// into the others would fill what nobody looks at any more.
///
/// Where the kernel has huge pages, a large one is made of them: a device takes the memory of a request piece by piece, and no more than
/// so many pieces, so that few large ones are sooner done.
#[derive(Debug, Default)]
pub struct Buffer {
    mapping: Option<MmapMut>,
    /// Where in the mapping the bytes are.
    place: Range<usize>,
}

impl Buffer {
    /// Sets the length in bytes; the content is undefined.
    pub fn resize(&mut self, length: usize) -> io::Result<()> {
        let start = self.place.start;
        if self.mapping.as_ref().is_none_or(|mapping| mapping.len() - start < length) {
            let (mapping, start) = map(length)?;
            (self.mapping, self.place.start) = (Some(mapping), start);
        }
        self.place.end = self.place.start + length;
        Ok(())
    }
}

/// Maps memory for so many bytes; they begin at the offset that is returned with it.
fn map(length: usize) -> io::Result<(MmapMut, usize)> {
    let is_huge = length >= LEAST_HUGE;
    let whole = if is_huge { length.next_multiple_of(HUGE) + HUGE } else { length };
    let mapping = MmapMut::map_anon(whole)?;
    mapping.advise(Advice::DontFork)?;
    if !is_huge {
        return Ok((mapping, 0));
    }
    let start = mapping.as_ptr().align_offset(HUGE);
    // without them the pages are small
    _ = mapping.advise_range(Advice::HugePage, start, whole - HUGE);
    Ok((mapping, start))
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.mapping.as_ref().map_or(&[], |mapping| &mapping[self.place.clone()])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.mapping.as_mut().map_or(&mut [], |mapping| &mut mapping[self.place.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a folder of the build, which lies on a disk.
    fn file() -> File {
        tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    fn buffer(length: usize) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.resize(length).unwrap();
        buffer.iter_mut().zip((0..=250).cycle()).for_each(|(byte, value)| *byte = value);
        buffer
    }

    #[test]
    fn what_is_written_is_read_whether_it_is_whole_blocks_or_not() {
        for refused in [false, true] {
            for (offset, length) in [(0, 3 * BLOCK), (BLOCK, BLOCK + 7), (100, BLOCK), (5, 9), (BLOCK, 0)] {
                let direct = Direct::new(file());
                direct.refused.store(refused, Relaxed);
                let (data, mut read) = (buffer(length), buffer(length + BLOCK));
                direct.write(&data, offset as u64).unwrap();
                let mut bytes = 0;
                while let filled @ 1.. = direct.read_at(&mut read[bytes..], (offset + bytes) as u64).unwrap() {
                    bytes += filled;
                }
                assert!(bytes == length && read[..length] == data[..], "{length} bytes at {offset}");
                assert_eq!(direct.length().unwrap(), if length == 0 { 0 } else { (offset + length) as u64 });
            }
        }
    }

    #[test]
    fn no_process_that_is_started_gets_the_memory() {
        for length in [3 * BLOCK, LEAST_HUGE, HUGE + 1] {
            // not copied into a child
            let flags = flags(&buffer(length));
            assert!(flags.iter().any(|flag| flag == "dc"), "{length}: {flags:?}");
        }
    }

    #[test]
    fn large_memory_is_of_huge_pages_where_the_kernel_has_any() {
        let has_huge = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        for (length, is_huge) in [(3 * BLOCK, false), (LEAST_HUGE, has_huge), (HUGE + 1, has_huge)] {
            let buffer = buffer(length);
            // advised to be of huge pages
            let flags = flags(&buffer);
            assert_eq!(flags.iter().any(|flag| flag == "hg"), is_huge, "{length}: {flags:?}");
            assert!(!is_huge || buffer.as_ptr().align_offset(HUGE) == 0, "{length}");
        }
    }

    /// The kernel's flags of the memory, as proc(5) names them.
    fn flags(buffer: &Buffer) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut flags, at) = (None, buffer.as_ptr() as u64);
        let mut within = false;
        for line in maps.lines() {
            if let Some((from, to)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')) {
                let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
                within = (from..to).contains(&at);
            } else if within && let Some(of_it) = line.strip_prefix("VmFlags:") {
                flags = Some(of_it);
            }
        }
        flags.unwrap().split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_buffer_has_room_for_what_it_is_to_hold_next() {
        let mut buffer = Buffer::default();
        for length in [0, 9, HUGE, 3, LEAST_HUGE - 1, 3 * HUGE + 1, HUGE] {
            buffer.resize(length).unwrap();
            buffer.fill(0x5a);
            assert!(buffer.len() == length && buffer.iter().all(|byte| *byte == 0x5a), "{length}");
        }
    }

    #[test]
    fn only_whole_blocks_go_past_the_page_cache() {
        let direct = Direct::new(file());
        let data = buffer(2 * BLOCK);
        for (data, offset, through) in [
            (&data[..], 0, 0),
            (&data[..BLOCK + 1], 0, 1),
            (&data[..], 512, data.len()),
            (&data[1..], 0, data.len() - 1),
            (&data[..9], 0, 9),
        ] {
            assert_eq!(direct.write(data, offset).unwrap(), through as u64, "{} bytes at {offset}", data.len());
        }
        assert!(direct.direct.get().is_some_and(Option::is_some), "the disk of the build does no direct I/O");
    }

    #[test]
    fn where_it_is_refused_all_goes_through_the_page_cache() {
        // the process's memory can't be written at that offset: EINVAL
        let refusing = File::options().write(true).open("/proc/self/oom_score_adj").unwrap();
        let (file, data) = (file(), buffer(BLOCK));
        let direct =
            Direct { file: file.try_clone().unwrap(), direct: Some(refusing).into(), refused: AtomicBool::new(false) };
        assert_eq!(direct.write(&data, 0).unwrap(), BLOCK as u64);
        assert!(direct.refused.load(Relaxed));
        let mut read = vec![0; BLOCK];
        Source::read_at(&file, &mut read, 0).unwrap();
        assert!(read[..] == data[..]);
    }

    #[test]
    fn an_error_is_told_and_no_reason_to_go_through_the_page_cache() {
        let (readable, data) = (File::open("/proc/self/exe").unwrap(), buffer(BLOCK));
        let direct = Direct::new(readable);
        assert_eq!(errno(&direct.write(&data, 0).unwrap_err()), Some(Errno::BADF));
    }
}
