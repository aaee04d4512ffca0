//! Damaged and hostile images: an error, or a rebase; never a panic, an endless loop, or a write that changes what the
//! target's own data say elsewhere.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use nasbackup::qcow2::{self, Rebase, Source, Storage};

use rustix::io::Errno;

use crate::chains::{Chain, Kind, Random};
use crate::differential::seeds;
use crate::mutation::time;
use crate::support::PATIENCE;

/// Reads that one rebase of a small image may take, far more than any needs.
const MOST_READS: u64 = 200_000;

/// Counts what is asked of a target.
struct Watched {
    file: File,
    plain: bool,
    reads: AtomicU64,
    written: AtomicU64,
    /// More than a rebase of these images can have to write.
    most_written: u64,
}

impl Watched {
    fn write(&self, to: u64, length: u64) {
        assert!(to.checked_add(length).is_some_and(|end| end < 1 << 56), "{length} bytes at {to}");
        let written = self.written.fetch_add(length, Relaxed) + length;
        assert!(written <= self.most_written, "more than {} bytes written", self.most_written);
    }
}

impl Source for &Watched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        assert!(self.reads.fetch_add(1, Relaxed) + 1 < MOST_READS, "it reads without end");
        assert!(buffer.len() <= 4 << 20, "a buffer of {} bytes", buffer.len());
        Source::read_at(&self.file, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

impl Storage for &Watched {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write(offset, data.len() as u64);
        Storage::write_at(&self.file, data, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        assert!(length < 1 << 56);
        self.file.set_length(length)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
        self.write(to, length);
        if self.plain { Err(Errno::OPNOTSUPP.into()) } else { self.file.clone_from(to, source, from, length) }
    }

    fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64> {
        self.write(to, length);
        if self.plain { Err(Errno::XDEV.into()) } else { self.file.copy_from(to, source, from, length) }
    }
}

/// Changes a few places, most of them where tables and headers are, to values that are likely to hurt.
pub(crate) fn mutate(random: &mut Random, image: &mut Vec<u8>) {
    let cluster = 1_usize << image.get(23).copied().unwrap_or(16).clamp(9, 21);
    for _ in 0..1 + random.below(4) {
        let length = image.len() as u64;
        let at = match random.below(8) {
            0..3 => random.below(120.min(length)),
            3 => random.below(512.min(length)),
            // the start of some cluster: most tables begin there
            4..7 => {
                let start = random.below(length.div_ceil(cluster as u64)) * cluster as u64;
                (start + random.below(64) * 8 / (1 + random.below(8))).min(length - 1)
            }
            _ => random.below(length),
        } as usize;
        let (size, offset) = (random.of(&[1, 2, 4, 8]), random.below(length) / 512 * 512);
        let value = match random.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << random.below(64),
            3 => offset,
            4 => offset | 1 << 63,
            5 => (offset / cluster as u64 * cluster as u64) | (1 << 63),
            6 => offset | 1 << 62 | random.next() << 48,
            _ => random.next(),
        };
        random.damage(image, at, &value.to_be_bytes()[8 - size..]);
    }
}

/// Rebases a chain of which one image is damaged; whether that succeeded.
fn survives(chain: &Chain, random: &mut Random, originals: &[Vec<u8>]) -> bool {
    let damaged = if random.chance(60) { chain.target } else { random.below(chain.target as u64) as usize };
    let mut image = originals[damaged].clone();
    mutate(random, &mut image);
    fs::write(chain.path(damaged), &image).unwrap();
    let header = File::open(chain.path(damaged)).unwrap();
    drop((qcow2::inspect(&header), qcow2::backing(&header)));

    let all: u64 = originals.iter().map(|image| image.len() as u64).sum();
    let watched = Watched {
        file: chain.open(chain.target),
        plain: random.chance(50),
        reads: AtomicU64::new(0),
        written: AtomicU64::new(0),
        // the smallest clusters, absorbed by the largest of these chains, and tables
        most_written: all * 128 + (16 << 20),
    };
    let (keep, name) = chain.keep();
    let begun = Instant::now();
    let mut tell = |_| {
        assert!(begun.elapsed() < PATIENCE, "it takes too long");
        Ok(())
    };
    let begin = Rebase::begin(&watched, chain.backing(), keep, name.as_deref());
    let done = begin.and_then(|rebase| rebase.check(&mut tell)?.run(&mut tell));
    assert!(begun.elapsed() < PATIENCE, "it took too long");
    for image in [damaged, chain.target] {
        fs::write(chain.path(image), &originals[image]).unwrap();
    }
    if let Err(failure) = &done {
        assert!(failure.image < chain.images && !failure.error.to_string().is_empty());
    }
    done.is_ok()
}

/// Seeds and rounds that were not survived once.
fn corpus() -> impl Iterator<Item = (u64, u64)> {
    let lines = include_str!("../corpus/rebase.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').map(|(seed, round)| (seed.parse().unwrap(), round.parse().unwrap())).unwrap())
}

#[test]
fn damaged_images_are_an_error_or_are_rebased() {
    let (begun, time) = (Instant::now(), time());
    let (mut rebased, mut refused) = (0, 0);
    let mut all = |seed: u64, rounds: std::ops::Range<u64>| {
        let chain = Chain::make(seed, Kind::Small);
        let originals: Vec<_> = (0..chain.images).map(|image| fs::read(chain.path(image)).unwrap()).collect();
        for round in rounds {
            let mut random = Random(seed << 32 | round);
            eprintln!("seed {seed}, round {round}");
            if survives(&chain, &mut random, &originals) { rebased += 1 } else { refused += 1 }
        }
    };
    corpus().for_each(|(seed, round)| all(seed, round..round + 1));
    for seed in seeds("NASBACKUP_FUZZ_CHAINS", 6).chain(if time.is_some() { 1000..u64::MAX } else { 0..0 }) {
        if time.is_some_and(|time| begun.elapsed() > time) {
            break;
        }
        all(seed, 0..300);
    }
    println!("{rebased} rebased, {refused} refused");
    assert!(rebased > 50 && refused > 50, "{rebased} rebased, {refused} refused: the damage is not well chosen");
}
