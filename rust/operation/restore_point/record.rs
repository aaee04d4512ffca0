//! The record by which a restore finishes the publication of one that was killed. Before the first output gets its name, a record of
//! all outputs lies durably beside each of them. The next restore onto all of them first gives the others their names, so that a
//! machine's disks are all new or all old. Outputs that have changed since, are in use, or were not asked for are left alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use serde::{Deserialize, Serialize};

use super::left;
use super::locked_image::LockedImage;
use super::names;
use super::output::Output;
use super::output_path;
use crate::apart::Descriptor;
use crate::config::FILE_MODE;
use crate::digest::Digest;
use crate::error::{Code, Error, Result, called};
use crate::nas::folder::Folder;
use crate::work::steps;

const STEP: &str = "finish an earlier restore";
const VERSION: u32 = 1;
/// More than the longest that is written: 512 outputs with long paths.
const LONGEST: u64 = 8 << 20;

/// The outputs of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutputsRecord {
    version: u32,
    outputs: Vec<RecordedOutput>,
}

/// One output that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordedOutput {
    folder: PathBuf,
    name: String,
    /// The name that it has until it gets its own.
    beside: String,
    new: FileState,
    /// What it replaces.
    old: Option<FileState>,
}

/// By this the library sees whether somebody has changed a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileState {
    inode: u64,
    size: u64,
    /// When it was written to last, in seconds and nanoseconds.
    modified: (i64, i64),
}

/// How far an output of the killed call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The output has its name.
    Named,
    /// The output has no name yet, and the volume that it replaces is as it was.
    Waiting,
    /// Somebody has changed something since.
    Changed,
}

/// What is done with the outputs that were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    Finish,
    Forget,
}

/// Finishes the outputs if this call is `onto_all` of them and nobody has changed one; else none gets its name.
fn choose_remedy(found: &[Stage], onto_all: bool) -> Remedy {
    if onto_all && !found.contains(&Stage::Changed) { Remedy::Finish } else { Remedy::Forget }
}

fn record_name(name: &str) -> String {
    format!(".{name}.nasbackup.restored")
}

/// Writes the record beside each of the outputs, durably.
pub(super) fn write(outputs: &[&Output]) -> Result<()> {
    let entries =
        outputs.iter().filter_map(|output| recorded_output(output).transpose()).collect::<Result<Vec<_>>>()?;
    // a single output is old or new without a record
    if entries.len() < 2 {
        return Ok(());
    }
    let text = serde_json::to_string(&OutputsRecord { version: VERSION, outputs: entries });
    let text = text.map_err(|e| Error::new(Code::Internal, "record the outputs", e))?;
    let text = format!("{}\n{text}", Digest::of(text.as_bytes()));
    for (folder, name) in outputs.iter().filter_map(|output| output.name()) {
        steps::at("record an output");
        let record = record_name(name);
        folder.remove_tree(&record)?;
        let mut file = folder.create_file(&record, FILE_MODE)?;
        let written = file.write_all(text.as_bytes()).map_err(called("write")).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io("record the outputs", folder.path.join(&record), e))?;
        folder.sync()?;
    }
    Ok(())
}

/// Removes the records: all outputs have their names, or none will get it.
pub(super) fn remove(outputs: &[(Folder, String)]) {
    for (folder, name) in outputs {
        steps::at("remove a record");
        if let Err(error) = folder.remove_tree(&record_name(name)).and_then(|_| folder.sync()) {
            log::warn!("a record of outputs is left, which the next restore onto them removes: {error}");
        }
    }
}

fn recorded_output(output: &Output) -> Result<Option<RecordedOutput>> {
    let Some((folder, name)) = output.name() else { return Ok(None) };
    let Some((beside, new, old)) = output.beside() else { return Ok(None) };
    let io = |e| Error::io("record the outputs", &folder.path, e);
    let (new, old) = (FileState::of(new).map_err(io)?, old.map(FileState::of).transpose().map_err(io)?);
    Ok(Some(RecordedOutput { folder: folder.path.clone(), name: name.to_owned(), beside: beside.to_owned(), new, old }))
}

impl FileState {
    fn of(file: &impl Descriptor) -> io::Result<FileState> {
        let file = file.with(File::metadata)?;
        Ok(FileState { inode: file.ino(), size: file.size(), modified: (file.mtime(), file.mtime_nsec()) })
    }
}

