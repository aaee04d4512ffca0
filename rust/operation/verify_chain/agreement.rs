//! Compares what a manifest says with what the files are. These are pure functions, which read nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::nas::path::RepoPath;
use crate::point::{Kind, Manifest, ManifestDisk};

/// The facts of an image's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operation) struct Facts {
    /// Length of the file, in bytes.
    pub(in crate::operation) size: u64,
    /// Size that the guest sees, in bytes.
    pub(in crate::operation) virtual_size: u64,
    /// The image has a backing file.
    pub(in crate::operation) has_backing: bool,
    /// The backing file, if its name leads to one in a point of the machine.
    pub(in crate::operation) backing: Option<RepoPath>,
}

/// Lists in what an image differs from its record in the manifest. Of an image that a rebase is changing it compares only what a
/// rebase keeps.
pub(super) fn of_image(record: &ManifestDisk, facts: &Facts) -> Vec<String> {
    let mut reasons = Vec::new();
    if !record.is_unfinished() && record.size != facts.size {
        reasons.push(format!("has {} bytes, its manifest says {}", facts.size, record.size));
    }
    if record.virtual_size != facts.virtual_size {
        let (is, says) = (facts.virtual_size, record.virtual_size);
        reasons.push(format!("is of a disk of {is} bytes, its manifest says {says}"));
    }
    let before = record.kind == Kind::Incremental;
    let afterwards = record.rebasing.as_ref().map_or(before, |rebasing| rebasing.onto.is_some());
    if record.size > 0 && facts.has_backing != before && facts.has_backing != afterwards {
        let is = if facts.has_backing { "has a backing file" } else { "has no backing file" };
        let says = if record.kind == Kind::Incremental { "incremental" } else { "full" };
        reasons.push(format!("{is}, its manifest says it is {says}"));
    }
    reasons
}

/// Lists in what a manifest contradicts itself, or the images `files` of its point, by file name. These may be only some of them.
pub(super) fn of_point(manifest: &Manifest, files: &BTreeMap<String, Facts>) -> Vec<String> {
    let mut reasons = Vec::new();
    if manifest.disks.is_empty() {
        reasons.push("names no disk".to_owned());
    }
    let mut named = BTreeSet::new();
    for disk in manifest.disks.iter().filter(|disk| !named.insert(&disk.file)) {
        reasons.push(format!("names '{}' twice", disk.file));
    }
    let incremental = manifest.disks.iter().any(|disk| disk.kind == Kind::Incremental);
    if (manifest.kind == Kind::Incremental) != incremental {
        reasons.push("its kind is not that of its disks".to_owned());
    }
    reasons.extend(bitmaps(manifest));
    reasons.extend(parent(manifest, files));
    reasons
}

fn bitmaps(manifest: &Manifest) -> Option<String> {
    let carried: BTreeSet<_> = manifest.disks.iter().filter_map(|disk| disk.bitmap.as_deref()).collect();
    let named: BTreeSet<_> = manifest.bitmap.as_deref().into_iter().collect();
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    (carried != named).then(|| format!("its bitmap is [{}], those of its disks are [{}]", list(named), list(carried)))
}

