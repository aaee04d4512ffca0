//! `nasbackup restore`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::list_points::ListedPoint;
use nasbackup::operation::restore_point::{
    self, OutputFormat, RestoreOutput, RestorePointRequest, Restored, RestoredState, Verify, VolumeRequest,
};
use nasbackup::plain::plain;
use nasbackup::point::{Manifest, StatePart};

use crate::arguments::{Format, Restore, absolute};
use crate::host::{Host, from_file};
use crate::output::{Output, size};
use crate::{progress, show};

const STEP: &str = "plan the restore";

pub(crate) fn run(host: &Host, arguments: &Restore, output: Output) -> Result<ExitCode> {
    let shown = show::point(host, &arguments.point, output)?;
    let planned = plan(arguments, &shown.point)?;
    let state = |part| plan_state(arguments, shown.manifest.as_ref(), part);
    let (nvram, tpm) = (state(StatePart::Nvram)?, state(StatePart::Tpm)?);
    let to = |(volume, path): &(String, String)| request(volume.clone(), path.clone(), arguments.format);
    let keep_old_in = arguments.keep_old_in.as_deref().map(|folder| absolute("--keep-old-in", folder));
    let request = RestorePointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(arguments.point.clone()),
        volumes: Some(planned.iter().map(to).collect()),
        nvram_path: nvram.clone(),
        tpm_path: tpm.clone(),
        verify: arguments.verify_data.then_some(Verify::Data),
        keep_old: Some(arguments.keep_old),
        keep_old_in: keep_old_in.transpose()?,
        rate_limit: arguments.rate_limit,
        only_new: arguments.to.is_some() && !arguments.keep_old,
        ..RestorePointRequest::default()
    };
    if arguments.dry_run || arguments.to.is_some() {
        // before the folder of --to is made
        progress::with(output, |_| restore_point::check(request.clone(), arguments.to.is_some()))?;
    }
    if arguments.dry_run {
        let would = |(volume, path): &(String, String)| {
            format!("would restore '{volume}' to '{}'{}", without_key(path), replacing(path))
        };
        let state = [(StatePart::Nvram, &nvram), (StatePart::Tpm, &tpm)];
        let state = state.into_iter().filter_map(|(part, path)| Some((part.what().to_owned(), path.clone()?)));
        let lines: Vec<_> = planned.iter().cloned().chain(state).map(|planned| would(&planned)).collect();
        output.print(&lines, |lines| lines.join("\n") + "\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let _made = arguments.to.as_deref().map(NewFolders::make).transpose()?;
    let restored = progress::with(output, |listener| restore_point::run(request, listener))?;
    output.print(&restored, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Folders that were made for a restore. Its drop removes those that hold nothing: the restore came to nothing.
struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    fn make(folder: &Path) -> Result<NewFolders> {
        let io = |error| Error::io("make the folder", folder, error);
        let whole = std::path::absolute(folder).map_err(io)?;
        let new = whole.ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
        let made = NewFolders(new);
        fs::create_dir_all(&whole).map_err(io).map(|()| made)
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        // refused of one that holds something, as after each restore that has ended well
        _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// Each volume, and where it goes. `NOT_FOUND` for a volume that the point does not hold, `ALREADY_EXISTS` for a file in the
/// folder of `--to`, of which nobody has said that it may be replaced.
fn plan(arguments: &Restore, point: &ListedPoint) -> Result<Vec<(String, String)>> {
    if arguments.to.is_none() && arguments.output.len() != arguments.volume.len() {
        return Err(Error::invalid("--output", "is to be given once for each --volume"));
    }
    let named = arguments.volume.iter().map(|volume| held(point, volume)).collect::<Result<Vec<_>>>()?;
    let Some(folder) = &arguments.to else {
        let placed = named.iter().zip(&arguments.output);
        return placed.map(|(volume, to)| Ok(((*volume).to_owned(), output("--output", to)?))).collect();
    };
    let folder = std::path::absolute(folder).map_err(|error| Error::io("find the folder", folder, error))?;
    let end = match arguments.format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    };
    let volumes = if named.is_empty() { volumes(point) } else { named };
    let place = |volume: &str| Ok((volume.to_owned(), new_in_folder(arguments, &folder, &format!("{volume}.{end}"))?));
    volumes.into_iter().map(place).collect()
}

/// Where this part of the machine's state goes: into the folder of `--to`, with all disks, if the point holds it.
fn plan_state(arguments: &Restore, manifest: Option<&Manifest>, part: StatePart) -> Result<Option<String>> {
    let folder = arguments.to.as_ref().filter(|_| arguments.volume.is_empty());
    let (Some(folder), Some((name, _))) = (folder, manifest.and_then(|manifest| manifest.state_file(part))) else {
        return Ok(None);
    };
    let folder = std::path::absolute(folder).map_err(|error| Error::io("find the folder", folder, error))?;
    new_in_folder(arguments, &folder, name).map(Some)
}

/// The file `name` in the folder. `ALREADY_EXISTS` if it is there, unless `--keep-old` is given.
fn new_in_folder(arguments: &Restore, folder: &Path, name: &str) -> Result<String> {
    let path = in_folder(folder, name)?;
    if !arguments.keep_old && Path::new(&path).symlink_metadata().is_ok() {
        return Err(Error::new(Code::AlreadyExists, STEP, format!("'{path}' is there; --keep-old would keep it")));
    }
    Ok(path)
}

/// The names of a point's volumes.
pub(crate) fn volumes(point: &ListedPoint) -> Vec<&str> {
    point.disks.iter().map(|disk| disk.volume.as_str()).collect()
}

/// `NOT_FOUND` for a volume that the point does not hold.
pub(crate) fn held<'a>(point: &ListedPoint, volume: &'a str) -> Result<&'a str> {
    let held = volumes(point);
    if held.contains(&volume) {
        return Ok(volume);
    }
    let cause = format!("'{}' holds no volume '{volume}', but '{}'", point.backup_path, held.join("', '"));
    Err(Error::new(Code::NotFound, STEP, cause))
}

/// Where an argument says that a disk goes. `INVALID_ARGUMENT` for a key of Ceph's, which whoever lists processes would see.
pub(crate) fn output(argument: &str, text: &str) -> Result<String> {
    if has_key(text) {
        let cause = "holds a key, which others on this host see: put it all into a file that nobody else may read, and name that: @FILE";
        return Err(Error::invalid(argument, cause));
    }
    let text = from_file(argument, text)?;
    if text.starts_with("rbd:") { Ok(text) } else { absolute(argument, &text) }
}

/// What a dry run says of an output that is there.
pub(crate) fn replacing(output: &str) -> &'static str {
    if Path::new(output).symlink_metadata().is_ok() { ", replacing what is there" } else { "" }
}

