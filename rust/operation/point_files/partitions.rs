//! Where the partitions of a disk lie, by its own table: GPT, or MBR with its logical partitions. The host's kernel, LVM and
//! mdraid never see the disk as a whole. A guest has written the table, so each number in it may be any.

use std::io;

use super::superblock;

/// Bytes at an offset of a disk; fewer where it ends.
pub(super) type Read<'a> = &'a dyn Fn(u64, usize) -> io::Result<Vec<u8>>;

/// A partition, or a disk without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// As the kernel counts them; none of a whole disk.
    pub(super) number: Option<u32>,
    pub(super) start: u64,
    pub(super) length: u64,
}

const SECTOR: u64 = 512;
/// Where the partitions of an MBR are told, and how many there are.
const ENTRIES: (usize, usize) = (446, 4);
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// More than any system makes: of a chain, and of a GPT.
const MOST_LOGICAL: u32 = 128;
const MOST_ENTRIES: u32 = 1024;
const LARGEST_ENTRY: u32 = 1024;

/// The partitions of a disk of this size, in the order of the table. Those that lie outside of it are left out.
pub(super) fn find(disk: Read<'_>, size: u64) -> io::Result<Vec<Extent>> {
    let told = match gpt(disk)? {
        Some(told) => told,
        None => mbr(disk)?.unwrap_or_else(|| vec![Extent { number: None, start: 0, length: size }]),
    };
    let inside = told.into_iter().filter(|part| part.start < size && part.length > 0);
    Ok(inside.map(|part| Extent { length: part.length.min(size - part.start), ..part }).collect())
}

fn gpt(disk: Read<'_>) -> io::Result<Option<Vec<Extent>>> {
    for sector in [SECTOR, 4096] {
        let header = disk(sector, 92)?;
        let (Some(at), Some(count), Some(length)) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84))
        else {
            continue;
        };
        if !header.starts_with(b"EFI PART") || !(128..=LARGEST_ENTRY).contains(&length) {
            continue;
        }
        let count = count.min(MOST_ENTRIES);
        let table = disk(at.saturating_mul(sector), (count * length) as usize)?;
        let entry = |(number, entry): (u32, &[u8])| {
            let used = entry.get(..16)?.iter().any(|byte| *byte != 0);
            let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
            let start = first.checked_mul(sector)?;
            let length = last.checked_sub(first)?.checked_add(1)?.checked_mul(sector)?;
            used.then_some(Extent { number: Some(number), start, length })
        };
        return Ok(Some((1..).zip(table.chunks_exact(length as usize)).filter_map(entry).collect()));
    }
    Ok(None)
}

/// None where the first sector is no table, or a file system's.
fn mbr(disk: Read<'_>) -> io::Result<Option<Vec<Extent>>> {
    let first = disk(0, SECTOR as usize)?;
    let statuses = (0..ENTRIES.1).filter_map(|i| first.get(ENTRIES.0 + 16 * i));
    let is_table = is_signed(&first) && statuses.into_iter().all(|status| matches!(status, 0 | 0x80));
    if !is_table || superblock::is_boot_sector(&first) {
        return Ok(None);
    }
    let primary: Vec<_> = (1..).zip(0..ENTRIES.1).filter_map(|(number, i)| Some((number, entry(&first, i)?))).collect();
    let mut found = Vec::new();
    for (number, Entry { kind, start, length }) in &primary {
        if EXTENDED.contains(kind) {
            found.extend(logical(disk, *start)?);
        } else {
            found.push(Extent { number: Some(*number), start: *start, length: *length });
        }
    }
    Ok((!primary.is_empty()).then_some(found))
}

/// The partitions of the chain of tables that begins at `base`. Each table tells a partition, by its own place, and the next
/// table, by the chain's. Followed only forwards: such a chain has an end.
fn logical(disk: Read<'_>, base: u64) -> io::Result<Vec<Extent>> {
    let (mut found, mut at) = (Vec::new(), base);
    for _ in 0..MOST_LOGICAL {
        let table = disk(at, SECTOR as usize)?;
        if !is_signed(&table) {
            break;
        }
        if let Some(Entry { start, length, .. }) = entry(&table, 0) {
            found.push(Extent { number: Some(5 + found.len() as u32), start: at + start, length });
        }
        match entry(&table, 1) {
            Some(next) if EXTENDED.contains(&next.kind) && base + next.start > at => at = base + next.start,
            _ => break,
        }
    }
    Ok(found)
}

struct Entry {
    kind: u8,
    start: u64,
    length: u64,
}

/// An entry of an MBR, in bytes; none of an empty one.
fn entry(sector: &[u8], index: usize) -> Option<Entry> {
    let bytes = sector.get(ENTRIES.0 + 16 * index..)?.get(..16)?;
    let (kind, start, count) = (bytes[4], u32_at(bytes, 8)?, u32_at(bytes, 12)?);
    let used = kind != 0 && count != 0;
    used.then(|| Entry { kind, start: u64::from(start) * SECTOR, length: u64::from(count) * SECTOR })
}

