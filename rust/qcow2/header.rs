//! The header and its extensions (qcow2 specification, sections "Header" and "Header extensions").

use std::io;
use std::ops::Range;

use super::bitmaps::Directory;
use super::storage::{Source, read_up_to};
use super::{Error, corrupt};

pub(super) const MAGIC: u32 = 0x5146_49fb;
pub(super) const DIRTY: u64 = 1 << 0;
pub(super) const CORRUPT: u64 = 1 << 1;
pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
pub(super) const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// The external data file can be read as it is.
pub(super) const AUTOCLEAR_RAW_DATA: u64 = 1 << 1;

pub(super) const V2_LENGTH: usize = 72;
pub(super) const V3_LENGTH: usize = 104;
/// Bytes of the first read. All but the tables fits into them, and each further read asks the NAS once more.
const PAGE: usize = 4096;
/// Longest backing file name, in bytes.
pub(super) const MAX_BACKING_NAME: usize = 1023;

const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
/// The name of the file that the data are in.
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Names of features, for messages of older programs.
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
/// QEMU's limit on the name of the backing file's format, in bytes.
const MAX_FORMAT_NAME: usize = 15;

/// The file that holds what an image does not hold itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The name as it stands in the header; bytes that are not UTF-8 are replaced.
    pub file: String,
    /// The format as it stands in the header extension.
    pub format: Option<String>,
}

/// The parsed header.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) virtual_size: u64,
    pub(super) crypt_method: u32,
    pub(super) incompatible: u64,
    pub(super) autoclear: u64,
    pub(super) backing: Option<Backing>,
    pub(super) bitmaps: Option<Directory>,
    /// The file that the data are in, as the header names it.
    pub(super) data_file: Option<String>,
    /// Not checked yet; `Image::open` does so.
    pub(super) tables: Tables,
    pub(super) layout: Layout,
}

/// Where the header says that the tables lie; nothing of it is checked here.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    pub(super) l1_entries: u32,
    pub(super) l1_offset: u64,
    pub(super) refcount_offset: u64,
    pub(super) refcount_clusters: u32,
    /// Binary logarithm of the bits of a reference count.
    pub(super) refcount_order: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    /// 0: deflate, 1: zstd.
    pub(super) compression: u8,
}

/// How the first cluster is used.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Where the header extensions end, their end mark included if they have one.
    pub(super) extensions_end: usize,
    pub(super) has_end_mark: bool,
    pub(super) has_backing_format: bool,
    /// An extension or an autoclear bit that is not known here, or stale bitmaps: clusters may belong to them.
    pub(super) has_unknown: bool,
    /// Where the backing file's name lies.
    pub(super) name: Option<Range<usize>>,
}

impl Header {
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// True if the last program that wrote the image kept its bitmaps up to date.
    pub(super) fn bitmaps_are_kept(&self) -> bool {
        self.autoclear & AUTOCLEAR_BITMAPS != 0
    }

    /// Reads and checks the header, its extensions and the backing file's name; all lie in the first cluster.
    pub(super) fn read(file: &dyn Source) -> Result<Header, Error> {
        let start = read_first(file, PAGE)?;
        let fixed = Fields(&start);
        match (fixed.u32(0), fixed.u32(4)) {
            (Some(MAGIC), Some(2 | 3)) => {}
            (Some(MAGIC), Some(version)) => return Err(Error::Unsupported(format!("version {version}"))),
            (Some(MAGIC), None) => return corrupt("the header is cut short"),
            _ => return Err(Error::NotQcow2),
        }
        let cluster_bits = fixed.need_u32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return corrupt(format!("cluster size of 2^{cluster_bits} bytes"));
        }
        let cluster = 1 << cluster_bits;
        let header = Fields(&start[..start.len().min(cluster)]).header(cluster_bits);
        let ends = |header: &Header| header.layout.has_end_mark || header.layout.name.is_some();
        if cluster <= PAGE || start.len() < PAGE || header.as_ref().is_ok_and(ends) {
            return header;
        }
        Fields(&read_first(file, cluster)?).header(cluster_bits)
    }
}

