//! The request of `takeBackup`: as it comes, and as it is once every field was checked.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::selection::{self, Names, file_name};
use crate::config::Engine;
use crate::config::{Config, LEAST_RATE, check_limit};
use crate::engine::rate::Rate;
use crate::error::{Error, Result};
use crate::nas::path::{PointPath, RepoPath};
use crate::nas::repository::{Export, Repository};
use crate::operation::ceph::Rbd;
use crate::point::volume_of;

/// What `takeBackup` is asked, as it comes from Java or C; absent fields are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TakeBackupRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The domain's name.
    pub vm_name: Option<String>,
    /// The restore point to make, `<vmName>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// `legacy` (also when absent), `full` or `incremental`.
    pub mode: Option<String>,
    /// Name of the bitmap to begin.
    pub bitmap_new: Option<String>,
    /// Name of the bitmap that records the changes since the parent.
    pub bitmap_parent: Option<String>,
    /// Files of the parent point, relative to the repository's root.
    pub parent_paths: Option<Vec<String>>,
    /// Absent: the domain must exist. Given: the disks of a guest that must not run.
    pub disks: Option<Vec<StoppedDisk>>,
    /// Freeze the guest's file systems around the begin. Absent: no.
    pub quiesce: Option<bool>,
    /// Seconds that the job may take. Absent or 0: 7200.
    pub wait_seconds: Option<u64>,
    /// `auto`, `push` or `pull`. Absent: the configured one.
    pub engine: Option<String>,
    /// Bytes a second that are read of the guest's disks at most. Absent or 0: the configured limit.
    pub rate_limit: Option<u64>,
    /// Disks to leave out, each by its target, serial or volume; of a stopped guest by its path or volume.
    pub exclude_disks: Option<Vec<String>>,
}

/// A disk of a stopped guest.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoppedDisk {
    /// Absolute path of its file or device, or `rbd:pool/image:option=value:...` as CloudStack names an image in Ceph: that
    /// may hold a key and is never shown.
    pub path: Option<String>,
    /// `qcow2` or `raw`; never probed.
    pub format: Option<String>,
    /// What it may stand on, each with its format, all layers of it; empty: nothing. The headers of its images may name no
    /// other file. Absent: any qcow2 or raw file in the folders of the disks. Not looked at for a raw disk, which has no header.
    pub backing: Option<Vec<BackingFile>>,
}

/// A file that a stopped guest's disk may stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackingFile {
    /// Its absolute path.
    pub path: Option<String>,
    /// `qcow2` or `raw`; never probed.
    pub format: Option<String>,
}

impl fmt::Debug for StoppedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_deref().unwrap_or("?");
        let shown = if Rbd::is_one(path) { "rbd:..." } else { path };
        write!(f, "{shown} ({})", self.format.as_deref().unwrap_or("?"))
    }
}

/// A request whose every field was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub job: Option<String>,
    pub vm: String,
    pub point: PointPath,
    pub export: Export,
    pub mode: Mode,
    /// `None`: the guest runs.
    pub stopped: Option<StoppedSources>,
    /// Disks of a running guest to leave out.
    pub exclude: Vec<String>,
    pub quiesce: bool,
    pub wait: Duration,
    pub engine: Engine,
    pub rate: Rate,
}

/// The mode, with what each needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Legacy,
    Full { bitmap: String },
    Incremental { bitmap: String, parent: PointPath, parent_bitmap: String },
}

impl Mode {
    /// The bitmap to begin.
    pub(super) fn bitmap(&self) -> Option<&str> {
        match self {
            Mode::Legacy => None,
            Mode::Full { bitmap } | Mode::Incremental { bitmap, .. } => Some(bitmap),
        }
    }

    /// The bitmap that says what changed since the parent.
    pub(super) fn parent_bitmap(&self) -> Option<&str> {
        if let Mode::Incremental { parent_bitmap, .. } = self { Some(parent_bitmap) } else { None }
    }
}

/// The disks of a stopped guest, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoppedSources {
    /// Those that its backup holds.
    pub chosen: Vec<StoppedSource>,
    /// Those that the request excludes.
    pub left_out: Vec<StoppedSource>,
}

impl StoppedSources {
    /// The paths of the chosen files and devices: their folders are those that headers may name files in.
    pub(super) fn paths(&self) -> Vec<String> {
        self.chosen.iter().filter(|source| source.rbd.is_none()).map(|source| source.path.clone()).collect()
    }
}

