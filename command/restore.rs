//! `nasbackup restore`.

use std::path::Path;
use std::process::ExitCode;

use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::list_points::ListedPoint;
use nasbackup::operation::restore_point::{
    self, OutputFormat, RestoreOutput, RestorePointRequest, Restored, Verify, VolumeRequest,
};
use nasbackup::plain::plain;

use crate::arguments::{Format, Restore};
use crate::host::{Host, from_file};
use crate::output::{Output, size};
use crate::{progress, show};

pub(crate) fn run(host: &Host, arguments: &Restore, output: Output) -> Result<ExitCode> {
    let planned = plan(arguments, &show::point(host, &arguments.point, output)?.point)?;
    if arguments.dry_run {
        let would = |(volume, path): &(String, String)| format!("would restore '{volume}' to '{}'", without_key(path));
        let lines: Vec<_> = planned.iter().map(would).collect();
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

/// Each volume, and where it goes. `NOT_FOUND` for a volume that the point does not hold, `ALREADY_EXISTS` for a file in the
/// folder of `--to`, of which nobody has said that it may be replaced.
fn plan(arguments: &Restore, point: &ListedPoint) -> Result<Vec<(String, String)>> {
    const STEP: &str = "plan the restore";
    if arguments.to.is_none() && arguments.output.len() != arguments.volume.len() {
        return Err(Error::invalid("--output", "is to be given once for each --volume"));
    }
    let held: Vec<_> = point.disks.iter().map(|disk| disk.volume.as_str()).collect();
    if let Some(volume) = arguments.volume.iter().find(|volume| !held.contains(&volume.as_str())) {
        let cause = format!("'{}' holds no volume '{volume}', but '{}'", point.backup_path, held.join("', '"));
        return Err(Error::new(Code::NotFound, STEP, cause));
    }
    let Some(folder) = &arguments.to else {
        let outputs = arguments.output.iter().map(|output| from_file("--output", output));
        return arguments.volume.iter().cloned().zip(outputs).map(|(volume, output)| Ok((volume, output?))).collect();
    };
    let folder = std::path::absolute(folder).map_err(|error| Error::io("find the folder", folder, error))?;
    let end = match arguments.format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    };
    let volumes =
        if arguments.volume.is_empty() { held } else { arguments.volume.iter().map(String::as_str).collect() };
    let place = |volume: &str| {
        let path = in_folder(&folder, &format!("{volume}.{end}"))?;
        if !arguments.keep_old && Path::new(&path).symlink_metadata().is_ok() {
            return Err(Error::new(Code::AlreadyExists, STEP, format!("'{path}' is there; --keep-old would keep it")));
        }
        Ok((volume.to_owned(), path))
    };
    volumes.into_iter().map(place).collect()
}

/// The file `name` in a folder. `CORRUPT_IMAGE` for a name that leads elsewhere: a manifest on the NAS tells it.
fn in_folder(folder: &Path, name: &str) -> Result<String> {
    if Path::new(name).file_name() != Some(name.as_ref()) {
        let cause = format!("'{}' is no name of a file", plain(name));
        return Err(Error::new(Code::CorruptImage, "name the output", cause));
    }
    let path = folder.join(name).into_os_string().into_string();
    path.map_err(|path| Error::invalid("--to", format!("'{}' is not UTF-8", path.to_string_lossy())))
}

/// Of an image in Ceph no more than `rbd:pool/image`: its options hold the key.
fn without_key(output: &str) -> &str {
    let options = output.strip_prefix("rbd:").and_then(|image| image.find(':')).map(|at| at + "rbd:".len());
    &output[..options.unwrap_or(output.len())]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_leads_to_no_file_outside_the_folder() {
        let folder = Path::new("/to");
        assert_eq!(in_folder(folder, "a b.qcow2").unwrap(), "/to/a b.qcow2");
        for name in ["/etc/x.qcow2", "../x.qcow2", "a/../../x.qcow2", "a/x.qcow2", "..", ".", ""] {
            assert_eq!(in_folder(folder, name).unwrap_err().code, Code::CorruptImage, "{name}");
        }
    }

    #[test]
    fn no_key_is_told() {
        for (output, told) in [
            ("rbd:pool/image:id=a:key=AQ==", "rbd:pool/image"),
            ("rbd:pool/image", "rbd:pool/image"),
            ("/to/a:b", "/to/a:b"),
        ] {
            assert_eq!(without_key(output), told);
        }
    }
}
