//! Which backup results (design, section 4): pure functions from what was asked and found to what is done.

use super::file_name;
use super::request::Mode;
use super::storage::TargetSpec;
use crate::nas::path::RepoPath;
use crate::point::fingerprints::Fingerprints;
use crate::point::{Kind, ManifestDisk, Parent, ParentDisk};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// A full without a bitmap.
    Legacy,
    /// A full that begins a chain.
    Full,
    /// A point on top of the parent, or the reason why there is no parent.
    Incremental(Result<&'a Parent, &'a str>),
}

impl<'a> Asked<'a> {
    /// By the request's mode and what was found of the parent that it names.
    pub(super) fn of(mode: &Mode, parent: Option<&'a Result<Parent, String>>) -> Asked<'a> {
        match (mode, parent) {
            (Mode::Legacy, _) => Asked::Legacy,
            (Mode::Full { .. }, _) | (_, None) => Asked::Full,
            (Mode::Incremental { .. }, Some(parent)) => Asked::Incremental(parent.as_ref().map_err(String::as_str)),
        }
    }
}

/// What was found of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskFacts {
    /// Its name in the domain, or, of a stopped guest, its path.
    pub target: String,
    /// The last component of its source path.
    pub volume: String,
    /// Its serial, if it has one.
    pub serial: Option<String>,
    /// Size that the guest sees, in bytes.
    pub virtual_size: u64,
    /// Why it can't carry a bitmap, if so.
    pub cannot_carry: Option<String>,
    /// Why it can be copied in full only, whatever its bitmap says, if so.
    pub only_full: Option<String>,
}

/// How one disk is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// In full; why, when the others of the point may be incremental.
    Full(Option<String>),
    /// By what changed since the parent.
    Incremental(RepoPath),
}

/// What is known of the parent's bitmap on every disk that shall be incremental.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BitmapFound {
    /// It is good, and libvirt knows its checkpoint if the guest runs.
    Known,
    /// It was good and its checkpoint was redefined: the guest was restarted or migrated.
    Redefined,
    /// It is missing or inconsistent somewhere, because of this.
    Lost(String),
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The way of each disk, in order.
    pub ways: Vec<Way>,
    /// Each disk that will carry the new bitmap.
    pub carries: Vec<bool>,
    /// The parent's checkpoint had to be made again.
    pub recreated: bool,
    /// An incremental was asked for and can't be.
    pub fallback: bool,
    /// What was not ordinary.
    pub details: Vec<String>,
}

/// The ways of the disks if the parent's bitmap is good; the error is the reason why the whole point must be full.
pub(super) fn ways(asked: Asked<'_>, disks: &[DiskFacts]) -> Result<Vec<Way>, String> {
    let parent = match asked {
        Asked::Legacy | Asked::Full => return Ok(disks.iter().map(|_| Way::Full(None)).collect()),
        Asked::Incremental(parent) => parent.map_err(str::to_owned)?,
    };
    let ways = disks.iter().map(|disk| way(parent, disk)).collect::<Result<Vec<_>, _>>()?;
    if ways.iter().any(|way| matches!(way, Way::Incremental(_))) {
        return Ok(ways);
    }
    Err(format!("no disk can be incremental on '{}'", parent.path))
}

/// The way of one disk on top of `parent`.
fn way(parent: &Parent, disk: &DiskFacts) -> Result<Way, String> {
    let full = |reason: String| Ok(Way::Full(Some(format!("disk {}: in full, {reason}", disk.target))));
    let Some(before) = parent.disk(disk.serial.as_deref(), &disk.volume) else {
        return full(format!("parent point '{}' does not have it", parent.path));
    };
    if let Some(reason) = &disk.cannot_carry {
        return full(format!("it can't carry a bitmap: {reason}"));
    }
    if disk.only_full.is_some() {
        return Ok(Way::Full(None));
    }
    if before.bitmap.is_none() || before.bitmap != parent.manifest.bitmap {
        return full(format!("it carried no bitmap at '{}'", parent.path));
    }
    follows(&before, disk).map_err(|reason| format!("disk {}: {reason}", disk.target))?;
    Ok(Way::Incremental(before.file))
}