/// Big-endian fields of the first cluster, or of as much of it as the file holds.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&self, offset: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(offset..offset.checked_add(length)?)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.slice(offset, 4)?.try_into().ok()?))
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        Some(u64::from_be_bytes(self.slice(offset, 8)?.try_into().ok()?))
    }

    fn need_u32(&self, offset: usize) -> Result<u32, Error> {
        self.u32(offset).map_or_else(|| corrupt("the header is cut short"), Ok)
    }

    fn need_u64(&self, offset: usize) -> Result<u64, Error> {
        self.u64(offset).map_or_else(|| corrupt("the header is cut short"), Ok)
    }

    fn header(&self, cluster_bits: u32) -> Result<Header, Error> {
        let version = self.need_u32(4)?;
        let (incompatible, autoclear, length) = match version {
            2 => (0, 0, V2_LENGTH),
            _ => (self.need_u64(72)?, self.need_u64(88)?, self.need_u32(100)? as usize),
        };
        if version > 2 && (length < V3_LENGTH || length % 8 != 0 || length > 1 << cluster_bits) {
            return corrupt(format!("header length {length}"));
        }
        let virtual_size = self.need_u64(24)?;
        // QEMU's own limit: offsets are signed there
        if virtual_size == 0 || virtual_size > i64::MAX as u64 {
            return corrupt(format!("virtual size {virtual_size}"));
        }
        let name = self.backing_name(length)?;
        // without a backing file the extensions may fill the cluster, else they end where its name begins
        let end = name.map_or(self.0.len(), |(offset, _)| offset);
        let extensions = self.extensions(length, end)?;
        let has_backing_format = extensions.backing_format.is_some();
        // bitmaps that are not to be trusted still own clusters, until somebody drops them
        let stale_bitmaps = extensions.bitmaps.is_some() && autoclear & AUTOCLEAR_BITMAPS == 0;
        let has_unknown = extensions.has_unknown || stale_bitmaps || autoclear & !AUTOCLEAR_BITMAPS != 0;
        let backing = name.map(|(_, name)| Backing {
            file: String::from_utf8_lossy(name).into_owned(),
            format: extensions.backing_format,
        });
        Ok(Header {
            version,
            cluster_bits,
            virtual_size,
            crypt_method: self.need_u32(32)?,
            incompatible,
            autoclear,
            backing,
            bitmaps: extensions.bitmaps,
            data_file: extensions.data_file,
            tables: self.tables(version, length)?,
            layout: Layout {
                extensions_end: extensions.end,
                has_end_mark: extensions.has_end_mark,
                has_backing_format,
                has_unknown,
                name: name.map(|(offset, name)| offset..offset + name.len()),
            },
        })
    }

    fn tables(&self, version: u32, header_length: usize) -> Result<Tables, Error> {
        Ok(Tables {
            l1_entries: self.need_u32(36)?,
            l1_offset: self.need_u64(40)?,
            refcount_offset: self.need_u64(48)?,
            refcount_clusters: self.need_u32(56)?,
            snapshots: self.need_u32(60)?,
            snapshots_offset: self.need_u64(64)?,
            refcount_order: if version == 2 { 4 } else { self.need_u32(96)? },
            compression: if header_length > V3_LENGTH { self.slice(V3_LENGTH, 1).map_or(0, |byte| byte[0]) } else { 0 },
        })
    }

    /// Where the backing file's name lies, and its bytes.
    fn backing_name(&self, header_length: usize) -> Result<Option<(usize, &'a [u8])>, Error> {
        let (offset, length) = (self.need_u64(8)?, self.need_u32(16)? as usize);
        if offset == 0 {
            return Ok(None);
        }
        if length == 0 || length > MAX_BACKING_NAME {
            return corrupt(format!("backing file name of {length} bytes"));
        }
        let name = usize::try_from(offset)
            .ok()
            .filter(|offset| *offset >= header_length)
            .and_then(|offset| Some((offset, self.slice(offset, length)?)));
        match name {
            None => corrupt(format!("backing file name at {offset}")),
            Some((_, name)) if name.contains(&0) => corrupt("backing file name with a zero byte"),
            name => Ok(name),
        }
    }

    fn extensions(&self, start: usize, end: usize) -> Result<Extensions, Error> {
        let mut found = Extensions::default();
        let mut at = start;
        found.end = at;
        // v2 images made by old programs have nothing here but a name, or the end of the cluster
        while at + 8 <= end {
            let (kind, length) = (self.need_u32(at)?, self.need_u32(at + 4)? as usize);
            let Some(data) = self.slice(at + 8, length).filter(|_| length <= end - at - 8) else {
                return corrupt(format!("header extension {kind:#x} of {length} bytes"));
            };
            match kind {
                EXTENSION_END => {
                    (found.has_end_mark, found.end) = (true, at + 8);
                    break;
                }
                EXTENSION_BACKING_FORMAT if length > MAX_FORMAT_NAME => {
                    return corrupt(format!("backing format of {length} bytes"));
                }
                EXTENSION_BACKING_FORMAT => {
                    found.backing_format = Some(String::from_utf8_lossy(data).into_owned());
                }
                EXTENSION_BITMAPS => found.bitmaps = Some(Directory::parse(data)?),
                EXTENSION_FEATURE_NAMES => {}
                EXTENSION_DATA_FILE => {
                    found.data_file = Some(String::from_utf8_lossy(data).into_owned());
                    found.has_unknown = true;
                }
                _ => found.has_unknown = true,
            }
            at += 8 + length.next_multiple_of(8);
            found.end = at;
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    bitmaps: Option<Directory>,
    data_file: Option<String>,
    end: usize,
    has_end_mark: bool,
    has_unknown: bool,
}

/// The first `length` bytes of the file, or fewer if it is shorter.
fn read_first(file: &dyn Source, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let filled = read_up_to(file, &mut buffer, 0)?;
    buffer.truncate(filled);
    Ok(buffer)
}
