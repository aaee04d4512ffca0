//! The list of an image's persistent dirty bitmaps (qcow2 specification, sections "Bitmaps extension" and "Bitmap directory").

use std::collections::HashSet;
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;

use super::storage::Source;
use super::{Error, corrupt};

/// QEMU's limit; it also bounds the memory used here.
const MAX_BITMAPS: u32 = 65_535;
const MAX_NAME: usize = 1023;
/// QEMU's limit.
const MAX_DIRECTORY: u64 = 1024 * MAX_BITMAPS as u64;
const ENTRY_LENGTH: u64 = 24;
const IN_USE: u32 = 1 << 0;
const AUTO: u32 = 1 << 1;
/// Flag: a program that does not know the extra data may use the bitmap all the same.
const EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
/// The other flags are reserved.
const MAX_FLAGS: u32 = (1 << 3) - 1;
const DIRTY_TRACKING: u8 = 1;

/// One stored bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// QEMU did not save it after its last use, so its bits can't be trusted.
    pub in_use: bool,
    /// It records writes whenever the image is in use ("enabled").
    pub auto: bool,
    /// Binary logarithm of the bytes that one bit stands for.
    pub granularity_bits: u8,
    /// It has extra data without which it can't be understood. The specification knows none so far.
    pub has_extra: bool,
}

/// Where the bitmap directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    bitmaps: u32,
    reserved: u32,
    size: u64,
    offset: u64,
}

impl Directory {
    /// Reads the data of the bitmaps extension.
    pub(super) fn parse(data: &[u8]) -> Result<Directory, Error> {
        let Ok(data) = <[u8; 24]>::try_from(data) else {
            return corrupt(format!("bitmaps extension of {} bytes", data.len()));
        };
        let (bitmaps, reserved) = (be32(&data, 0), be32(&data, 4));
        Ok(Directory { bitmaps, reserved, size: be64(&data, 8), offset: be64(&data, 16) })
    }

    /// Reads the directory's entries, which must fill it exactly.
    pub(super) fn read(&self, file: &dyn Source, cluster_size: u64) -> Result<Vec<Bitmap>, Error> {
        let mut names = HashSet::new();
        let mut bitmaps = Vec::new();
        self.walk(file, cluster_size, |bitmap, _| {
            if !names.insert(bitmap.name.clone()) {
                return corrupt(format!("two bitmaps named '{}'", bitmap.name));
            }
            bitmaps.push(bitmap);
            Ok(())
        })?;
        Ok(bitmaps)
    }

    /// Where the directory lies in the file.
    pub(super) fn span(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.size)
    }

    /// Calls `entry` with each bitmap and the part of the file in which its table is said to lie.
    pub(super) fn walk(
        &self,
        file: &dyn Source,
        cluster_size: u64,
        mut entry: impl FnMut(Bitmap, Range<u64>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.bitmaps == 0 || self.bitmaps > MAX_BITMAPS {
            return corrupt(format!("{} bitmaps", self.bitmaps));
        }
        if self.reserved != 0 {
            return corrupt("the bitmaps extension's reserved field is not 0");
        }
        let file_length = file.length()?;
        let end = self.offset.checked_add(self.size).filter(|end| *end <= file_length && self.size <= MAX_DIRECTORY);
        let Some(end) = end.filter(|_| self.offset != 0 && self.offset.is_multiple_of(cluster_size)) else {
            return corrupt(format!("bitmap directory of {} bytes at {}", self.size, self.offset));
        };
        let mut entries = BufReader::with_capacity(64 << 10, Span { file, at: self.offset, end });
        let mut read = 0;
        for _ in 0..self.bitmaps {
            let (bitmap, table, length) = read_entry(&mut entries)?;
            read += length;
            entry(bitmap, table)?;
        }
        if read != self.size {
            return corrupt(format!("bitmap directory of {} bytes has entries of {read} bytes", self.size));
        }
        Ok(())
    }
}

/// One entry, where its table lies, and its length with padding, in bytes.
fn read_entry(from: &mut impl Read) -> Result<(Bitmap, Range<u64>, u64), Error> {
    let mut fixed = [0; ENTRY_LENGTH as usize];
    read_exact(from, &mut fixed)?;
    let (flags, kind, granularity_bits) = (be32(&fixed, 12), fixed[16], fixed[17]);
    let name_length = usize::from(u16::from_be_bytes([fixed[18], fixed[19]]));
    let extra = u64::from(be32(&fixed, 20));
    if kind != DIRTY_TRACKING
        || flags > MAX_FLAGS
        || granularity_bits > 63
        || name_length == 0
        || name_length > MAX_NAME
    {
        return corrupt(format!(
            "bitmap of type {kind}, granularity 2^{granularity_bits}, name of {name_length} bytes"
        ));
    }
    skip(from, extra)?;
    let mut name = vec![0; name_length];
    read_exact(from, &mut name)?;
    let length = ENTRY_LENGTH + extra + name_length as u64;
    let padded = length.next_multiple_of(8);
    skip(from, padded - length)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    let table = be64(&fixed, 0);
    let table = table..table.saturating_add(u64::from(be32(&fixed, 8)) * 8);
    let bitmap = Bitmap {
        name,
        in_use: flags & IN_USE != 0,
        auto: flags & AUTO != 0,
        granularity_bits,
        has_extra: extra > 0 && flags & EXTRA_DATA_COMPATIBLE == 0,
    };
    Ok((bitmap, table, padded))
}

fn read_exact(from: &mut impl Read, buffer: &mut [u8]) -> Result<(), Error> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => past_the_end(),
        _ => Error::Io(error),
    })
}

fn skip(from: &mut impl Read, length: u64) -> Result<(), Error> {
    let skipped = io::copy(&mut from.by_ref().take(length), &mut io::sink())?;
    if skipped == length { Ok(()) } else { Err(past_the_end()) }
}

fn past_the_end() -> Error {
    Error::Corrupt("a bitmap directory entry leads past the directory's end".to_owned())
}

/// A part of a file, read in order.
struct Span<'a> {
    file: &'a dyn Source,
    at: u64,
    end: u64,
}

impl Read for Span<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn be32(data: &[u8; 24], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn be64(data: &[u8; 24], at: usize) -> u64 {
    u64::from(be32(data, at)) << 32 | u64::from(be32(data, at + 4))
}
