//! What a call that is killed while it gives its outputs their names leaves to the next one. Before the first name is given, a
//! record of all outputs lies durably beside each: whoever restores onto one of them next gives the others theirs, too, so that
//! a machine's disks are all new or all old. What has changed since is left alone.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result, called};
use crate::nas::folder::{FILE_MODE, Folder};
use crate::operation::flatten::output::{self, Output};
use crate::point::fingerprints::Digest;
use crate::steps;

const STEP: &str = "finish an earlier restore";
const VERSION: u32 = 1;
/// More than the longest that is written: 512 outputs with long paths.
const LONGEST: u64 = 8 << 20;

/// The outputs of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    outputs: Vec<Entry>,
}

/// One output that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    folder: PathBuf,
    name: String,
    /// The name that it has until it gets its own.
    beside: String,
    inode: u64,
    /// What it replaces.
    old: Option<Old>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Old {
    inode: u64,
    size: u64,
    /// When it was written to last, in seconds and nanoseconds.
    modified: (i64, i64),
}

/// How far an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It has its name.
    Named,
    /// It has not, and what it replaces is as it was.
    Waiting,
    /// Somebody has changed something since.
    Changed,
}

/// What is to be done with what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Finish,
    Forget,
}

/// All of them can be new, or what is left goes.
fn judge(found: &[Found]) -> Verdict {
    if found.contains(&Found::Changed) { Verdict::Forget } else { Verdict::Finish }
}

fn record_of(name: &str) -> String {
    format!(".{name}.nasbackup.restored")
}

/// Lays the record beside each of the outputs, durably.
pub(super) fn write(outputs: &[&Output]) -> Result<()> {
    let entries = outputs.iter().filter_map(|output| entry(output).transpose()).collect::<Result<Vec<_>>>()?;
    // one alone is old or new by itself
    if entries.len() < 2 {
        return Ok(());
    }
    let text = serde_json::to_string(&Record { version: VERSION, outputs: entries });
    let text = text.map_err(|e| Error::new(Code::Internal, "record the outputs", e))?;
    let text = format!("{}\n{text}", Digest::of(text.as_bytes()));
    for (folder, name) in outputs.iter().filter_map(|output| output.name()) {
        steps::at("record an output");
        let record = record_of(name);
        folder.remove_tree(&record)?;
        let mut file = folder.create_file(&record, FILE_MODE)?;
        let written = file.write_all(text.as_bytes()).map_err(called("write")).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io("record the outputs", folder.path.join(&record), e))?;
        folder.sync()?;
    }
    Ok(())
}

/// Takes the records away: all outputs have their names, or none will get it.
pub(super) fn remove(outputs: &[(Folder, String)]) {
    for (folder, name) in outputs {
        steps::at("remove a record");
        if let Err(error) = folder.remove_tree(&record_of(name)).and_then(|_| folder.sync()) {
            log::warn!("a record of outputs is left, which the next restore onto them removes: {error}");
        }
    }
}

fn entry(output: &Output) -> Result<Option<Entry>> {
    let Some((folder, name)) = output.name() else { return Ok(None) };
    let Some((beside, new, old)) = output.beside() else { return Ok(None) };
    let look = |file: &std::fs::File| file.metadata().map_err(|e| Error::io("record the outputs", &folder.path, e));
    let old = old.map(|old| look(old).map(|old| Old::of(&old))).transpose()?;
    let (beside, inode) = (beside.to_owned(), look(new)?.ino());
    Ok(Some(Entry { folder: folder.path.clone(), name: name.to_owned(), beside, inode, old }))
}

impl Old {
    fn of(file: &std::fs::Metadata) -> Old {
        Old { inode: file.ino(), size: file.size(), modified: (file.mtime(), file.mtime_nsec()) }
    }
}

/// Finishes what a killed call has left on the outputs at these paths, or forgets it.
pub(super) fn finish_left<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<()> {
    for path in paths {
        let (path, _) = output::resolve(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            continue;
        };
        let folder = Folder::open_root(parent)?;
        if let Some(record) = read(&folder, name)? {
            finish(&record)?;
        }
    }
    Ok(())
}

