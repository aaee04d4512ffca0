//! `nasbackup flatten`.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::ExitCode;

use nasbackup::error::{Error, Result};
use nasbackup::operation::flatten::{self, FlattenRequest, Flattened, OutputRequest};
use nasbackup::operation::list_points::ListedPoint;

use crate::arguments::Flatten;
use crate::host::Host;
use crate::output::{Output, size};
use crate::{points, progress, restore, show};

pub(crate) fn run(host: &Host, arguments: &Flatten, output: Output) -> Result<ExitCode> {
    let (path, volume) = points::split_volume(&arguments.point);
    let volume = choose(&show::point(host, path, output)?.point, volume)?;
    let to = restore::output("OUTPUT", &arguments.output)?;
    let (shown, replacing) = (restore::without_key(&to), restore::replacing(&to));
    let would = format!("would write '{volume}' of '{path}' to '{shown}'{replacing}");
    let request = FlattenRequest {
        repository: Some(host.repository()?),
        backup_path: Some(path.to_owned()),
        volume: Some(volume),
        only_new: !is_device(&to),
        output: Some(OutputRequest { path: Some(to), format: Some(arguments.format.into()) }),
        ..FlattenRequest::default()
    };
    if arguments.dry_run {
        progress::with(output, |_| flatten::check(request))?;
        output.print(&would, |would| format!("{would}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let flattened = progress::with(output, |listener| flatten::run(request, listener))?;
    output.print(&flattened, text)?;
    Ok(ExitCode::SUCCESS)
}

fn is_device(to: &str) -> bool {
    Path::new(to).metadata().is_ok_and(|found| found.file_type().is_block_device())
}

/// The volume that is meant. `INVALID_ARGUMENT` where the point has several and none was named.
fn choose(point: &ListedPoint, volume: Option<&str>) -> Result<String> {
    match (volume, &point.disks[..]) {
        (Some(volume), _) => restore::held(point, volume).map(str::to_owned),
        (None, [only]) => Ok(only.volume.clone()),
        (None, _) => {
            let cause =
                format!("which volume? '{}' holds '{}'", point.backup_path, restore::volumes(point).join("', '"));
            Err(Error::invalid("POINT", cause))
        }
    }
}

fn text(flattened: &Flattened) -> String {
    format!("{} copied, {} shared\n", size(flattened.bytes_copied), size(flattened.bytes_cloned))
}