/// Can the disk stand on what the parent has of it?
fn follows(before: &ParentDisk, disk: &DiskFacts) -> Result<(), String> {
    if let Some(reason) = &before.unsound {
        return Err(format!("its parent is not sound: {reason}"));
    }
    if before.volume != disk.volume {
        return Err(format!(
            "it is volume '{}' now and was '{}', the bitmap stayed behind",
            disk.volume, before.volume
        ));
    }
    if before.virtual_size > disk.virtual_size {
        return Err(format!("it shrank from {} to {} bytes", before.virtual_size, disk.virtual_size));
    }
    Ok(())
}

/// The plan. `bitmap` is what was found of the parent's bitmap, `None` when no disk would be incremental.
pub(super) fn plan(
    asked: Asked<'_>,
    disks: &[DiskFacts],
    ways: Result<Vec<Way>, String>,
    bitmap: Option<BitmapFound>,
) -> Plan {
    let carries: Vec<bool> = disks.iter().map(|disk| asked != Asked::Legacy && disk.cannot_carry.is_none()).collect();
    let only_full =
        disks.iter().filter_map(|d| d.only_full.as_ref().map(|r| format!("disk {}: in full, {r}", d.target)));
    let mut details: Vec<String> = only_full.collect();
    if asked != Asked::Legacy {
        let reasons = disks
            .iter()
            .filter_map(|d| d.cannot_carry.as_ref().map(|r| format!("disk {}: carries no bitmap: {r}", d.target)));
        details.extend(reasons);
    }
    let recreated = bitmap == Some(BitmapFound::Redefined);
    let ways = match (ways, bitmap) {
        (Ok(_), Some(BitmapFound::Lost(reason))) | (Err(reason), _) => Err(reason),
        (Ok(ways), _) => Ok(ways),
    };
    match ways {
        Ok(ways) => {
            details
                .extend(ways.iter().filter_map(|way| if let Way::Full(reason) = way { reason.clone() } else { None }));
            Plan { ways, carries, recreated, fallback: false, details }
        }
        Err(reason) => {
            details.push(format!("full instead of incremental: {reason}"));
            Plan {
                ways: disks.iter().map(|_| Way::Full(None)).collect(),
                carries,
                recreated: false,
                fallback: true,
                details,
            }
        }
    }
}

impl Plan {
    /// The targets to make; with `fingerprints` where we write the data ourselves.
    pub(super) fn specs(&self, disks: &[DiskFacts], fingerprints: bool) -> Vec<TargetSpec> {
        let spec = |(i, (disk, way)): (usize, (&DiskFacts, &Way))| TargetSpec {
            name: file_name(i, &disk.volume),
            virtual_size: disk.virtual_size,
            parent: if let Way::Incremental(file) = way { Some(file.clone()) } else { None },
            fingerprints: fingerprints && disk.only_full.is_none(),
        };
        disks.iter().zip(&self.ways).enumerate().map(spec).collect()
    }

    /// The disks as the manifest has them, without the lengths of their files. `bitmap` is on those that carry one.
    pub(super) fn manifest_disks(
        &self,
        disks: &[DiskFacts],
        bitmap: Option<&str>,
        mut fingerprints: Vec<Option<Fingerprints>>,
    ) -> Vec<ManifestDisk> {
        let disk = |(i, disk): (usize, &DiskFacts)| ManifestDisk {
            volume: disk.volume.clone(),
            serial: disk.serial.clone(),
            file: file_name(i, &disk.volume),
            kind: if matches!(self.ways[i], Way::Incremental(_)) { Kind::Incremental } else { Kind::Full },
            size: 0,
            virtual_size: disk.virtual_size,
            bitmap: bitmap.filter(|_| self.carries[i]).map(str::to_owned),
            fingerprints: fingerprints.get_mut(i).and_then(Option::take),
        };
        disks.iter().enumerate().map(disk).collect()
    }

