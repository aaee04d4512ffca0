//! Flatten: what a guest sees through a chain of images becomes one file, or a block device's content, that stands on
//! nothing.

use std::fs::File;
use std::time::{Duration, Instant};

use super::absorb::{Failure, Progress, Rebase};
use super::ahead::Ahead;
use super::chain::{Chain, Provided};
use super::create;
use super::header::Header;
use super::image::What;
use super::storage::Storage;
use super::transfer::{Moved, Route, Writeback};
use super::zeroing::Zeroing;

/// How long one step takes, about; the caller looks for a cancel in between.
const STEP: Duration = Duration::from_millis(250);
/// Bytes that are copied between two syncs, so that the last one does not take all the time.
const SYNC_EACH: u64 = 1 << 30;

/// A flattening under way. Dropping it leaves a part of the content in the target.
#[derive(Debug)]
pub struct Flatten(Kind);

#[derive(Debug)]
enum Kind {
    Raw(Box<Raw>),
    Qcow2(Box<Rebase<File>>),
}

/// What a raw target was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It is a file without content.
    Empty,
    /// It is a block device: whatever it holds is replaced, up to its end.
    Device,
}

impl Flatten {
    /// Size that the guest sees of the image, in bytes.
    pub fn virtual_size(image: &File) -> Result<u64, Failure> {
        Ok(Header::read(image).map_err(|error| Failure::of(1, error))?.virtual_size)
    }

    /// What `images`, the newest first, each standing on the next, hold together, into `target` as it is.
    pub fn raw(images: Vec<File>, target: File, before: Before) -> Result<Flatten, Failure> {
        let chain = open(images)?;
        let disk = chain.images.first().map_or(0, |image| image.virtual_size());
        let end = match before {
            Before::Empty => disk,
            Before::Device => super::storage::Source::length(&target)?,
        };
        if before == Before::Empty {
            target.set_length(disk)?;
        }
        let routes = chain.images.iter().map(|image| Route::new(&image.storage, image.length)).collect();
        let (moved, zeroing) = (Moved::default(), Zeroing::default());
        let raw = Raw {
            target,
            chain,
            routes,
            before,
            disk,
            end,
            at: 0,
            moved,
            zeroing,
            unsynced: 0,
            writeback: Writeback::default(),
            ahead: Ahead::default(),
            finished: false,
        };
        Ok(Flatten(Kind::Raw(Box::new(raw))))
    }

    /// The same, into the empty file `target`, which becomes a qcow2 image.
    pub fn qcow2(images: Vec<File>, target: File) -> Result<Flatten, Failure> {
        let disk = images.first().map_or(Ok(0), Flatten::virtual_size)?;
        create::create(&target, disk, None)?;
        Ok(Flatten(Kind::Qcow2(Box::new(Rebase::into_new(target, images)?))))
    }

    /// Bytes that came by sharing blocks.
    pub fn bytes_cloned(&self) -> u64 {
        match &self.0 {
            Kind::Raw(raw) => raw.moved.cloned,
            Kind::Qcow2(rebase) => rebase.bytes_cloned(),
        }
    }

    /// Bytes that came by copying; what reads as zeroes and is not written does not count.
    pub fn bytes_copied(&self) -> u64 {
        match &self.0 {
            Kind::Raw(raw) => raw.moved.copied,
            Kind::Qcow2(rebase) => rebase.bytes_copied(),
        }
    }

    /// What the next step does, as a verb phrase.
    pub fn phase(&self) -> &'static str {
        match &self.0 {
            Kind::Raw(raw) if raw.is_to_be_synced() => "sync",
            Kind::Raw(_) => "copy",
            Kind::Qcow2(rebase) => rebase.phase(),
        }
    }

    /// Goes on for about a quarter of a second, or one sync. Once it is finished all of it is durable.
    pub fn advance(&mut self) -> Result<Progress, Failure> {
        match &mut self.0 {
            Kind::Raw(raw) => raw.advance(),
            Kind::Qcow2(rebase) => rebase.advance(),
        }
    }
}

