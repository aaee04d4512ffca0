//! The check of one image, as `qemu-img check` does it: each table followed, each cluster's references counted.

use super::header::AUTOCLEAR_RAW_DATA;
use super::image::Image;
use super::storage::Source;
use super::survey::{Damage, Survey};
use super::{Error, Pulse, corrupt};

/// Bytes of a table that are read at once.
const SLICE: u64 = 64 << 10;

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Clusters that are counted as used more often than they are: space is lost, no data.
    pub leaked: u64,
    /// Places that are damaged; 10,000 stands for more.
    pub damaged: u64,
    /// The first of these places, in words.
    pub reasons: Vec<String>,
}

/// Checks the image in `source`, without writing. This needs up to 25 MiB of memory, and 32 MiB more for the largest L1 table. The
/// report lists damage. `Error::Corrupt` means that damage leaves no tables to follow, `Error::Unsupported` that the image has features
/// which this library does not know; any other error is not about the image.
pub fn check<S: Source>(source: S, pulse: &mut Pulse<'_>) -> Result<CheckReport, Error> {
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
    match survey.run(&mut image, pulse) {
        Ok(found) => {
            let Damage { places, reasons } = survey.damage();
            Ok(CheckReport { leaked: found.leaked, damaged: places, reasons })
        }
        // the survey ends here: further damage might only follow from this
        Err(Error::Corrupt(reason)) => {
            let Damage { places, mut reasons } = survey.damage();
            reasons.push(reason);
            Ok(CheckReport { leaked: 0, damaged: places + 1, reasons })
        }
        Err(error) => Err(error),
    }
}
