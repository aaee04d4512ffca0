//! Which backup results (design, section 4): pure functions from what was asked and found to what is done.

use super::file_name;
use super::request::Mode;
use super::storage::TargetSpec;
use crate::nas::path::RepoPath;
use crate::point::fingerprints::Fingerprints;
use crate::point::{ChainImage, Kind, ManifestDisk, Parent, ParentDisk};

/// Why a disk can't be compared by QEMU.
const PUSH: &str = "the push engine does not compare contents";

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
    /// By what its bitmap says has changed since the parent.
    Incremental(RepoPath),
    /// By what differs from the fingerprints of the parent and the images below it: its whole content is read, and needs no
    /// bitmap.
    Compared(Vec<ChainImage>),
}

impl Way {
    /// The parent's file that it stands on.
    pub(super) fn parent(&self) -> Option<&RepoPath> {
        match self {
            Way::Full(_) => None,
            Way::Incremental(file) => Some(file),
            Way::Compared(chain) => chain.first().map(|image| &image.file),
        }
    }
}

/// What is known of the parent's bitmap on every disk that shall be incremental.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BitmapFound {
    /// It is good; of a guest that runs libvirt knows its checkpoint, and says at the begin if it is not.
    Known,
    /// It was good and its checkpoint was redefined: the guest was restarted or migrated.
    Redefined,
    /// It is missing or inconsistent somewhere, because of this.
    Lost(String),
}

/// What an earlier attempt of the same call has shown to be impossible, and why.
#[derive(Debug, Default)]
pub(super) struct Against {
    /// To stand on the parent.
    pub parent: Option<String>,
    /// To rely on its bitmap.
    pub bitmap: Option<String>,
    /// To move the data by pull.
    pub pull: Option<String>,
}

impl Against {
    /// The same, now that `plan` could not stand on the parent: contents may still be compared with it, unless nothing else
    /// was tried.
    pub(super) fn after(self, plan: &Plan, reason: String) -> Against {
        if plan.relies_on_bitmap() {
            Against { bitmap: Some(reason), ..self }
        } else {
            Against { parent: Some(reason), ..self }
        }
    }
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The way of each disk, in order.
    pub ways: Vec<Way>,
    /// Each disk that will carry the new bitmap.
    pub carries: Vec<bool>,
    /// The parent's checkpoint was lost: made again from its bitmap, or the disks are compared instead.
    pub recreated: bool,
    /// An incremental was asked for and can't be.
    pub fallback: bool,
    /// What was not ordinary.
    pub details: Vec<String>,
}

impl Plan {
    /// Does any disk stand on the parent by its bitmap?
    pub(super) fn relies_on_bitmap(&self) -> bool {
        self.ways.iter().any(|way| matches!(way, Way::Incremental(_)))
    }
}

/// The ways of the disks if the parent's bitmap is good; the error is the reason why the whole point must be full.
/// `compares`: the engine can compare contents with fingerprints.
pub(super) fn ways(asked: Asked<'_>, disks: &[DiskFacts], compares: bool) -> Result<Vec<Way>, String> {
    let parent = match asked {
        Asked::Legacy | Asked::Full => return Ok(disks.iter().map(|_| Way::Full(None)).collect()),
        Asked::Incremental(parent) => parent.map_err(str::to_owned)?,
    };
    let ways = disks.iter().map(|disk| way(parent, disk, compares)).collect::<Result<Vec<_>, _>>()?;
    if ways.iter().any(|way| way.parent().is_some()) {
        return Ok(ways);
    }
    Err(format!("no disk can be incremental on '{}'", parent.path))
}

/// The way of one disk on top of `parent`.
fn way(parent: &Parent, disk: &DiskFacts, compares: bool) -> Result<Way, String> {
    let full = |reason: String| Ok(Way::Full(Some(format!("disk {}: in full, {reason}", disk.target))));
    let Some(before) = parent.disk(disk.serial.as_deref(), &disk.volume) else {
        return full(format!("parent point '{}' does not have it", parent.path));
    };
    if disk.only_full.is_some() {
        return Ok(Way::Full(None));
    }
    let comparable = if compares { before.comparable() } else { Err(PUSH.to_owned()) };
    if let Some(reason) = no_bitmap(parent, &before, disk) {
        return match (follows(&before, disk), comparable) {
            (Ok(()), Ok(chain)) => Ok(Way::Compared(chain)),
            _ => full(reason),
        };
    }
    follows(&before, disk).map_err(|reason| format!("disk {}: {reason}", disk.target))?;
    if before.volume == disk.volume {
        return Ok(Way::Incremental(before.file));
    }
    comparable.map(Way::Compared).map_err(|reason| {
        format!(
            "disk {}: it is volume '{}' now and was '{}', the bitmap stayed behind; {reason}",
            disk.target, disk.volume, before.volume
        )
    })
}