/// A disk of a stopped guest, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoppedSource {
    /// Of an image in Ceph, its name.
    pub path: String,
    pub volume: String,
    /// Its file's name in the point.
    pub file: String,
    pub qcow2: bool,
    pub rbd: Option<Rbd>,
    /// What the headers of its images may name, by path, and whether that is a qcow2 (raw otherwise); `None`: not told.
    pub backing: Option<BTreeMap<String, bool>>,
}

/// A job without a deadline of its own may take this long.
const DEFAULT_WAIT: u64 = 7200;
const LONGEST_WAIT: u64 = 30 * 86400;
/// qcow2 specification, "Bitmap directory": the longest name.
const LONGEST_BITMAP: usize = 1023;

impl TakeBackupRequest {
    /// Checks every field, before any effect. `INVALID_ARGUMENT` names the first that is wrong.
    pub(super) fn check(self, config: &Config) -> Result<Checked> {
        let vm = required("vmName", self.vm_name)?;
        if vm.starts_with('.') || vm.contains('/') || vm.chars().any(char::is_control) {
            return Err(Error::invalid("vmName", "begins with a dot, or contains a slash or a control character"));
        }
        let point = PointPath::parse("backupPath", &required("backupPath", self.backup_path)?)?;
        if point.instance() != vm {
            return Err(Error::invalid("backupPath", format!("'{point}' is not a folder of '{vm}'")));
        }
        let export = Repository::check(self.repository)?;
        let mode = check_mode(self.mode.as_deref(), self.bitmap_new, self.bitmap_parent, self.parent_paths)?;
        let wait = match self.wait_seconds.unwrap_or(0) {
            0 => DEFAULT_WAIT,
            wait if wait > LONGEST_WAIT => return Err(Error::invalid("waitSeconds", "is more than 30 days")),
            wait => wait,
        };
        let engine = check_engine(self.engine.as_deref(), config)?;
        let own = check_limit("rateLimit", self.rate_limit, LEAST_RATE)?;
        let rate = Rate { own: own.or(config.rate_limit), host: config.host_rate_limit };
        let exclude = self.exclude_disks.unwrap_or_default();
        if exclude.iter().any(String::is_empty) {
            return Err(Error::invalid("excludeDisks", "holds an empty name"));
        }
        let stopped = self.disks.map(|disks| check_disks(disks, &exclude)).transpose()?;
        let quiesce = self.quiesce.unwrap_or(false);
        Ok(Checked {
            job: self.job,
            vm,
            point,
            export,
            mode,
            stopped,
            exclude,
            quiesce,
            wait: Duration::from_secs(wait),
            engine,
            rate,
        })
    }
}

fn required(field: &str, value: Option<String>) -> Result<String> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| Error::invalid(field, "is missing"))
}

fn check_mode(
    mode: Option<&str>,
    new: Option<String>,
    parent: Option<String>,
    paths: Option<Vec<String>>,
) -> Result<Mode> {
    let refuse =
        |field, given: bool| if given { Err(Error::invalid(field, "does not go with this mode")) } else { Ok(()) };
    match mode.unwrap_or("legacy") {
        "legacy" => {
            refuse("bitmapNew", new.is_some())?;
            refuse("bitmapParent", parent.is_some())?;
            refuse("parentPaths", paths.is_some())?;
            Ok(Mode::Legacy)
        }
        "full" => {
            refuse("bitmapParent", parent.is_some())?;
            refuse("parentPaths", paths.is_some())?;
            Ok(Mode::Full { bitmap: check_bitmap("bitmapNew", new)? })
        }
        "incremental" => {
            let bitmap = check_bitmap("bitmapNew", new)?;
            let parent_bitmap = check_bitmap("bitmapParent", parent)?;
            if bitmap == parent_bitmap {
                return Err(Error::invalid("bitmapNew", "is the same as bitmapParent"));
            }
            Ok(Mode::Incremental { bitmap, parent: check_parents(paths)?, parent_bitmap })
        }
        other => Err(Error::invalid("mode", format!("'{other}' is not legacy, full or incremental"))),
    }
}

fn check_bitmap(field: &str, name: Option<String>) -> Result<String> {
    let name = required(field, name)?;
    let plain = !name.starts_with('.') && !name.contains('/') && !name.chars().any(char::is_control);
    if plain && name.len() <= LONGEST_BITMAP {
        Ok(name)
    } else {
        Err(Error::invalid(field, "is not a name for a checkpoint"))
    }
}

