//! `flatten`: one disk of a restore point, however deep its chain, as a file or on a block device that stands on nothing.

pub(super) mod output;

use std::fs::File;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::verify_chain::check_id;
use super::{checked_chain, reading::Reading};
use crate::error::{Error, Result};
use crate::job::{self, Listener, Reporter};
use crate::nas::deadline::bounded;
use crate::nas::folder::Folder;
use crate::nas::path::PointPath;
use crate::nas::repository::Repository;
use crate::point::Link;
use crate::qcow2::{Before, Failure, Flatten};
use output::Output;

/// A step is short, but for the syncs.
const LIMIT: Duration = Duration::from_secs(600);

/// What `flatten` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FlattenRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The id that the point had when it was made, as its backup's answer told it: another one is refused. Absent: not asked.
    pub point_id: Option<String>,
    /// The volume whose disk is wanted, as the backup's answer named it.
    pub volume: Option<String>,
    /// Where it goes.
    pub output: Option<OutputRequest>,
}

/// Where a disk goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutputRequest {
    /// Absolute path on this host: a file, which is made or replaced, or a block device, which is overwritten.
    pub path: Option<String>,
    /// `raw` or `qcow2`.
    pub format: Option<OutputFormat>,
}

/// How a disk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// As the guest sees it.
    Raw,
    /// Version 3, clusters of 64 KiB.
    Qcow2,
}

/// What `flatten` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flattened {
    /// Bytes that came by sharing blocks.
    pub bytes_cloned: u64,
    /// Bytes that came by copying; what reads as zeroes and is in no image does not count.
    pub bytes_copied: u64,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
}

/// Runs `flatten`. `listener` is told of progress on this thread. A file appears under its name when it is whole and
/// durable, and keeps its old content until then; a device that a failed call has begun to write has to be written anew.
pub fn run(request: FlattenRequest, listener: Listener<'_>) -> Result<Flattened> {
    let export = Repository::check(request.repository)?;
    let path = request.backup_path.ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let volume = request.volume.filter(|volume| !volume.is_empty());
    let volume = volume.ok_or_else(|| Error::invalid("volume", "is missing"))?;
    let id = check_id(request.point_id)?;
    let (path, format) = check_output(request.output.unwrap_or_default())?;
    let job = job::start(request.job, "flatten", &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    job.begin("open the repository")?;
    let reading = Reading::open(export, &point)?;
    job.begin("open the output")?;
    let (held, at) = (reading.clone(), point.clone());
    let begun = bounded("open the output", LIMIT, move || {
        let chain = checked_chain::open(held.session.root(), &at, id.as_deref(), &volume)?;
        begin(held.session.root(), &at, chain, &path, format)
    });
    let (mut output, flatten, names) = begun.inspect_err(|error| reading.note(error))?;
    let written = write(&reading, flatten, &names, &mut job);
    let written = written.and_then(|flattened| reading.check().map(|()| flattened));
    let flattened = written.and_then(|flattened| job.begin("publish the output").map(|()| flattened));
    let ended = match flattened {
        Ok(mut flattened) => {
            bounded("publish the output", LIMIT, move || output.settle().and_then(|()| output.publish())).map(|()| {
                flattened.total_millis = job.elapsed_millis();
                flattened
            })
        }
        Err(error) => Err(match bounded("remove the partial output", LIMIT, move || output.discard()) {
            Ok(()) => error,
            Err(stuck) => error.with_leftover(stuck),
        }),
    };
    ended.inspect_err(|error| {
        reading.note(error);
        log::error!("'{point}' could not be flattened: {error}");
    })
}

fn check_output(output: OutputRequest) -> Result<(String, OutputFormat)> {
    let path = output.path.ok_or_else(|| Error::invalid("output.path", "is missing"))?;
    if !path.starts_with('/') || path.ends_with('/') || path.contains(char::is_control) {
        return Err(Error::invalid("output.path", "is not an absolute path of a file"));
    }
    let format = output.format.ok_or_else(|| Error::invalid("output.format", "is missing"))?;
    Ok((path, format))
}

/// Opens the output for the disk of this chain. The names of its images are for messages.
fn begin(
    root: &Folder,
    point: &PointPath,
    chain: Vec<Link>,
    path: &str,
    format: OutputFormat,
) -> Result<(Output, Flatten, Vec<String>)> {
    const STEP: &str = "open the chain";
    let mut names = vec![path.to_owned()];
    names.extend(chain.iter().map(|link| link.path.to_string()));
    let images: Vec<File> = chain.into_iter().map(|link| link.file).collect();
    let explain = |failure| explain(STEP, &names, failure);
    let size = images.first().map_or(Ok(0), Flatten::virtual_size).map_err(explain)?;
    let instance = root.open_dir(&point.instance_folder())?;
    let output = Output::open(path, format == OutputFormat::Raw, size, root, &instance)?;
    let before = if matches!(output, Output::Device(_)) { Before::Device } else { Before::Empty };
    let target = output.file()?;
    let flatten = match format {
        OutputFormat::Raw => Flatten::raw(images, target, before),
        OutputFormat::Qcow2 => Flatten::qcow2(images, target),
    };
    Ok((output, flatten.map_err(explain)?, names))
}

fn explain(step: &'static str, names: &[String], Failure { image, error }: Failure) -> Error {
    error.at(step, names.get(image).map_or("", String::as_str))
}

/// Writes all of it, in steps that have a deadline.
fn write(reading: &Reading, flatten: Flatten, names: &[String], job: &mut Reporter<'_>) -> Result<Flattened> {
    let mut flatten = flatten;
    loop {
        let phase = flatten.phase();
        if job.status().phase == phase {
            job.tell()?
        } else {
            job.begin(phase)?
        }
        let held = reading.clone();
        let (same, step) = bounded(phase, LIMIT, move || {
            let (_held, mut flatten) = (held, flatten);
            let step = flatten.advance();
            Ok((flatten, step))
        })?;
        flatten = same;
        let progress = step.map_err(|failure| explain(phase, names, failure))?;
        job.progress(progress.done, progress.total);
        if progress.finished {
            let (bytes_cloned, bytes_copied) = (flatten.bytes_cloned(), flatten.bytes_copied());
            return Ok(Flattened { bytes_cloned, bytes_copied, total_millis: 0 });
        }
    }
}
