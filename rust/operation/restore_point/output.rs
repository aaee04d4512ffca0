//! An output: the file, block device or image in Ceph that a restored disk goes to.

use std::fs::{File, Metadata};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use super::locked_image::LockedImage;
use super::new_file::NewFile;
use super::output_path::{PointFolders, STEP, refused, resolve};
use super::target::OutputTarget;
use crate::apart::Apart;
use crate::error::{Error, Result};
use crate::nas::folder::Folder;
use crate::operation::ceph::CephImage;
use crate::qcow2::Direct;

/// An output that is open. A drop before `publish` removes a file that was made.
#[derive(Debug)]
pub(super) enum Output {
    /// A file that is written beside its name.
    File(NewFile),
    /// A block device, which is overwritten in place.
    Device(LockedImage),
    /// An image in Ceph, which is overwritten in place.
    Image(Arc<CephImage>),
}

/// Refuses what is there at `path` if no disk can be written to it, and a path where restore points lie. True of a device.
pub(super) fn check(path: &Path, old: Option<&Metadata>, raw: bool, points: &PointFolders) -> Result<bool> {
    match old {
        Some(old) if old.file_type().is_block_device() && raw => Ok(true),
        Some(old) if old.file_type().is_block_device() => {
            Err(refused(path, "is a block device, which takes the format 'raw' only"))
        }
        Some(old) if !old.is_file() => Err(refused(path, "is neither a file nor a block device")),
        _ => points.refuse(path).map(|()| false),
    }
}

impl Output {
    /// Opens the absolute path `path` of this host for a disk of `size` bytes. A path where restore points lie is refused.
    pub(super) fn open(path: &str, raw: bool, size: u64, points: &PointFolders) -> Result<Output> {
        let (path, old) = resolve(Path::new(path))?;
        match check(&path, old.as_ref(), raw, points)? {
            true => Ok(Output::Device(LockedImage::open_device(&path, size)?)),
            false => Ok(Output::File(NewFile::make(&path, old)?)),
        }
    }

    /// Takes an open image in Ceph for a disk of `size` bytes.
    pub(super) fn of_image(name: &str, image: Arc<CephImage>, size: u64) -> Result<Output> {
        if image.size() < size {
            return Err(refused(Path::new(name), &format!("has {} bytes, the disk {size}", image.size())));
        }
        Ok(Output::Image(image))
    }

    /// The storage to write to, on a descriptor of its own.
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

    /// True of a device or an image, which is overwritten in place.
    pub(super) fn is_in_place(&self) -> bool {
        !matches!(self, Output::File(_))
    }

    /// Makes a file that has all of its content durable, and gives it the owner and mode of the volume that it replaces.
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

    /// The volume that it replaces, open for reading.
    pub(super) fn old(&self) -> Option<(&File, &Path)> {
        let (Output::Device(old) | Output::File(NewFile { old: Some(old), .. })) = self else { return None };
        Some((&old.file, &old.path))
    }

    /// As `NewFile::choose_kept_name`; `None` of what is overwritten in place.
    pub(super) fn choose_kept_name(&self) -> Result<Option<String>> {
        self.new_file().map_or(Ok(None), NewFile::choose_kept_name)
    }

    /// As `NewFile::keep_old`.
    pub(super) fn keep_old(&self, kept: &str) -> Result<()> {
        self.new_file().map_or(Ok(()), |new| new.keep_old(kept))
    }

    /// As `NewFile::check_old`.
    pub(super) fn check_old(&self) -> Result<()> {
        self.new_file().map_or(Ok(()), NewFile::check_old)
    }

    /// True of a file that has got its name.
    pub(super) fn is_published(&self) -> bool {
        matches!(self, Output::File(NewFile { beside: None, .. }))
    }

    /// As `NewFile::forget_old`.
    pub(super) fn forget_old(&self, kept: &str) -> Result<()> {
        self.new_file().map_or(Ok(()), |new| new.forget_old(kept))
    }

    /// As `NewFile::remove_left_beside_kept`.
    pub(super) fn remove_left_beside_kept(&self, name: &str) -> Result<()> {
        self.new_file().map_or(Ok(()), |new| new.remove_left_beside_kept(name))
    }

    /// Gives a file its name. It has all of its content by now, durably.
    pub(super) fn publish(&mut self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(new) => new.publish(),
        }
    }

    /// Removes the name that a new file has got.
    pub(super) fn retract(&self) -> Result<()> {
        match self {
            Output::Device(_) | Output::Image(_) => Ok(()),
            Output::File(NewFile { folder, file, name, .. }) => folder.remove_file(file, name),
        }
    }

    /// Lets a file stay under its partial name: the next restore finishes it.
    pub(super) fn leave(&mut self) {
        if let Output::File(new) = self {
            new.beside = None;
        }
    }

    /// Removes the file that was made. The former content of a device is lost.
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
        assert!(NewFile::make(&real, None).is_err() && LockedImage::open_device(&real, 4).is_err());
        assert_eq!(Folder::open_root(at("host")).unwrap().names().unwrap(), ["victim"]);
    }

    /// A restore lasts hours: meanwhile somebody may delete the volume, make it anew, and run a guest on it.
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
