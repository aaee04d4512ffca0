//! The manifest of a restore point: the last file written into it, and the truth about whose disks it holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::Kind;
use super::fingerprints::Fingerprints;
use crate::apart::Descriptor;
use crate::config;
use crate::config::Engine;
use crate::digest::Digest;
use crate::error::{Code, Error, Result, called};
use crate::keys::Keys;
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath, check_component};
use crate::plain::plain;
use crate::random;

/// Name of the manifest's file.
pub const MANIFEST: &str = "manifest.json";

/// The format that this library writes; another is not read.
const VERSION: u32 = 1;

/// Bytes of the longest manifest that is read, about 500 disks. All manifests of a chain are held in memory together.
const LONGEST: u64 = 256 << 10;

/// The doubt about a manifest that tells no length of an image: a MAC over it would vouch for any file of that name.
pub const UNTOLD: &str = "is of a rebase that an older version began: do it again before a key is in force";

/// The beginnings of the members that hold the checksum and the MAC.
const CHECKSUM: &str = "\"checksum\": ";
const MAC: &str = "\"mac\": ";

/// What a restore point holds. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of this format.
    pub version: u32,
    /// A random id, so that a point is told from another of the same name.
    pub point_id: String,
    /// The point's own folder, relative to the repository's root; null in points of older versions.
    #[serde(default)]
    pub backup_path: Option<String>,
    /// The domain's name.
    pub vm_name: String,
    /// The instant that it shows, in UTC.
    pub when: jiff::Timestamp,
    /// Incremental if any disk is.
    pub kind: Kind,
    /// The bitmap that records the changes since this point; null when no disk carries one.
    pub bitmap: Option<String>,
    /// The name by which a request can call this point its parent: the bitmap's, or, if no disk carries one and all have
    /// fingerprints, the one that the bitmap would have had.
    #[serde(default)]
    pub name: Option<String>,
    /// The engine that moved the data.
    pub engine: Engine,
    /// The point that the incremental disks stand on.
    pub parent: Option<ParentPoint>,
    /// The disks, in the machine's order: the root disk first, unless it is left out.
    pub disks: Vec<ManifestDisk>,
    /// The machine's other disks, which it does not hold; none in points of older versions.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// BLAKE3 of each other file of the point but the fingerprints, by name; null in points of older versions.
    #[serde(default)]
    pub texts: Option<BTreeMap<String, Digest>>,
    /// Keyed BLAKE3 of the manifest's own text with null in this place and the next; null without a key.
    #[serde(default)]
    pub mac: Option<Digest>,
    /// BLAKE3 of the manifest's own text with null in this place; null in points of older versions.
    #[serde(default)]
    pub checksum: Option<Digest>,
}

/// The point below an incremental one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentPoint {
    /// Its folder, relative to the repository's root.
    pub backup_path: String,
    /// Its `pointId`.
    pub point_id: String,
}

/// A disk of the machine that a restore point does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The domain's name for it; null of a stopped guest.
    pub target: Option<String>,
    /// The last component of its source path, if it has one.
    pub volume: Option<String>,
    /// Its serial, if it is known.
    pub serial: Option<String>,
    /// Why it was left out.
    pub reason: String,
}

/// One disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestDisk {
    /// The last component of its source path.
    pub volume: String,
    /// Its serial, if it has one.
    pub serial: Option<String>,
    /// Its file's name in the point's folder.
    pub file: String,
    /// Full or incremental.
    pub kind: Kind,
    /// The file that an incremental stands on, relative to the repository's root; null in points of older versions.
    #[serde(default)]
    pub parent: Option<String>,
    /// Length of its file.
    pub size: u64,
    /// Size that the guest sees.
    pub virtual_size: u64,
    /// The bitmap that it carries since this point.
    pub bitmap: Option<String>,
    /// The snapshot in Ceph since which Ceph tells what has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// The fingerprints of what its image holds itself; null if none were made, or the image has changed since.
    #[serde(default)]
    pub fingerprints: Option<Fingerprints>,
    /// The image has no fingerprints, although it, or one that it has absorbed, had some: a rebase could not keep them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost_fingerprints: bool,
    /// Present while a rebase changes the image. Meanwhile all other fields tell what the image was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebasing: Option<Rebasing>,
    /// The image, relative to the repository's root, that takes this one's place, for the point is being deleted: this one holds what
    /// that one has, or some of it, and has its name, or is about to get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_into: Option<String>,
}

