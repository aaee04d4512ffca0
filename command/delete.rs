//! `nasbackup delete`.

use std::process::ExitCode;

use nasbackup::error::{Code, Error, Result};
use nasbackup::operation::delete_backup::{self, DeleteBackupRequest, DeletedBackup};
use nasbackup::operation::list_points::ListedPoint;

use crate::arguments::Delete;
use crate::host::Host;
use crate::output::{Output, size};
use crate::{points, progress, rebase};

pub(crate) fn run(host: &Host, arguments: &Delete, output: Output) -> Result<ExitCode> {
    // the removal itself looks for what stands on the point
    if arguments.merge || arguments.dry_run {
        let points = points::of_machine(host, &arguments.point, output)?;
        let plan = plan(&points, arguments)?;
        if arguments.dry_run {
            points::check_free(host, &arguments.point, output)?;
            let mut lines: Vec<_> = plan.iter().map(Step::would).collect();
            let point = points::find(&points, &arguments.point)?;
            lines.push(format!("would remove '{}', which takes {}", point.backup_path, size(point.size)));
            output.print(&lines, |lines| lines.join("\n") + "\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        for step in plan {
            rebase::rebase(host, &step.point, step.onto, Some(&arguments.point), output)?;
        }
    }
    let request = DeleteBackupRequest {
        repository: Some(host.repository()?),
        backup_path: Some(arguments.point.clone()),
        ..DeleteBackupRequest::default()
    };
    let deleted = progress::with(output, |_| delete_backup::run(request)).map_err(advise)?;
    if deleted.freed_bytes == 0 {
        let cause = format!("nothing of '{}' is there", arguments.point);
        return Err(Error::new(Code::NotFound, "look for the point", cause));
    }
    output.print(&deleted, text)?;
    Ok(ExitCode::SUCCESS)
}

fn advise(error: Error) -> Error {
    match error.code {
        Code::HasChildren => Error { cause: format!("{}; with --merge they are rebased first", error.cause), ..error },
        _ => error,
    }
}

/// A point that is rebased before.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    point: String,
    /// None: it is to stand alone.
    onto: Option<String>,
}

impl Step {
    fn would(&self) -> String {
        rebase::would(&self.point, self.onto.as_deref())
    }
}

/// What is done before the point is removed: what stands on it is to stand on what it stands on. `HAS_CHILDREN` if that was not
/// asked for.
fn plan(points: &[ListedPoint], arguments: &Delete) -> Result<Vec<Step>> {
    let point = points::find(points, &arguments.point)?;
    let children = points::on(points, &point.backup_path);
    if !children.is_empty() && !arguments.merge {
        let names: Vec<_> = children.iter().map(|child| format!("'{}'", child.backup_path)).collect();
        let (stand, they) = if names.len() == 1 { ("stands", "it is") } else { ("stand", "they are") };
        let cause = format!("{} {stand} on it; with --merge {they} rebased first", names.join(", "));
        return Err(Error::new(Code::HasChildren, "remove the point", cause));
    }
    let step = |child: &ListedPoint| Step { point: child.backup_path.clone(), onto: below(point, child) };
    Ok(children.into_iter().map(step).collect())
}

/// The point that `child` is to stand on in place of `point`: the newest of those on which the images of `point` stand that the
/// child's disks need. A disk that has none of its images in its chain comes to stand alone.
fn below(point: &ListedPoint, child: &ListedPoint) -> Option<String> {
    let needed = |file: &str| {
        child.disks.iter().any(|disk| disk.backing.as_deref().and_then(split) == Some((&point.backup_path, file)))
    };
    let below = point.disks.iter().filter(|disk| needed(&disk.file)).filter_map(|disk| split(disk.backing.as_deref()?));
    below.map(|(folder, _)| folder).filter(|folder| *folder != point.backup_path).max().map(str::to_owned)
}

/// An image's point, and its name in there.
fn split(image: &str) -> Option<(&str, &str)> {
    image.rsplit_once('/')
}

fn text(deleted: &DeletedBackup) -> String {
    format!("{} freed\n", size(deleted.freed_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::tests::{disk, point};

    #[test]
    fn what_stands_on_it_gets_what_it_stands_on() {
        let points = [
            point("1", &[]),
            point("2", &["1"]),
            point("3", &["2"]),
            // a disk of 1 came back
            point("4", &["3", "1"]),
            point("5", &["4"]),
            // only the disk that came back is left
            ListedPoint { disks: vec![disk("b", Some("4"))], ..point("6", &["4"]) },
        ];
        let planned = |name: &str, merge| {
            plan(&points, &Delete { point: format!("vm/{name}"), merge, dry_run: false })
                .map(|steps| steps.into_iter().map(|step| (step.point, step.onto)).collect::<Vec<_>>())
                .map_err(|error| error.code)
        };
        let refused = |name: &str| {
            let refused = plan(&points, &Delete { point: format!("vm/{name}"), merge: false, dry_run: false });
            refused.unwrap_err().cause
        };
        assert!(refused("3").starts_with("'vm/4' stands on it; "));
        assert!(refused("1").starts_with("'vm/2', 'vm/4' stand on it; "));
        let step = |point: &str, onto: Option<&str>| (format!("vm/{point}"), onto.map(|onto| format!("vm/{onto}")));
        for (name, merge, expected) in [
            ("5", false, Ok(vec![])),
            ("3", false, Err(Code::HasChildren)),
            ("3", true, Ok(vec![step("4", Some("2"))])),
            ("4", true, Ok(vec![step("5", Some("3")), step("6", Some("1"))])),
            ("1", true, Ok(vec![step("2", None), step("4", None)])),
            ("7", true, Err(Code::NotFound)),
        ] {
            assert_eq!(planned(name, merge), expected, "{name} {merge}");
        }
    }
}
