//! A byte that is another one, anywhere in all that a restore reads: what comes out is what was backed up, or nothing is
//! replaced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nasbackup::point::fingerprints::file_name;

use crate::chains::Random;
use crate::restore::{FILES, Points, QUICK, all, data_of};

const IMAGES: usize = 10;
const CLUSTER: u64 = 1 << 16;

fn alone(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

/// Where in the file of an image its parts lie.
fn parts(image: &Path) -> Vec<(&'static str, Vec<Range<u64>>)> {
    let bytes = fs::read(image).unwrap();
    let number = |at: u64, length: usize| {
        bytes[at as usize..][..length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let entries = |at: u64, count: u64| (0..count).map(move |i| at + 8 * i);
    let tables = |at: u64, count: u64| {
        let named = entries(at, count).map(|at| number(at, 8) & 0x00ff_ffff_ffff_fe00).filter(|table| *table > 0);
        named.map(|table| table..table + CLUSTER).collect::<Vec<_>>()
    };
    let (l1, l1_entries, refcounts, clusters) = (number(40, 8), number(36, 4), number(48, 8), number(56, 4));
    let mut blocks = tables(refcounts, clusters * CLUSTER / 8);
    // what there is of the file: the table, and its entries that are in use
    blocks.push(refcounts..refcounts + 8 * blocks.len() as u64);
    // the clusters that the disk has
    let l2 = tables(l1, l1_entries).into_iter().map(|table| table.start..table.start + 8 * 16);
    vec![
        ("header", alone(0..number(100, 4))),
        ("L1 table", alone(l1..l1 + 8 * l1_entries)),
        ("L2 table", l2.collect()),
        ("refcounts", blocks),
        ("data", data_of(image).into_iter().map(|(_, length, offset)| offset..offset + length).collect()),
    ]
}

/// The files of a point's second disk that a restore reads, and where in them what lies.
fn regions(folder: &Path) -> Vec<(&'static str, PathBuf, Vec<Range<u64>>)> {
    let image = folder.join(FILES[1]);
    let of_image = parts(&image).into_iter().map(|(what, ranges)| (what, image.clone(), ranges));
    let whole = |what, path: PathBuf| {
        let length = fs::metadata(&path).unwrap().len();
        (what, path, alone(0..length))
    };
    let others =
        [whole("fingerprints", folder.join(file_name(FILES[1]))), whole("manifest", folder.join("manifest.json"))];
    of_image.chain(others).collect()
}

#[test]
fn a_byte_anywhere_in_a_chain_of_ten_that_is_another_one_replaces_nothing_wrong() {
    let seed = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let seed = std::env::var("NASBACKUP_SEED").unwrap_or_else(|_| seed[..8].to_owned());
    println!("NASBACKUP_SEED={seed}");
    let mut random = Random(u64::from_str_radix(&seed, 16).unwrap());
    let points = Points::make(IMAGES, 1 << 20);
    let out = tempfile::tempdir_in(QUICK).unwrap();
    let replaced = || FILES.iter().for_each(|file| fs::write(out.path().join(file), "as it was").unwrap());
    replaced();
    let before = all(out.path());
    let mut refused = BTreeMap::<_, usize>::new();
    for point in 1..=IMAGES {
        for (what, path, ranges) in regions(&points.dir.path().join(format!("i-1/T{point}"))) {
            let at = ranges[random.below(ranges.len() as u64) as usize].clone();
            let at = at.start + random.below(at.end - at.start);
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << random.below(8)], at).unwrap();
            let format = if random.below(3) == 0 { "qcow2" } else { "raw" };
            let place = format!("{what} of T{point}, byte {at}, {format}, seed {seed}");
            match points.restore(out.path(), format) {
                // a later point has changed it, or nobody reads it
                Ok(_) => {
                    points.assert_restored(out.path(), format);
                    replaced();
                }
                Err(_) => *refused.entry(what).or_default() += 1,
            }
            assert!(all(out.path()) == before, "{place}");
            file.write_all_at(&byte, at).unwrap();
        }
    }
    println!("{refused:?}");
    // each of their bytes is hashed
    for what in ["fingerprints", "manifest"] {
        assert_eq!(refused[what], IMAGES, "{refused:?}");
    }
    points.restore(out.path(), "raw").unwrap();
    points.assert_restored(out.path(), "raw");
}
