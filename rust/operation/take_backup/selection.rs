//! Which of a guest's disks a backup holds. The answer and the manifest name the disks that it leaves out.

use std::collections::BTreeSet;

use crate::error::{Code, Error, Result};
use crate::libvirt::{Device, Disk, DomainXml};
use crate::point::{LeftOut, volume_of};
use crate::qemu::layers::HELP;

const FIELD: &str = "excludeDisks";
/// The reason of a disk that the request leaves out.
pub(super) const EXCLUDED: &str = "the request leaves it out";

/// The names by which a request can call a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// Its name in the domain, or, of a stopped guest, its path.
    pub target: &'a str,
    /// The last component of its source path, if it has one.
    pub volume: Option<&'a str>,
    /// Its serial, if it is known.
    pub serial: Option<&'a str>,
}

impl Names<'_> {
    fn told(&self) -> String {
        let named = |what: &str, name: Option<&str>| name.map(|name| format!("{what} '{name}'"));
        let others: Vec<_> = named("volume", self.volume).into_iter().chain(named("serial", self.serial)).collect();
        if others.is_empty() { self.target.to_owned() } else { format!("{} ({})", self.target, others.join(", ")) }
    }
}

/// A disk of a running guest that its backup holds.
#[derive(Debug, Clone)]
pub(super) struct Chosen<'a> {
    pub disk: &'a Disk,
    /// What names its file.
    pub volume: &'a str,
    /// Its file's name in the point.
    pub file: String,
}

/// The name of a disk's file: the first disk of the guest is the root disk, whether it is backed up or not.
pub(super) fn file_name(i: usize, volume: &str) -> String {
    format!("{}.{volume}.qcow2", if i == 0 { "root" } else { "datadisk" })
}

/// The disks of a running guest that a backup holds, and those that it leaves out. CD-ROMs and floppies are neither.
pub(super) fn of_domain<'a>(xml: &'a DomainXml, exclude: &[String]) -> Result<(Vec<Chosen<'a>>, Vec<LeftOut>)> {
    const STEP: &str = "look at the disks";
    let disks: Vec<&Disk> = xml.disks.iter().chain(&xml.others).collect();
    let volume = |disk: &'a Disk| disk.source.path().and_then(volume_of);
    let names: Vec<_> = disks
        .iter()
        .map(|disk| Names { target: &disk.target, volume: volume(disk), serial: disk.serial.as_deref() })
        .collect();
    let excluded = excluded(exclude, &names)?;
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    for (i, (disk, names)) in disks.into_iter().zip(&names).enumerate() {
        if let Some(reason) = reason(disk, excluded.contains(&i)) {
            left_out.push(LeftOut {
                target: Some(disk.target.clone()),
                volume: names.volume.map(str::to_owned),
                serial: disk.serial.clone(),
                reason: reason.to_owned(),
            });
        } else if disk.device == Device::Disk {
            let volume = names.volume.filter(|volume| !volume.chars().any(char::is_control)).ok_or_else(|| {
                let cause = format!("its source ({}) has no name that a file can have; {HELP}", disk.source.kind());
                Error::new(Code::UnsupportedImage, STEP, cause).on_disk(&disk.target)
            })?;
            chosen.push(Chosen { disk, volume, file: file_name(i, volume) });
        }
    }
    if chosen.is_empty() && exclude.is_empty() {
        return Err(Error::new(Code::DomainState, STEP, "the domain has no disk to back up"));
    }
    refuse_none(chosen.len())?;
    for (i, Chosen { disk, volume, .. }) in chosen.iter().enumerate() {
        if chosen[..i].iter().any(|other| other.volume == *volume) {
            let cause = format!("two disks have the volume name '{volume}'; {HELP}");
            return Err(Error::new(Code::UnsupportedImage, STEP, cause).on_disk(&disk.target));
        }
    }
    Ok((chosen, left_out))
}

/// Why a disk is left out, if it is.
fn reason(disk: &Disk, excluded: bool) -> Option<&'static str> {
    match disk.device {
        _ if excluded => Some(EXCLUDED),
        Device::Lun => Some("it is a LUN that the guest itself sends commands to"),
        Device::Disk if disk.shareable => Some("it is shareable"),
        Device::Disk if disk.transient => Some("it is transient"),
        Device::Disk | Device::Removable => None,
    }
}