impl RecordedOutput {
    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// False if this library can't have written the entry: a forged one may be meant to have any file removed.
    fn is_well_formed(&self) -> bool {
        !self.name.contains('/') && names::is_partial(&self.name, &self.beside)
    }
}

/// Finishes or removes what a killed call has left of the outputs at these paths. Other outputs of its record are not touched: they
/// may be somebody else's by now.
pub(super) fn finish_left<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<()> {
    let asked: BTreeSet<_> = paths.map(|path| Ok(output_path::resolve(path)?.0)).collect::<Result<_>>()?;
    for path in &asked {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            continue;
        };
        if let Some(record) = read(&Folder::open_without_links(parent)?, name)? {
            finish_outputs(&record, &asked)?;
        }
    }
    Ok(())
}

/// Reads the record beside an output, if this library has written it and it is whole.
fn read(folder: &Folder, name: &str) -> Result<Option<OutputsRecord>> {
    let record = record_name(name);
    let path = folder.path.join(&record);
    let file = match folder.open_for_writing(&record) {
        Ok(file) => file,
        Err(error) if error.code == Code::NotFound => return Ok(None),
        Err(error) => return if is_planted(folder, &record, &error) { Ok(None) } else { Err(error) },
    };
    let mut text = String::new();
    let read = file.with(|file| file.take(LONGEST).read_to_string(&mut text));
    let ours = left::belongs_to_us(folder, &file)?;
    let known = read.ok().and_then(|_| {
        let (hash, text) = text.split_once('\n')?;
        let record: OutputsRecord = serde_json::from_str(text).ok()?;
        let is_ours = record.outputs.iter().any(|entry| entry.path() == folder.path.join(name));
        let is_well_formed = record.outputs.iter().all(RecordedOutput::is_well_formed);
        (ours
            && is_ours
            && is_well_formed
            && record.version == VERSION
            && Digest::of(text.as_bytes()).to_string() == hash)
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

/// True if what can't be opened, for this error, is a link, a folder or a file with two names. Somebody else has put it there, which
/// must not keep the restore from going on.
fn is_planted(folder: &Folder, name: &str, error: &Error) -> bool {
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let planted = found.is_ok_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_nlink > 1);
    if planted {
        log::warn!("'{}' is none of ours and is not followed: {error}", folder.path.join(name).display());
    }
    planted
}

/// An output of a record, and what is there of it.
struct Left<'a> {
    entry: &'a RecordedOutput,
    folder: Folder,
    /// The whole output, until it has its name.
    beside: Option<File>,
    found: Stage,
    // keeps out other calls that write this output
    _lock: Option<left::Lock>,
    // keeps guests from opening the volume that has the name
    _held: Option<LockedImage>,
}

fn finish_outputs(record: &OutputsRecord, asked: &BTreeSet<PathBuf>) -> Result<()> {
    let (ours, others): (Vec<_>, Vec<_>) = record.outputs.iter().partition(|entry| asked.contains(&entry.path()));
    let left = ours.into_iter().map(|entry| find_left(entry, record)).collect::<Result<Vec<_>>>()?;
    let verdict = choose_remedy(&left.iter().map(|left| left.found).collect::<Vec<_>>(), others.is_empty());
    if verdict == Remedy::Forget {
        let names: Vec<_> = record.outputs.iter().map(RecordedOutput::path).collect();
        let why = if others.is_empty() { "they have changed since" } else { "this one is not onto all of them" };
        log::warn!("a restore onto {names:?} was killed, and {why}: none gets what it made");
    }
    for Left { entry, folder, beside, found, .. } in &left {
        match (verdict, found, beside) {
            (Remedy::Finish, Stage::Waiting, Some(file)) => {
                log::info!("'{}' gets what a restore that was killed has made for it", entry.path().display());
                steps::at("give a left output its name");
                match entry.old {
                    Some(_) => folder.replace(file, &entry.beside, &entry.name)?,
                    None => folder.name_beside_others(file, &entry.beside, &entry.name)?,
                }
                folder.sync()?;
            }
            (Remedy::Forget, _, Some(file)) => folder.remove_file(file, &entry.beside)?,
            _ => {}
        }
    }
    // the locks are held until the records are gone: else this could remove another call's record
    let records = left.iter().map(|left| Ok((left.folder.open_again()?, left.entry.name.clone())));
    remove(&records.collect::<Result<Vec<_>>>()?);
    Ok(())
}

/// Finds out what has become of an output. `BUSY` while the call that makes it lives, `DOMAIN_STATE` while a guest uses the volume
/// that has its name.
fn find_left<'a>(entry: &'a RecordedOutput, record: &OutputsRecord) -> Result<Left<'a>> {
    let folder = Folder::open_without_links(&entry.folder)?;
    let open = |name: &str| match folder.open_file_in(name) {
        Ok(file) => {
            let state = FileState::of(&file).map_err(|e| Error::io(STEP, folder.path.join(name), e))?;
            Ok(Some((file, state)))
        }
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let is_new = |(_, state): &&(File, FileState)| state.inode == entry.new.inode;
    let there = open(&entry.name)?;
    let named = there.as_ref().filter(is_new);
    let beside = match open(&entry.beside) {
        _ if named.is_some() => None,
        Err(error) if is_planted(&folder, &entry.beside, &error) => None,
        opened => opened?,
    };
    let waiting = beside.as_ref().filter(is_new);
    let lock =
        named.or(waiting).map(|(file, _)| left::lock_left_output(&folder, &entry.name, file)).transpose()?.flatten();
    let (now, of_the_new) = (there.as_ref().map(|(_, state)| state), waiting.map(|(_, state)| state));
    // the record lay beside each output before the first got its name: where it is missing, no output has one, or it was forged
    let is_recorded = waiting.is_some() && read(&folder, &entry.name)?.as_ref() == Some(record);
    let is_as_it_was = of_the_new == Some(&entry.new) && now == entry.old.as_ref();
    let found = match (now == Some(&entry.new), is_as_it_was && is_recorded) {
        (true, _) => Stage::Named,
        (_, true) => Stage::Waiting,
        _ => Stage::Changed,
    };
    let held = there.map(|(file, _)| LockedImage::take(file, &entry.path())).transpose()?;
    let beside = beside.filter(|left| is_new(&left)).map(|(file, _)| file);
    Ok(Left { entry, folder, beside, found, _lock: lock, _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_get_their_names_or_none_that_has_none_yet() {
        use Stage::{Changed, Named, Waiting};
        for (found, verdict) in [
            (&[Waiting, Waiting][..], Remedy::Finish),
            (&[Named, Waiting], Remedy::Finish),
            (&[Named, Named], Remedy::Finish),
            (&[Waiting, Changed], Remedy::Forget),
            (&[Named, Changed], Remedy::Forget),
        ] {
            assert_eq!(choose_remedy(found, true), verdict, "{found:?}");
            assert_eq!(choose_remedy(found, false), Remedy::Forget, "{found:?}");
        }
    }

    /// Whoever may write to the folder, on a server that makes all files one user's, can write any record.
    #[test]
    fn a_forged_record_removes_and_renames_nothing_but_what_lies_beside_the_outputs() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (dir, elsewhere) = (dir.path().canonicalize().unwrap(), elsewhere.path().canonicalize().unwrap());
        let partial = |name: &str| format!(".{name}.nasbackup-0123456789abcdef");
        std::fs::create_dir(dir.join("sub")).unwrap();
        let files =
            [dir.join("victim"), elsewhere.join("victim"), elsewhere.join(partial("y")), dir.join("sub/victim")];
        let forget = |folder: &Path, name: &str, beside: &str| {
            let path = folder.join(beside);
            let new = File::open(&path).and_then(|file| FileState::of(&file)).unwrap();
            RecordedOutput {
                folder: folder.to_owned(),
                name: name.to_owned(),
                beside: beside.to_owned(),
                new,
                old: None,
            }
        };
        for place in 0..5 {
            files.iter().for_each(|file| std::fs::write(file, "whose").unwrap());
            std::fs::write(dir.join(partial("x")), "ours").unwrap();
            let forged = match place {
                0 => forget(&dir, "y", "victim"),
                1 => forget(&elsewhere, "y", "victim"),
                2 => forget(&elsewhere, "y", &partial("y")),
                3 => forget(&dir, "x", "sub/victim"),
                _ => forget(&dir, "x", &format!("../{}/victim", elsewhere.file_name().unwrap().to_str().unwrap())),
            };
            // "x" is as it was, or is to be forgotten
            for old in [None, Some(FileState { inode: 1, size: 1, modified: (1, 1) })] {
                let mut own = forget(&dir, "x", &partial("x"));
                own.old = old;
                let text =
                    serde_json::to_string(&OutputsRecord { version: VERSION, outputs: vec![own, forged.clone()] });
                let text = text.unwrap();
                let record = dir.join(record_name("x"));
                std::fs::write(&record, format!("{}\n{text}", Digest::of(text.as_bytes()))).unwrap();
                finish_left([dir.join("x").as_path()].into_iter()).unwrap();
                for file in &files {
                    assert!(file.exists(), "{place}: {file:?}");
                }
                assert!(!record.exists() && !dir.join("x").exists() && !elsewhere.join("y").exists(), "{place}");
                std::fs::write(dir.join(partial("x")), "ours").unwrap();
            }
        }
    }

    /// The record of a killed call is ours, and what it names has become somebody else's link.
    #[test]
    fn what_is_planted_where_a_left_output_was_holds_up_no_restore() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let entry = |name: &str| {
            let beside = format!(".{name}.nasbackup-0123456789abcdef");
            std::fs::write(dir.join(&beside), "whole").unwrap();
            let new = FileState::of(&File::open(dir.join(&beside)).unwrap()).unwrap();
            RecordedOutput { folder: dir.clone(), name: name.to_owned(), beside, new, old: None }
        };
        let outputs = vec![entry("x"), entry("y")];
        let planted = dir.join(&outputs[0].beside);
        let text = serde_json::to_string(&OutputsRecord { version: VERSION, outputs }).unwrap();
        for name in ["x", "y"] {
            std::fs::write(dir.join(record_name(name)), format!("{}\n{text}", Digest::of(text.as_bytes()))).unwrap();
        }
        std::fs::remove_file(&planted).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &planted).unwrap();
        finish_left([dir.join("x").as_path(), dir.join("y").as_path()].into_iter()).unwrap();
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [planted]);
    }

    /// It has been written beside each before the first got its name: without one nobody has whole outputs there.
    #[test]
    fn a_record_in_one_folder_alone_gives_nothing_a_name_in_another() {
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (theirs, ours) = (theirs.path().canonicalize().unwrap(), ours.path().canonicalize().unwrap());
        let state = |path: &Path| FileState::of(&File::open(path).unwrap()).unwrap();
        let entry = |folder: &Path, name: &str| {
            let beside = format!(".{name}.nasbackup-0123456789abcdef");
            std::fs::write(folder.join(name), "whole").unwrap();
            std::fs::write(folder.join(&beside), "a part of a copy that was killed").unwrap();
            let (new, old) = (state(&folder.join(&beside)), Some(state(&folder.join(name))));
            RecordedOutput { folder: folder.to_owned(), name: name.to_owned(), beside, new, old }
        };
        let outputs = vec![entry(&theirs, "x"), entry(&ours, "y")];
        let text = serde_json::to_string(&OutputsRecord { version: VERSION, outputs }).unwrap();
        std::fs::write(theirs.join(record_name("x")), format!("{}\n{text}", Digest::of(text.as_bytes()))).unwrap();
        finish_left([theirs.join("x").as_path(), ours.join("y").as_path()].into_iter()).unwrap();
        assert_eq!(std::fs::read_to_string(ours.join("y")).unwrap(), "whole");
    }

    /// Whoever may write to the folder could hold up every restore there until somebody looks.
    #[test]
    fn what_is_planted_where_a_record_would_be_holds_up_no_restore() {
        let (dir, elsewhere) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let (victim, names) = (elsewhere.path().join("victim"), [dir.path().join("x"), dir.path().join("y")]);
        std::fs::write(&victim, "whose").unwrap();
        let points = Folder::open_root(elsewhere.path()).unwrap();
        let points = output_path::PointFolders::of(&points, &points).unwrap();
        let record = dir.path().join(record_name("x"));
        let plants: [&dyn Fn() -> io::Result<()>; 4] = [
            &|| std::os::unix::fs::symlink(&victim, &record),
            &|| std::fs::hard_link(&victim, &record),
            &|| std::fs::create_dir(&record).and_then(|()| std::fs::write(record.join("file"), "in it")),
            &|| std::os::unix::net::UnixListener::bind(&record).map(drop),
        ];
        for plant in plants {
            plant().unwrap();
            finish_left(names.iter().map(PathBuf::as_path)).unwrap();
            assert!(record.symlink_metadata().is_ok());
            // it makes place for a record of ours
            let outputs = names.each_ref().map(|name| Output::open(name.to_str().unwrap(), true, 0, &points).unwrap());
            write(&outputs.each_ref()).unwrap();
            let folder = Folder::open_root(dir.path()).unwrap();
            assert!(read(&folder, "x").unwrap().is_some());
            remove(&[(folder.open_again().unwrap(), "x".into()), (folder, "y".into())]);
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "whose");
        }
    }
}
