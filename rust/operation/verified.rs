//! What the last verifications of a point have found: a note beside it, for whoever lists points. Nothing else relies on it, and it
//! is no part of the point, which goes whether the NAS lets go of the note or not.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reading::Reading;
use super::verify_chain::verdict::Verdict;
use crate::apart::Descriptor;
use crate::config;
use crate::digest::Digest;
use crate::error::{Code, Error, Result, called};
use crate::keys::Keys;
use crate::limits;
use crate::nas::folder::Folder;
use crate::nas::path::{PointPath, RepoPath};
use crate::point::Manifest;
use crate::random;
use crate::work::deadline::bounded;

/// How the name of a note begins; the point's follows.
const NOTE: &str = ".nasbackup.verified-";
/// How it begins until it is whole; what nobody else has follows.
const NEW: &str = ".nasbackup.verified.";
/// More than any note has, in bytes.
const LONGEST: u64 = 16 << 10;

/// What a verification looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The images and their tables, as `verifyChain`.
    Chain,
    /// All data, too, as `verifyData`.
    Data,
    /// Whether its system boots, as `bootPoint`.
    Boot,
}

impl Scope {
    /// Has who looked at this looked at the other, too?
    fn covers(self, other: Scope) -> bool {
        match self {
            Scope::Chain => other == Scope::Chain,
            Scope::Data => matches!(other, Scope::Chain | Scope::Data),
            Scope::Boot => other == Scope::Boot,
        }
    }
}

/// What a verification has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastVerdict {
    /// What it looked at.
    pub scope: Scope,
    /// When it ended.
    pub when: Timestamp,
    /// What it found.
    pub verdict: Verdict,
    /// False: the point has changed since, or is another one, or no key vouches for the note.
    #[serde(default)]
    pub current: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    point_id: Option<String>,
    /// Of what a manifest tells of the point's images.
    contents: Option<Digest>,
    verdicts: Vec<PastVerdict>,
    mac: Option<Digest>,
}

/// What is known of the point, which has this manifest; nothing where there is no note that can be read.
pub(super) fn read(root: &Folder, point: &PointPath, manifest: Option<&Manifest>) -> Vec<PastVerdict> {
    let note = read_note(root, point).unwrap_or_else(|error| {
        log::debug!("what verifications have found of '{point}' can't be read: {error}");
        Note::default()
    });
    let current = note.is_of(manifest) && note.is_vouched(config::current().keys.as_deref());
    note.verdicts.into_iter().map(|verdict| PastVerdict { current, ..verdict }).collect()
}

/// Notes durably what was found. The point stays what it is: a failure is the caller's to log. Of two notes at the same time one
/// stays.
fn write(root: &Folder, point: &PointPath, manifest: Option<&Manifest>, scope: Scope, verdict: Verdict) -> Result<()> {
    const STEP: &str = "note the verdict";
    let new = PastVerdict { scope, when: Timestamp::now(), verdict, current: true };
    let text = Note {
        point_id: manifest.map(|manifest| manifest.point_id.clone()),
        contents: manifest.map(contents),
        verdicts: merged(read(root, point, manifest), new),
        mac: None,
    }
    .sealed(config::current().keys.as_deref());
    let folder = root.open_dir(&point.instance_folder())?;
    let (path, new) = (path(point)?, format!("{NEW}{}", random::hex(STEP)?));
    let file = folder.create_anew(&new, config::current().file_mode())?;
    let write = |mut file: &std::fs::File| {
        file.write_all(text.as_bytes()).map_err(called("write"))?;
        file.sync_all().map_err(called("fsync"))
    };
    let written = file.with(write).map_err(|error| Error::io(STEP, folder.path.join(&new), error));
    written.and_then(|()| folder.replace(&file, &new, path.name())).inspect_err(|_| {
        if let Err(error) = folder.remove_file(&file, &new) {
            log::warn!("unable to remove '{}': {error}", folder.path.join(&new).display());
        }
    })?;
    folder.sync()
}

/// Notes the verdict beside the point. It stands without: the repository may be read-only.
pub(super) fn note(reading: &Reading, point: &PointPath, manifest: Option<Manifest>, scope: Scope, verdict: Verdict) {
    let (held, at) = (reading.clone(), point.clone());
    let write = move || write(held.root(), &at, manifest.as_ref(), scope, verdict);
    if let Err(error) = bounded("note the verdict", limits::STORAGE_STEP, write) {
        log::warn!("the verdict on '{point}' is not noted beside it: {error}");
    }
}

/// Of the `names` in a machine's folder the notes of points that are not among them, and those that killed calls have left.
pub(super) fn left(names: &BTreeSet<&str>) -> Vec<String> {
    let is_left = |name: &&str| match name.strip_prefix(NOTE) {
        Some(point) => !names.contains(point),
        None => name.starts_with(NEW),
    };
    names.iter().copied().filter(is_left).map(str::to_owned).collect()
}

/// Removes notes that are left. The caller holds a lock beside which nobody verifies. What the NAS keeps stays.
pub(super) fn clear(instance: &Folder, left: &[String]) {
    for left in left {
        if let Err(error) = instance.remove_tree(left) {
            log::info!("'{}' stays, which nothing needs any more: {error}", instance.path.join(left).display());
        }
    }
}

/// Where the note of a point lies.
fn path(point: &PointPath) -> Result<RepoPath> {
    point.instance_folder().join(&format!("{NOTE}{}", point.name()))
}