fn has_key(output: &str) -> bool {
    output
        .strip_prefix("rbd:")
        .is_some_and(|image| image.replace('\\', "").split(':').any(|part| part.starts_with("key=")))
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
pub(crate) fn without_key(output: &str) -> &str {
    let options = output.strip_prefix("rbd:").and_then(|image| image.find(':')).map(|at| at + "rbd:".len());
    &output[..options.unwrap_or(output.len())]
}

impl From<Format> for OutputFormat {
    fn from(format: Format) -> OutputFormat {
        match format {
            Format::Qcow2 => OutputFormat::Qcow2,
            Format::Raw => OutputFormat::Raw,
        }
    }
}

fn request(volume: String, path: String, format: Format) -> VolumeRequest {
    let output = RestoreOutput { path: Some(path), format: Some(format.into()), ..RestoreOutput::default() };
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
        volume.kept.iter().for_each(|kept| text += &format!("  what was there is in '{kept}'\n"));
    }
    for RestoredState { file, output, kept } in &restored.state {
        text += &format!("'{file}' is in '{output}', compared with its hash\n");
        kept.iter().for_each(|kept| text += &format!("  what was there is in '{kept}'\n"));
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
    fn a_key_comes_from_a_file_alone() {
        for (output, has) in [
            ("rbd:pool/image:id=a:key=AQ==", true),
            ("rbd:pool/image:k\\ey=AQ==:id=a", true),
            ("rbd:pool/image:id=key", false),
            ("/to/a:key=b", false),
            ("@/root/output", false),
        ] {
            assert_eq!(has_key(output), has, "{output}");
        }
        let refused = output("--output", "rbd:pool/image:key=AQ==").unwrap_err().to_string();
        assert!(refused.contains("@FILE") && !refused.contains("AQ=="), "{refused}");
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
