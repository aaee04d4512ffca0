//! The images of disks of a restore point that are to be read: opened once, and judged as they are open. Whoever exchanges
//! names afterwards exchanges nothing of them.

use super::verify_chain::chains;
use crate::error::{Code, Error, Result};
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::fingerprints::Fingerprints;
use crate::point::{Link, Manifest, ManifestDisk, image_names, open_chain, volume_of_image};

/// How a disk of a point is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    /// By its volume, as the backup's answer named that.
    Volume(String),
    /// By its volume, or by its serial where no disk has that volume: how a guest's path for it ends need not be what others call it.
    VolumeOrSerial(String, String),
    /// By its image's file.
    File(String),
}

/// A disk of a restore point.
#[derive(Debug)]
pub(super) struct CheckedDisk {
    pub(super) volume: String,
    /// Its images, the newest first, each standing on the next.
    pub(super) chain: Vec<Link>,
    /// What the manifests say of the images' fingerprints, where all have some.
    pub(super) recorded: Option<Vec<Fingerprints>>,
}

/// All disks of the point: those of its manifest, else its images.
pub(super) fn all(root: &Folder, point: &PointPath) -> Result<Vec<Which>> {
    let folder = root.open_dir(&point.folder())?;
    let files = match Manifest::read_sound(&folder, point)? {
        Some(manifest) => manifest.disks.into_iter().map(|disk| disk.file).collect(),
        None => image_names(&folder)?,
    };
    Ok(files.into_iter().map(Which::File).collect())
}

/// The disks that are wanted, of a point that `verifyChain` would not call bad before it looks at the tables. With an `id` the
/// point is to have that one. What is wrong with the images of the point's other disks does not matter.
pub(super) fn open_all(
    root: &Folder,
    point: &PointPath,
    id: Option<&str>,
    wanted: &[Which],
) -> Result<Vec<CheckedDisk>> {
    let manifest = Manifest::read_sound(&root.open_dir(&point.folder())?, point)?;
    refuse_going(point, manifest.as_ref())?;
    let open = |which: &Which| {
        let (file, volume) = find(root, point, manifest.as_ref(), which)?;
        Ok(CheckedDisk { volume, chain: open_chain(root, &file)?, recorded: None })
    };
    let mut disks = wanted.iter().map(open).collect::<Result<Vec<_>>>()?;
    let judged = chains::find(root, point, id, &disks.iter().flat_map(|disk| &disk.chain).collect::<Vec<_>>())?;
    judged.refuse_manifests()?;
    if judged.manifest(&point.folder()) != manifest.as_ref() {
        let cause = format!("the manifest of '{point}' was exchanged");
        return Err(Error::new(Code::CorruptImage, "check the point", cause));
    }
    for CheckedDisk { chain, recorded, .. } in &mut disks {
        judged.refuse_images(chain)?;
        judged.refuse_unfinished(chain)?;
        *recorded = chain.iter().map(|link| judged.fingerprints(&link.path).cloned()).collect();
    }
    Ok(disks)
}

/// `NOT_FOUND` for a point of which only what is still to be removed may be there.
fn refuse_going(point: &PointPath, manifest: Option<&Manifest>) -> Result<()> {
    let disks = manifest.into_iter().flat_map(|manifest| &manifest.disks);
    disks.filter_map(|disk| disk.goes_into.as_deref()).next().map_or(Ok(()), |into| {
        Err(Error::new(Code::NotFound, "check the point", format!("'{point}': {}", chains::going(into))))
    })
}

/// The file of a disk and its volume: as the manifest has them, else by the file's name.
fn find(root: &Folder, point: &PointPath, manifest: Option<&Manifest>, which: &Which) -> Result<(RepoPath, String)> {
    let known: Vec<Known> = match manifest {
        Some(manifest) => {
            let of = |disk: &ManifestDisk| (disk.file.clone(), disk.volume.clone(), disk.serial.clone());
            manifest.disks.iter().map(of).collect()
        }
        None => {
            let named = |file: String| Some((file.clone(), volume_of_image(&file)?, None));
            image_names(&root.open_dir(&point.folder())?)?.into_iter().filter_map(named).collect()
        }
    };
    let (file, volume, _) = the_one(&known, point, which)?;
    Ok((point.file(file)?, volume.clone()))
}

/// A disk's file, its volume, and its serial.
type Known = (String, String, Option<String>);

fn the_one<'a>(known: &'a [Known], point: &PointPath, which: &Which) -> Result<&'a Known> {
    const STEP: &str = "look for the volume";
    let those = |is: &dyn Fn(&Known) -> bool| known.iter().filter(|disk| is(disk)).collect::<Vec<_>>();
    let (found, name) = match which {
        Which::Volume(volume) => (those(&|disk| disk.1 == *volume), volume.clone()),
        Which::File(file) => (those(&|disk| disk.0 == *file), file.clone()),
        Which::VolumeOrSerial(volume, serial) => match those(&|disk| disk.1 == *volume) {
            none if none.is_empty() => {
                (those(&|disk| disk.2.as_ref() == Some(serial)), format!("{volume}' or serial '{serial}"))
            }
            found => (found, volume.clone()),
        },
    };
    match found[..] {
        [disk] => Ok(disk),
        [] => Err(Error::new(Code::NotFound, STEP, format!("'{point}' has no disk of volume '{name}'"))),
        _ => Err(Error::new(Code::CorruptImage, STEP, format!("'{point}' has several disks of volume '{name}'"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_names_a_disk_where_no_disk_has_the_volume() {
        let disk = |name: &str, serial: Option<&str>| {
            (format!("datadisk.{name}.qcow2"), name.to_owned(), serial.map(str::to_owned))
        };
        let known = [
            disk("a", Some("s1")),
            disk("b", Some("s2")),
            disk("c", None),
            disk("d", Some("s3")),
            disk("e", Some("s3")),
        ];
        let point = PointPath::parse("backupPath", "i-1/T1").unwrap();
        let found = |volume: &str, serial: &str| {
            let which = Which::VolumeOrSerial(volume.into(), serial.into());
            the_one(&known, &point, &which).map(|disk| disk.1.as_str()).map_err(|error| error.to_string())
        };
        assert_eq!(found("moved", "s2"), Ok("b"));
        assert_eq!(found("a", "s2"), Ok("a"), "the name decides");
        assert_eq!(found("c", "s9"), Ok("c"));
        for (volume, serial, cause) in [
            ("moved", "s9", "has no disk of volume 'moved' or serial 's9'"),
            ("moved", "", "has no disk of volume 'moved' or serial ''"),
            ("moved", "s3", "has several disks of volume 'moved' or serial 's3'"),
        ] {
            assert!(found(volume, serial).unwrap_err().contains(cause), "{volume} {serial}");
        }
    }
}
