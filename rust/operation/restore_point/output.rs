//! Where a restored disk goes: a file that appears under its name when it is whole, or a block device.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use super::locked_image::LockedImage;
use super::new_file::NewFile;
use super::output_path::{PointFolders, STEP, refused, resolve};
use super::target::OutputTarget;
use crate::error::{Error, Result};
use crate::nas::apart::Apart;
use crate::nas::folder::Folder;
use crate::operation::ceph::Image;
use crate::qcow2::Direct;

/// An output that is open. Dropped without `publish`, a file that was made is removed.
#[derive(Debug)]
pub(super) enum Output {
    /// A file that is written beside its name.
    File(NewFile),
    /// A block device, which is written as it is.
    Device(LockedImage),
    /// An image in Ceph, which is, too.
    Image(Arc<Image>),
}

impl Output {
    /// Opens the absolute host path `path` for a disk of `size` bytes, which lies where no restore points are.
    pub(super) fn open(path: &str, raw: bool, size: u64, points: &PointFolders) -> Result<Output> {
        let (path, old) = resolve(Path::new(path))?;
        match old {
            Some(old) if old.file_type().is_block_device() => {
                Ok(Output::Device(LockedImage::open_device(&path, raw, size)?))
            }
            Some(old) if !old.is_file() => Err(refused(&path, "is neither a file nor a block device")),
            old => {
                points.refuse(&path)?;
                Ok(Output::File(NewFile::make(&path, old)?))
            }
        }
    }

    /// The same of an image in Ceph that is open.
    pub(super) fn of_image(name: &str, image: Arc<Image>, size: u64) -> Result<Output> {
        if image.size() < size {
            return Err(refused(Path::new(name), &format!("has {} bytes, the disk {size}", image.size())));
        }
        Ok(Output::Image(image))
    }

    /// What is written, once more.
    pub(super) fn target(&self) -> Result<OutputTarget> {
        match self {
            Output::File(NewFile { file, .. }) => Ok(OutputTarget::File(Direct::new(file.clone().into()))),
            Output::Device(LockedImage { file, .. }) => {
                let again = file.try_clone().map_err(|e| Error::io(STEP, "output", e))?;
                Ok(OutputTarget::File(Direct::new(again.into())))
            }
            Output::Image(image) => Ok(OutputTarget::Image(image.clone())),
        }
    }

    fn new_file(&self) -> Option<&NewFile> {
        match self {
            Output::File(new) => Some(new),
            Output::Device(_) | Output::Image(_) => None,
        }
    }

    /// It is written as it is, and not beside.
    pub(super) fn is_in_place(&self) -> bool {
        !matches!(self, Output::File(_))
    }

