//! Outside data, damaged: one generator of random numbers and one way to change bytes, for every target of `make fuzz`.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// A small generator of random numbers (splitmix64): the same seed, the same damage.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Puts bytes in the place of those at `at`, or flips single bits of these; now and then the rest is cut off.
    pub fn damage(&mut self, data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
        for (place, byte) in data[at..].iter_mut().zip(bytes) {
            *place = if self.chance(10) { *place ^ (1 << self.below(8)) } else { *byte };
        }
        if self.chance(3) {
            let length = self.below(data.len() as u64) as usize + 1;
            data.truncate(length);
        }
    }

    /// Changes a few places of a text: words and bytes put in or over, pieces doubled, moved or taken out.
    pub fn garble(&mut self, data: &mut Vec<u8>, words: &[&str]) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(data.len() as u64 + 1) as usize;
            let end = (at + self.below(24) as usize).min(data.len());
            let piece = data[at..end].to_vec();
            match self.below(6) {
                0 => drop(data.splice(at..at, self.of(words).bytes())),
                1 => drop(data.splice(at..end, self.of(words).bytes())),
                2 => drop(data.splice(at..end, None)),
                3 => drop(data.splice(at..at, piece.repeat(1 + self.below(40) as usize))),
                4 => {
                    let to = self.below(data.len() as u64 + 1) as usize;
                    data.splice(to..to, piece);
                }
                _ if data.is_empty() => {}
                _ => {
                    let byte = [self.next() as u8];
                    self.damage(data, at.min(data.len() - 1), &byte);
                }
            }
        }
    }
}

/// How long `make fuzz` wants each target; none in an ordinary test.
pub fn time() -> Option<Duration> {
    let seconds = std::env::var("NASBACKUP_FUZZ_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

/// Runs a target on everything in its corpus, then on the seeds, garbled: `rounds` times, or for as long as `make fuzz`
/// wants. What it does not survive is kept in `target/fuzz`, to be put into the corpus.
pub fn fuzz(target: &str, seeds: &[Vec<u8>], words: &[&str], rounds: u64, run: impl Fn(&[u8])) {
    let guarded = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
            let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            std::fs::create_dir_all(&kept).unwrap();
            let kept = kept.join(format!("{target}-{}", std::process::id()));
            std::fs::write(&kept, input).unwrap();
            eprintln!("not survived: {}: {}", kept.display(), String::from_utf8_lossy(input));
            resume_unwind(panic);
        }
    };
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    for entry in std::fs::read_dir(&corpus).unwrap() {
        guarded(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    let (begun, time) = (Instant::now(), time());
    let goes_on = |round| time.map_or(round < rounds, |time| begun.elapsed() < time);
    for round in (0..).take_while(|round| goes_on(*round)) {
        let mut random = Random(round);
        let mut input = seeds[random.below(seeds.len() as u64) as usize].clone();
        random.garble(&mut input, words);
        guarded(&input);
    }
}
