//! `nasbackup show`.

use std::process::ExitCode;

use nasbackup::config::Engine;
use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::show_point::{self, ShowPointRequest, ShownPoint};
use nasbackup::plain::plain;
use nasbackup::point::{Kind, StatePart};

use crate::arguments::Show;
use crate::host::Host;
use crate::output::{Output, size};
use crate::{points, progress};

pub(crate) fn run(host: &Host, arguments: &Show, output: Output) -> Result<ExitCode> {
    let shown = point(host, &arguments.point, output)?;
    if arguments.xml {
        output.print(&domain(&shown)?, |xml| (*xml).to_owned())?;
    } else {
        output.print(&shown, text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All that the point tells of itself. `NOT_FOUND` without it.
pub(crate) fn point(host: &Host, path: &str, output: Output) -> Result<ShownPoint> {
    let request = ShowPointRequest {
        repository: Some(host.repository()?),
        backup_path: Some(path.to_owned()),
        ..ShowPointRequest::default()
    };
    progress::with(output, |listener| show_point::run(request, listener))
}

/// What the point's own files take on the NAS, in words; none for a reader of JSON.
pub(crate) fn takes(host: &Host, path: &str, output: Output) -> String {
    if output.json {
        return String::new();
    }
    match point(host, path, output) {
        Ok(shown) => format!("takes {}", size(shown.point.size)),
        Err(error) => format!("takes what could not be asked: {error}"),
    }
}

/// The domain's XML, as it stands in the point. `NOT_FOUND` without it.
fn domain(shown: &ShownPoint) -> Result<&str> {
    let none = || Error::new(Code::NotFound, "look for the domain's XML", "the point holds none");
    shown.domain.as_deref().ok_or_else(none)
}

fn text(shown: &ShownPoint) -> String {
    let point = &shown.point;
    let mut lines = vec![plain(&point.backup_path).into_owned()];
    let mut tell = |what: &str, value: &str| lines.push(format!("  {what:<9} {}", plain(value)));
    if let Some(manifest) = &shown.manifest {
        let engine = if manifest.engine == Engine::Pull { "pull" } else { "push" };
        tell("taken", &format!("{}, by {engine}", manifest.when));
        tell("id", &manifest.point_id);
        let vouched = if manifest.mac.is_some() { "MAC" } else { "checksum" };
        tell("vouched", &format!("by a {vouched}"));
        manifest.bitmap.iter().for_each(|bitmap| tell("bitmap", bitmap));
    }
    tell("kind", if point.kind == Kind::Full { "full" } else { "incremental" });
    tell("takes", &format!("{}, with what it stands on {}", size(point.size), size(point.chain_size)));
    for (what, found) in [("verified", points::verified(point)), ("booted", points::booted(point))] {
        if !found.is_empty() {
            tell(what, &found);
        }
    }
    for disk in &point.disks {
        let seen = disk.virtual_size.map(|bytes| format!(", {} as the guest sees it", size(bytes))).unwrap_or_default();
        tell("disk", &format!("{}: {}{seen}", disk.volume, size(disk.size)));
        shown.chains.get(&disk.file).into_iter().flatten().for_each(|image| tell("", image));
    }
    for part in StatePart::ALL {
        let file = shown.manifest.iter().find_map(|manifest| manifest.state_file(part));
        file.iter().for_each(|(name, _)| tell("holds", &format!("{}: {name}", part.what())));
    }
    for disk in shown.manifest.iter().flat_map(|manifest| &manifest.left_out) {
        let name = disk.volume.as_ref().or(disk.target.as_ref()).or(disk.serial.as_ref());
        tell("left out", &format!("{}: {}", name.map_or("a disk", String::as_str), disk.reason));
    }
    point.problems.iter().for_each(|problem| tell("problem", problem));
    lines.join("\n") + "\n"
}