/// A snapshot of an image in Ceph. Ceph gives no id twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The id of the image.
    pub image: String,
    /// The id of the snapshot.
    pub id: u64,
    /// The name of the snapshot.
    pub name: String,
}

/// A rebase of an image that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebasing {
    /// The file that the image is to stand on, relative to the repository's root; null: nothing.
    pub onto: Option<String>,
    /// The `pointId` of that file's point, if it has one.
    pub point_id: Option<String>,
    /// The image, or one that it absorbs, had fingerprints. If it has none after the rebase, they were lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub had_fingerprints: bool,
}

impl ManifestDisk {
    /// True if the image is not, or may not be, what is recorded.
    pub fn is_unfinished(&self) -> bool {
        self.is_rebasing() || self.goes_into.is_some()
    }

    /// True if a rebase of the image was cut off. The image may be longer than it was, and stands on its parent or on its new backing file.
    pub fn is_rebasing(&self) -> bool {
        // older versions recorded no length while a rebase went on
        self.rebasing.is_some() || self.size == 0
    }

    /// True if the image has fingerprints, or had some.
    pub fn had_fingerprints(&self) -> bool {
        let may_have_lost = self.rebasing.as_ref().is_some_and(|rebasing| rebasing.had_fingerprints);
        self.fingerprints.is_some() || self.lost_fingerprints || may_have_lost
    }
}

impl Manifest {
    /// The version to write.
    pub const VERSION: u32 = VERSION;

    /// Makes a random point id.
    pub fn new_point_id() -> Result<String> {
        random::hex("make a point id")
    }

    /// Reads the manifest of the point in `folder`; `None` when it has none (made by the script, or unfinished).
    /// `CORRUPT_IMAGE` when it can't be understood.
    pub fn read(folder: &Folder) -> Result<Option<Manifest>> {
        Ok(Manifest::read_with_text(folder)?.map(|(manifest, _)| manifest))
    }

