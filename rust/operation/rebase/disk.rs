//! A disk whose image is to stand on another one than it does.

use std::cell::OnceCell;

use super::guarded::Guarded;
use crate::apart::Apart;
use crate::error::{Code, Error, Result};
use crate::nas::folder::open_same_for_writing;
use crate::nas::instance::Instance;
use crate::nas::path::RepoPath;
use crate::nas::removal;
use crate::point::Link;
use crate::qcow2::{Direct, ImageFailure, Rebase};

/// The file of an image that is written to.
pub(super) type ImageFile = Guarded<Direct<Apart>>;

/// What has to be done to one disk.
#[derive(Debug)]
pub(super) struct RebasedDisk {
    /// The file and all that it stands on, itself first.
    pub(super) chain: Vec<Link>,
    pub(super) target: Target,
    /// The file once more, open for writing.
    for_writing: OnceCell<Apart>,
}

/// What a disk is to stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// What it stands on already.
    Same,
    /// The image at that position of its chain.
    Onto(usize),
    /// Nothing.
    Alone,
}

impl RebasedDisk {
    /// What is left to do so that the disk stands on the image at `position` of its chain; without one, on nothing.
    pub(super) fn new(chain: Vec<Link>, position: Option<usize>) -> RebasedDisk {
        let target = match position {
            Some(1) => Target::Same,
            None if chain.len() == 1 => Target::Same,
            Some(position) => Target::Onto(position),
            None => Target::Alone,
        };
        RebasedDisk { chain, target, for_writing: OnceCell::new() }
    }

    /// The images that it is to absorb.
    pub(super) fn absorbed(&self) -> &[Link] {
        match self.target {
            Target::Onto(position) => &self.chain[1..position],
            Target::Alone => &self.chain[1..],
            Target::Same => &[],
        }
    }

    /// Opens the target for writing, and checks it and its chain. Nothing is written.
    pub(super) fn begin(&self, held: &Instance) -> Result<Rebase<ImageFile>> {
        let path = &self.chain[0].path;
        let (keep, name) = match self.target {
            Target::Onto(position) => (position - 1, Some(relative(path, &self.chain[position].path))),
            Target::Same | Target::Alone => (self.chain.len() - 1, None),
        };
        let backing = self.chain[1..].iter().map(|link| link.file.try_clone());
        let backing =
            backing.collect::<std::io::Result<_>>().map_err(|e| Error::io("open the chain", path.as_str(), e))?;
        let target = Guarded::new(Direct::new(self.for_writing()?), held);
        let begun = Rebase::begin(target, backing, keep, name.as_deref());
        begun.map_err(|failure| self.explain("check the image", failure))
    }

    /// The file that was looked at, whatever has its name by now.
    fn for_writing(&self) -> Result<Apart> {
        if let Some(open) = self.for_writing.get() {
            return Ok(open.clone());
        }
        let Link { path, file } = &self.chain[0];
        let opened = open_same_for_writing(file, path.as_str()).map_err(removal::explain_refusal)?;
        Ok(self.for_writing.get_or_init(|| opened).clone())
    }

    /// The disk once the image that it stands on has its name. The file that had it is closed.
    pub(super) fn replaced_by_below(self) -> RebasedDisk {
        let RebasedDisk { mut chain, target: _, for_writing } = self;
        drop(for_writing);
        chain[0].path = chain.remove(0).path;
        let position = (chain.len() > 1).then_some(1);
        RebasedDisk::new(chain, position)
    }

    /// `CORRUPT_IMAGE` when the image stands on something else than it did, or than it was to: what somebody has put there
    /// meanwhile is not written down.
    pub(super) fn check_backing(&self, below: Option<&RepoPath>) -> Result<()> {
        let at = |position: usize| self.chain.get(position).map(|link| &link.path);
        let wanted = match self.target {
            Target::Same => at(1),
            Target::Onto(position) => at(position),
            Target::Alone => None,
        };
        if below == wanted || below == at(1) {
            return Ok(());
        }
        let is = below.map_or("nothing", RepoPath::as_str);
        let cause = format!("'{}' stands on '{is}' by now, which no rebase has written", self.chain[0].path);
        Err(Error::new(Code::CorruptImage, "write the manifest", cause))
    }

    pub(super) fn explain(&self, step: &'static str, ImageFailure { image, error }: ImageFailure) -> Error {
        error.at(step, self.chain[image.min(self.chain.len() - 1)].path.as_str())
    }
}

/// The name by which an image refers to another.
fn relative(from: &RepoPath, to: &RepoPath) -> String {
    from.parent().map_or_else(|| to.to_string(), |folder| to.relative_to(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_image_stood_on_or_was_to_stand_on_is_written_down() {
        let path = |point: usize| RepoPath::parse("image", &format!("i-1/T{point}/x.qcow2")).unwrap();
        let link = |point| Link { path: path(point), file: tempfile::tempfile().unwrap() };
        let (other, [t1, t2, t3]) = (RepoPath::parse("image", "i-1/T2/y.qcow2").unwrap(), [path(1), path(2), path(3)]);
        for (target, ours, others) in [
            (Target::Onto(2), vec![Some(&t2), Some(&t1)], vec![None, Some(&t3), Some(&other)]),
            (Target::Alone, vec![Some(&t2), None], vec![Some(&t1), Some(&other)]),
            (Target::Same, vec![Some(&t2)], vec![None, Some(&t1), Some(&other)]),
        ] {
            let chain = vec![link(3), link(2), link(1)];
            let disk = RebasedDisk { chain, target, for_writing: OnceCell::new() };
            assert!(ours.into_iter().all(|below| disk.check_backing(below).is_ok()), "{target:?}");
            for below in others {
                assert_eq!(disk.check_backing(below).unwrap_err().code, Code::CorruptImage, "{target:?} {below:?}");
            }
        }
        let full = RebasedDisk::new(vec![link(1)], None);
        assert!(full.check_backing(None).is_ok() && full.check_backing(Some(&other)).is_err());
    }
}
