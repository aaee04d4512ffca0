//! Makes an empty image (qcow2 specification, sections "Header", "Host cluster management" and "Cluster mapping").

use std::fs::File;

use super::header::{Backing, EXTENSION_BACKING_FORMAT, MAGIC, MAX_BACKING_NAME, V3_LENGTH};
use super::storage::Storage;
use super::{Error, Info, corrupt, inspect_readable};

const CLUSTER_BITS: u32 = 16;
/// Bytes in a cluster of the images that are made here.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of one L2 table, each for a cluster.
pub(super) const CLUSTERS_PER_L2: u64 = CLUSTER / 8;
/// 16-bit reference counts.
const REFCOUNT_ORDER: u32 = 4;
/// Bytes of the disk that one L1 entry stands for.
const L1_ENTRY_COVERS: u64 = CLUSTERS_PER_L2 * CLUSTER;
/// QEMU opens no image with more L1 entries (32 MiB of them).
const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;

/// Bytes that are written at once: more than of any table but the L1 table is used.
pub(super) const PAGE: usize = 4096;

// header, refcount table, one refcount block, then the L1 table: even the largest has but 512 clusters, and one
// block counts 32768
const REFCOUNT_TABLE: u64 = CLUSTER;
const REFCOUNT_BLOCK: u64 = 2 * CLUSTER;
const L1_TABLE: u64 = 3 * CLUSTER;

/// Writes an empty version 3 image with 64 KiB clusters for a disk of `virtual_size` bytes into `file`, which is new
/// and empty. `backing` is the name, relative to the image's folder, of a qcow2 file that holds what this one does
/// not. The size must be a multiple of 512 up to 2 PiB, the name 1 to 1023 bytes.
pub fn create(file: &impl Storage, virtual_size: u64, backing: Option<&str>) -> Result<(), Error> {
    let l1_entries = check(virtual_size, backing)? as u64;
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let clusters = L1_TABLE / CLUSTER + l1_clusters;

    // Whole pages, the last one for the file's length: a part of one would have to be read from a NAS first, and a length to be
    // set. The rest, the empty L1 table included, reads as zeroes.
    let write = |mut bytes: Vec<u8>, offset| {
        bytes.resize(PAGE, 0);
        file.write_at(&bytes, offset)
    };
    write(Vec::new(), clusters * CLUSTER - PAGE as u64)?;
    write(REFCOUNT_BLOCK.to_be_bytes().to_vec(), REFCOUNT_TABLE)?;
    write(1_u16.to_be_bytes().repeat(clusters as usize), REFCOUNT_BLOCK)?;
    let places = TableOffsets { l1: L1_TABLE, refcount_table: REFCOUNT_TABLE, refcount_clusters: 1 };
    write(header(virtual_size, l1_entries as u32, &places, backing), 0)?;
    Ok(())
}

/// Refuses what `create` would refuse.
pub fn check_creatable(virtual_size: u64, backing: Option<&str>) -> Result<(), Error> {
    check(virtual_size, backing).map(drop)
}

/// Checks an image that `create` has made and that another program has filled since: its header must still say what `create` wrote.
/// The L2 tables are checked by those who read them.
pub fn check_filled(file: &File, virtual_size: u64, backing: Option<&str>) -> Result<(), Error> {
    let found = inspect_readable(file)?;
    let made = Info {
        version: 3,
        cluster_bits: CLUSTER_BITS,
        virtual_size,
        backing: backing.map(|name| Backing { file: name.to_owned(), format: Some("qcow2".to_owned()) }),
        encrypted: false,
        dirty: false,
        corrupt: false,
        external_data: false,
        data_file: None,
        extended_l2: false,
        unknown_incompatible: 0,
        snapshots: 0,
        bitmaps: Vec::new(),
        bitmaps_consistent: false,
    };
    if found.backing != made.backing {
        return corrupt(format!("it stands on {:?}, and was made on {:?}", found.backing, made.backing));
    }
    if found.virtual_size != virtual_size {
        return corrupt(format!("it is of {} bytes, and was made of {virtual_size}", found.virtual_size));
    }
    if found != made {
        return corrupt(format!("it was not made with {found:?}"));
    }
    Ok(())
}

/// Refuses a size or name for which no image can be made. Returns the number of L1 entries.
pub(super) fn check(virtual_size: u64, backing: Option<&str>) -> Result<usize, Error> {
    let l1_entries = virtual_size.div_ceil(L1_ENTRY_COVERS);
    if virtual_size == 0 || !virtual_size.is_multiple_of(512) || l1_entries > MAX_L1_ENTRIES {
        return Err(Error::Unsupported(format!("virtual size {virtual_size}")));
    }
    if let Some(name) = backing
        && (name.is_empty() || name.len() > MAX_BACKING_NAME || name.contains('\0'))
    {
        return Err(Error::Unsupported(format!("backing file name of {} bytes: '{name}'", name.len())));
    }
    Ok(l1_entries as usize)
}

/// Where the tables lie: host offsets, and clusters of the refcount table.
pub(super) struct TableOffsets {
    pub(super) l1: u64,
    pub(super) refcount_table: u64,
    pub(super) refcount_clusters: u32,
}

pub(super) fn header(virtual_size: u64, l1_entries: u32, places: &TableOffsets, backing: Option<&str>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if backing.is_some() {
        extensions.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        extensions.extend(5_u32.to_be_bytes());
        extensions.extend(b"qcow2\0\0\0");
    }
    extensions.extend([0; 8]);
    let name = backing.unwrap_or_default();
    let name_offset = if name.is_empty() { 0 } else { (V3_LENGTH + extensions.len()) as u64 };

    let mut header = Vec::with_capacity(V3_LENGTH + extensions.len() + name.len());
    header.extend(MAGIC.to_be_bytes());
    header.extend(3_u32.to_be_bytes());
    header.extend(name_offset.to_be_bytes());
    header.extend((name.len() as u32).to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(virtual_size.to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // no encryption
    header.extend(l1_entries.to_be_bytes());
    header.extend(places.l1.to_be_bytes());
    header.extend(places.refcount_table.to_be_bytes());
    header.extend(places.refcount_clusters.to_be_bytes());
    header.extend([0; 4 + 8]); // no internal snapshots
    header.extend([0; 3 * 8]); // no incompatible, compatible or autoclear features
    header.extend(REFCOUNT_ORDER.to_be_bytes());
    header.extend((V3_LENGTH as u32).to_be_bytes());
    header.extend(extensions);
    header.extend(name.as_bytes());
    header
}
