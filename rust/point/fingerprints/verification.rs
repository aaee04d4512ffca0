//! Compares one image with its fingerprints: every byte of its file is read.

use std::fs::File;
use std::io;

use super::contents::Contents;
use super::{Content, Digest, Fingerprints, Index, IndexEntry, is_damage};
use crate::qcow2::{CLUSTER, Error, Pulse, hash_rest};

/// Damaged clusters that are named.
const MOST_NAMED: usize = 16;

/// The result of a comparison.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Guest offsets of the first clusters that differ from their fingerprints.
    pub clusters: Vec<u64>,
    /// The number of such clusters.
    pub changed: u64,
    /// The rest of the file, which is not guest data, differs from its hash.
    pub rest_changed: bool,
    /// The reason why the index can't be trusted, so that nothing is known of the clusters.
    pub index: Option<String>,
}

/// Compares an image with its fingerprints, given its index, or why that can't be opened, and what the manifest records. The pulse gets
/// the bytes of the image's file that were read, and its length. Errors as those of `Mapping::open`, and `Error::Corrupt` when
/// the image can't be followed. Memory: 3 MiB and a bit for each cluster of the file.
pub fn verify(
    image: File,
    index: Result<File, String>,
    recorded: &Fingerprints,
    pulse: &mut Pulse<'_>,
) -> Result<Findings, Error> {
    let length = image.metadata()?.len();
    let contents = Contents::open(image.try_clone()?)?;
    let mut hashed = 0;
    let rest = hash_rest(image, &mut |done, _| {
        hashed = done;
        pulse(done, length)
    })?;
    let mut comparison = Comparison { contents, index: None, here: None, found: Findings::default() };
    comparison.found.rest_changed = Digest::from(rest) != recorded.rest;
    match index {
        Ok(file) => comparison.open_index(file, recorded.hash)?,
        Err(why) => comparison.found.index = Some(why),
    }
    while comparison.found.index.is_none() && comparison.compare()? {
        pulse(hashed + comparison.contents.read, length)?;
    }
    let found = comparison.found;
    Ok(if found.index.is_some() { Findings { clusters: Vec::new(), changed: 0, ..found } } else { found })
}

/// What of an image was compared.
struct Comparison {
    contents: Contents,
    index: Option<Index<File>>,
    /// What the index has next.
    here: Option<IndexEntry>,
    found: Findings,
}

impl Comparison {
    fn open_index(&mut self, file: File, expected: Digest) -> Result<(), Error> {
        let size = self.contents.virtual_size();
        let opened = Index::open(file, expected).and_then(|mut index| Ok((index.next_entry()?, index)));
        match self.believe(opened)? {
            Some((_, index)) if index.virtual_size() != size => {
                self.found.index = Some(format!("is of a disk of {} bytes", index.virtual_size()));
            }
            Some((here, index)) => (self.here, self.index) = (here, Some(index)),
            None => {}
        }
        Ok(())
    }

    /// Notes that the index is damaged, and returns `None` then.
    fn believe<T>(&mut self, read: io::Result<T>) -> io::Result<Option<T>> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_damage(&error) => {
                self.found.index = Some(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares the next clusters; false at the end.
    fn compare(&mut self) -> Result<bool, Error> {
        let Some((piece, bytes)) = self.contents.next_piece()? else {
            self.skip(u64::MAX)?;
            return Ok(false);
        };
        let first = piece.guest / CLUSTER;
        if piece.host.is_none() {
            let end = first + piece.length.div_ceil(CLUSTER);
            self.compare_zeroes(first, end)?;
            return Ok(true);
        }
        let contents: Vec<_> = bytes.chunks(CLUSTER as usize).map(Content::of).collect();
        for (cluster, content) in (first..).zip(contents) {
            self.skip(cluster)?;
            match self.here.filter(|entry| entry.cluster == cluster) {
                Some(entry) => {
                    if entry.content != content {
                        self.note(cluster, 1);
                    }
                    self.pass(entry, 1)?;
                }
                None => self.note(cluster, 1),
            }
        }
        Ok(true)
    }

    fn compare_zeroes(&mut self, first: u64, end: u64) -> Result<(), Error> {
        let mut at = first;
        while at < end {
            self.skip(at)?;
            match self.here.filter(|entry| entry.cluster < end) {
                Some(entry) => {
                    self.note(at, entry.cluster - at);
                    let count = entry.count.min(end - entry.cluster);
                    if entry.content != Content::Zero {
                        self.note(entry.cluster, count);
                    }
                    at = entry.cluster + count;
                    self.pass(entry, count)?;
                }
                None => {
                    self.note(at, end - at);
                    at = end;
                }
            }
        }
        Ok(())
    }

    /// Passes the entries before `cluster`, which the image lacks.
    fn skip(&mut self, cluster: u64) -> Result<(), Error> {
        while let Some(entry) = self.here.filter(|entry| entry.cluster < cluster) {
            let count = entry.count.min(cluster - entry.cluster);
            self.note(entry.cluster, count);
            self.pass(entry, count)?;
        }
        Ok(())
    }

    /// Passes the first `count` clusters of the next entry.
    fn pass(&mut self, entry: IndexEntry, count: u64) -> Result<(), Error> {
        if count < entry.count {
            self.here = Some(IndexEntry { cluster: entry.cluster + count, count: entry.count - count, ..entry });
            return Ok(());
        }
        let next = self.index.as_mut().map_or(Ok(None), Index::next_entry);
        self.here = self.believe(next)?.flatten();
        Ok(())
    }

    fn note(&mut self, cluster: u64, count: u64) {
        self.found.changed += count;
        let room = MOST_NAMED - self.found.clusters.len();
        let named = (cluster..cluster + count).take(room).map(|cluster| cluster * CLUSTER);
        self.found.clusters.extend(named);
    }
}