/// The positions of the disks that `exclude` names. `INVALID_ARGUMENT` when a name is no disk's, or that of several.
pub(super) fn excluded(exclude: &[String], disks: &[Names<'_>]) -> Result<BTreeSet<usize>> {
    exclude.iter().map(|name| find(name, disks)).collect()
}

/// The position of the disk called `name`. A target comes before the other names, because it names one disk only.
fn find(name: &str, disks: &[Names<'_>]) -> Result<usize> {
    if let Some(at) = disks.iter().position(|disk| disk.target == name) {
        return Ok(at);
    }
    let called: Vec<_> =
        disks.iter().enumerate().filter(|(_, disk)| [disk.volume, disk.serial].contains(&Some(name))).collect();
    match called[..] {
        [(at, _)] => Ok(at),
        [] => Err(Error::invalid(FIELD, format!("no disk is called '{name}'; there are {}", list(disks.iter())))),
        _ => {
            let several = list(called.iter().map(|(_, disk)| *disk));
            Err(Error::invalid(FIELD, format!("'{name}' may be each of {several}")))
        }
    }
}

fn list<'a>(disks: impl Iterator<Item = &'a Names<'a>>) -> String {
    disks.map(Names::told).collect::<Vec<_>>().join(", ")
}

/// `INVALID_ARGUMENT` when no disk is left.
pub(super) fn refuse_none(left: usize) -> Result<()> {
    if left == 0 { Err(Error::invalid(FIELD, "leaves no disk to back up")) } else { Ok(()) }
}

/// The line about a disk that is left out.
pub(super) fn told(target: &str, reason: &str) -> String {
    format!("disk {target}: left out, {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(xml: &str, exclude: &[&str]) -> Result<(Vec<String>, Vec<LeftOut>)> {
        let exclude: Vec<_> = exclude.iter().map(|name| (*name).to_owned()).collect();
        let xml = DomainXml::parse(xml).unwrap();
        let (chosen, left_out) = of_domain(&xml, &exclude)?;
        Ok((chosen.into_iter().map(|chosen| chosen.file).collect(), left_out))
    }

    fn disks(disks: &[(&str, &str, &str)]) -> String {
        let disk = |(target, path, serial): &(&str, &str, &str)| {
            format!(
                "<disk type='file' device='disk'><source file='{path}'/><target dev='{target}'/><serial>{serial}</serial></disk>"
            )
        };
        format!("<domain><devices>{}</devices></domain>", disks.iter().map(disk).collect::<String>())
    }

    #[test]
    fn what_is_left_out_of_every_kind_of_disk_is_told() {
        let kinds = include_str!("../../../tests/fixtures/domain/kinds.xml");
        let error = select(kinds, &[]).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::UnsupportedImage, Some("vde")));
        assert!(error.cause.contains("(vhostuser)") && error.cause.contains("excludeDisks"), "{error}");
        let (chosen, left_out) = select(kinds, &["vde", "image", "sda"]).unwrap();
        assert_eq!(chosen.len(), 8, "{chosen:?}");
        let told: Vec<_> = left_out
            .iter()
            .map(|disk| (disk.target.as_deref().unwrap(), disk.volume.as_deref(), &*disk.reason))
            .collect();
        assert_eq!(
            told,
            [
                ("vdc", Some("image"), EXCLUDED),
                ("vde", None, EXCLUDED),
                ("vdf", Some("s"), "it is shareable"),
                ("vdg", Some("t"), "it is transient"),
                ("sda", Some("c.iso"), EXCLUDED),
                ("sdb", Some("sdz"), "it is a LUN that the guest itself sends commands to"),
            ]
        );
        assert_eq!(super::told("vdf", "it is shareable"), "disk vdf: left out, it is shareable");
    }

    #[test]
    fn a_disk_is_excluded_by_each_of_its_names() {
        let three = disks(&[("vda", "/p/a", "s1"), ("vdb", "/p/b", "s2"), ("vdc", "/p/vda", "s2")]);
        let files = |files: &[&str]| files.iter().map(|file| format!("{file}.qcow2")).collect::<Vec<_>>();
        for (exclude, kept) in [
            (&[][..], &["root.a", "datadisk.b", "datadisk.vda"][..]),
            (&["vdb"], &["root.a", "datadisk.vda"]),
            (&["b"], &["root.a", "datadisk.vda"]),
            (&["s1"], &["datadisk.b", "datadisk.vda"]),
            (&["s1", "a", "vda"], &["datadisk.b", "datadisk.vda"]),
        ] {
            let (chosen, left_out) = select(&three, exclude).unwrap();
            assert_eq!((chosen, left_out.len()), (files(kept), 3 - kept.len()), "{exclude:?}");
        }
        for (exclude, reason) in [
            (&["vdz"][..], "no disk is called 'vdz'; there are vda (volume 'a', serial 's1'), vdb (volume 'b'"),
            (&["s2"], "'s2' may be each of vdb (volume 'b', serial 's2'), vdc (volume 'vda', serial 's2')"),
            (&["vda", "vdb", "vdc"], "leaves no disk"),
        ] {
            let error = select(&three, exclude).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{exclude:?}");
            assert!(error.cause.starts_with("excludeDisks: ") && error.cause.contains(reason), "{error}");
        }
    }

    #[test]
    fn of_two_disks_with_one_volume_name_one_has_to_be_excluded() {
        let twins = disks(&[("vda", "/p/a", ""), ("vdb", "/q/a", "")]);
        let error = select(&twins, &[]).unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::UnsupportedImage, Some("vdb")));
        assert!(error.cause.contains("excludeDisks"), "{error}");
        assert_eq!(select(&twins, &["vdb"]).unwrap().0, ["root.a.qcow2"]);
        assert_eq!(select("<domain/>", &[]).unwrap_err().code, Code::DomainState);
    }
}
