//! What may be a parent: a published point of this virtual machine that names the bitmap, with every image of its
//! chains sound (design, "What a parent is"). Everything else is a reason for a full backup, never an error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use super::{Manifest, ManifestDisk};
use crate::error::Result;
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::qcow2;

/// More images than any chain may have; the provider begins a new one long before.
const DEEPEST: usize = 1024;

/// A point that a new one may stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its folder.
    pub path: PointPath,
    /// What it holds.
    pub manifest: Manifest,
    /// Its disks whose chain is sound, and for the others why not, by file name.
    pub unsound: BTreeMap<String, String>,
}

/// A parent's disk that belongs to a disk of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentDisk {
    /// Its file, relative to the repository's root.
    pub file: RepoPath,
    /// Its volume then.
    pub volume: String,
    /// Its size then, in bytes.
    pub virtual_size: u64,
    /// The bitmap that it carries since.
    pub bitmap: Option<String>,
    /// Why its chain can't be trusted, if so.
    pub unsound: Option<String>,
}

impl Parent {
    /// Looks at the point `path` below `root` as a parent for `vm` by `bitmap`; the error is the reason why it can't be.
    pub fn find(root: &Folder, path: &PointPath, vm: &str, bitmap: &str) -> Result<Parent, String> {
        let folder =
            root.open_dir(&path.folder()).map_err(|e| format!("parent point '{path}' can't be opened: {}", e.cause))?;
        let manifest = Manifest::read(&folder).map_err(|e| e.cause)?;
        let manifest = manifest.ok_or_else(|| format!("parent point '{path}' has no manifest"))?;
        if manifest.vm_name != vm {
            return Err(format!("parent point '{path}' is of virtual machine '{}'", manifest.vm_name));
        }
        if manifest.bitmap.as_deref() != Some(bitmap) {
            let has = manifest.bitmap.as_deref().map_or("none".to_owned(), |b| format!("'{b}'"));
            return Err(format!("parent point '{path}' has bitmap {has}, not '{bitmap}'"));
        }
        let mut chains = Chains { root, sizes: BTreeMap::new() };
        let mut unsound = BTreeMap::new();
        for disk in &manifest.disks {
            if let Err(reason) = path.file(&disk.file).map_err(|e| e.cause).and_then(|file| chains.check(file)) {
                unsound.insert(disk.file.clone(), reason);
            }
        }
        Ok(Parent { path: path.clone(), manifest, unsound })
    }

    /// The disk of this point that is the same as the one with `serial` and `volume`.
    pub fn disk(&self, serial: Option<&str>, volume: &str) -> Option<ParentDisk> {
        let disk = self.manifest.disk(serial, volume)?;
        Some(ParentDisk {
            file: self.path.file(&disk.file).ok()?,
            volume: disk.volume.clone(),
            virtual_size: disk.virtual_size,
            bitmap: disk.bitmap.clone(),
            unsound: self.unsound.get(&disk.file).cloned(),
        })
    }
}

/// Follows chains of images, remembering what the manifests on the way say of their files.
struct Chains<'a> {
    root: &'a Folder,
    /// Recorded disks by file name, for each point's folder seen; empty for a point without a manifest.
    sizes: BTreeMap<String, BTreeMap<String, ManifestDisk>>,
}

impl Chains<'_> {
    /// Is the image `file`, with all that it stands on, there, readable and as its manifest says?
    fn check(&mut self, file: RepoPath) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let mut next = Some(file);
        while let Some(file) = next {
            if !seen.insert(file.clone()) || seen.len() > DEEPEST {
                return Err(format!("'{file}' stands on itself, or on more than {DEEPEST} images"));
            }
            next = self.check_image(&file)?;
        }
        Ok(())
    }

    /// Checks one image; the image that it stands on.
    fn check_image(&mut self, path: &RepoPath) -> Result<Option<RepoPath>, String> {
        let file = self.root.open_file(path).map_err(|e| e.cause)?;
        let info = qcow2::inspect(&file).map_err(|e| format!("'{path}': {e}"))?;
        if info.corrupt || info.dirty || info.encrypted || info.external_data || info.unknown_incompatible != 0 {
            return Err(format!("'{path}' is marked corrupt or uses a feature that a backup has not"));
        }
        if let Some(disk) = self.recorded(path)? {
            let length = file.metadata().map_err(|e| format!("'{path}': {e}"))?.size();
            if length != disk.size || info.virtual_size != disk.virtual_size {
                return Err(format!(
                    "'{path}' has {length} bytes for a disk of {}, its manifest says {} and {}",
                    info.virtual_size, disk.size, disk.virtual_size
                ));
            }
        }
        let folder = path.parent().ok_or_else(|| format!("'{path}' is in no point's folder"))?;
        info.backing.map(|backing| RepoPath::resolve(&folder, &backing.file).map_err(|e| e.cause)).transpose()
    }

    /// What the manifest beside the file says of it, if there is one.
    fn recorded(&mut self, path: &RepoPath) -> Result<Option<&ManifestDisk>, String> {
        let Some(folder) = path.parent() else { return Ok(None) };
        let key = folder.as_str().to_owned();
        if !self.sizes.contains_key(&key) {
            let opened = self.root.open_dir(&folder).map_err(|e| e.cause)?;
            let manifest = Manifest::read(&opened).map_err(|e| e.cause)?;
            let disks = manifest.into_iter().flat_map(|m| m.disks).map(|d| (d.file.clone(), d)).collect();
            self.sizes.insert(key.clone(), disks);
        }
        Ok(self.sizes.get(&key).and_then(|disks| disks.get(path.name())))
    }
}