/// All parent files lie in one point's folder; that folder is the parent.
fn check_parents(paths: Option<Vec<String>>) -> Result<PointPath> {
    const FIELD: &str = "parentPaths";
    let mut parent = None;
    for path in paths.unwrap_or_default() {
        let folder = RepoPath::parse(FIELD, &path)?.parent();
        let folder = folder.ok_or_else(|| Error::invalid(FIELD, format!("'{path}' is in no restore point")))?;
        let point = PointPath::parse(FIELD, folder.as_str())?;
        if *parent.get_or_insert_with(|| point.clone()) != point {
            return Err(Error::invalid(FIELD, format!("'{path}' is not in the folder of the others")));
        }
    }
    parent.ok_or_else(|| Error::invalid(FIELD, "is missing"))
}

/// The engine asked for, or else configured.
fn check_engine(engine: Option<&str>, config: &Config) -> Result<Engine> {
    Ok(match engine {
        None => config.engine,
        Some("auto") => Engine::Auto,
        Some("push") => Engine::Push,
        Some("pull") => Engine::Pull,
        Some(other) => return Err(Error::invalid("engine", format!("'{other}' is not auto, push or pull"))),
    })
}

fn check_disks(disks: Vec<StoppedDisk>, exclude: &[String]) -> Result<StoppedSources> {
    if disks.is_empty() {
        return Err(Error::invalid("disks", "is empty"));
    }
    let formats: Vec<_> = disks.iter().map(|disk| disk.format.clone()).collect();
    let sources = disks.into_iter().enumerate().map(|(i, disk)| check_disk(i, disk)).collect::<Result<Vec<_>>>()?;
    let names: Vec<_> =
        sources.iter().map(|s| Names { target: &s.path, volume: Some(&s.volume), serial: None }).collect();
    let excluded = selection::excluded(exclude, &names)?;
    selection::refuse_none(sources.len() - excluded.len())?;
    let (mut chosen, mut left_out): (Vec<StoppedSource>, _) = (Vec::new(), Vec::new());
    for (i, (source, format)) in sources.into_iter().zip(formats).enumerate() {
        if excluded.contains(&i) {
            left_out.push(source);
            continue;
        }
        check_format(i, &source, format)?;
        if chosen.iter().any(|other| other.volume == source.volume) {
            let cause = format!("volume '{}' is named twice", source.volume);
            return Err(Error::invalid(&format!("disks[{i}].path"), cause));
        }
        chosen.push(source);
    }
    Ok(StoppedSources { chosen, left_out })
}

/// All of a disk but its format, which may be any of a disk that is left out.
fn check_disk(i: usize, disk: StoppedDisk) -> Result<StoppedSource> {
    let field = format!("disks[{i}].path");
    let mut path = required(&field, disk.path)?;
    let rbd = Rbd::is_one(&path).then(|| Rbd::parse(&field, &path)).transpose()?;
    if let Some(rbd) = &rbd {
        path.clone_from(&rbd.name);
    } else if !path.starts_with('/') || path.chars().any(char::is_control) {
        // What begins with a slash can be no protocol and no option for qemu-img.
        return Err(Error::invalid(&field, "is not an absolute path"));
    }
    let volume = volume_of(&path).ok_or_else(|| Error::invalid(&field, "names no volume"))?.to_owned();
    let (file, qcow2) = (file_name(i, &volume), disk.format.as_deref() == Some("qcow2"));
    let backing = disk.backing.map(|files| check_backing(i, files)).transpose()?;
    Ok(StoppedSource { path, volume, file, qcow2, rbd, backing })
}

fn check_backing(i: usize, files: Vec<BackingFile>) -> Result<BTreeMap<String, bool>> {
    let mut checked = BTreeMap::new();
    for (j, file) in files.into_iter().enumerate() {
        let field = |name: &str| format!("disks[{i}].backing[{j}].{name}");
        let path = required(&field("path"), file.path)?;
        if !path.starts_with('/') || path.chars().any(char::is_control) {
            return Err(Error::invalid(&field("path"), "is not an absolute path"));
        }
        let qcow2 = is_qcow2(&field("format"), file.format)?;
        if checked.insert(path, qcow2).is_some() {
            return Err(Error::invalid(&field("path"), "is named twice"));
        }
    }
    Ok(checked)
}

fn is_qcow2(field: &str, format: Option<String>) -> Result<bool> {
    match required(field, format)?.as_str() {
        "qcow2" => Ok(true),
        "raw" => Ok(false),
        other => Err(Error::invalid(field, format!("'{other}' is not qcow2 or raw"))),
    }
}

