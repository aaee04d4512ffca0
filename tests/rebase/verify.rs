//! The check of an image's tables, against `qemu-img check`, on sound and on damaged images.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nasbackup::qcow2::{CheckReport, Error, check};

use crate::chains::{Chain, Kind, Random, name, qemu_img};
use crate::differential::seeds;
use crate::fuzz::mutate;
use crate::support::PATIENCE;

/// What a tool finds in an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Clean,
    Leaks(u64),
    Corrupt(String),
    /// It is not known here, or not for this test: the names of backing files.
    Unsupported,
}

pub(crate) fn ours(path: &Path) -> Finding {
    let begun = Instant::now();
    let mut tell = |done, total| {
        assert!(begun.elapsed() < PATIENCE, "it takes too long");
        assert!(done <= total, "{done} of {total}");
        Ok(())
    };
    let checked = File::open(path).map_err(Error::from).and_then(|file| check(file, &mut tell));
    match checked {
        Ok(CheckReport { damaged: 0, leaked: 0, reasons }) if reasons.is_empty() => Finding::Clean,
        Ok(CheckReport { damaged: 0, leaked, reasons }) if reasons.is_empty() => Finding::Leaks(leaked),
        Ok(CheckReport { damaged, reasons, .. }) => {
            assert!(damaged >= reasons.len() as u64 && !reasons.is_empty());
            Finding::Corrupt(reasons.join("; "))
        }
        Err(error @ (Error::Corrupt(_) | Error::NotQcow2)) => Finding::Corrupt(error.to_string()),
        Err(Error::Unsupported(_)) => Finding::Unsupported,
        Err(error) => panic!("{error}"),
    }
}

fn by_qemu(dir: &Path, image: &str) -> Finding {
    // of the processor: on tables that lead in a circle it goes on for as long as it may
    let args = ["--cpu=2", "qemu-img", "check", "-f", "qcow2", "--output=json", image];
    let output = Command::new("prlimit").args(args).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let Ok(found) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
        return if text.contains("backing file: ") { Finding::Unsupported } else { Finding::Corrupt(text) };
    };
    let number = |name: &str| found[name].as_u64().unwrap_or(0);
    match (number("corruptions") + number("check-errors"), number("leaks")) {
        (0, 0) => Finding::Clean,
        (0, leaks) => Finding::Leaks(leaks),
        _ => Finding::Corrupt(text),
    }
}

/// Where the tables of an image lie that is sound.
struct Map {
    cluster: u64,
    tables: Vec<(&'static str, u64, u64)>,
}

fn be(image: &[u8], at: u64, bytes: usize) -> u64 {
    let at = at as usize;
    image.get(at..at + bytes).unwrap_or_default().iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Map {
    fn of(image: &[u8]) -> Map {
        const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
        let cluster = 1 << be(image, 20, 4);
        let (l1, l1_length) = (be(image, 40, 8), be(image, 36, 4) * 8);
        let (refcounts, refcounts_length) = (be(image, 48, 8), be(image, 56, 4) * cluster);
        let mut tables = vec![("header", 0, 112), ("L1 table", l1, l1_length), ("refcount table", refcounts, 64)];
        let entries = |table: u64, length: u64| {
            let entry = |at| be(image, table + at, 8) & OFFSET;
            (0..length).step_by(8).map(entry).filter(|entry| *entry != 0).collect::<Vec<_>>()
        };
        tables.extend(entries(l1, l1_length).into_iter().map(|table| ("L2 table", table, cluster)));
        let blocks = entries(refcounts, refcounts_length);
        tables.extend(blocks.into_iter().map(|block| ("refcount block", block, cluster)));
        tables.extend(Map::bitmaps(image, cluster));
        Map { cluster, tables }
    }

    fn bitmaps(image: &[u8], cluster: u64) -> Vec<(&'static str, u64, u64)> {
        let mut at = if be(image, 4, 4) == 2 { 72 } else { be(image, 100, 4) };
        while be(image, at, 4) != 0 && at < cluster {
            let length = be(image, at + 4, 4);
            if be(image, at, 4) == 0x2385_2875 {
                let directory = be(image, at + 8 + 16, 8);
                let table = be(image, directory, 8);
                return vec![("bitmap directory", directory, 64), ("bitmap table", table, 8), ("header", at, 32)];
            }
            at += 8 + length.next_multiple_of(8);
        }
        Vec::new()
    }

    /// Damages one place; in which table.
    fn damage(&self, random: &mut Random, image: &mut Vec<u8>) -> &'static str {
        if random.chance(10) {
            return self.leak(random, image);
        }
        // each kind as often
        let kinds: BTreeMap<_, Vec<_>> = self.tables.iter().fold(BTreeMap::new(), |mut kinds, table| {
            kinds.entry(table.0).or_insert_with(Vec::new).push(table);
            kinds
        });
        let kinds: Vec<_> = kinds.into_values().collect();
        let tables = &kinds[random.below(kinds.len() as u64) as usize];
        let (what, start, length) = *tables[random.below(tables.len() as u64) as usize];
        let inside = random.below(length.min(image.len() as u64 - start)) / 8 * 8;
        let used = (0..length).step_by(8).map(|at| start + at).filter(|at| be(image, *at, 8) != 0).collect::<Vec<_>>();
        let at = if used.is_empty() || random.chance(20) {
            start + inside
        } else {
            used[random.below(used.len() as u64) as usize]
        };
        let old = be(image, at, 8);
        let other = used.get(random.below(used.len().max(1) as u64) as usize).map_or(0, |at| be(image, *at, 8));
        let new = match random.below(9) {
            0 => 0,
            1 => old ^ 1 << 63,
            2 => old ^ 1 << 62,
            3 => old ^ 1 << random.below(64),
            4 => old + self.cluster,
            5 => other,
            6 => (random.below(image.len() as u64 * 2) / self.cluster * self.cluster) | (1 << 63),
            7 => old + 512,
            _ => random.next(),
        };
        if let Some(place) = image.get_mut(at as usize..at as usize + 8) {
            place.copy_from_slice(&new.to_be_bytes());
        }
        what
    }

    /// The file gets a cluster more, and the byte of its count is set.
    fn leak(&self, random: &mut Random, image: &mut Vec<u8>) -> &'static str {
        let clusters = (image.len() as u64).div_ceil(self.cluster);
        let (order, block) = (if be(image, 4, 4) == 2 { 4 } else { be(image, 96, 4) }, be(image, be(image, 48, 8), 8));
        let leaked = clusters + random.below(3);
        if leaked < (self.cluster * 8) >> order {
            image.resize(((leaked + 1) * self.cluster) as usize, 0);
            let bit = leaked << order;
            let (byte, shift) = if order < 3 { (bit / 8, bit % 8) } else { (bit / 8 + (1 << (order - 3)) - 1, 0) };
            image[(block + byte) as usize] |= 1 << shift;
        }
        "leak"
    }
}

