//! The images that a guest's disk consists of: an overlay stands on its backing file, often a template.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::image_lock::ImageLock;
use super::request::StoppedSource;
use super::selection::HELP;
use crate::error::{Code, Error, Result};
use crate::libvirt::Disk;
use crate::qcow2::{self, Backing, Layer};

const STEP: &str = "follow the disk's images";
/// More images than any disk may have; each is an open file.
const DEEPEST: usize = 256;

/// Where an image of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerAt {
    pub path: String,
    /// Raw otherwise.
    pub qcow2: bool,
}

impl LayerAt {
    /// Opens it for reading.
    pub(super) fn open(&self) -> Result<Layer> {
        self.of(File::open(&self.path).map_err(|e| Error::io(STEP, &self.path, e))?)
    }

    /// The same, locked against writers as long as the lock lives.
    pub(super) fn open_locked(&self) -> Result<(Layer, ImageLock)> {
        let lock = ImageLock::take(&self.path)?;
        let file = lock.file().try_clone().map_err(|e| Error::io(STEP, &self.path, e))?;
        Ok((self.of(file)?, lock))
    }

    /// Bytes that it takes on its storage, if that is known.
    pub(super) fn occupied(&self) -> u64 {
        let blocks = |path: &str| {
            let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file());
            metadata.map_or(u64::MAX, |metadata| metadata.blocks().saturating_mul(512))
        };
        let data = File::open(&self.path).ok().filter(|_| self.qcow2).and_then(|file| self.data_file(&file));
        blocks(&self.path).saturating_add(data.map_or(0, |data| blocks(&data)))
    }

    fn of(&self, file: File) -> Result<Layer> {
        if !self.qcow2 {
            return Ok(Layer::Raw(file));
        }
        let data = self.data_file(&file).map(|path| File::open(&path).map_err(|e| Error::io(STEP, path, e)));
        Ok(Layer::Qcow2(file, data.transpose()?))
    }

    /// The file that its data are in, if not in its own, where QEMU finds it. What is wrong with the header, or with a name
    /// that is no file's, is told by whoever reads the image.
    fn data_file(&self, file: &File) -> Option<String> {
        let info = qcow2::inspect(file).ok().filter(|info| info.external_data)?;
        beside(&self.path, &info.data_file?)
    }
}

/// Why a disk's images are not read here.
#[derive(Debug)]
pub(super) enum Unread {
    /// One is of a kind that QEMU alone may know how to read.
    Unknown(String),
    /// It can't be read at all.
    Failed(Error),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Unread {
        Unread::Failed(error)
    }
}

impl Unread {
    /// What reading the image at `path` failed with.
    pub(super) fn of(error: qcow2::Error, path: &str) -> Unread {
        match error {
            qcow2::Error::Io(_) => Unread::Failed(error.at(STEP, path)),
            _ => Unread::Unknown(format!("'{path}': {error}")),
        }
    }
}

/// The images of a running domain's disk, as libvirt names them.
pub(super) fn of_domain(disk: &Disk) -> Result<Vec<LayerAt>> {
    let below = disk.backing.iter().map(|image| (image.source.host_path(), image.format.as_str()));
    let images = std::iter::once((disk.path.as_deref(), disk.format.as_str())).chain(below);
    let layer = |(path, format): (Option<&str>, &str)| {
        let no_path = || Error::new(Code::UnsupportedImage, STEP, "one of them is no file or device of this host");
        let path = path.ok_or_else(no_path)?;
        let qcow2 = match format {
            "qcow2" => true,
            "raw" => false,
            other => return Err(Error::new(Code::UnsupportedImage, STEP, format!("'{path}' is of format {other}"))),
        };
        Ok(LayerAt { path: path.to_owned(), qcow2 })
    };
    images.map(layer).collect()
}

/// The images of a stopped guest's disk, as their headers name them. `UNSUPPORTED_IMAGE` when one is encrypted.
pub(super) fn of_file(source: &StoppedSource) -> std::result::Result<Vec<LayerAt>, Unread> {
    let mut layers = Vec::new();
    let mut next = Some(LayerAt { path: source.path.clone(), qcow2: source.qcow2 });
    while let Some(layer) = next {
        if layers.len() == DEEPEST {
            return Err(Unread::Unknown(format!("it stands on more than {DEEPEST} images, or on itself")));
        }
        next = if layer.qcow2 { below(&layer.path)? } else { None };
        layers.push(layer);
    }
    Ok(layers)
}

/// The image that the qcow2 at `path` stands on.
fn below(path: &str) -> std::result::Result<Option<LayerAt>, Unread> {
    let file = File::open(path).map_err(|e| Error::io(STEP, path, e))?;
    let info = qcow2::inspect(&file).map_err(|error| Unread::of(error, path))?;
    if info.encrypted {
        let cause = format!("'{path}' is encrypted, and would be written to the NAS in plain text; {HELP}");
        return Err(Error::new(Code::UnsupportedImage, STEP, cause).into());
    }
    info.backing.map(|backing| resolve(path, &backing).map_err(Unread::Unknown)).transpose()
}

/// The backing file of the image at `path`, by QEMU's rules; the error says why QEMU has to follow them itself.
fn resolve(path: &str, backing: &Backing) -> std::result::Result<LayerAt, String> {
    let Backing { file: name, format } = backing;
    let qcow2 = match format.as_deref() {
        Some("qcow2") => true,
        Some("raw") => false,
        Some(other) => return Err(format!("'{path}' stands on an image of format '{other}'")),
        None => return Err(format!("'{path}' does not tell the format of the image that it stands on")),
    };
    let path = beside(path, name).ok_or_else(|| format!("'{path}' stands on '{name}'"))?;
    Ok(LayerAt { path, qcow2 })
}

/// The file that the image at `path` means by `name`; none where that is no file's name, or not known.
fn beside(path: &str, name: &str) -> Option<String> {
    let protocol = name.find([':', '/']).is_some_and(|first| name[first..].starts_with(':'));
    if protocol || name.contains(char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let folder = path.rfind('/').map_or("", |slash| &path[..=slash]);
    Some(if name.starts_with('/') { name.to_owned() } else { format!("{folder}{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_files_are_found_where_qemu_finds_them() {
        let resolve = |name: &str, format: Option<&str>| {
            resolve("/mnt/p q/top", &Backing { file: name.into(), format: format.map(str::to_owned) })
        };
        for (name, format, path, qcow2) in [
            ("/t/template", "qcow2", "/t/template", true),
            ("template", "raw", "/mnt/p q/template", false),
            ("../t:1/x", "qcow2", "/mnt/p q/../t:1/x", true),
        ] {
            assert_eq!(resolve(name, Some(format)), Ok(LayerAt { path: path.into(), qcow2 }));
        }
        for (name, format, reason) in [
            ("/t/template", None, "does not tell the format"),
            ("/t/template", Some("vmdk"), "of format 'vmdk'"),
            ("nbd:localhost:10809", Some("raw"), "'nbd:localhost:10809'"),
            ("json:{\"driver\":\"qcow2\"}", Some("qcow2"), "stands on 'json:"),
            ("a\u{fffd}b", Some("qcow2"), "stands on"),
        ] {
            assert!(resolve(name, format).unwrap_err().contains(reason), "{name}");
        }
    }
}
