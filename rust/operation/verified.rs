//! What the last verifications of a point have found: a note beside it, for whoever lists points. Nothing else relies on it.

use std::io::{Read, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::verify_chain::verdict::Verdict;
use crate::apart::Descriptor;
use crate::config;
use crate::digest::Digest;
use crate::error::{Code, Error, Result, called};
use crate::keys::Keys;
use crate::nas::folder::Folder;
use crate::point::Manifest;

const FILE: &str = ".nasbackup.verified";
const NEW: &str = ".nasbackup.verified.new";
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

/// What is known of the point in `folder`, which has this manifest; nothing where there is no note that can be read.
pub(super) fn read(folder: &Folder, manifest: Option<&Manifest>) -> Vec<PastVerdict> {
    let note = note(folder).unwrap_or_else(|error| {
        log::debug!("what verifications have found of '{}' can't be read: {error}", folder.path.display());
        Note::default()
    });
    let current = note.is_of(manifest) && note.is_vouched(config::current().keys.as_deref());
    note.verdicts.into_iter().map(|verdict| PastVerdict { current, ..verdict }).collect()
}

/// Notes durably what was found. The point stays what it is: a failure is the caller's to log.
pub(super) fn write(folder: &Folder, manifest: Option<&Manifest>, scope: Scope, verdict: Verdict) -> Result<()> {
    const STEP: &str = "note the verdict";
    let text = Note {
        point_id: manifest.map(|manifest| manifest.point_id.clone()),
        contents: manifest.map(contents),
        verdicts: merged(read(folder, manifest), PastVerdict { scope, when: Timestamp::now(), verdict, current: true }),
        mac: None,
    }
    .sealed(config::current().keys.as_deref());
    // left by a call that was killed
    folder.remove_tree(NEW)?;
    let file = folder.create_file(NEW, config::current().file_mode())?;
    let write = |mut file: &std::fs::File| {
        file.write_all(text.as_bytes()).map_err(called("write"))?;
        file.sync_all().map_err(called("fsync"))
    };
    let written = file.with(write).map_err(|error| Error::io(STEP, folder.path.join(NEW), error));
    written.and_then(|()| folder.replace(&file, NEW, FILE)).inspect_err(|_| {
        if let Err(error) = folder.remove_file(&file, NEW) {
            log::warn!("unable to remove '{}': {error}", folder.path.join(NEW).display());
        }
    })?;
    folder.sync()
}

/// The verdicts that still tell something beside a new one: a verification of data has looked at the chain, too, and one that was
/// aborted takes back nothing.
fn merged(mut known: Vec<PastVerdict>, new: PastVerdict) -> Vec<PastVerdict> {
    let is_weaker = |past: &PastVerdict| new.verdict == Verdict::Aborted && past.verdict != Verdict::Aborted;
    known.retain(|past| past.current && (past.scope > new.scope || is_weaker(past)));
    known.push(new);
    known
}

fn note(folder: &Folder) -> Result<Note> {
    const STEP: &str = "read the verdicts";
    let file = match folder.open_file_in(FILE) {
        Err(error) if error.code == Code::NotFound => return Ok(Note::default()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|error| Error::io(STEP, FILE, error))?;
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
        use Scope::{Chain, Data};
        use Verdict::{Aborted, Bad, Good};
        let (chain, data) = (verdict(Chain, Bad, true), verdict(Data, Good, true));
        let (bad, aborted) = (verdict(Data, Bad, true), verdict(Data, Aborted, true));
        for (known, new, expected) in [
            (vec![bad], aborted, vec![bad, aborted]),
            (vec![bad, aborted], data, vec![data]),
            (vec![aborted], aborted, vec![aborted]),
            (vec![], chain, vec![chain]),
            (vec![data], chain, vec![data, chain]),
            (vec![data, chain], data, vec![data]),
            (vec![chain], chain, vec![chain]),
            // it was of another point
            (vec![verdict(Data, Good, false)], chain, vec![chain]),
        ] {
            assert_eq!(merged(known, new), expected);
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_vouched_for_by_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open_root(dir.path()).unwrap();
        assert_eq!(read(&folder, None), []);
        // of a write that was killed
        std::fs::write(dir.path().join(NEW), "{").unwrap();
        write(&folder, None, Scope::Data, Verdict::Good).unwrap();
        let found = read(&folder, None);
        assert_eq!((found.len(), found[0].verdict, found[0].current), (1, Verdict::Good, true));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(read(&folder, None), []);

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
