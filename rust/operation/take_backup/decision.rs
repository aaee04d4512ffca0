//! Which backup results: pure functions from what was asked and found to what is done.

use super::plan::{DiskFacts, DiskPlan, Plan, Strategy};
use super::request::Mode;
use crate::point::{Parent, ParentDisk, Snapshot};

/// Why a disk can't be compared by QEMU.
const PUSH: &str = "the push engine does not compare contents";

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestedBackup<'a> {
    /// A full without a bitmap.
    Legacy,
    /// A full that begins a chain.
    Full,
    /// A point on top of the parent, or the reason why there is no parent.
    Incremental(Result<&'a Parent, &'a str>),
}

impl<'a> RequestedBackup<'a> {
    /// By the request's mode and what was found of the parent that it names.
    pub(super) fn of(mode: &Mode, parent: Option<&'a Result<Parent, String>>) -> RequestedBackup<'a> {
        match (mode, parent) {
            (Mode::Legacy, _) => RequestedBackup::Legacy,
            (Mode::Full { .. }, _) | (_, None) => RequestedBackup::Full,
            (Mode::Incremental { .. }, Some(parent)) => {
                RequestedBackup::Incremental(parent.as_ref().map_err(String::as_str))
            }
        }
    }
}

/// What is known of the parent's bitmap on every disk that shall be incremental.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ParentBitmap {
    /// It is good; of a guest that runs libvirt knows its checkpoint, and says at the begin if it is not.
    Known,
    /// It was good and its checkpoint was redefined: the guest was restarted or migrated.
    Redefined,
    /// It is missing or inconsistent somewhere, because of this.
    Lost(String),
}

/// The strategies of the disks if the parent's bitmap is good; the error is the reason why the whole point must be full.
/// `compares`: the engine can compare contents with fingerprints.
pub(super) fn choose_strategies(
    asked: RequestedBackup<'_>,
    disks: &[DiskFacts],
    compares: bool,
) -> Result<Vec<Strategy>, String> {
    let parent = match asked {
        RequestedBackup::Legacy | RequestedBackup::Full => {
            return Ok(disks.iter().map(|_| Strategy::Full(None)).collect());
        }
        RequestedBackup::Incremental(parent) => parent.map_err(str::to_owned)?,
    };
    let strategies = disks.iter().map(|disk| choose_strategy(parent, disk, compares)).collect::<Result<Vec<_>, _>>()?;
    if strategies.iter().any(|strategy| strategy.parent().is_some()) {
        return Ok(strategies);
    }
    let reason = |(disk, strategy): (&DiskFacts, &Strategy)| Some(format!("disk {}: {}", disk.target, strategy.why()?));
    let reasons = disks.iter().zip(&strategies).filter_map(reason);
    Err(format!("no disk can be incremental on '{}': {}", parent.path, reasons.collect::<Vec<_>>().join(", ")))
}

/// The strategy of one disk on top of `parent`.
fn choose_strategy(parent: &Parent, disk: &DiskFacts, compares: bool) -> Result<Strategy, String> {
    let full = |reason: String| Ok(Strategy::Full(Some(reason)));
    let Some(before) = parent_disk(parent, disk) else {
        let several =
            if disk.serial_is_shared { "; its serial is not taken for it, for another disk has it too" } else { "" };
        return full(format!("parent point '{}' does not have volume '{}'{several}", parent.path, disk.volume));
    };
    let comparable = if compares { before.comparable() } else { Err(PUSH.to_owned()) };
    if let Some(reason) = reason_without_bitmap(parent, &before, disk) {
        return match check_follows(&before, disk).and(comparable) {
            Ok(chain) => Ok(Strategy::Compared(chain, reason)),
            Err(not_compared) => full(format!("{reason}; {not_compared}")),
        };
    }
    check_follows(&before, disk).map_err(|reason| format!("disk {}: {reason}", disk.target))?;
    if before.volume == disk.volume {
        return Ok(Strategy::Incremental(before.file));
    }
    let moved = format!("it is volume '{}' now and was '{}': the bitmap stayed behind", disk.volume, before.volume);
    match comparable {
        Ok(chain) => Ok(Strategy::Compared(chain, moved)),
        Err(reason) => Err(format!("disk {}: {moved}; {reason}", disk.target)),
    }
}

/// The disk as the parent has it.
fn parent_disk(parent: &Parent, disk: &DiskFacts) -> Option<ParentDisk> {
    parent.disk(disk.serial.as_deref().filter(|_| !disk.serial_is_shared), &disk.volume)
}