fn is_signed(sector: &[u8]) -> bool {
    sector.get(510..512) == Some(&[0x55, 0xaa])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    fn found(disk: &[(u64, Vec<u8>)]) -> Vec<(Option<u32>, u64, u64)> {
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length.min(usize::try_from(SIZE.saturating_sub(at)).unwrap())];
            for (place, data) in disk {
                for (i, byte) in data.iter().enumerate() {
                    let offset = (place + i as u64).checked_sub(at).and_then(|offset| usize::try_from(offset).ok());
                    offset.and_then(|offset| bytes.get_mut(offset)).into_iter().for_each(|at| *at = *byte);
                }
            }
            Ok(bytes)
        };
        find(&read, SIZE).unwrap().into_iter().map(|part| (part.number, part.start / 512, part.length / 512)).collect()
    }

    /// A sector with entries of kind, first sector and count.
    fn table(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        for (i, (kind, start, count)) in entries.iter().enumerate() {
            let at = 446 + 16 * i;
            sector[at + 4] = *kind;
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    fn header(at: u64, count: u32, length: u32) -> Vec<u8> {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[72..80].copy_from_slice(&at.to_le_bytes());
        header[80..84].copy_from_slice(&count.to_le_bytes());
        header[84..88].copy_from_slice(&length.to_le_bytes());
        header
    }

    fn gpt_entry(first: u64, last: u64) -> Vec<u8> {
        let mut entry = vec![0; 128];
        entry[0] = 1;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry
    }

    const ALL: u64 = SIZE / 512;

    #[test]
    fn a_disk_without_a_table_is_one() {
        let mut fat = table(&[(0x0c, 1, 1)]);
        fat[82..90].copy_from_slice(b"FAT32   ");
        let mut text = table(&[(0x83, 1, 1)]);
        text[446] = b'x';
        for first in [vec![], vec![0xff; 512], table(&[]), fat, text] {
            assert_eq!(found(&[(0, first)]), [(None, 0, ALL)]);
        }
    }

    #[test]
    fn partitions_of_an_mbr_are_found_with_the_logical_ones() {
        let first = table(&[(0x83, 2048, 100), (0, 1, 1), (0x05, 4096, 10_000), (0x8e, 20_000, 5)]);
        let second = table(&[(0x83, 63, 10), (0x05, 1000, 1)]);
        let third = table(&[(0x82, 8, 20)]);
        assert_eq!(
            found(&[(0, first), (4096 * 512, second), (5096 * 512, third)]),
            [(Some(1), 2048, 100), (Some(5), 4159, 10), (Some(6), 5104, 20), (Some(4), 20_000, 5)]
        );
    }

    #[test]
    fn partitions_of_a_gpt_are_found_by_either_size_of_sectors() {
        let protective = table(&[(0xee, 1, u32::MAX)]);
        let entries = [gpt_entry(2048, 4095), vec![0; 128], gpt_entry(4096, 4096)].concat();
        let small = [(0, protective.clone()), (512, header(2, 128, 128)), (1024, entries.clone())];
        assert_eq!(found(&small), [(Some(1), 2048, 2048), (Some(3), 4096, 1)]);
        let large = [(0, protective), (4096, header(2, 128, 128)), (8192, entries)];
        assert_eq!(found(&large), [(Some(1), 8 * 2048, 8 * 2048), (Some(3), 8 * 4096, 8)]);
    }

    #[test]
    fn no_number_leads_out_of_the_disk_or_in_circles() {
        let circle = table(&[(0x83, 1, 1), (0x05, 0, 1)]);
        let back = table(&[(0x83, 1, 1), (0x05, 0, 1)]);
        let forth = table(&[(0x83, 1, 1), (0x05, 8, 1)]);
        for (disk, expected) in [
            (vec![(0, table(&[(0x83, u32::MAX, 1), (0x83, 2048, u32::MAX)]))], vec![(Some(2), 2048, ALL - 2048)]),
            (vec![(0, table(&[(0x05, 100, 9)])), (100 * 512, circle)], vec![(Some(5), 101, 1)]),
            (
                vec![(0, table(&[(0x05, 100, 9)])), (100 * 512, forth), (108 * 512, back)],
                vec![(Some(5), 101, 1), (Some(6), 109, 1)],
            ),
            (vec![(0, table(&[(0x05, u32::MAX, 9)]))], vec![]),
            (vec![(512, header(u64::MAX, 128, 128))], vec![]),
            (vec![(512, header(2, u32::MAX, 1024)), (1024, gpt_entry(9, 8))], vec![]),
            (vec![(512, header(2, 1, 128)), (1024, gpt_entry(u64::MAX, u64::MAX))], vec![]),
            (vec![(512, header(2, 1, 128)), (1024, gpt_entry(0, u64::MAX))], vec![]),
            (vec![(512, header(2, 1, 128)), (1024, gpt_entry(1, u64::MAX / 512))], vec![(Some(1), 1, ALL - 1)]),
            (vec![(512, header(2, 1, 0))], vec![(None, 0, ALL)]),
            (vec![(512, header(2, 1, u32::MAX))], vec![(None, 0, ALL)]),
        ] {
            assert_eq!(found(&disk), expected, "{disk:?}");
        }
    }
}
