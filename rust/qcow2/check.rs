//! The check of one image, as `qemu-img check` does it: each table followed, each cluster's references counted.

use std::fs::File;
use std::time::{Duration, Instant};

use super::header::AUTOCLEAR_RAW_DATA;
use super::image::Image;
use super::storage::Source;
use super::survey::{Damage, Survey};
use super::{Error, corrupt};

/// How long one step takes, about.
const STEP: Duration = Duration::from_millis(250);
/// How much of a table is read at once.
const SLICE: u64 = 64 << 10;

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Clusters that are counted as used more often than they are: space is lost, no data.
    pub leaked: u64,
    /// Places that are damaged; 10,000 stands for more.
    pub damaged: u64,
    /// The first of these places, in words.
    pub reasons: Vec<String>,
}

/// A check under way. It reads, and needs up to 25 MiB of memory, 32 MiB more for an L1 table of that size.
#[derive(Debug)]
pub struct Check<S = File> {
    image: Image<S>,
    survey: Survey,
}

impl<S: Source> Check<S> {
    /// Reads the header. Damage that leaves nothing to follow is `Error::Corrupt`, what is not known here
    /// `Error::Unsupported`.
    pub fn begin(source: S) -> Result<Check<S>, Error> {
        let mut image = Image::open(source, SLICE)?;
        if image.header.autoclear & AUTOCLEAR_RAW_DATA != 0 {
            return corrupt("it says that another file holds its data as they are");
        }
        if let Some(directory) = image.header.bitmaps.as_ref().filter(|_| image.header.bitmaps_are_kept()) {
            directory.read(&image.storage, image.cluster_size())?;
        }
        image.check_tables_are_distinct()?;
        let mut survey = Survey::begin(&image)?;
        survey.list_damage();
        Ok(Check { image, survey })
    }

    /// How much of all that is to be looked at has been, and all.
    pub fn position(&self) -> (u64, u64) {
        self.survey.position(u64::from(self.image.header.tables.l1_entries))
    }

    /// Goes on for about a quarter of a second; the result once all is checked. The error is not about the image.
    pub fn advance(&mut self) -> Result<Option<Checked>, Error> {
        let leaked = match self.survey.advance(&mut self.image, Instant::now() + STEP) {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => found.leaked,
            // what is wrong there can't be told from what follows from it
            Err(Error::Corrupt(reason)) => {
                let Damage { places, mut reasons } = self.survey.damage();
                reasons.push(reason);
                return Ok(Some(Checked { leaked: 0, damaged: places + 1, reasons }));
            }
            Err(error) => return Err(error),
        };
        let Damage { places, reasons } = self.survey.damage();
        Ok(Some(Checked { leaked, damaged: places, reasons }))
    }
}
