//! The images that a guest's disk consists of: an overlay stands on its backing file, often a template.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::image_file::{Nameable, open_again, open_named};
use super::image_lock::ImageLock;
use crate::error::{Code, Error, Result};
use crate::libvirt::Disk;
use crate::qcow2::{self, Backing, Info, Layer};

/// The advice when one disk prevents the guest's backup.
pub(crate) const HELP: &str = "with it in excludeDisks the others are backed up";
const STEP: &str = "follow the disk's images";
/// More images than any disk may have; each is an open file.
const DEEPEST: usize = 256;

/// An image of a disk, as its header names it.
#[derive(Debug)]
pub(crate) struct DiskImage<F> {
    path: String,
    file: F,
    /// What its header says; none of a raw one.
    pub info: Option<Info>,
    /// The file that its data are in, if not in its own.
    data: Option<F>,
}

/// An image of a stopped guest's disk, open for reading and locked against writers as long as it lives. So is its data file: a
/// header that somebody has written may name the disk of a guest that runs.
pub(crate) type StoppedImage = DiskImage<ImageLock>;

impl StoppedImage {
    /// The file, which is locked as long as any duplicate of its descriptor is open.
    pub(crate) fn file(&self) -> &File {
        self.file.file()
    }

    /// Its bytes, read through descriptors that share its lock.
    pub(crate) fn layer(&self) -> Result<Layer> {
        self.layer_by(File::try_clone)
    }

    /// The same through descriptors that do not.
    pub(crate) fn layer_without_lock(&self) -> Result<Layer> {
        self.layer_by(open_again)
    }

    fn layer_by(&self, open: impl Fn(&File) -> std::io::Result<File>) -> Result<Layer> {
        let layer = || -> std::io::Result<Layer> {
            let file = open(self.file())?;
            Ok(match self.info {
                Some(_) => Layer::Qcow2(file, self.data.as_ref().map(|data| open(data.file())).transpose()?),
                None => Layer::Raw(file),
            })
        };
        layer().map_err(|e| Error::io(STEP, &self.path, e))
    }

    /// Bytes that it takes on its storage, if that is known.
    pub(crate) fn occupied(&self) -> u64 {
        let blocks = |file: &File| {
            let metadata = file.metadata().ok().filter(|metadata| metadata.is_file());
            metadata.map_or(u64::MAX, |metadata| metadata.blocks().saturating_mul(512))
        };
        [Some(self.file()), self.data.as_ref().map(ImageLock::file)]
            .into_iter()
            .flatten()
            .map(blocks)
            .fold(0, u64::saturating_add)
    }
}

/// The images of a stopped guest's disk, the top one first, as their headers name them. `UNSUPPORTED_IMAGE` when one is
/// encrypted, or names what is no qcow2 or raw image among those that are `nameable`.
pub(crate) fn of_file(top: &str, qcow2: bool, nameable: &Nameable) -> Result<Vec<StoppedImage>> {
    follow((top.to_owned(), open_named(top)?, qcow2), nameable, ImageLock::take, ImageLock::file)
}

/// The images of a volume that is about to be replaced, open as `file`: what of them is right is found out by whoever reads them.
pub(crate) fn of_old(path: &str, file: File, qcow2: bool) -> Result<Vec<Layer>> {
    let images = follow((path.to_owned(), file, qcow2), &Nameable::beside([path]), |file, _| Ok(file), |file| file)?;
    let layer = |image: DiskImage<File>| match image.info {
        Some(_) => Layer::Qcow2(image.file, image.data),
        None => Layer::Raw(image.file),
    };
    Ok(images.into_iter().map(layer).collect())
}

/// The path, the file and whether that is a qcow2 (raw otherwise), of an image.
type Named = (String, File, bool);

/// The images of a disk, `top` first, each as `take` makes it of its file, which `file` has.
fn follow<F>(
    top: Named,
    nameable: &Nameable,
    take: impl Fn(File, &str) -> Result<F>,
    file: impl Fn(&F) -> &File,
) -> Result<Vec<DiskImage<F>>> {
    let look = |(path, opened, qcow2): Named| {
        let opened = take(opened, &path)?;
        let info = if qcow2 { Some(qcow2::inspect(file(&opened)).map_err(|e| e.at(STEP, &path))?) } else { None };
        let (data, below) = match &info {
            Some(info) => (data_file(&path, info, nameable)?, below(&path, info, nameable)?),
            None => (None, None),
        };
        let data = data.map(|file| take(file, &path)).transpose()?;
        Ok((DiskImage { path, file: opened, info, data }, below))
    };
    let endless = |(path, ..): Named| {
        let cause = format!("'{path}' stands on itself, or below {DEEPEST} images");
        Error::new(Code::UnsupportedImage, STEP, cause)
    };
    qcow2::follow(top, DEEPEST, |(path, ..)| path, look, endless)
}

/// What the image at `path` stands on.
fn below(path: &str, info: &Info, nameable: &Nameable) -> Result<Option<Named>> {
    if info.encrypted {
        let cause = format!("'{path}' is encrypted, and would be written to the NAS in plain text; {HELP}");
        return Err(Error::new(Code::UnsupportedImage, STEP, cause));
    }
    let Some(backing) = &info.backing else { return Ok(None) };
    let named = nameable.find(path, "backing file", &backing.file)?;
    let qcow2 = is_qcow2(path, backing, named.qcow2)?;
    let (path, file) = named.open()?;
    Ok(Some((path, file, qcow2)))
}