/// Nothing that QEMU finds is missed. What only we find has to be of these kinds: QEMU takes them as they are.
fn agree(ours: &Finding, qemu: &Finding) -> bool {
    match (ours, qemu) {
        (Finding::Corrupt(_), Finding::Corrupt(_)) | (Finding::Unsupported, _) | (_, Finding::Unsupported) => true,
        (Finding::Corrupt(why), _) => STRICTER.iter().any(|stricter| why.contains(stricter)),
        (ours, qemu) => ours == qemu,
    }
}

const STRICTER: [&str; 6] = [
    // compressed data that would begin behind the file's end
    "L2 entry 0x40000000000",
    // not a multiple of 8
    "header length ",
    // the mark of a sole reference, and nothing that it could be to
    "L2 entry 0x8000000",
    "virtual size 0",
    // a table that is cut off with the file
    ", file of ",
    // within the header, or cut off
    "backing file name ",
];

#[test]
fn bitmaps_that_are_longer_than_qemu_s_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.qcow2");
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "x.qcow2", "1M"]);
    qemu_img(dir.path(), &["bitmap", "--add", "x.qcow2", "a"]);
    let image = fs::read(&path).unwrap();
    let (_, extension, _) = Map::bitmaps(&image, 4096).into_iter().find(|(what, ..)| *what == "header").unwrap();
    let directory = be(&image, extension + 8 + 16, 8);
    let file = File::options().write(true).open(&path).unwrap();
    // in use, with a table of 32 GiB
    file.set_len(34 << 30).unwrap();
    let entry = [&(1_u64 << 30).to_be_bytes()[..], &[0xff; 4], &1_u32.to_be_bytes()].concat();
    file.write_all_at(&entry, directory).unwrap();
    let found = ours(&path);
    assert!(matches!(&found, Finding::Corrupt(reason) if reason.contains("has a table of")), "{found:?}");
    // extra data of 4 GiB in each entry of the directory
    file.set_len(140 << 30).unwrap();
    let each = 24 + u64::from(u32::MAX) + 1;
    for n in 0..32 {
        let mut entry = image[directory as usize..directory as usize + 24].to_vec();
        entry[18..].copy_from_slice(&[0, 1, 0xff, 0xff, 0xff, 0xff]);
        file.write_all_at(&entry, (1 << 30) + n * each).unwrap();
        file.write_all_at(&[b'a' + n as u8], (1 << 30) + (n + 1) * each - 1).unwrap();
    }
    file.write_all_at(&32_u32.to_be_bytes(), extension + 8).unwrap();
    file.write_all_at(&[(32 * each).to_be_bytes(), (1_u64 << 30).to_be_bytes()].concat(), extension + 16).unwrap();
    let found = ours(&path);
    assert!(matches!(&found, Finding::Corrupt(reason) if reason.contains("bitmap directory of")), "{found:?}");
}

#[test]
fn what_qemu_finds_in_an_image_is_found() {
    let mut failed = 0;
    let mut seen = BTreeMap::<String, u64>::new();
    for seed in seeds("NASBACKUP_SOAK_CHAINS", 12) {
        let chain = Chain::make(seed, if seed % 3 == 0 { Kind::Any } else { Kind::Small });
        for image in 0..chain.images {
            let (dir, path) = (chain.dir.path(), chain.path(image));
            let original = fs::read(&path).unwrap();
            let map = Map::of(&original);
            for round in 0..25 {
                let mut random = Random(seed << 32 | (image as u64) << 16 | round);
                let mut damaged = original.clone();
                let what = match round {
                    0 => "nothing",
                    1..20 => map.damage(&mut random, &mut damaged),
                    _ => {
                        mutate(&mut random, &mut damaged);
                        "anything"
                    }
                };
                fs::write(&path, &damaged).unwrap();
                let (ours, qemu) = (ours(&path), by_qemu(dir, &name(image)));
                let kind = |finding: &Finding| match finding {
                    Finding::Leaks(_) => "leaks".to_owned(),
                    Finding::Corrupt(_) => "corrupt".to_owned(),
                    other => format!("{other:?}").to_lowercase(),
                };
                *seen.entry(format!("{what}: {} / {}", kind(&ours), kind(&qemu))).or_default() += 1;
                if !agree(&ours, &qemu) {
                    failed += 1;
                    eprintln!("seed {seed}, image {image}, round {round}, {what}:\n  ours {ours:?}\n  qemu {qemu:?}\n");
                }
            }
            fs::write(&path, &original).unwrap();
        }
    }
    println!("{seen:#?}");
    assert_eq!(failed, 0);
}