    /// It has all of its content: whoever may read what it replaces may read it, and it is durable.
    pub(super) fn settle(&mut self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(new) => new.settle(),
        }
    }

    /// A file's folder, and its name there.
    pub(super) fn name(&self) -> Option<(&Folder, &str)> {
        match self {
            Output::Device(_) | Output::Image(_) => None,
            Output::File(new) => Some((&new.folder, &new.name)),
        }
    }

    /// The name that a file has until it is published, the file, and what it replaces.
    pub(super) fn beside(&self) -> Option<(&str, &Apart, Option<&File>)> {
        match self {
            Output::Device(_) | Output::Image(_) => None,
            Output::File(new) => Some((new.beside.as_deref()?, &new.file, new.old.as_ref().map(|old| &old.file))),
        }
    }

    /// What it replaces, open for reading.
    pub(super) fn old(&self) -> Option<(&File, &Path)> {
        let (Output::Device(old) | Output::File(NewFile { old: Some(old), .. })) = self else { return None };
        Some((&old.file, &old.path))
    }

    /// The path that the file that it replaces can be kept under, as is tried; none if it replaces none.
    pub(super) fn choose_kept_name(&self) -> Result<Option<String>> {
        self.new_file().map_or(Ok(None), NewFile::choose_kept_name)
    }

    /// Gives what it replaces that name, too.
    pub(super) fn keep_old(&self, kept: &str) -> Result<()> {
        self.new_file().map_or(Ok(()), |new| new.keep_old(kept))
    }

    /// Has what it replaces its name still?
    pub(super) fn check_old(&self) -> Result<()> {
        self.new_file().map_or(Ok(()), NewFile::check_old)
    }

    /// Has a file got its name?
    pub(super) fn is_published(&self) -> bool {
        matches!(self, Output::File(NewFile { beside: None, .. }))
    }

    /// Takes that name away again, unless it is the only one by now.
    pub(super) fn forget_old(&self, kept: &str) -> Result<()> {
        self.new_file().map_or(Ok(()), |new| new.forget_old(kept))
    }

    /// Removes what killed calls have left beside the names that what is called `name` was to be kept under.
    pub(super) fn remove_left_beside_kept(&self, name: &str) -> Result<()> {
        self.new_file().map_or(Ok(()), |new| new.remove_left_beside_kept(name))
    }

    /// It has all of its content, durably: a file gets its name.
    pub(super) fn publish(&mut self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(new) => new.publish(),
        }
    }

    /// Takes the name away that a new file has got.
    pub(super) fn retract(&self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(NewFile { folder, file, name, .. }) => folder.remove_file(file, name),
        }
    }

    /// What was made stays, even without its name.
    pub(super) fn leave(&mut self) {
        if let Output::File(new) = self {
            new.beside = None;
        }
    }

    /// Takes back what was made. What a device held is lost.
    pub(super) fn discard(self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(mut new) => new.remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::Code;

    const TEXT: &str = "somebody else's";

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A pool's folder belongs to others, too.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn no_link_that_root_has_not_made_leads_to_an_output() {
        use std::os::unix::fs::lchown;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["pool", "host"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("host/victim"), TEXT).unwrap();
        symlink(at("host/victim"), at("pool/volume")).unwrap();
        symlink("../host", at("pool/folder")).unwrap();
        let paths = ["pool/volume", "pool/folder/victim", "pool/folder/new"].map(at);
        let real = ["host/victim", "host/victim", "host/new"].map(at);
        for (path, real) in paths.iter().zip(real) {
            assert_eq!(resolve(path).unwrap().0, real.canonicalize().unwrap_or(real));
        }
        for link in ["pool/volume", "pool/folder"] {
            lchown(at(link), Some(65534), Some(65534)).unwrap();
        }
        let folder = Folder::open_root(dir.path()).unwrap();
        let points = PointFolders::of(&folder, &folder).unwrap();
        for path in paths {
            let error = Output::open(path.to_str().unwrap(), true, 4, &points).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.cause.contains("root has not made"), "{error}");
            assert_eq!(fs::read(at("host/victim")).unwrap(), TEXT.as_bytes());
        }
        // nor one that is made when the path was looked up
        let real = at("pool/a/volume");
        symlink(at("host"), at("pool/a")).unwrap();
        assert!(NewFile::make(&real, None).is_err() && LockedImage::open_device(&real, true, 4).is_err());
        assert_eq!(names(&at("host")), ["victim"]);
    }

    /// A call lasts hours: a volume may be deleted meanwhile and made anew, and a guest run on it.
    #[test]
    fn a_volume_that_was_exchanged_or_deleted_since_is_not_replaced() {
        let (nas, pool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Folder::open_root(nas.path()).unwrap();
        let points = PointFolders::of(&root, &root).unwrap();
        for another in [true, false] {
            let path = pool.path().join("v");
            fs::write(&path, "as it was").unwrap();
            let mut output = Output::open(path.to_str().unwrap(), true, 512, &points).unwrap();
            output.settle().unwrap();
            fs::remove_file(&path).unwrap();
            if another {
                fs::write(&path, TEXT).unwrap();
            }
            let published = output.publish();
            assert!(published.is_err(), "another: {another}");
            assert_eq!(fs::read(&path).ok(), another.then(|| TEXT.as_bytes().to_vec()), "another: {another}");
            drop(output);
            fs::remove_file(&path).ok();
        }
    }
}