    /// As `read`, with the manifest's text.
    pub fn read_with_text(folder: &Folder) -> Result<Option<(Manifest, String)>> {
        const STEP: &str = "read the manifest";
        let path = folder.path.join(MANIFEST);
        let file = match folder.open_file_in(MANIFEST) {
            Ok(file) => file,
            Err(error) if error.code == Code::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes).map_err(|e| Error::io(STEP, &path, called("read")(e)))?;
        let corrupt = |cause: String| Error::new(Code::CorruptImage, STEP, format!("'{}': {cause}", path.display()));
        let text = String::from_utf8(bytes).map_err(|e| corrupt(e.to_string()))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| corrupt(e.to_string()))?;
        if manifest.version != VERSION {
            return Err(corrupt(format!("version {} is not known", manifest.version)));
        }
        // callers make paths of them, on hosts as well
        for name in manifest.disks.iter().flat_map(|disk| [&disk.volume, &disk.file]) {
            check_component(name).map_err(|why| corrupt(format!("'{}' {why}", plain(name))))?;
        }
        Ok(Some((manifest, text)))
    }

    /// As `read`, for a caller that relies on the manifest, or replaces it with a right checksum. `CORRUPT_IMAGE`, too, when it can't be
    /// the manifest that was written for the point `at`.
    pub fn read_sound(folder: &Folder, at: &PointPath) -> Result<Option<Manifest>> {
        let Some((manifest, text)) = Manifest::read_with_text(folder)? else { return Ok(None) };
        match manifest.doubts(&text, at, config::current().keys.as_deref()).first() {
            Some(doubt) => {
                let cause = format!("'{}' {doubt}", folder.path.join(MANIFEST).display());
                Err(Error::new(Code::CorruptImage, "read the manifest", cause))
            }
            None => Ok(Some(manifest)),
        }
    }

    /// The reasons why this manifest, read as `text`, can't be the one that was written for the point `at`; with keys, also why none of them
    /// vouches for it.
    pub fn doubts(&self, text: &str, at: &PointPath, keys: Option<&Keys>) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.is_intact(text) == Some(false) {
            doubts.push("is not what was written: its checksum is another".to_owned());
        }
        if let Some(path) = self.backup_path.as_ref().filter(|path| **path != at.to_string()) {
            doubts.push(format!("is that of the point '{path}'"));
        }
        if self.vm_name != at.instance() {
            doubts.push(format!("is of virtual machine '{}'", self.vm_name));
        }
        match keys {
            Some(_) if self.mac.is_none() => doubts.push("has no MAC: no key of keyFile vouches for it".to_owned()),
            Some(_) if self.disks.iter().any(|disk| disk.size == 0) => doubts.push(UNTOLD.to_owned()),
            Some(_) if self.backup_path.is_none() => doubts.push("does not tell where it was written".to_owned()),
            Some(keys) if self.signer(text, keys).is_none() => {
                doubts
                    .push("has a MAC by no key of keyFile: it was forged, or signed by a key that is gone".to_owned());
            }
            _ => {}
        }
        doubts
    }

    /// The reason, if there is one, why the manifest's image `file` can't stand on `below`, an image of the point with the id `id`.
    pub fn contradicts(&self, file: &str, below: &RepoPath, id: Option<&str>) -> Option<String> {
        let disk = self.disks.iter().find(|disk| disk.file == file)?;
        let recorded = disk.parent.as_deref().filter(|_| disk.size > 0);
        // a rebase that was cut off has left the image on its old backing file or on the new one
        let onto = disk.rebasing.as_ref().filter(|rebasing| rebasing.onto.as_deref() == Some(below.as_str()));
        if let Some(other) = recorded.filter(|recorded| *recorded != below.as_str() && onto.is_none()) {
            return Some(format!("'{file}' stood on '{other}', now it stands on '{below}'"));
        }
        let folder = below.parent()?;
        if onto.and_then(|onto| onto.point_id.as_deref()).is_some_and(|wanted| id != Some(wanted)) {
            return Some(format!("'{folder}', on which it was to stand, is another point of that name"));
        }
        let parent = self.parent.as_ref().filter(|parent| parent.backup_path == folder.as_str())?;
        // a point of the script has no id
        let is_same = parent.point_id.is_empty() || id == Some(&parent.point_id);
        (!is_same).then(|| format!("its parent '{folder}' is another point of that name than it was"))
    }

    /// True if `text`, as it was read, has the recorded checksum. `None` for a manifest that was written without a checksum.
    pub fn is_intact(&self, text: &str) -> Option<bool> {
        let Some(checksum) = self.checksum else {
            // these fields are only written together with a checksum, so the checksum was removed
            let had_one = self.texts.is_some() || self.disks.iter().any(|disk| disk.fingerprints.is_some());
            return had_one.then_some(false);
        };
        Some(without(text, CHECKSUM, checksum).is_some_and(|text| Digest::of(text.as_bytes()) == checksum))
    }

    /// The position of the key that vouches for this manifest, read as `text`. `None` if it has no MAC, or a MAC by none of the keys.
    pub fn signer(&self, text: &str, keys: &Keys) -> Option<usize> {
        let mac = self.mac?;
        let unchecked = self.checksum.map_or(Some(text.to_owned()), |checksum| without(text, CHECKSUM, checksum))?;
        keys.signer(&without(&unchecked, MAC, mac)?, mac)
    }

    /// Writes the manifest with its checksum, and with a MAC if there is a key, into the new and empty `file`, and syncs that. Returns the
    /// manifest as it was written.
    pub fn write(&self, mut file: &File) -> std::io::Result<Manifest> {
        let (sealed, text) = self.seal(config::current().keys.as_deref())?;
        file.write_all(text.as_bytes()).map_err(called("write"))?;
        file.sync_all().map_err(called("fsync"))?;
        Ok(sealed)
    }

    /// Adds the MAC by the first key, and the checksum of all the rest.
    fn seal(&self, keys: Option<&Keys>) -> std::io::Result<(Manifest, String)> {
        let mut manifest = Manifest { mac: None, checksum: None, ..self.clone() };
        if let Some(keys) = keys {
            manifest.mac = Some(keys.sign(&manifest.text()?));
        }
        manifest.checksum = Some(Digest::of(manifest.text()?.as_bytes()));
        let text = manifest.text()?;
        Ok((manifest, text))
    }

    fn text(&self) -> std::io::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Replaces the manifest in `folder` by this one, durably; at each moment one of the two is there. Returns the manifest as it was
    /// written. `INVALID_ARGUMENT` where a key vouches for the former one and this host has no key: hosts with the key would not trust
    /// the point any more.
    pub fn replace(&self, folder: &Folder) -> Result<Manifest> {
        const STEP: &str = "replace the manifest";
        const NEW: &str = ".manifest.json.new";
        if self.mac.is_some() && config::current().keys.is_none() {
            let path = folder.path.join(MANIFEST);
            let cause = format!("a key vouches for '{}', and this host has none: keyFile is not set", path.display());
            return Err(Error::new(Code::InvalidArgument, STEP, cause));
        }
        let file = folder.create_anew(NEW, config::current().file_mode())?;
        let written = file.with(|file| self.write(file)).map_err(|e| Error::io(STEP, folder.path.join(MANIFEST), e));
        let placed = written.and_then(|written| folder.replace(&file, NEW, MANIFEST).map(|()| written));
        let written = placed.map_err(|error| match folder.remove_tree(NEW) {
            Ok(_) => error,
            Err(stuck) => error.with_leftover(stuck),
        })?;
        folder.sync().map(|()| written)
    }

    /// The disk of this point that is the same as the one with `serial` and `volume`: serials decide where both have
    /// one that no other disk has, else volumes. `None` too when several would match. `serial` is none of several disks.
    pub fn disk(&self, serial: Option<&str>, volume: &str) -> Option<&ManifestDisk> {
        let of_one = |serial: &&str| self.serials().filter(|other| other == serial).count() == 1;
        let mut same = self.disks.iter().filter(|disk| match (disk.serial.as_deref().filter(of_one), serial) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => disk.volume == volume,
        });
        same.next().filter(|_| same.next().is_none())
    }

    /// The serials of the machine's disks, as often as they have them.
    fn serials(&self) -> impl Iterator<Item = &str> {
        let of_left_out = self.left_out.iter().filter_map(|disk| disk.serial.as_deref());
        self.disks.iter().filter_map(|disk| disk.serial.as_deref()).chain(of_left_out)
    }
}