/// The verdicts that still tell something beside a new one, which is of all that its scope covers; one that was aborted takes back
/// nothing.
fn merged(mut known: Vec<PastVerdict>, new: PastVerdict) -> Vec<PastVerdict> {
    let is_weaker = |past: &PastVerdict| new.verdict == Verdict::Aborted && past.verdict != Verdict::Aborted;
    known.retain(|past| past.current && (!new.scope.covers(past.scope) || is_weaker(past)));
    known.push(new);
    known
}

fn read_note(root: &Folder, point: &PointPath) -> Result<Note> {
    const STEP: &str = "read the verdicts";
    let path = path(point)?;
    let file = match root.open_file(&path) {
        Err(error) if error.code == Code::NotFound => return Ok(Note::default()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| Error::io(STEP, path.as_str(), error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::new(Code::Io, STEP, error))
}

/// The hash of what a manifest tells of its images. It stays what it is when the manifest is signed anew.
fn contents(manifest: &Manifest) -> Digest {
    let told = (&manifest.point_id, &manifest.parent, &manifest.disks);
    Digest::of(serde_json::to_string(&told).unwrap_or_default().as_bytes())
}

impl Note {
    fn is_of(&self, manifest: Option<&Manifest>) -> bool {
        self.point_id.as_ref() == manifest.map(|manifest| &manifest.point_id) && self.contents == manifest.map(contents)
    }

    fn is_vouched(&self, keys: Option<&Keys>) -> bool {
        keys.is_none_or(|keys| self.mac.is_some_and(|mac| keys.signer(&self.unsigned(), mac).is_some()))
    }

    fn sealed(self, keys: Option<&Keys>) -> String {
        let mac = keys.map(|keys| keys.sign(&self.unsigned()));
        serde_json::to_string(&Note { mac, ..self }).unwrap_or_default()
    }

    /// The text that a MAC is over.
    fn unsigned(&self) -> String {
        let told = ("nasbackup verdicts", &self.point_id, self.contents, &self.verdicts);
        serde_json::to_string(&told).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(scope: Scope, verdict: Verdict, current: bool) -> PastVerdict {
        PastVerdict { scope, when: Timestamp::UNIX_EPOCH, verdict, current }
    }

    #[test]
    fn a_verification_of_data_outlasts_later_ones_of_the_chain_and_replaces_former_ones() {
        use Scope::{Boot, Chain, Data};
        use Verdict::{Aborted, Bad, Good};
        let (chain, data) = (verdict(Chain, Bad, true), verdict(Data, Good, true));
        let boot = |found| verdict(Boot, found, true);
        let (bad, aborted) = (verdict(Data, Bad, true), verdict(Data, Aborted, true));
        for (known, new, expected) in [
            (vec![bad], aborted, vec![bad, aborted]),
            (vec![bad, aborted], data, vec![data]),
            (vec![aborted], aborted, vec![aborted]),
            (vec![], chain, vec![chain]),
            (vec![data], chain, vec![data, chain]),
            (vec![data, chain], data, vec![data]),
            (vec![chain], chain, vec![chain]),
            (vec![data, chain, boot(Good)], data, vec![boot(Good), data]),
            (vec![data, chain], boot(Bad), vec![data, chain, boot(Bad)]),
            (vec![boot(Good), boot(Aborted)], boot(Bad), vec![boot(Bad)]),
            (vec![boot(Good)], boot(Aborted), vec![boot(Good), boot(Aborted)]),
            // it was of another point
            (vec![verdict(Data, Good, false)], chain, vec![chain]),
        ] {
            assert_eq!(merged(known, new), expected);
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_vouched_for_by_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let instance = dir.path().join("i-1");
        std::fs::create_dir_all(instance.join("T1")).unwrap();
        let root = Folder::open_root(dir.path()).unwrap();
        let point = PointPath::parse("point", "i-1/T1").unwrap();
        assert_eq!(read(&root, &point, None), []);
        let beside = instance.join(format!("{NEW}0"));
        std::fs::write(&beside, "{").unwrap();
        write(&root, &point, None, Scope::Data, Verdict::Good).unwrap();
        assert!(beside.exists(), "another call writes it, or was killed");
        let found = read(&root, &point, None);
        assert_eq!((found.len(), found[0].verdict, found[0].current), (1, Verdict::Good, true));
        std::fs::write(dir.path().join(path(&point).unwrap().as_str()), "{").unwrap();
        assert_eq!(read(&root, &point, None), []);

        let [ours, others] = ["11", "22"].map(|key| Keys::parse(&key.repeat(32)).unwrap());
        let note = Note { verdicts: vec![verdict(Scope::Data, Verdict::Bad, true)], ..Note::default() };
        let sealed = note.sealed(Some(&ours));
        let is_vouched = |text: &str, keys| serde_json::from_str::<Note>(text).unwrap().is_vouched(keys);
        for (text, keys, expected) in [
            (sealed.clone(), None, true),
            (sealed.clone(), Some(&ours), true),
            (sealed.clone(), Some(&others), false),
            (sealed.replace("bad", "good"), Some(&ours), false),
            ("{\"pointId\":null,\"contents\":null,\"verdicts\":[],\"mac\":null}".to_owned(), Some(&ours), false),
        ] {
            assert_eq!(is_vouched(&text, keys), expected, "{text}");
        }
    }
}
