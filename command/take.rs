//! `nasbackup take`.

use std::process::ExitCode;

use jiff::Timestamp;
use nasbackup::error::{Code, Error, Result};
use nasbackup::nas::purpose::Purpose;
use nasbackup::operation::free;
use nasbackup::operation::list_points::ListedPoint;
use nasbackup::operation::take_backup::{self, TakeBackupRequest, TakenBackup};
use nasbackup::plain::plain;
use nasbackup::point::Kind;

use crate::arguments::Take;
use crate::host::Host;
use crate::output::Output;
use crate::{points, progress, show};

pub(crate) fn run(host: &Host, arguments: &Take, output: Output) -> Result<ExitCode> {
    let parent = if arguments.incremental { Some(newest(host, &arguments.vm, output)?) } else { None };
    let request = request(host, arguments, parent.as_ref(), Timestamp::now())?;
    if arguments.dry_run {
        progress::with(output, |_| free::check(request.repository.clone(), &arguments.vm, Purpose::Add))?;
        progress::with(output, |_| take_backup::check(request.clone()))?;
        let line = would(&request, parent.as_ref());
        output.print(&line, |line| format!("{line}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let point = request.backup_path.clone().unwrap_or_default();
    let taken = progress::with(output, |listener| take_backup::run(request, listener))?;
    let takes = show::takes(host, &point, output);
    output.print(&taken, |taken| text(&point, taken, &takes))?;
    Ok(ExitCode::SUCCESS)
}

/// The machine's newest point that a request can call its parent. `NOT_FOUND` without one.
fn newest(host: &Host, vm: &str, output: Output) -> Result<ListedPoint> {
    let listed = points::listed(host, Some(vm), output)?;
    let points = listed.machines.into_iter().flat_map(|machine| machine.points);
    let none = || Error::new(Code::NotFound, "look for the parent", "no point can be stood on; --full makes one");
    points.filter(|point| point.name.is_some()).max_by_key(|point| point.when).ok_or_else(none)
}

fn request(host: &Host, arguments: &Take, parent: Option<&ListedPoint>, now: Timestamp) -> Result<TakeBackupRequest> {
    let mode = match (arguments.full, parent) {
        (_, Some(_)) => "incremental",
        (true, None) => "full",
        (false, None) => "legacy",
    };
    let files = |parent: &ListedPoint| {
        parent.disks.iter().map(|disk| format!("{}/{}", parent.backup_path, disk.file)).collect()
    };
    Ok(TakeBackupRequest {
        vm_name: Some(arguments.vm.clone()),
        // in UTC, the form of CloudStack
        backup_path: Some(format!("{}/{}", arguments.vm, now.strftime("%Y.%m.%d.%H.%M.%S"))),
        repository: Some(host.repository()?),
        mode: Some(mode.to_owned()),
        bitmap_new: (mode != "legacy").then(|| format!("backup-{}", now.as_second())),
        bitmap_parent: parent.and_then(|parent| parent.name.clone()),
        parent_paths: parent.map(files),
        quiesce: Some(arguments.quiesce),
        engine: arguments.engine.clone(),
        exclude_disks: Some(arguments.exclude.clone()),
        ..TakeBackupRequest::default()
    })
}

fn would(request: &TakeBackupRequest, parent: Option<&ListedPoint>) -> String {
    let point = request.backup_path.as_deref().unwrap_or_default();
    match (parent, request.bitmap_new.as_deref()) {
        (Some(parent), _) => format!("would take '{point}', standing on '{}'", parent.backup_path),
        (None, Some(bitmap)) => format!("would take '{point}', a full that begins a chain with bitmap '{bitmap}'"),
        (None, None) => format!("would take '{point}', a full that begins no chain"),
    }
}

fn text(point: &str, taken: &TakenBackup, takes: &str) -> String {
    let kind = if taken.kind == Kind::Full { "full" } else { "incremental" };
    let mut text = format!("'{point}' is taken, {kind}, {takes}\n");
    if taken.bitmap_created.is_none() {
        text += "note: no point can stand on it; --full begins a chain\n";
    }
    taken.details.lines().for_each(|line| text += &format!("note: {}\n", plain(line)));
    text
}