/// Why no bitmap can say what changed on the disk, if so.
fn no_bitmap(parent: &Parent, before: &ParentDisk, disk: &DiskFacts) -> Option<String> {
    if let Some(reason) = &disk.cannot_carry {
        return Some(format!("it can't carry a bitmap: {reason}"));
    }
    let carried = before.bitmap.is_some() && before.bitmap == parent.manifest.bitmap;
    (!carried).then(|| format!("it carried no bitmap at '{}'", parent.path))
}

/// Can the disk stand on what the parent has of it?
fn follows(before: &ParentDisk, disk: &DiskFacts) -> Result<(), String> {
    if let Err(reason) = &before.chain {
        return Err(format!("its parent is not sound: {reason}"));
    }
    if before.virtual_size > disk.virtual_size {
        return Err(format!("it shrank from {} to {} bytes", before.virtual_size, disk.virtual_size));
    }
    Ok(())
}

/// The same ways without the parent's bitmap: each disk that needed it is compared instead; the error is the reason why
/// one can't be.
fn without_bitmap(asked: Asked<'_>, disks: &[DiskFacts], ways: Vec<Way>, compares: bool) -> Result<Vec<Way>, String> {
    let Asked::Incremental(Ok(parent)) = asked else { return Ok(ways) };
    if !compares {
        return Err(PUSH.to_owned());
    }
    let compared = |(disk, way): (&DiskFacts, Way)| match way {
        Way::Incremental(_) => {
            let gone = || Err("the parent does not have it".to_owned());
            let before = parent.disk(disk.serial.as_deref(), &disk.volume);
            let comparable = before.map_or_else(gone, |before| before.comparable());
            comparable.map(Way::Compared).map_err(|reason| format!("disk {}: {reason}", disk.target))
        }
        other => Ok(other),
    };
    disks.iter().zip(ways).map(compared).collect()
}