/// Why no bitmap can say what changed on the disk, if so.
fn reason_without_bitmap(parent: &Parent, before: &ParentDisk, disk: &DiskFacts) -> Option<String> {
    if disk.cannot_carry.is_some() {
        return disk.carries_none();
    }
    let carried = before.bitmap.is_some() && before.bitmap == parent.manifest.bitmap;
    if !carried {
        return Some(format!("it carried no bitmap at '{}'", parent.path));
    }
    disk.shrink_check_impossible
        .as_ref()
        .map(|reason| format!("its bitmap does not tell whether it was cut off: {reason}"))
}

/// Fails if the disk can't stand on its image in the parent.
fn check_follows(before: &ParentDisk, disk: &DiskFacts) -> Result<(), String> {
    if let Err(reason) = &before.chain {
        return Err(format!("its parent is not sound: {reason}"));
    }
    if before.virtual_size > disk.virtual_size {
        return Err(format!("it shrank from {} to {} bytes", before.virtual_size, disk.virtual_size));
    }
    Ok(())
}

/// Replaces strategies that need the parent's bitmap, which is `lost`, by a comparison; the error says why a disk can't be
/// compared.
fn compare_instead(
    asked: RequestedBackup<'_>,
    disks: &[DiskFacts],
    strategies: Vec<Strategy>,
    lost: &str,
    compares: bool,
) -> Result<Vec<Strategy>, String> {
    let RequestedBackup::Incremental(Ok(parent)) = asked else { return Ok(strategies) };
    if !compares {
        return Err(PUSH.to_owned());
    }
    let compared = |(disk, strategy): (&DiskFacts, Strategy)| match strategy {
        Strategy::Incremental(_) => {
            let gone = || Err("the parent does not have it".to_owned());
            let comparable = parent_disk(parent, disk).map_or_else(gone, |before| before.comparable());
            let compared = comparable.map(|chain| Strategy::Compared(chain, lost.to_owned()));
            compared.map_err(|reason| format!("disk {}: {reason}", disk.target))
        }
        other => Ok(other),
    };
    disks.iter().zip(strategies).map(compared).collect()
}

/// The plan. `bitmap` is what was found of the parent's bitmap, `None` when no disk would be incremental by it.
pub(super) fn make_plan(
    asked: RequestedBackup<'_>,
    disks: &[DiskFacts],
    strategies: Result<Vec<Strategy>, String>,
    bitmap: Option<ParentBitmap>,
    compares: bool,
) -> Plan {
    let recreated = !matches!(bitmap, None | Some(ParentBitmap::Known));
    let strategies = match (strategies, bitmap) {
        (Ok(strategies), Some(ParentBitmap::Lost(lost))) => {
            compare_instead(asked, disks, strategies, &lost, compares).map_err(|reason| format!("{lost}; {reason}"))
        }
        (strategies, _) => strategies,
    };
    let (strategies, instead) = match strategies {
        Ok(strategies) => (strategies, None),
        Err(reason) => {
            (vec![Strategy::Full(None); disks.len()], Some(format!("full instead of incremental: {reason}")))
        }
    };
    let with = disks.iter().zip(strategies);
    let disks: Vec<_> = with
        .map(|(facts, strategy)| DiskPlan {
            carries: asked != RequestedBackup::Legacy && facts.cannot_carry.is_none(),
            facts: facts.clone(),
            since: known_since(asked, facts, &strategy),
            snapshot: None,
            strategy,
        })
        .collect();
    let mut details: Vec<String> = disks.iter().flat_map(|disk| disk.facts.told(&disk.strategy, asked)).collect();
    let fallback = instead.is_some();
    if let Some(instead) = instead {
        details.retain(|line| !instead.contains(line));
        details.push(instead);
    }
    Plan { disks, recreated: recreated && !fallback, fallback, details }
}

/// The snapshot in Ceph since which it may be known what has changed on a disk that is compared.
fn known_since(asked: RequestedBackup<'_>, disk: &DiskFacts, strategy: &Strategy) -> Option<Snapshot> {
    let (RequestedBackup::Incremental(Ok(parent)), Strategy::Compared(..)) = (asked, strategy) else { return None };
    parent_disk(parent, disk)?.snapshot
}

