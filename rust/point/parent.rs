//! What may be a parent: a published point of this virtual machine that names the bitmap, with every image of its
//! chains sound (design, "What a parent is"). Everything else is a reason for a full backup, never an error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use super::fingerprints::Fingerprints;
use super::{DEEPEST, Manifest, ManifestDisk};
use crate::error::Result;
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::qcow2;

/// A point that a new one may stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its folder.
    pub path: PointPath,
    /// What it holds.
    pub manifest: Manifest,
    /// The images of each disk that is sound, and for the others why they are not, by file name.
    pub chains: BTreeMap<String, Result<Vec<ChainImage>, String>>,
}

/// An image of a chain, as its point's manifest records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainImage {
    /// The file, relative to the repository's root.
    pub file: RepoPath,
    /// Length of the file, in bytes.
    pub size: u64,
    /// Size that the guest saw, in bytes.
    pub virtual_size: u64,
    /// The fingerprints of what it provides.
    pub fingerprints: Option<Fingerprints>,
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
    /// Its images, itself first, or why they can't be trusted.
    pub chain: Result<Vec<ChainImage>, String>,
}

impl ParentDisk {
    /// The images whose fingerprints tell what it holds; those that have none have to be read first. The error is the
    /// reason why they can't be told, or why a full is not dearer than that reading.
    pub fn comparable(&self) -> Result<Vec<ChainImage>, String> {
        let chain = self.chain.clone()?;
        let missing = chain.iter().filter(|image| image.fingerprints.is_none());
        let bytes: u64 = missing.map(|image| image.size).sum();
        let full = chain.last().map_or(0, |image| image.size);
        if bytes == 0 || bytes < full {
            return Ok(chain);
        }
        Err(format!("{bytes} bytes of the parent's images have no fingerprints, and a full of them had {full}"))
    }
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
        let name = manifest.bitmap.as_deref().or(manifest.name.as_deref());
        if name != Some(bitmap) {
            let has = name.map_or("none".to_owned(), |name| format!("'{name}'"));
            return Err(format!("parent point '{path}' has bitmap {has}, not '{bitmap}'"));
        }
        let mut recorded = Chains { root, recorded: BTreeMap::new() };
        let mut chain =
            |disk: &ManifestDisk| path.file(&disk.file).map_err(|e| e.cause).and_then(|file| recorded.check(file));
        let chains = manifest.disks.iter().map(|disk| (disk.file.clone(), chain(disk))).collect();
        Ok(Parent { path: path.clone(), manifest, chains })
    }

    /// The disk of this point that is the same as the one with `serial` and `volume`.
    pub fn disk(&self, serial: Option<&str>, volume: &str) -> Option<ParentDisk> {
        let disk = self.manifest.disk(serial, volume)?;
        Some(ParentDisk {
            file: self.path.file(&disk.file).ok()?,
            volume: disk.volume.clone(),
            virtual_size: disk.virtual_size,
            bitmap: disk.bitmap.clone(),
            chain: self.chains.get(&disk.file)?.clone(),
        })
    }
}

/// Follows chains of images, remembering what the manifests on the way say of their files.
struct Chains<'a> {
    root: &'a Folder,
    /// Recorded disks by file name, for each point's folder seen; empty for a point without a manifest.
    recorded: BTreeMap<String, BTreeMap<String, ManifestDisk>>,
}

impl Chains<'_> {
    /// The image `file`, with all that it stands on: there, readable and as its manifest says.
    fn check(&mut self, file: RepoPath) -> Result<Vec<ChainImage>, String> {
        let (mut seen, mut images) = (BTreeSet::new(), Vec::new());
        let mut next = Some(file);
        while let Some(file) = next {
            // one more will stand on them
            if !seen.insert(file.clone()) || seen.len() >= DEEPEST {
                return Err(format!("the chain comes back to '{file}', or has {DEEPEST} images, as many as any may"));
            }
            let (image, below) = self.check_image(&file)?;
            images.push(image);
            next = below;
        }
        Ok(images)
    }

    /// Checks one image; with the image that it stands on.
    fn check_image(&mut self, path: &RepoPath) -> Result<(ChainImage, Option<RepoPath>), String> {
        let file = self.root.open_file(path).map_err(|e| e.cause)?;
        let info = qcow2::inspect(&file).map_err(|e| format!("'{path}': {e}"))?;
        if info.corrupt || info.dirty || info.encrypted || info.external_data || info.unknown_incompatible != 0 {
            return Err(format!("'{path}' is marked corrupt or uses a feature that a backup has not"));
        }
        let length = file.metadata().map_err(|e| format!("'{path}': {e}"))?.size();
        let mut image =
            ChainImage { file: path.clone(), size: length, virtual_size: info.virtual_size, fingerprints: None };
        if let Some(disk) = self.recorded(path)? {
            if length != disk.size || info.virtual_size != disk.virtual_size {
                return Err(format!(
                    "'{path}' has {length} bytes for a disk of {}, its manifest says {} and {}",
                    info.virtual_size, disk.size, disk.virtual_size
                ));
            }
            image.fingerprints = disk.fingerprints.clone();
        }
        let folder = path.parent().ok_or_else(|| format!("'{path}' is in no point's folder"))?;
        let below = info.backing.map(|backing| RepoPath::resolve(&folder, &backing.file).map_err(|e| e.cause));
        Ok((image, below.transpose()?))
    }

    /// What the manifest beside the file says of it, if there is one.
    fn recorded(&mut self, path: &RepoPath) -> Result<Option<&ManifestDisk>, String> {
        let Some(folder) = path.parent() else { return Ok(None) };
        let key = folder.as_str().to_owned();
        if !self.recorded.contains_key(&key) {
            let opened = self.root.open_dir(&folder).map_err(|e| e.cause)?;
            let manifest = Manifest::read(&opened).map_err(|e| e.cause)?;
            let disks = manifest.into_iter().flat_map(|m| m.disks).map(|d| (d.file.clone(), d)).collect();
            self.recorded.insert(key.clone(), disks);
        }
        Ok(self.recorded.get(&key).and_then(|disks| disks.get(path.name())))
    }
}