/// The record beside an output, if it is ours and whole.
fn read(folder: &Folder, name: &str) -> Result<Option<Record>> {
    let record = record_of(name);
    let path = folder.path.join(&record);
    let mut file = match folder.open_for_writing(&record) {
        Ok(file) => file,
        Err(error) if error.code == Code::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let read = (&mut file).take(LONGEST).read_to_string(&mut text);
    let ours = output::is_owned_by_us(folder, &file)?;
    let known = read.ok().and_then(|_| {
        let (hash, text) = text.split_once('\n')?;
        let record: Record = serde_json::from_str(text).ok()?;
        let is_ours = record.outputs.iter().any(|entry| entry.name == name);
        (ours && is_ours && record.version == VERSION && Digest::of(text.as_bytes()).to_string() == hash)
            .then_some(record)
    });
    if known.is_none() {
        log::warn!("'{}' is no record of outputs, or was not finished, and is not followed", path.display());
        if ours {
            folder.remove_file(&file, &record)?;
        }
    }
    Ok(known)
}

/// An output of a record, and what is there of it.
struct Left<'a> {
    entry: &'a Entry,
    folder: Folder,
    /// The output that is whole, under which name it ever is.
    file: Option<std::fs::File>,
    found: Found,
    // nobody else writes it meanwhile
    _lock: Option<output::Lock>,
}

fn finish(record: &Record) -> Result<()> {
    let left = record.outputs.iter().map(look).collect::<Result<Vec<_>>>()?;
    let verdict = judge(&left.iter().map(|left| left.found).collect::<Vec<_>>());
    for Left { entry, folder, file, found, .. } in &left {
        let path = folder.path.join(&entry.name);
        match (verdict, found, file) {
            (Verdict::Finish, Found::Waiting, Some(file)) => {
                log::info!("'{}' gets what a restore that was killed has made for it", path.display());
                steps::at("give a left output its name");
                match entry.old {
                    Some(_) => folder.replace(file, &entry.beside, &entry.name)?,
                    None => folder.name_beside_others(file, &entry.beside, &entry.name)?,
                }
                folder.sync()?;
            }
            (Verdict::Forget, _, Some(file)) => folder.remove_file(file, &entry.beside)?,
            _ => {}
        }
    }
    if verdict == Verdict::Forget {
        let names: Vec<_> =
            record.outputs.iter().map(|entry| entry.folder.join(&entry.name).display().to_string()).collect();
        log::warn!("a restore onto {names:?} was killed, and they have changed since: none gets what it made");
    }
    let records: Vec<_> = left.into_iter().map(|left| (left.folder, left.entry.name.clone())).collect();
    remove(&records);
    Ok(())
}

/// What has become of an output. `BUSY` while the call that makes it lives.
fn look(entry: &Entry) -> Result<Left<'_>> {
    let folder = Folder::open_root(&entry.folder)?;
    let open = |name: &str| match folder.open_file_in(name) {
        Ok(file) => {
            let metadata = file.metadata().map_err(|e| Error::io(STEP, folder.path.join(name), e))?;
            Ok(Some((file, metadata)))
        }
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let there = open(&entry.name)?;
    if let Some((file, _)) = there.as_ref().filter(|(_, metadata)| metadata.ino() == entry.inode) {
        let lock = output::lock_left(&folder, &entry.name, file)?;
        return Ok(Left { entry, folder, file: None, found: Found::Named, _lock: lock });
    }
    let Some((file, _)) = open(&entry.beside)?.filter(|(_, metadata)| metadata.ino() == entry.inode) else {
        return Ok(Left { entry, folder, file: None, found: Found::Changed, _lock: None });
    };
    let lock = output::lock_left(&folder, &entry.name, &file)?;
    let is_as_it_was = there.map(|(_, metadata)| Old::of(&metadata)) == entry.old;
    let found = if is_as_it_was { Found::Waiting } else { Found::Changed };
    Ok(Left { entry, folder, file: Some(file), found, _lock: lock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_get_their_names_or_none_that_has_none_yet() {
        use Found::{Changed, Named, Waiting};
        for (found, verdict) in [
            (&[Waiting, Waiting][..], Verdict::Finish),
            (&[Named, Waiting], Verdict::Finish),
            (&[Named, Named], Verdict::Finish),
            (&[Waiting, Changed], Verdict::Forget),
            (&[Named, Changed], Verdict::Forget),
        ] {
            assert_eq!(judge(found), verdict, "{found:?}");
        }
    }
}