impl DiskFacts {
    /// That it carries no bitmap, and why, if so.
    fn carries_none(&self) -> Option<String> {
        self.cannot_carry.as_ref().map(|reason| format!("it carries no bitmap: {reason}"))
    }

    /// What a person is told of its strategy: why it was read whole, or copied in full beside others that were not, and that it
    /// carries no bitmap; each thing once.
    fn told(&self, strategy: &Strategy, asked: RequestedBackup<'_>) -> Vec<String> {
        let why = strategy.why();
        let how = match strategy {
            Strategy::Compared(..) => "compared with the parent point's fingerprints",
            _ => "in full",
        };
        let bitmap = self.carries_none().filter(|_| asked != RequestedBackup::Legacy);
        let bitmap = bitmap.filter(|none| why.is_none_or(|why| !why.contains(none)));
        let lines = why.map(|why| format!("{how}, {why}")).into_iter().chain(bitmap);
        lines.map(|line| format!("disk {}: {line}", self.target)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::constraints::{Constraints, Failed, FailureLesson};
    use super::*;
    use crate::config::Engine;
    use crate::digest::Digest;
    use crate::error::{Code, Error};
    use crate::nas::path::{PointPath, RepoPath};
    use crate::point::fingerprints::Fingerprints;
    use crate::point::{ChainImage, Kind, Manifest, ManifestDisk};

    fn disk(target: &str) -> DiskFacts {
        DiskFacts {
            target: target.into(),
            volume: format!("vol-{target}"),
            file: format!("datadisk.vol-{target}.qcow2"),
            serial: None,
            serial_is_shared: false,
            virtual_size: 100,
            cannot_carry: None,
            shrink_check_impossible: None,
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
            parent: None,
            size: 1,
            virtual_size: 100,
            bitmap: bitmap.map(str::to_owned),
            fingerprints: None,
            lost_fingerprints: false,
            snapshot: None,
            rebasing: None,
            goes_into: None,
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
                backup_path: None,
                vm_name: "i".into(),
                when: jiff::Timestamp::UNIX_EPOCH,
                kind: Kind::Full,
                bitmap: Some("b1".into()),
                name: None,
                engine: Engine::Push,
                parent: None,
                disks,
                left_out: Vec::new(),
                texts: None,
                mac: None,
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
            is_doubtful: false,
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
    fn row_of(asked: RequestedBackup<'_>, disks: &[DiskFacts], bitmap: ParentBitmap, compares: bool) -> (String, Plan) {
        let strategies = choose_strategies(asked, disks, compares);
        let by_bitmap = |strategies: &Vec<Strategy>| strategies.iter().any(Strategy::is_by_bitmap);
        let found = (asked != RequestedBackup::Full && strategies.as_ref().is_ok_and(by_bitmap)).then_some(bitmap);
        let plan = make_plan(asked, disks, strategies, found, compares);
        let kind = |disk: &DiskPlan| match disk.strategy {
            Strategy::Full(_) => 'F',
            Strategy::Incremental(_) => 'I',
            Strategy::Compared(..) => 'C',
        };
        (plan.disks.iter().map(kind).collect(), plan)
    }

    fn row(asked: RequestedBackup<'_>, disks: &[DiskFacts], bitmap: ParentBitmap) -> (String, Plan) {
        row_of(asked, disks, bitmap, false)
    }

    fn carrying(plan: &Plan) -> Vec<bool> {
        plan.disks.iter().map(|disk| disk.carries).collect()
    }

    fn parents(plan: &Plan) -> Vec<Option<&str>> {
        plan.disks.iter().map(|disk| disk.strategy.parent().map(RepoPath::as_str)).collect()
    }

    /// Kinds, which disks carry the new bitmap, recreated, fallback.
    type Expected<'a> = (&'a str, &'a [bool], bool, bool);

    fn check(
        case: &str,
        asked: RequestedBackup<'_>,
        disks: &[DiskFacts],
        bitmap: ParentBitmap,
        expected: Expected<'_>,
    ) -> String {
        let (found, plan) = row(asked, disks, bitmap);
        let got = (found.as_str(), &carrying(&plan)[..], plan.recreated, plan.fallback);
        assert_eq!(got, expected, "{case}: {plan:?}");
        plan.details.join("; ")
    }

    #[test]
    fn each_row_of_the_table() {
        use ParentBitmap::{Known, Redefined};
        let (p, two) = (both(), [disk("vda"), disk("vdb")]);
        let on = RequestedBackup::Incremental(Ok(&p));
        let lost = || ParentBitmap::Lost("disk vdb: gone".into());
        assert_eq!(check("legacy", RequestedBackup::Legacy, &two, Known, ("FF", &[false, false], false, false)), "");
        assert_eq!(check("full", RequestedBackup::Full, &two, Known, ("FF", &[true, true], false, false)), "");
        assert_eq!(check("known", on, &two, Known, ("II", &[true, true], false, false)), "");
        assert_eq!(check("restarted", on, &two, Redefined, ("II", &[true, true], true, false)), "");
        let details = check("lost", on, &two, lost(), ("FF", &[true, true], false, true));
        assert_eq!(details, "full instead of incremental: disk vdb: gone; the push engine does not compare contents");
        let none = RequestedBackup::Incremental(Err("parent point 'i/T1' has no manifest"));
        let details = check("no parent", none, &two, Known, ("FF", &[true, true], false, true));
        assert!(details.ends_with("has no manifest"), "{details}");
    }

    /// What it is about, the parent, the second disk, its bitmap, whether the engine compares; the kinds, and what is told.
    type Row<'a> = (&'a str, &'a Parent, DiskFacts, ParentBitmap, bool, &'a str, Vec<String>);

    /// Two disks, the first of which is incremental by its bitmap if it can: for every way of the second, and of both, what
    /// is told, and that it is told once and names the disk.
    #[test]
    fn every_disk_that_is_read_whole_or_copied_in_full_has_its_reason() {
        use ParentBitmap::{Known, Lost};
        let told = |reason: &str| format!("disk vdb: {reason}");
        let full = |reason: &str| told(&format!("in full, {reason}"));
        let compared = |reason: &str| told(&format!("compared with the parent point's fingerprints, {reason}"));
        let instead = |reason: &str| format!("full instead of incremental: {reason}");
        let push = |reason: &str| format!("{reason}; {PUSH}");
        let with = |vdb: ManifestDisk| indexed(parent(vec![recorded("vda", Some("b1")), vdb]), (10, true), true);
        let p = with(recorded("vdb", Some("b1")));
        let serial = |serial: &str| ManifestDisk { serial: Some(serial.into()), ..recorded("vdb", Some("b1")) };
        let now = |serial: &str| DiskFacts { serial: Some(serial.into()), ..disk("vdb") };
        let moved = DiskFacts { volume: "vol-moved".into(), ..now("s") };
        let (was, other_serial) = (with(serial("s")), with(serial("other")));
        let (none, another) = (with(recorded("vdb", None)), with(recorded("vdb", Some("b0"))));
        let mut unsound = p.clone();
        unsound.chains.insert("vdb.qcow2".into(), Err("truncated".into()));
        let bare = indexed(p.clone(), (10, false), false);
        let new = indexed(parent(vec![recorded("vda", Some("b1"))]), (10, true), true);
        let shrunk = |disk| DiskFacts { virtual_size: 99, ..disk };
        let unseen = DiskFacts { shrink_check_impossible: Some("'t' is of format vmdk".into()), ..disk("vdb") };
        let unseen_line = "its bitmap does not tell whether it was cut off: 't' is of format vmdk";
        let lost = || Lost("bitmap 'b1' is gone".into());
        let raw_line = "it carries no bitmap: its format is raw";
        let none_line = "it carried no bitmap at 'i/T1'";
        let moved_line = "it is volume 'vol-moved' now and was 'vol-vdb': the bitmap stayed behind";
        let lacks = |volume: &str| format!("parent point 'i/T1' does not have volume '{volume}'");
        let shrank = "it shrank from 100 to 99 bytes";
        let dear = "110 bytes of the parent's images have no fingerprints, and a full of them had 100";
        let gone = "compared with the parent point's fingerprints, bitmap 'b1' is gone";
        let both = |line: &str| vec![format!("disk vda: {line}"), told(line)];
        let pull = true;
        let rows: Vec<Row<'_>> = vec![
            ("by its bitmap", &p, disk("vdb"), Known, pull, "II", vec![]),
            ("by its bitmap", &p, disk("vdb"), Known, !pull, "II", vec![]),
            ("raw", &p, raw("vdb"), Known, pull, "IC", vec![compared(raw_line)]),
            ("raw", &p, raw("vdb"), Known, !pull, "IF", vec![full(&push(raw_line))]),
            ("raw, shrunk", &p, shrunk(raw("vdb")), Known, pull, "IF", vec![full(&format!("{raw_line}; {shrank}"))]),
            ("raw, dear", &bare, raw("vdb"), Known, pull, "IF", vec![full(&format!("{raw_line}; {dear}"))]),
            ("raw, new", &new, raw("vdb"), Known, pull, "IF", vec![full(&lacks("vol-vdb")), told(raw_line)]),
            ("new", &new, disk("vdb"), Known, pull, "IF", vec![full(&lacks("vol-vdb"))]),
            ("new", &new, disk("vdb"), Known, !pull, "IF", vec![full(&lacks("vol-vdb"))]),
            ("of another's name", &other_serial, now("s"), Known, pull, "IF", vec![full(&lacks("vol-vdb"))]),
            ("carried none", &none, disk("vdb"), Known, pull, "IC", vec![compared(none_line)]),
            ("carried none", &none, disk("vdb"), Known, !pull, "IF", vec![full(&push(none_line))]),
            ("carried another", &another, disk("vdb"), Known, pull, "IC", vec![compared(none_line)]),
            ("unseen", &p, unseen.clone(), Known, pull, "IC", vec![compared(unseen_line)]),
            ("unseen", &p, unseen, Known, !pull, "IF", vec![full(&push(unseen_line))]),
            ("moved", &was, moved.clone(), Known, pull, "IC", vec![compared(moved_line)]),
            ("moved", &was, moved.clone(), Known, !pull, "FF", vec![instead(&told(&push(moved_line)))]),
            ("lost", &p, disk("vdb"), lost(), pull, "CC", both(gone)),
            (
                "lost beside a raw one",
                &p,
                raw("vdb"),
                lost(),
                pull,
                "CC",
                vec![format!("disk vda: {}", gone), compared(raw_line)],
            ),
            (
                "lost beside a new one",
                &new,
                disk("vdb"),
                lost(),
                pull,
                "CF",
                vec![format!("disk vda: {}", gone), full(&lacks("vol-vdb"))],
            ),
            ("lost", &p, disk("vdb"), lost(), !pull, "FF", vec![instead(&push("bitmap 'b1' is gone"))]),
            (
                "lost, dear",
                &bare,
                disk("vdb"),
                lost(),
                pull,
                "FF",
                vec![instead(&format!("bitmap 'b1' is gone; disk vda: {dear}"))],
            ),
            (
                "unsound",
                &unsound,
                disk("vdb"),
                Known,
                pull,
                "FF",
                vec![instead(&told("its parent is not sound: truncated"))],
            ),
            ("shrunk", &p, shrunk(disk("vdb")), Known, pull, "FF", vec![instead(&told(shrank))]),
        ];
        for (case, parent, second, bitmap, compares, kinds, expected) in rows {
            let disks = [disk("vda"), second];
            let (found, plan) = row_of(RequestedBackup::Incremental(Ok(parent)), &disks, bitmap, compares);
            assert_eq!((found.as_str(), &plan.details), (kinds, &expected), "{case}, compares: {compares}");
            let carries = [true, disks[1].cannot_carry.is_none()];
            assert_eq!((plan.fallback, &carrying(&plan)[..]), (kinds == "FF", &carries[..]), "{case}");
            assert_eq!(plan.recreated, kinds.starts_with('C'), "{case}");
        }
        let none_of_them = [raw("vda"), DiskFacts { volume: "v".into(), ..disk("vdb") }];
        let plan = row(RequestedBackup::Incremental(Ok(&p)), &none_of_them, Known).1;
        let reasons = format!("disk vda: {}, {}", push(raw_line), told(&lacks("v")));
        assert_eq!(plan.details, [instead(&format!("no disk can be incremental on 'i/T1': {reasons}"))]);
        for (asked, expected) in [(RequestedBackup::Full, vec![told(raw_line)]), (RequestedBackup::Legacy, vec![])] {
            let plan = row(asked, &[disk("vda"), raw("vdb")], Known).1;
            assert_eq!(plan.details, expected);
        }
    }

    /// Made by hand: libvirt does not mind.
    #[test]
    fn disks_with_one_serial_are_paired_by_volume() {
        let recorded =
            |target, serial: &str| ManifestDisk { serial: Some(serial.into()), ..recorded(target, Some("b1")) };
        let now = |target, serial_is_shared| DiskFacts { serial: Some("s".into()), serial_is_shared, ..disk(target) };
        let twins = parent(vec![recorded("vda", "s"), recorded("vdb", "s")]);
        let apart = parent(vec![recorded("vda", "s"), recorded("vdb", "t")]);
        for (case, parent, disks) in [
            ("in both", &twins, [now("vdb", true), now("vda", true)]),
            ("in the parent", &twins, [DiskFacts { serial: Some("t".into()), ..disk("vdb") }, now("vda", false)]),
            ("in the guest", &apart, [now("vdb", true), now("vda", true)]),
        ] {
            let (kinds, plan) = row(RequestedBackup::Incremental(Ok(parent)), &disks, ParentBitmap::Known);
            assert_eq!(
                (kinds.as_str(), parents(&plan)),
                ("II", vec![Some("i/T1/vdb.qcow2"), Some("i/T1/vda.qcow2")]),
                "{case}: {plan:?}"
            );
        }
        let moved = DiskFacts { volume: "moved".into(), ..now("vdb", true) };
        let (kinds, plan) =
            row(RequestedBackup::Incremental(Ok(&twins)), &[now("vda", true), moved], ParentBitmap::Known);
        assert_eq!(kinds, "IF");
        assert!(plan.details[0].contains("volume 'moved'; its serial is not taken for it"), "{plan:?}");
    }

    #[test]
    fn images_without_fingerprints_are_read_where_that_is_cheaper_than_a_full() {
        let lost = || ParentBitmap::Lost("gone".into());
        for (case, young, old, kinds) in [
            ("a few changes without them", (99, false), true, "C"),
            ("as many as a full", (100, false), true, "F"),
            ("the full has none", (10, true), false, "F"),
            ("none has any", (10, false), false, "F"),
        ] {
            let p = indexed(both(), young, old);
            let (found, plan) = row_of(RequestedBackup::Incremental(Ok(&p)), &[disk("vda")], lost(), true);
            assert_eq!(found, kinds, "{case}: {plan:?}");
        }
        let p = indexed(both(), (10, true), true);
        let (found, plan) = row_of(RequestedBackup::Incremental(Ok(&p)), &[disk("vda")], lost(), false);
        assert_eq!(found, "F", "the push engine can't: {plan:?}");
    }

    #[test]
    fn what_fails_is_not_tried_again() {
        let p = indexed(both(), (10, true), true);
        let on = RequestedBackup::Incremental(Ok(&p));
        let plan = |bitmap| row_of(on, &[disk("vda"), disk("vdb")], bitmap, true).1;
        let (known, compared) = (plan(ParentBitmap::Known), plan(ParentBitmap::Lost("shrunk".into())));
        let unfit = || Failed::from(Error::new(Code::ParentInvalid, "compare", "shrunk"));
        let learnt = Constraints::default().learn(&known, &unfit()).unwrap();
        assert!(learnt.parent.is_none() && learnt.bitmap.as_ref().unwrap().contains("shrunk"), "{learnt:?}");
        let learnt = learnt.learn(&compared, &unfit()).unwrap();
        assert!(learnt.parent.is_some(), "{learnt:?}");
        // it is not compared with what can't be read
        let error = Error::new(Code::ParentInvalid, "compare", "damaged");
        let damaged = Failed { error, lesson: FailureLesson::ParentUnreadable };
        let learnt = Constraints::default().learn(&known, &damaged).unwrap();
        assert!(learnt.parent.unwrap().contains("damaged") && learnt.bitmap.is_none());
        let full = Failed::from(Error::new(Code::NoSpace, "copy", "full"));
        assert!(Constraints::default().learn(&known, &full).is_none());
        let error = Error::new(Code::Libvirt, "begin the backup", "refused");
        let refused = Failed { error, lesson: FailureLesson::PullRefused };
        let learnt = Constraints::default().learn(&compared, &refused).unwrap();
        assert!(learnt.pull.unwrap().contains("refused") && learnt.recreated && learnt.parent.is_none());
    }

    #[test]
    fn a_grown_disk_stays_incremental_with_its_own_file_as_parent() {
        let p = both();
        let grown = DiskFacts { virtual_size: 200, ..disk("vdb") };
        let (kinds, plan) = row(RequestedBackup::Incremental(Ok(&p)), &[grown], ParentBitmap::Known);
        assert_eq!(kinds, "I");
        assert_eq!(parents(&plan), [Some("i/T1/vdb.qcow2")], "by volume, not by position");
    }
}