/// Opens the images, and looks that what there is to be read is not more than they hold.
fn open(images: Vec<File>) -> Result<Chain, Failure> {
    let mut chain = Chain::open(images).map_err(|(i, error)| Failure::of(i + 1, error))?;
    chain.check_tables_are_distinct()?;
    Ok(chain)
}

#[derive(Debug)]
struct Raw {
    target: File,
    chain: Chain,
    routes: Vec<Route>,
    before: Before,
    /// Bytes of the guest's disk, and of the target.
    disk: u64,
    end: u64,
    at: u64,
    moved: Moved,
    zeroing: Zeroing,
    /// Bytes that were written since the last sync.
    unsynced: u64,
    writeback: Writeback,
    ahead: Ahead,
    finished: bool,
}

impl Raw {
    fn is_to_be_synced(&self) -> bool {
        self.at == self.end || self.unsynced >= SYNC_EACH
    }

    fn advance(&mut self) -> Result<Progress, Failure> {
        let (until, phase) = (Instant::now() + STEP, if self.is_to_be_synced() { "sync" } else { "copy" });
        if self.is_to_be_synced() {
            self.target.sync()?;
            self.unsynced = 0;
            self.finished = self.at == self.end;
        }
        while self.at < self.end && self.unsynced < SYNC_EACH && Instant::now() < until {
            self.step()?;
        }
        Ok(Progress { phase, done: self.at, total: self.end, finished: self.finished })
    }

    /// Bytes at the position.
    fn wrote(&mut self, bytes: u64) {
        self.unsynced += bytes;
        self.writeback.wrote(&self.target, self.at, bytes);
    }

    /// Deals with some of what follows.
    fn step(&mut self) -> Result<(), Failure> {
        if self.at >= self.disk {
            return self.zero(self.end - self.at);
        }
        let routes = &self.routes;
        let next = self.ahead.next(&mut self.chain, self.disk, |chain, image, range| {
            routes[image].read_soon(&chain.images[image].storage, range);
        })?;
        let Some(Provided { extent, image }) = next else { return Ok(()) };
        let from = self.at;
        match extent.what {
            What::Unallocated | What::Zero => self.zero(extent.length)?,
            What::Data(offset) => self.take(image, offset, extent.length)?,
            What::Compressed(_) => self.read(extent.length)?,
        }
        self.ahead.advance(self.at - from);
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        self.before == Before::Empty
    }

    fn take(&mut self, image: usize, offset: u64, length: u64) -> Result<(), Failure> {
        let (source, fresh) = ((&self.chain.images[image].storage, offset), self.is_fresh());
        let moved = self.routes[image].step(&self.target, self.at, source, length, fresh);
        let moved = moved.map_err(|(of_source, error)| Failure::of(if of_source { image + 1 } else { 0 }, error))?;
        self.chain.spend(image, moved.cloned + moved.copied)?;
        self.moved.cloned += moved.cloned;
        self.moved.copied += moved.copied;
        self.wrote(moved.copied);
        self.at += moved.cloned + moved.copied;
        Ok(())
    }

    /// Takes a compressed cluster, or the part of it that is left.
    fn read(&mut self, length: u64) -> Result<(), Failure> {
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        self.chain.read(self.at, &mut buffer)?;
        if !self.is_fresh() || buffer.iter().any(|byte| *byte != 0) {
            self.target.write_at(&buffer, self.at)?;
        }
        self.moved.copied += length;
        self.wrote(length);
        self.at += length;
        Ok(())
    }

    /// Makes the next bytes zero, or some of them.
    fn zero(&mut self, length: u64) -> Result<(), Failure> {
        if self.is_fresh() {
            self.at += length;
            return Ok(());
        }
        let (zeroed, written) = self.zeroing.make(&self.target, self.at, length)?;
        if written {
            self.wrote(zeroed);
        }
        self.at += zeroed;
        Ok(())
    }
}