fn parent(manifest: &Manifest, files: &BTreeMap<String, Facts>) -> Option<String> {
    let below: BTreeSet<_> = files.values().filter_map(|facts| facts.backing.as_ref()?.parent()).collect();
    let Some(parent) = &manifest.parent else {
        let first = below.first()?;
        return Some(format!("names no parent, its images stand on '{first}'"));
    };
    // an image that was not looked at, or one whose rebase was cut off, may stand on it
    let are_all_known = manifest.disks.iter().all(|disk| !disk.is_unfinished() && files.contains_key(&disk.file));
    let stands_there = below.iter().any(|folder| folder.as_str() == parent.backup_path);
    (are_all_known && !stands_there)
        .then(|| format!("its parent is '{}', no image of it stands on that", parent.backup_path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Engine;
    use crate::point::{ParentPoint, Rebasing};

    fn disk(file: &str, kind: Kind) -> ManifestDisk {
        let (volume, bitmap) = (file.into(), Some("backup-2".into()));
        ManifestDisk {
            volume,
            serial: None,
            file: file.into(),
            kind,
            parent: None,
            size: 100,
            virtual_size: 200,
            bitmap,
            fingerprints: None,
            lost_fingerprints: false,
            snapshot: None,
            rebasing: None,
            goes_into: None,
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            version: Manifest::VERSION,
            point_id: "id-2".into(),
            backup_path: None,
            vm_name: "i-1".into(),
            when: "2031-01-02T03:04:05Z".parse().unwrap(),
            kind: Kind::Incremental,
            bitmap: Some("backup-2".into()),
            name: None,
            engine: Engine::Push,
            parent: Some(ParentPoint { backup_path: "i-1/T1".into(), point_id: "id-1".into() }),
            disks: vec![disk("a", Kind::Incremental), disk("b", Kind::Full)],
            left_out: Vec::new(),
            texts: None,
            mac: None,
            checksum: None,
        }
    }

    fn facts(below: Option<&str>) -> Facts {
        let backing = below.map(|folder| RepoPath::parse("path", &format!("{folder}/a")).unwrap());
        Facts { size: 100, virtual_size: 200, has_backing: below.is_some(), backing }
    }

    #[test]
    fn an_image_is_as_recorded_or_the_difference_is_told() {
        let full = facts(None);
        assert!(of_image(&disk("a", Kind::Full), &full).is_empty());
        assert!(of_image(&disk("a", Kind::Incremental), &facts(Some("i-1/T1"))).is_empty());
        let changing = ManifestDisk { size: 0, ..disk("a", Kind::Full) };
        assert!(of_image(&changing, &facts(Some("i-1/T1"))).is_empty());
        let rebasing = |kind, onto: Option<&str>| {
            let rebasing = Some(Rebasing { onto: onto.map(str::to_owned), point_id: None, had_fingerprints: false });
            ManifestDisk { rebasing, ..disk("a", kind) }
        };
        let longer = |below| Facts { size: 300, ..facts(below) };
        let (alone, onto) = (rebasing(Kind::Incremental, None), rebasing(Kind::Incremental, Some("i-1/T0/a")));
        for (record, below) in [(&alone, None), (&alone, Some("i-1/T1")), (&onto, Some("i-1/T0"))] {
            assert!(of_image(record, &longer(below)).is_empty(), "{record:?}");
        }
        for (record, facts, word) in [
            (changing, Facts { virtual_size: 512, ..full.clone() }, "a disk of 512 bytes"),
            (onto, longer(None), "has no backing file"),
            (rebasing(Kind::Full, None), longer(Some("i-1/T1")), "has a backing file"),
            (alone, Facts { virtual_size: 512, ..full.clone() }, "a disk of 512 bytes"),
            (disk("a", Kind::Full), Facts { size: 99, ..full.clone() }, "has 99 bytes, its manifest says 100"),
            (disk("a", Kind::Full), Facts { virtual_size: 512, ..full.clone() }, "a disk of 512 bytes"),
            (disk("a", Kind::Full), facts(Some("i-1/T1")), "has a backing file"),
            (disk("a", Kind::Incremental), full.clone(), "has no backing file"),
        ] {
            let reasons = of_image(&record, &facts);
            assert!(matches!(&reasons[..], [one] if one.contains(word)), "{word}: {reasons:?}");
        }
    }

    #[test]
    fn a_manifest_is_right_or_each_contradiction_is_told() {
        let files = BTreeMap::from([("a".to_owned(), facts(Some("i-1/T1"))), ("b".to_owned(), facts(None))]);
        let alone = BTreeMap::from([("a".to_owned(), facts(None)), ("b".to_owned(), facts(None))]);
        let some = BTreeMap::from([("b".to_owned(), facts(None))]);
        type Case<'a> = (fn(&mut Manifest), &'a BTreeMap<String, Facts>, &'a str);
        let table: [Case<'_>; 11] = [
            (|_| {}, &files, ""),
            (|m| m.bitmap = None, &files, "its bitmap is [], those of its disks are [backup-2]"),
            (|m| m.disks[1].bitmap = None, &files, ""),
            (|m| m.disks.iter_mut().for_each(|d| d.bitmap = None), &files, "its bitmap is [backup-2]"),
            (|m| m.disks[0].bitmap = Some("x".into()), &files, "those of its disks are [backup-2, x]"),
            (|m| m.kind = Kind::Full, &files, "its kind"),
            (|m| m.disks[1].file = "a".into(), &files, "names 'a' twice"),
            (|m| m.parent = None, &files, "names no parent, its images stand on 'i-1/T1'"),
            (|_| {}, &alone, "no image of it stands on that"),
            (|_| {}, &some, ""),
            (|m| m.disks[0].size = 0, &alone, ""),
        ];
        for (change, files, word) in table {
            let mut manifest = manifest();
            change(&mut manifest);
            let reasons = of_point(&manifest, files);
            match word {
                "" => assert!(reasons.is_empty(), "{reasons:?}"),
                word => assert!(matches!(&reasons[..], [one] if one.contains(word)), "{word}: {reasons:?}"),
            }
        }
        let mut empty = manifest();
        (empty.disks, empty.bitmap, empty.parent, empty.kind) = (Vec::new(), None, None, Kind::Full);
        assert_eq!(of_point(&empty, &BTreeMap::new()), ["names no disk"]);
    }
}
