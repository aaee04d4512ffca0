//! `nasbackup restore`.

use std::path::Path;
use std::process::ExitCode;

use nasbackup::error::{Error, Result};
use nasbackup::operation::list_points::ListedPoint;
use nasbackup::operation::restore_point::{
    self, OutputFormat, RestoreOutput, RestorePointRequest, Restored, Verify, VolumeRequest,
};

use crate::arguments::{Format, Restore};
use crate::host::Host;
use crate::output::{Output, size};
use crate::{points, progress};

pub(crate) fn run(host: &Host, arguments: &Restore, output: Output) -> Result<ExitCode> {
    let points = points::of_machine(host, &arguments.point, output)?;
    let planned = plan(arguments, points::find(&points, &arguments.point)?)?;
    if arguments.dry_run {
        let lines: Vec<_> =
            planned.iter().map(|(volume, path)| format!("would restore '{volume}' to '{path}'")).collect();
        output.print(&lines, |lines| lines.join("\n") + "\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(folder) = &arguments.to {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("make the folder", folder, error))?;
    }
    let request = RestorePointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(arguments.point.clone()),
        volumes: Some(planned.into_iter().map(|(volume, path)| request(volume, path, arguments.format)).collect()),
        verify: arguments.verify_data.then_some(Verify::Data),
        keep_old: Some(arguments.keep_old),
        keep_old_in: arguments.keep_old_in.clone(),
        rate_limit: arguments.rate_limit,
        ..RestorePointRequest::default()
    };
    let restored = progress::with(output, |listener| restore_point::run(request, listener))?;
    output.print(&restored, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Each volume, and where it goes.
fn plan(arguments: &Restore, point: &ListedPoint) -> Result<Vec<(String, String)>> {
    let Some(folder) = &arguments.to else {
        if arguments.output.len() != arguments.volume.len() {
            return Err(Error::invalid("--output", "is to be given once for each --volume"));
        }
        return Ok(arguments.volume.iter().cloned().zip(arguments.output.iter().cloned()).collect());
    };
    let folder = std::path::absolute(folder).map_err(|error| Error::io("find the folder", folder, error))?;
    let volumes = match &arguments.volume[..] {
        [] => point.disks.iter().map(|disk| disk.volume.clone()).collect(),
        volumes => volumes.to_vec(),
    };
    let end = match arguments.format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    };
    volumes.into_iter().map(|volume| Ok((volume.clone(), in_folder(&folder, &format!("{volume}.{end}"))?))).collect()
}

fn in_folder(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name).into_os_string().into_string();
    path.map_err(|path| Error::invalid("--to", format!("'{}' is not UTF-8", path.to_string_lossy())))
}

fn request(volume: String, path: String, format: Format) -> VolumeRequest {
    let format = match format {
        Format::Qcow2 => OutputFormat::Qcow2,
        Format::Raw => OutputFormat::Raw,
    };
    let output = RestoreOutput { path: Some(path), format: Some(format), ..RestoreOutput::default() };
    VolumeRequest { volume: Some(volume), output: Some(output), ..VolumeRequest::default() }
}

fn text(restored: &Restored) -> String {
    let mut text = String::new();
    for volume in &restored.volumes {
        let verified = match volume.verified {
            Verify::Chain => "its chain checked",
            Verify::Data => "all data compared with their fingerprints",
        };
        text +=
            &format!("'{}' is in '{}', {verified}, {} read\n", volume.volume, volume.output, size(volume.bytes_read));
        if let Some(kept) = &volume.kept {
            text += &format!("  what was there is in '{kept}'\n");
        }
    }
    restored.details.lines().for_each(|line| text += &format!("note: {line}\n"));
    text
}