fn check_format(i: usize, source: &StoppedSource, format: Option<String>) -> Result<()> {
    let field = format!("disks[{i}].format");
    match is_qcow2(&field, format)? {
        true if source.rbd.is_some() => Err(Error::invalid(&field, "an image in Ceph is read as raw only")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> TakeBackupRequest {
        TakeBackupRequest {
            vm_name: Some("i-2-10-VM".into()),
            backup_path: Some("i-2-10-VM/2031.01.02.03.04.05".into()),
            repository: Some(Repository { kind: Some("dir".into()), address: Some("/mnt/nas".into()), options: None }),
            ..TakeBackupRequest::default()
        }
    }

    fn request(change: impl FnOnce(&mut TakeBackupRequest)) -> Result<Checked> {
        let mut request = plain();
        change(&mut request);
        request.check(&Config::default())
    }

    fn incremental(request: &mut TakeBackupRequest) {
        request.mode = Some("incremental".into());
        request.bitmap_new = Some("backup-2".into());
        request.bitmap_parent = Some("backup-1".into());
        request.parent_paths = Some(vec!["i-2-10-VM/T1/root.a.qcow2".into()]);
    }

    #[test]
    fn a_bad_field_is_named() {
        type Change = fn(&mut TakeBackupRequest);
        let cases: &[(&str, Change)] = &[
            ("vmName", |r| r.vm_name = None),
            ("vmName", |r| r.vm_name = Some("a/b".into())),
            ("vmName", |r| r.vm_name = Some("a\nb".into())),
            ("vmName", |r| r.vm_name = Some("..".into())),
            ("backupPath", |r| r.backup_path = None),
            ("backupPath", |r| r.backup_path = Some(String::new())),
            ("backupPath", |r| r.backup_path = Some("../x".into())),
            ("backupPath", |r| r.backup_path = Some("/i-2-10-VM/T1".into())),
            ("backupPath", |r| r.backup_path = Some("i-2-10-VM".into())),
            ("backupPath", |r| r.backup_path = Some("i-2-10-VM/a/b".into())),
            ("backupPath", |r| r.backup_path = Some("i-2-11-VM/T1".into())),
            ("repository", |r| r.repository = None),
            ("mode", |r| r.mode = Some("incr".into())),
            ("bitmapNew", |r| r.bitmap_new = Some("backup-1".into())),
            ("bitmapParent", |r| r.bitmap_parent = Some("backup-1".into())),
            ("parentPaths", |r| r.parent_paths = Some(vec![])),
            ("bitmapNew", |r| r.mode = Some("full".into())),
            ("bitmapNew", |r| (incremental(r), r.bitmap_new = None).1),
            ("bitmapNew", |r| (incremental(r), r.bitmap_new = Some("backup-1".into())).1),
            ("bitmapNew", |r| (incremental(r), r.bitmap_new = Some("a/b".into())).1),
            ("bitmapNew", |r| (incremental(r), r.bitmap_new = Some("x".repeat(1024))).1),
            ("bitmapParent", |r| (incremental(r), r.bitmap_parent = None).1),
            ("parentPaths", |r| (incremental(r), r.parent_paths = None).1),
            ("parentPaths", |r| (incremental(r), r.parent_paths = Some(vec![])).1),
            ("parentPaths", |r| (incremental(r), r.parent_paths = Some(vec!["i-2-10-VM/root.a.qcow2".into()])).1),
            ("parentPaths", |r| (incremental(r), r.parent_paths = Some(vec!["i/T1/a".into(), "i/T2/b".into()])).1),
            ("parentPaths", |r| (incremental(r), r.parent_paths = Some(vec!["../../etc/x".into()])).1),
            ("waitSeconds", |r| r.wait_seconds = Some(u64::MAX)),
            ("engine", |r| r.engine = Some("tape".into())),
            ("rateLimit", |r| r.rate_limit = Some(65535)),
            ("disks", |r| r.disks = Some(vec![])),
            ("disks[0].path", |r| r.disks = Some(vec![StoppedDisk::default()])),
            ("disks[0].path", |r| r.disks = Some(vec![disk("a", "raw")])),
            ("disks[0].path", |r| r.disks = Some(vec![disk("/a/", "raw")])),
            ("disks[0].path", |r| r.disks = Some(vec![disk("json:{}", "raw")])),
            ("disks[0].path", |r| r.disks = Some(vec![disk("rbd:p/i:conf=/x", "raw")])),
            ("disks[0].format", |r| r.disks = Some(vec![disk("rbd:p/i", "qcow2")])),
            ("disks[1].path", |r| r.disks = Some(vec![disk("/x/a", "raw"), disk("rbd:p/a", "raw")])),
            ("disks[1].format", |r| r.disks = Some(vec![disk("/a", "raw"), disk("/b", "vmdk")])),
            ("disks[1].path", |r| r.disks = Some(vec![disk("/x/a", "raw"), disk("/y/a", "raw")])),
            ("disks[0].backing[0].path", |r| on(r, &[("t", "qcow2")])),
            ("disks[0].backing[0].path", |r| on(r, &[("", "qcow2")])),
            ("disks[0].backing[0].path", |r| on(r, &[("json:{}", "qcow2")])),
            ("disks[0].backing[1].path", |r| on(r, &[("/x/t", "qcow2"), ("/x/t", "raw")])),
            ("disks[0].backing[0].format", |r| on(r, &[("/x/t", "")])),
            ("disks[0].backing[0].format", |r| on(r, &[("/x/t", "vmdk")])),
            ("excludeDisks", |r| r.exclude_disks = Some(vec![String::new()])),
            ("excludeDisks", |r| (two(r), r.exclude_disks = Some(vec!["vdb".into()])).1),
            ("excludeDisks", |r| (two(r), r.exclude_disks = Some(vec!["a".into(), "/x/b".into()])).1),
            ("disks[1].format", |r| (two(r), r.exclude_disks = Some(vec!["a".into()])).1),
        ];
        for (i, (field, change)) in cases.iter().enumerate() {
            let error = request(change).expect_err(&format!("case {i}"));
            assert_eq!(error.code, crate::error::Code::InvalidArgument, "{error}");
            assert!(error.cause.starts_with(&format!("{field}:")), "case {i}: {error}");
        }
    }

    #[test]
    fn the_request_s_limit_goes_before_the_configured_one() {
        let config = Config { rate_limit: Some(1 << 20), host_rate_limit: Some(1 << 24), ..Config::default() };
        for (asked, own) in [(None, 1 << 20), (Some(0), 1 << 20), (Some(1 << 22), 1 << 22)] {
            let request = TakeBackupRequest { rate_limit: asked, ..plain() };
            assert_eq!(request.check(&config).unwrap().rate, Rate { own: Some(own), host: Some(1 << 24) });
        }
    }

    /// Two disks, of which the second can't be read.
    fn two(request: &mut TakeBackupRequest) {
        request.disks = Some(vec![disk("/x/a", "qcow2"), disk("/x/b", "vmdk")]);
    }

    #[test]
    fn a_stopped_guest_s_disk_is_excluded_by_path_or_volume_whatever_it_is() {
        for name in ["/x/b", "b"] {
            let exclude = |r: &mut TakeBackupRequest| (two(r), r.exclude_disks = Some(vec![name.into()])).1;
            let stopped = request(exclude).unwrap().stopped.unwrap();
            let paths = |sources: &[StoppedSource]| sources.iter().map(|s| s.path.clone()).collect::<Vec<_>>();
            assert_eq!((paths(&stopped.chosen), paths(&stopped.left_out)), (vec!["/x/a".into()], vec!["/x/b".into()]));
        }
    }

    fn disk(path: &str, format: &str) -> StoppedDisk {
        StoppedDisk { path: Some(path.into()), format: Some(format.into()), backing: None }
    }

    /// Disks of which the first may stand on these files.
    fn on(request: &mut TakeBackupRequest, files: &[(&str, &str)]) {
        let file = |(path, format): &(&str, &str)| BackingFile {
            path: Some((*path).into()),
            format: (!format.is_empty()).then(|| (*format).into()),
        };
        let backing = Some(files.iter().map(file).collect());
        request.disks = Some(vec![StoppedDisk { backing, ..disk("/x/a", "qcow2") }]);
    }

    #[test]
    fn what_a_disk_stands_on_is_told_by_path_and_format_or_not_at_all() {
        let told = |change: fn(&mut TakeBackupRequest)| {
            request(change).unwrap().stopped.unwrap().chosen.swap_remove(0).backing
        };
        assert_eq!(told(|r| r.disks = Some(vec![disk("/x/a", "qcow2")])), None);
        assert_eq!(told(|r| on(r, &[])), Some(BTreeMap::new()));
        let files = told(|r| on(r, &[("/x/t", "qcow2"), ("/x/s", "raw")])).unwrap();
        assert_eq!(files, BTreeMap::from([("/x/s".to_owned(), false), ("/x/t".to_owned(), true)]));
    }

    #[test]
    fn what_is_absent_takes_its_meaning() {
        let checked = request(|_| {}).unwrap();
        assert_eq!((checked.mode, checked.stopped, checked.quiesce), (Mode::Legacy, None, false));
        assert_eq!(checked.wait, Duration::from_secs(7200));
        let checked = request(incremental).unwrap();
        let parent = PointPath::parse("x", "i-2-10-VM/T1").unwrap();
        assert_eq!(
            checked.mode,
            Mode::Incremental { bitmap: "backup-2".into(), parent, parent_bitmap: "backup-1".into() }
        );
    }
}
