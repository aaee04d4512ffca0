//! What a partition holds, by what its file system, or what else it is a part of, writes at its beginning.

/// Bytes of the beginning that are looked at.
pub(super) const HEAD: usize = 68 << 10;

/// What lies in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    /// As `blkid` calls it.
    pub(super) kind: &'static str,
    pub(super) label: Option<String>,
}

/// A type, the place and the text by which it is known, and the place of its label, none where that has no length.
struct Magic(&'static str, usize, &'static [u8], (usize, usize));

/// The shortest text last: chance may write it.
const MAGICS: [Magic; 19] = [
    Magic("crypto_LUKS", 0, b"LUKS\xba\xbe", (0, 0)),
    // LVM looks for its label in four sectors, and takes it whatever else is there
    Magic("LVM2_member", 0, b"LABELONE", (0, 0)),
    Magic("LVM2_member", 512, b"LABELONE", (0, 0)),
    Magic("LVM2_member", 1024, b"LABELONE", (0, 0)),
    Magic("LVM2_member", 1536, b"LABELONE", (0, 0)),
    Magic("xfs", 0, b"XFSB", (108, 12)),
    Magic("btrfs", 0x1_0040, b"_BHRfS_M", (0x1_012b, 256)),
    Magic("ntfs", 3, b"NTFS    ", (0, 0)),
    Magic("exfat", 3, b"EXFAT   ", (0, 0)),
    Magic("BitLocker", 3, b"-FVE-FS-", (0, 0)),
    Magic("vfat", 82, b"FAT32   ", (71, 11)),
    Magic("vfat", 54, b"FAT16   ", (43, 11)),
    Magic("vfat", 54, b"FAT12   ", (43, 11)),
    Magic("swap", 4086, b"SWAPSPACE2", (1052, 16)),
    Magic("iso9660", 32769, b"CD001", (32808, 32)),
    Magic("squashfs", 0, b"hsqs", (0, 0)),
    Magic("linux_raid_member", 4096, b"\xfc\x4e\x2b\xa9", (0, 0)),
    Magic("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9", (0, 0)),
    Magic("ext4", 1080, b"\x53\xef", (1144, 16)),
];

/// What the beginning of a partition shows; none if that is not known.
pub(super) fn find(head: &[u8]) -> Option<Superblock> {
    let Magic(kind, _, _, (at, length)) = MAGICS.iter().find(|magic| holds(head, magic))?;
    let label = head.get(*at..at + length).map(text).filter(|label| !label.is_empty());
    // of a FAT without a label
    let label = label.filter(|label| label != "NO NAME");
    Some(Superblock { kind: if *kind == "ext4" { ext(head) } else { kind }, label })
}

/// Is the first sector that of a file system, which ends as a table of partitions does?
pub(super) fn is_boot_sector(sector: &[u8]) -> bool {
    MAGICS.iter().filter(|magic| magic.1 < 512 && magic.1 != 0).any(|magic| holds(sector, magic))
}

fn holds(head: &[u8], Magic(_, at, magic, _): &Magic) -> bool {
    head.get(*at..).is_some_and(|rest| rest.starts_with(magic))
}

/// Which of three types that begin alike.
fn ext(head: &[u8]) -> &'static str {
    const JOURNAL: u32 = 4;
    // extents, 64 bits, groups of groups
    const OF_EXT4: u32 = 0x40 | 0x80 | 0x200;
    let bits = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    match (bits(1120) & OF_EXT4, bits(1116) & JOURNAL) {
        (0, 0) => "ext2",
        (0, _) => "ext3",
        _ => "ext4",
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_partition_holds_is_known_by_its_beginning() {
        let ext = |incompatible: u8, journal: u8| {
            vec![(1080, vec![0x53, 0xef]), (1120, vec![incompatible]), (1116, vec![journal])]
        };
        for (parts, kind, label) in [
            (ext(0, 0), Some("ext2"), None),
            (ext(2, 4), Some("ext3"), None),
            ([ext(0x42, 4), vec![(1144, b"root".to_vec())]].concat(), Some("ext4"), Some("root")),
            (vec![(0, b"XFSB".to_vec()), (108, b"a label of 1".to_vec())], Some("xfs"), Some("a label of 1")),
            (vec![(3, b"NTFS    ".to_vec())], Some("ntfs"), None),
            (vec![(82, b"FAT32   ".to_vec()), (71, b"EFI        ".to_vec())], Some("vfat"), Some("EFI")),
            (vec![(54, b"FAT16   ".to_vec()), (43, b"NO NAME    ".to_vec())], Some("vfat"), None),
            (vec![(65600, b"_BHRfS_M".to_vec()), (65835, b"\xff\x1b".to_vec())], Some("btrfs"), Some("\u{fffd}\u{1b}")),
            (vec![(0, b"LABELONE".to_vec()), (1080, vec![0x53, 0xef])], Some("LVM2_member"), None),
            (vec![(512, b"LABELONE".to_vec()), (0, b"XFSB".to_vec())], Some("LVM2_member"), None),
            (vec![(1536, b"LABELONE".to_vec()), (1080, vec![0x53, 0xef])], Some("LVM2_member"), None),
            (vec![(2048, b"LABELONE".to_vec()), (1080, vec![0x53, 0xef])], Some("ext2"), None),
            (vec![(0, b"LUKS\xba\xbe".to_vec())], Some("crypto_LUKS"), None),
            (vec![(4086, b"SWAPSPACE2".to_vec())], Some("swap"), None),
            (vec![(0, b"XFS".to_vec())], None, None),
        ] {
            let mut head = vec![0; HEAD];
            parts.iter().for_each(|(at, bytes)| head[*at..at + bytes.len()].copy_from_slice(bytes));
            let found = find(&head);
            assert_eq!(found.as_ref().map(|found| found.kind), kind, "{parts:?}");
            assert_eq!(found.and_then(|found| found.label).as_deref(), label, "{parts:?}");
        }
    }

    #[test]
    fn a_beginning_that_is_cut_off_is_no_harm() {
        for length in [0, 1, 512, 1082, 1083, 4090] {
            let mut head = vec![0; length];
            head.get_mut(1080..1082).into_iter().for_each(|magic| magic.copy_from_slice(&[0x53, 0xef]));
            assert_eq!(find(&head).map(|found| found.kind), (length >= 1082).then_some("ext2"), "{length}");
        }
    }
}