/// Is the backing file of the image at `path` a qcow2, and not raw? The header tells, and the caller may have `told`, too: the
/// file itself is not asked. The guest reads what the header says, so where the two differ nothing is right.
fn is_qcow2(path: &str, Backing { file, format }: &Backing, told: Option<bool>) -> Result<bool> {
    let refuse = |cause| Err(Error::new(Code::UnsupportedImage, STEP, cause));
    let said = match format.as_deref() {
        Some("qcow2") => Some(true),
        Some("raw") => Some(false),
        Some(other) => {
            return refuse(format!(
                "'{path}' has '{file}' of format '{other}' as its backing file, which only QEMU reads; back the disk up while \
                 the guest runs"
            ));
        }
        None => None,
    };
    match (said, told) {
        (Some(said), Some(told)) if said != told => refuse(format!(
            "'{path}' has '{file}' of format '{}' as its backing file, and the request says that it is {}",
            name_of(said),
            name_of(told)
        )),
        (Some(qcow2), _) | (None, Some(qcow2)) => Ok(qcow2),
        (None, None) => refuse(format!(
            "'{path}' has '{file}' as its backing file and does not tell the format of that, which is not guessed; \
             'qemu-img rebase -u -f qcow2 -F FORMAT -b BACKING-FILE IMAGE' tells it, or back the disk up while the guest runs"
        )),
    }
}

fn name_of(qcow2: bool) -> &'static str {
    if qcow2 { "qcow2" } else { "raw" }
}

/// The file that the data of the image at `path` are in, if not in its own. What else is wrong with the header is told by whoever
/// reads the image.
pub(crate) fn data_file(path: &str, info: &Info, nameable: &Nameable) -> Result<Option<File>> {
    let name = info.data_file.as_deref().filter(|_| info.external_data);
    name.map(|name| Ok(nameable.find(path, "data file", name)?.open()?.1)).transpose()
}

/// The images of a running domain's disk, as libvirt names them.
pub(crate) fn of_domain(disk: &Disk) -> Result<Vec<Layer>> {
    let below = disk.backing.iter().map(|image| (image.source.host_path(), image.format.as_str()));
    let images = std::iter::once((disk.path.as_deref(), disk.format.as_str())).chain(below);
    let named = |(path, format): (Option<&str>, &str)| {
        let no_path = || Error::new(Code::UnsupportedImage, STEP, "one of them is no file or device of this host");
        let path = path.ok_or_else(no_path)?.to_owned();
        match format {
            "qcow2" => Ok((path, true)),
            "raw" => Ok((path, false)),
            other => Err(Error::new(Code::UnsupportedImage, STEP, format!("'{path}' is of format {other}"))),
        }
    };
    let images = images.map(named).collect::<Result<Vec<_>>>()?;
    let nameable = Nameable::beside(images.iter().map(|(path, _)| path.as_str()));
    let layer = |(path, qcow2): &(String, bool)| {
        let file = open_named(path)?;
        if !qcow2 {
            return Ok(Layer::Raw(file));
        }
        let info = qcow2::inspect(&file).map_err(|e| e.at(STEP, path))?;
        Ok(Layer::Qcow2(file, data_file(path, &info, &nameable)?))
    };
    images.iter().map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    use crate::sys;

    /// The disk of another guest that runs, for one, wherever it is named from.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn no_file_that_somebody_writes_to_is_read_by_another_s_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let qemu_img =
            |arguments: &[&str]| assert!(Command::new("qemu-img").args(arguments).status().unwrap().success());
        let data_file = format!("data_file={}", path("other"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data_file, &path("split"), "1M"]);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "other", &path("top")]);
        let images = |name: &str| of_file(&path(name), true, &Nameable::beside([path(name).as_str()]));
        assert!(images("split").unwrap()[0].data.is_some());
        assert_eq!(images("top").unwrap().len(), 2);
        let writer = File::options().write(true).read(true).open(path("other")).unwrap();
        sys::share_byte(&writer, 101).unwrap();
        for name in ["split", "top"] {
            let error = images(name).unwrap_err();
            assert_eq!(error.code, Code::DomainState, "{error}");
        }
    }

    #[test]
    fn the_format_of_a_backing_file_is_told_and_not_guessed() {
        let is_qcow2 = |format: Option<&str>, told| {
            is_qcow2("/mnt/p q/top", &Backing { file: "template".into(), format: format.map(str::to_owned) }, told)
        };
        for (format, told, qcow2) in [
            (Some("qcow2"), None, true),
            (Some("raw"), None, false),
            (None, Some(true), true),
            (None, Some(false), false),
            (Some("qcow2"), Some(true), true),
            (Some("raw"), Some(false), false),
        ] {
            assert_eq!(is_qcow2(format, told), Ok(qcow2), "{format:?} {told:?}");
        }
        for (format, told, reason) in [
            (None, None, "does not tell the format"),
            (Some("vmdk"), None, "of format 'vmdk'"),
            (Some("vmdk"), Some(true), "of format 'vmdk'"),
            (Some("raw"), Some(true), "of format 'raw' as its backing file, and the request says that it is qcow2"),
            (Some("qcow2"), Some(false), "of format 'qcow2' as its backing file, and the request says that it is raw"),
        ] {
            let error = is_qcow2(format, told).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedImage);
            assert!(error.cause.contains(reason) && error.cause.contains("'/mnt/p q/top' has 'template'"), "{error}");
        }
    }
}