/// Returns a manifest's text with null in the place of the digest of one member.
fn without(text: &str, member: &str, digest: Digest) -> Option<String> {
    let (before, after) = text.rsplit_once(&format!("{member}\"{digest}\""))?;
    Some(format!("{before}{member}null{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(volume: &str, serial: Option<&str>) -> ManifestDisk {
        ManifestDisk {
            volume: volume.into(),
            serial: serial.map(str::to_owned),
            file: format!("root.{volume}.qcow2"),
            kind: Kind::Full,
            parent: None,
            size: 1,
            virtual_size: 2,
            bitmap: None,
            fingerprints: None,
            lost_fingerprints: false,
            snapshot: None,
            rebasing: None,
            goes_into: None,
        }
    }

    fn manifest(disks: Vec<ManifestDisk>) -> Manifest {
        Manifest {
            version: VERSION,
            point_id: Manifest::new_point_id().unwrap(),
            backup_path: None,
            vm_name: "i-2-10-VM".into(),
            when: "2031-01-02T03:04:05Z".parse().unwrap(),
            kind: Kind::Full,
            bitmap: Some("backup-1".into()),
            name: Some("backup-1".into()),
            engine: Engine::Push,
            parent: None,
            disks,
            left_out: Vec::new(),
            texts: None,
            mac: None,
            checksum: None,
        }
    }

    #[test]
    fn a_disk_that_leads_out_of_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        let read = |volume: &str, file: &str| {
            let disk = ManifestDisk { volume: volume.into(), file: file.into(), ..disk("a", None) };
            manifest(vec![disk]).write(&File::create(dir.path().join(MANIFEST)).unwrap()).unwrap();
            Manifest::read(&folder).map(|read| read.is_some()).map_err(|error| error.code)
        };
        assert_eq!(read("a b", "root.a b.qcow2"), Ok(true));
        for bad in ["/etc/x", "../x", "..", "a/b", "", "a\n"] {
            assert_eq!((read(bad, "x"), read("x", bad)), (Err(Code::CorruptImage), Err(Code::CorruptImage)), "{bad}");
        }
    }

    #[test]
    fn disks_are_the_same_by_serial_else_by_volume() {
        let m = manifest(vec![
            disk("a", Some("s1")),
            disk("b", Some("s2")),
            disk("c", None),
            disk("d", Some("s3")),
            disk("e", Some("s3")),
        ]);
        let volume = |serial, volume| m.disk(serial, volume).map(|d| d.volume.as_str());
        assert_eq!(volume(Some("s2"), "moved"), Some("b"));
        assert_eq!(volume(None, "a"), Some("a"), "one side has no serial");
        assert_eq!(volume(Some("new"), "c"), Some("c"));
        assert_eq!(volume(Some("new"), "a"), None, "another disk under an old path");
        assert_eq!(volume(Some("s3"), "moved"), None, "two candidates");
        assert_eq!(volume(Some("s3"), "d"), Some("d"), "a serial of two disks tells neither");
        assert_eq!(volume(None, "e"), Some("e"), "nor does it when the disks of now share it");
        assert_eq!(volume(Some("own"), "e"), Some("e"), "nor when each has its own by now");
        assert_eq!(volume(None, "f"), None);
        let left_out =
            LeftOut { target: None, volume: None, serial: Some("s2".into()), reason: "it is shareable".into() };
        let m = Manifest { left_out: vec![left_out], ..m };
        assert_eq!(m.disk(Some("s2"), "moved"), None, "one of the two was left out");
    }

    #[test]
    fn a_manifest_survives_writing_and_reading() {
        let m = manifest(vec![disk("a b\"ü", Some("s"))]);
        let text = serde_json::to_string(&m).unwrap();
        assert!(text.contains(r#""when":"2031-01-02T03:04:05Z""#) && text.contains(r#""virtualSize":2"#), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), m);
    }

    #[test]
    fn a_changed_byte_anywhere_is_found() {
        let mut with = disk("a", None);
        let (hash, rest) = (Digest::of(b"index"), Digest::of(b"rest"));
        with.fingerprints = Some(Fingerprints { file: "root.a.fingerprints".into(), hash, rest });
        let mut m = manifest(vec![with, disk("b", Some("s"))]);
        m.texts = Some(BTreeMap::from([("dominfo.xml".to_owned(), Digest::of(b"text"))]));
        let (m, text) = m.seal(None).unwrap();
        assert_eq!(m, serde_json::from_str(&text).unwrap());
        assert_eq!(m.is_intact(&text), Some(true));
        for at in 0..text.len() {
            for flip in [1, 0x20, 0x80] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= flip;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                let read = serde_json::from_str::<Manifest>(&changed);
                assert!(read.is_err() || read.unwrap().is_intact(&changed) == Some(false), "byte {at}: {changed}");
            }
        }
    }

    #[test]
    fn a_key_vouches_for_the_text_at_its_place_and_for_nothing_else() {
        let key = |digit: &str| Keys::parse(&digit.repeat(64)).unwrap();
        let (one, two) = (key("1"), key("2"));
        let at = |path: &str| PointPath::parse("point", path).unwrap();
        let place = at("i-2-10-VM/T1");
        let m = Manifest { backup_path: Some(place.to_string()), ..manifest(vec![disk("a", None)]) };
        let (signed, text) = m.seal(Some(&one)).unwrap();
        let doubts =
            |m: &Manifest, text: &str, at: &PointPath, keys: Option<&Keys>| m.doubts(text, at, keys).join("; ");
        assert_eq!(doubts(&signed, &text, &place, Some(&one)), "");
        assert_eq!((signed.signer(&text, &one), signed.signer(&text, &two)), (Some(0), None));
        assert!(doubts(&signed, &text, &place, Some(&two)).contains("no key of keyFile"));
        assert!(doubts(&signed, &text, &at("i-2-10-VM/T2"), None).contains("of the point 'i-2-10-VM/T1'"));
        assert!(doubts(&signed, &text, &at("i-2-11-VM/T1"), None).contains("virtual machine 'i-2-10-VM'"));
        // whoever does not know of MACs finds the checksum right, and with no key nobody asks
        assert_eq!((signed.is_intact(&text), doubts(&signed, &text, &place, None)), (Some(true), String::new()));
        let unsigned = m.seal(None).unwrap();
        assert!(doubts(&unsigned.0, &unsigned.1, &place, Some(&one)).contains("has no MAC"));
        let mut untold = m.clone();
        untold.disks[0].size = 0;
        let untold = untold.seal(Some(&one)).unwrap();
        assert_eq!(doubts(&untold.0, &untold.1, &place, Some(&one)), UNTOLD);
        assert_eq!(doubts(&untold.0, &untold.1, &place, None), "");
        let nowhere = Manifest { backup_path: None, ..m.clone() }.seal(Some(&one)).unwrap();
        assert!(doubts(&nowhere.0, &nowhere.1, &place, Some(&one)).contains("does not tell where"));
        // each change with the MAC of before and a checksum that is right
        let changes: [fn(&mut Manifest); 5] = [
            |m| m.point_id = "another".into(),
            |m| m.backup_path = Some("i-2-10-VM/T2".into()),
            |m| m.parent = Some(ParentPoint { backup_path: "i-2-10-VM/T0".into(), point_id: "id".into() }),
            |m| m.disks[0].size += 1,
            |m| m.texts = Some(BTreeMap::new()),
        ];
        for change in changes {
            let mut forged = Manifest { checksum: None, ..signed.clone() };
            change(&mut forged);
            forged.checksum = Some(Digest::of(forged.text().unwrap().as_bytes()));
            let text = forged.text().unwrap();
            assert_eq!((forged.is_intact(&text), forged.signer(&text, &one)), (Some(true), None));
        }
    }

    #[test]
    fn while_an_image_is_rebased_it_may_stand_on_its_parent_or_where_it_is_to_stand_and_nowhere_else() {
        let below = |path: &str| RepoPath::parse("image", path).unwrap();
        let [parent, onto, other] = ["T2/a", "T1/a", "T0/a"].map(|image| below(&format!("i-2-10-VM/{image}")));
        let mut m = manifest(vec![ManifestDisk { parent: Some(parent.to_string()), ..disk("a", None) }]);
        m.parent = Some(ParentPoint { backup_path: "i-2-10-VM/T2".into(), point_id: "two".into() });
        let file = m.disks[0].file.clone();
        let rebasing = |onto: Option<&RepoPath>| Rebasing {
            onto: onto.map(RepoPath::to_string),
            point_id: onto.map(|_| "one".to_owned()),
            had_fingerprints: false,
        };
        let may = |m: &Manifest, below: &RepoPath, id: &str| m.contradicts(&file, below, Some(id)).is_none();
        assert!(may(&m, &parent, "two") && !may(&m, &parent, "another"));
        assert!(!may(&m, &onto, "one") && !m.disks[0].is_unfinished());
        m.disks[0].rebasing = Some(rebasing(Some(&onto)));
        assert!(may(&m, &parent, "two") && !may(&m, &parent, "another"));
        assert!(may(&m, &onto, "one") && !may(&m, &onto, "another") && m.disks[0].is_unfinished());
        assert!(!may(&m, &other, "one") && !may(&m, &other, "two"));
        m.disks[0].rebasing = Some(rebasing(None));
        assert!(may(&m, &parent, "two") && !may(&m, &onto, "one") && !may(&m, &other, "two"));
        let text = serde_json::to_string(&m).unwrap();
        assert!(text.contains(r#""rebasing":{"onto":null,"pointId":null}"#), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), m);
    }

    #[test]
    fn a_manifest_of_before_is_read_and_has_no_checksum() {
        let m = manifest(vec![disk("a", None)]);
        let mut value = serde_json::to_value(&m).unwrap();
        value
            .as_object_mut()
            .unwrap()
            .retain(|name, _| !["backupPath", "name", "leftOut", "texts", "mac", "checksum"].contains(&name.as_str()));
        // and one of a later version may say more
        value["later"] = true.into();
        value["disks"][0].as_object_mut().unwrap().remove("fingerprints").unwrap();
        let text = value.to_string();
        let read: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!((read.is_intact(&text), read), (None, Manifest { name: None, ..m }));
    }
}