/// The plan. `bitmap` is what was found of the parent's bitmap, `None` when no disk would be incremental by it.
pub(super) fn plan(
    asked: Asked<'_>,
    disks: &[DiskFacts],
    ways: Result<Vec<Way>, String>,
    bitmap: Option<BitmapFound>,
    compares: bool,
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
    let recreated = !matches!(bitmap, None | Some(BitmapFound::Known));
    let ways = match (ways, bitmap) {
        (Ok(ways), Some(BitmapFound::Lost(lost))) => match without_bitmap(asked, disks, ways, compares) {
            Ok(ways) => {
                details.push(format!("the disks were compared with the parent point's fingerprints: {lost}"));
                Ok(ways)
            }
            Err(reason) => Err(format!("{lost}; {reason}")),
        },
        (ways, _) => ways,
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
            parent: way.parent().cloned(),
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
            kind: if self.ways[i].parent().is_some() { Kind::Incremental } else { Kind::Full },
            size: 0,
            virtual_size: disk.virtual_size,
            bitmap: bitmap.filter(|_| self.carries[i]).map(str::to_owned),
            fingerprints: fingerprints.get_mut(i).and_then(Option::take),
        };
        disks.iter().enumerate().map(disk).collect()
    }

    /// The files that the incremental disks stand on.
    pub(super) fn parents(&self) -> Vec<Option<String>> {
        self.ways.iter().map(|way| way.parent().map(ToString::to_string)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::Engine;
    use crate::nas::path::PointPath;
    use crate::point::Manifest;
    use crate::point::fingerprints::Digest;

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
        indexed(bare_parent(disks), (10, false), false)
    }

    fn bare_parent(disks: Vec<ManifestDisk>) -> Parent {
        Parent {
            path: PointPath::parse("x", "i/T1").unwrap(),
            manifest: Manifest {
                version: Manifest::VERSION,
                point_id: "id".into(),
                vm_name: "i".into(),
                when: jiff::Timestamp::UNIX_EPOCH,
                kind: Kind::Full,
                bitmap: Some("b1".into()),
                name: None,
                engine: Engine::Push,
                parent: None,
                disks,
                texts: None,
                checksum: None,
            },
            chains: BTreeMap::new(),
        }
    }

    fn both() -> Parent {
        parent(vec![recorded("vda", Some("b1")), recorded("vdb", Some("b1"))])
    }

    /// The same with an image of 100 bytes and one of `young` bytes on top of it for each disk; with fingerprints or not.
    fn indexed(mut parent: Parent, young: (u64, bool), old: bool) -> Parent {
        let image = |file: &str, size, indexed: bool| ChainImage {
            file: RepoPath::parse("x", file).unwrap(),
            size,
            virtual_size: 100,
            fingerprints: indexed.then(|| Fingerprints {
                file: "x".into(),
                hash: Digest::of(b"index"),
                rest: Digest::of(b"rest"),
            }),
        };
        for disk in &parent.manifest.disks {
            let images = vec![image(&format!("i/T1/{}", disk.file), young.0, young.1), image("i/T0/full", 100, old)];
            parent.chains.insert(disk.file.clone(), Ok(images));
        }
        parent
    }

    /// The row of the table for a parent's bitmap that was found as `bitmap`: kind of each disk (F, I, or C for compared),
    /// which carry the new bitmap, and the plan for more.
    fn row_of(asked: Asked<'_>, disks: &[DiskFacts], bitmap: BitmapFound, compares: bool) -> (String, Plan) {
        let ways = ways(asked, disks, compares);
        let by_bitmap = |ways: &Vec<Way>| ways.iter().any(|way| matches!(way, Way::Incremental(_)));
        let found = (asked != Asked::Full && ways.as_ref().is_ok_and(by_bitmap)).then_some(bitmap);
        let plan = plan(asked, disks, ways, found, compares);
        let kind = |way: &Way| match way {
            Way::Full(_) => 'F',
            Way::Incremental(_) => 'I',
            Way::Compared(_) => 'C',
        };
        (plan.ways.iter().map(kind).collect(), plan)
    }

    fn row(asked: Asked<'_>, disks: &[DiskFacts], bitmap: BitmapFound) -> (String, Plan) {
        row_of(asked, disks, bitmap, false)
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
        assert_eq!(details, "full instead of incremental: disk vdb: gone; the push engine does not compare contents");
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
        unsound.chains.insert("vdb.qcow2".into(), Err("truncated".into()));
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
    fn contents_are_compared_where_no_bitmap_tells_and_the_fingerprints_are_there() {
        use BitmapFound::{Known, Lost};
        let p = indexed(both(), (10, true), true);
        let mut moved = p.clone();
        moved.manifest.disks[1].serial = Some("s".into());
        let overlaid = DiskFacts { serial: Some("s".into()), volume: "vol-vdb.snap".into(), ..disk("vdb") };
        let carried_none = indexed(parent(vec![recorded("vda", Some("b1")), recorded("vdb", None)]), (10, true), true);
        let two = || vec![disk("vda"), disk("vdb")];
        let lost = || Lost("disk vdb: gone".into());
        let unsound = {
            let mut parent = p.clone();
            parent.chains.insert("vdb.qcow2".into(), Err("truncated".into()));
            parent
        };
        // kinds, recreated, fallback, a part of the details
        for (case, parent, disks, bitmap, expected) in [
            ("known", &p, two(), Known, ("II", false, false, "")),
            ("lost", &p, two(), lost(), ("CC", true, false, "compared with the parent point's fingerprints: disk vdb")),
            ("lost beside a raw disk", &p, vec![disk("vda"), raw("vdb")], lost(), ("CC", true, false, "compared")),
            ("raw", &p, vec![disk("vda"), raw("vdb")], Known, ("IC", false, false, "carries no bitmap")),
            ("raw alone", &p, vec![raw("vdb")], Known, ("C", false, false, "carries no bitmap")),
            ("carried none", &carried_none, two(), Known, ("IC", false, false, "")),
            ("another layer", &moved, vec![disk("vda"), overlaid], Known, ("IC", false, false, "")),
            ("added", &p, vec![disk("vda"), disk("vdc")], lost(), ("CF", true, false, "does not have it")),
            ("unsound", &unsound, two(), lost(), ("FF", false, true, "truncated")),
            ("shrunk", &p, vec![DiskFacts { virtual_size: 99, ..disk("vda") }], lost(), ("F", false, true, "shrank")),
        ] {
            let (kinds, plan) = row_of(Asked::Incremental(Ok(parent)), &disks, bitmap, true);
            let details = plan.details.join("; ");
            assert_eq!((kinds.as_str(), plan.recreated, plan.fallback), (expected.0, expected.1, expected.2), "{case}");
            assert!(details.contains(expected.3), "{case}: {details}");
        }
    }

    #[test]
    fn images_without_fingerprints_are_read_where_that_is_cheaper_than_a_full() {
        let lost = || BitmapFound::Lost("gone".into());
        for (case, young, old, kinds) in [
            ("a few changes without them", (99, false), true, "C"),
            ("as many as a full", (100, false), true, "F"),
            ("the full has none", (10, true), false, "F"),
            ("none has any", (10, false), false, "F"),
        ] {
            let p = indexed(both(), young, old);
            let (found, plan) = row_of(Asked::Incremental(Ok(&p)), &[disk("vda")], lost(), true);
            assert_eq!(found, kinds, "{case}: {plan:?}");
        }
        let p = indexed(both(), (10, true), true);
        let (found, plan) = row_of(Asked::Incremental(Ok(&p)), &[disk("vda")], lost(), false);
        assert_eq!(found, "F", "the push engine can't: {plan:?}");
    }

    #[test]
    fn what_fails_is_not_tried_again() {
        let p = indexed(both(), (10, true), true);
        let on = Asked::Incremental(Ok(&p));
        let plan = |bitmap| row_of(on, &[disk("vda"), disk("vdb")], bitmap, true).1;
        let against = Against::default().after(&plan(BitmapFound::Known), "shrunk".into());
        assert_eq!((against.parent.as_deref(), against.bitmap.as_deref()), (None, Some("shrunk")));
        let against = against.after(&plan(BitmapFound::Lost("shrunk".into())), "damaged".into());
        assert_eq!(against.parent.as_deref(), Some("damaged"));
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