    /// The files that the incremental disks stand on.
    pub(super) fn parents(&self) -> Vec<Option<String>> {
        let parent = |way: &Way| if let Way::Incremental(file) = way { Some(file.to_string()) } else { None };
        self.ways.iter().map(parent).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::Engine;
    use crate::nas::path::PointPath;
    use crate::point::Manifest;

    fn disk(target: &str) -> DiskFacts {
        DiskFacts {
            target: target.into(),
            volume: format!("vol-{target}"),
            serial: None,
            virtual_size: 100,
            cannot_carry: None,
            only_full: None,
        }
    }

    fn raw(target: &str) -> DiskFacts {
        DiskFacts { cannot_carry: Some("its format is raw".into()), ..disk(target) }
    }

    fn recorded(target: &str, bitmap: Option<&str>) -> ManifestDisk {
        ManifestDisk {
            volume: format!("vol-{target}"),
            serial: None,
            file: format!("{target}.qcow2"),
            kind: Kind::Full,
            size: 1,
            virtual_size: 100,
            bitmap: bitmap.map(str::to_owned),
            fingerprints: None,
        }
    }

    fn parent(disks: Vec<ManifestDisk>) -> Parent {
        Parent {
            path: PointPath::parse("x", "i/T1").unwrap(),
            manifest: Manifest {
                version: Manifest::VERSION,
                point_id: "id".into(),
                vm_name: "i".into(),
                when: jiff::Timestamp::UNIX_EPOCH,
                kind: Kind::Full,
                bitmap: Some("b1".into()),
                engine: Engine::Push,
                parent: None,
                disks,
                texts: None,
                checksum: None,
            },
            unsound: BTreeMap::new(),
        }
    }

    fn both() -> Parent {
        parent(vec![recorded("vda", Some("b1")), recorded("vdb", Some("b1"))])
    }

    /// The row of the table for a parent's bitmap that was found as `bitmap`: kind of each disk (F or I), which carry
    /// the new bitmap, and the plan for more.
    fn row(asked: Asked<'_>, disks: &[DiskFacts], bitmap: BitmapFound) -> (String, Plan) {
        let ways = ways(asked, disks);
        let found = matches!((asked, &ways), (Asked::Incremental(_), Ok(_))).then_some(bitmap);
        let plan = plan(asked, disks, ways, found);
        let kinds = plan.ways.iter().map(|way| if matches!(way, Way::Full(_)) { 'F' } else { 'I' }).collect();
        (kinds, plan)
    }

    /// Kinds, which disks carry the new bitmap, recreated, fallback.
    type Expected<'a> = (&'a str, &'a [bool], bool, bool);

    fn check(case: &str, asked: Asked<'_>, disks: &[DiskFacts], bitmap: BitmapFound, expected: Expected<'_>) -> String {
        let (found, plan) = row(asked, disks, bitmap);
        let got = (found.as_str(), &plan.carries[..], plan.recreated, plan.fallback);
        assert_eq!(got, expected, "{case}: {plan:?}");
        plan.details.join("; ")
    }

    #[test]
    fn each_row_of_the_table() {
        use BitmapFound::{Known, Redefined};
        let (p, two) = (both(), [disk("vda"), disk("vdb")]);
        let on = Asked::Incremental(Ok(&p));
        let lost = || BitmapFound::Lost("disk vdb: gone".into());
        assert_eq!(check("legacy", Asked::Legacy, &two, Known, ("FF", &[false, false], false, false)), "");
        assert_eq!(check("full", Asked::Full, &two, Known, ("FF", &[true, true], false, false)), "");
        assert_eq!(check("known", on, &two, Known, ("II", &[true, true], false, false)), "");
        assert_eq!(check("restarted", on, &two, Redefined, ("II", &[true, true], true, false)), "");
        let details = check("lost", on, &two, lost(), ("FF", &[true, true], false, true));
        assert_eq!(details, "full instead of incremental: disk vdb: gone");
        let none = Asked::Incremental(Err("parent point 'i/T1' has no manifest"));
        let details = check("no parent", none, &two, Known, ("FF", &[true, true], false, true));
        assert!(details.ends_with("has no manifest"), "{details}");
    }

    #[test]
    fn a_disk_for_itself_is_full_inside_the_point() {
        let p = parent(vec![
            recorded("vda", Some("b1")),
            recorded("vdb", None),
            recorded("vdd", Some("b0")),
            recorded("vda2", Some("b1")),
        ]);
        let on = Asked::Incremental(Ok(&p));
        let vmdk = DiskFacts { only_full: Some("it stands on an image of format vmdk".into()), ..disk("vda2") };
        for (case, other, carries, reason) in [
            ("added since", disk("vdc"), true, "does not have it"),
            ("cannot carry", raw("vdb"), false, "its format is raw"),
            ("of a format that QEMU alone reads", vmdk, true, "on an image of format vmdk"),
            ("carried none", disk("vdb"), true, "carried no bitmap"),
            ("carried another", disk("vdd"), true, "carried no bitmap"),
        ] {
            let details =
                check(case, on, &[disk("vda"), other], BitmapFound::Known, ("IF", &[true, carries], false, false));
            assert!(details.contains(reason), "{case}: {details}");
        }
    }

    #[test]
    fn a_raw_disk_is_told_of_in_a_full_and_not_in_a_legacy() {
        assert_eq!(
            check("legacy", Asked::Legacy, &[raw("vda")], BitmapFound::Known, ("F", &[false], false, false)),
            ""
        );
        let details = check(
            "full",
            Asked::Full,
            &[disk("vda"), raw("vdb")],
            BitmapFound::Known,
            ("FF", &[true, false], false, false),
        );
        assert_eq!(details, "disk vdb: carries no bitmap: its format is raw");
    }

    #[test]
    fn what_the_parent_can_not_bear_makes_the_whole_point_full() {
        let mut unsound = both();
        unsound.unsound.insert("vdb.qcow2".into(), "truncated".into());
        let shrunk = DiskFacts { virtual_size: 99, ..disk("vdb") };
        let mut moved = both();
        moved.manifest.disks[1].serial = Some("s".into());
        let overlaid = DiskFacts { serial: Some("s".into()), volume: "vol-vdb.snap".into(), ..disk("vdb") };
        let only_new = parent(vec![]);
        for (case, parent, second, reason) in [
            ("unsound", &unsound, disk("vdb"), "truncated"),
            ("shrunk", &both(), shrunk, "shrank from 100 to 99"),
            ("another layer", &moved, overlaid, "the bitmap stayed behind"),
            ("no disk in common", &only_new, disk("vdb"), "no disk can be incremental"),
        ] {
            let on = Asked::Incremental(Ok(parent));
            let details =
                check(case, on, &[disk("vda"), second], BitmapFound::Known, ("FF", &[true, true], false, true));
            assert!(details.contains(reason), "{case}: {details}");
        }
    }

    #[test]
    fn a_grown_disk_stays_incremental_with_its_own_file_as_parent() {
        let p = both();
        let grown = DiskFacts { virtual_size: 200, ..disk("vdb") };
        let (kinds, plan) = row(Asked::Incremental(Ok(&p)), &[grown], BitmapFound::Known);
        assert_eq!(kinds, "I");
        assert_eq!(
            plan.ways,
            [Way::Incremental(RepoPath::parse("x", "i/T1/vdb.qcow2").unwrap())],
            "by volume, not by position"
        );
    }
}
