//! The XML of backups and checkpoints (libvirt's formatbackup and formatcheckpoint).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::xml::Xml;
use crate::error::{Code, Error, Result};

/// One disk of a backup job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDisk<'a> {
    /// Its name in the domain.
    pub target: &'a str,
    /// The file that QEMU writes: the target of a push, the scratch of a pull; `None`: the disk is left out.
    pub file: Option<&'a str>,
    /// The checkpoint since which changes are written; `None`: everything is.
    pub since: Option<&'a str>,
}

/// How the data of a backup travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupMode<'a> {
    /// QEMU writes targets.
    Push,
    /// QEMU exports each disk under its own name.
    Pull {
        /// Path of the unix socket that it makes.
        socket: &'a str,
    },
}

/// The XML of a backup. Per-disk modes are only named where disks differ, as older versions of libvirt lack them.
pub fn backup_xml(mode: BackupMode<'_>, disks: &[BackupDisk<'_>]) -> String {
    let common =
        disks.iter().filter(|d| d.file.is_some()).map(|d| d.since).reduce(|a, b| if a == b { a } else { None });
    let common = common.flatten();
    let mut xml = Xml::new();
    xml.open("domainbackup", &[("mode", if mode == BackupMode::Push { "push" } else { "pull" })]);
    if let Some(since) = common {
        xml.text("incremental", since);
    }
    if let BackupMode::Pull { socket } = mode {
        xml.empty("server", &[("transport", "unix"), ("socket", socket)]);
    }
    xml.open("disks", &[]);
    for disk in disks {
        let Some(file) = disk.file else {
            xml.empty("disk", &[("name", disk.target), ("backup", "no")]);
            continue;
        };
        let mut attributes = vec![("name", disk.target), ("backup", "yes"), ("type", "file")];
        match disk.since {
            Some(since) if common.is_none() => {
                attributes.extend([("backupmode", "incremental"), ("incremental", since)])
            }
            None if disks.iter().any(|d| d.since.is_some()) => attributes.push(("backupmode", "full")),
            _ => {}
        }
        xml.open("disk", &attributes);
        let element = if mode == BackupMode::Push { "target" } else { "scratch" };
        xml.empty(element, &[("file", file)]);
        xml.empty("driver", &[("type", "qcow2")]);
        xml.close("disk");
    }
    xml.close("disks");
    xml.close("domainbackup");
    xml.done()
}

/// The XML of a checkpoint: its name, the disks that carry its bitmap, those that do not, and for a redefinition the
/// time it was made, in seconds since 1970.
pub fn checkpoint_xml(name: &str, created: Option<i64>, with: &[&str], without: &[&str]) -> String {
    let mut xml = Xml::new();
    xml.open("domaincheckpoint", &[]);
    xml.text("name", name);
    if let Some(created) = created {
        xml.text("creationTime", &created.to_string());
    }
    xml.open("disks", &[]);
    with.iter().for_each(|disk| xml.empty("disk", &[("name", disk), ("checkpoint", "bitmap")]));
    without.iter().for_each(|disk| xml.empty("disk", &[("name", disk), ("checkpoint", "no")]));
    xml.close("disks");
    xml.close("domaincheckpoint");
    xml.done()
}

#[derive(Deserialize)]
struct CheckpointElement {
    #[serde(default)]
    disks: CheckpointDisks,
}

#[derive(Deserialize, Default)]
struct CheckpointDisks {
    #[serde(default)]
    disk: Vec<CheckpointDisk>,
}

#[derive(Deserialize)]
struct CheckpointDisk {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@size")]
    size: Option<u64>,
}

/// The dirty bytes of each disk from the XML of a checkpoint that was read with its sizes. libvirt leaves the size out
/// where the bitmap is not good.
pub(super) fn dirty_sizes(checkpoint: &str) -> Result<BTreeMap<String, u64>> {
    let parsed: CheckpointElement =
        quick_xml::de::from_str(checkpoint).map_err(|e| Error::new(Code::Libvirt, "parse the checkpoint's XML", e))?;
    Ok(parsed.disks.disk.into_iter().filter_map(|disk| Some((disk.name, disk.size?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_backup_names_its_parent_once() {
        let disks =
            ["vda", "vdb"].map(|target| BackupDisk { target, file: Some("/nas/a & b"), since: Some("backup-1") });
        let xml = backup_xml(BackupMode::Push, &disks);
        assert!(xml.contains("<incremental>backup-1</incremental>") && !xml.contains("backupmode"), "{xml}");
        assert!(xml.contains("file=\"/nas/a &amp; b\""), "{xml}");
    }

    #[test]
    fn a_mixed_backup_names_each_disks_mode() {
        let xml = backup_xml(
            BackupMode::Push,
            &[
                BackupDisk { target: "vda", file: Some("/a"), since: Some("p\"<") },
                BackupDisk { target: "vdb", file: Some("/b"), since: None },
                BackupDisk { target: "hdc", file: None, since: None },
            ],
        );
        assert!(!xml.contains("<incremental>"), "{xml}");
        assert!(
            xml.contains("backupmode=\"incremental\" incremental=\"p&quot;&lt;\"")
                && xml.contains("backupmode=\"full\""),
            "{xml}"
        );
        assert!(xml.contains("<disk name=\"hdc\" backup=\"no\"/>"), "{xml}");
    }

    #[test]
    fn a_full_backup_names_no_mode() {
        let xml = backup_xml(BackupMode::Push, &[BackupDisk { target: "vda", file: Some("/a"), since: None }]);
        assert!(!xml.contains("incremental") && !xml.contains("backupmode"), "{xml}");
    }

    #[test]
    fn a_pull_names_its_socket_and_scratch_files() {
        let disk = BackupDisk { target: "vda", file: Some("/s/vda"), since: Some("backup-1") };
        let xml = backup_xml(BackupMode::Pull { socket: "/s/a & b" }, &[disk]);
        assert!(xml.starts_with("<domainbackup mode=\"pull\"><incremental>backup-1</incremental>"), "{xml}");
        assert!(xml.contains("<server transport=\"unix\" socket=\"/s/a &amp; b\"/><disks>"), "{xml}");
        assert!(xml.contains("<scratch file=\"/s/vda\"/>") && !xml.contains("target"), "{xml}");
    }

    #[test]
    fn a_disk_without_a_size_has_no_good_bitmap() {
        let xml = "<domaincheckpoint><name>b</name><disks><disk name='vda' checkpoint='bitmap' bitmap='b' size='65536'/>\
                   <disk name='vdb' checkpoint='bitmap' bitmap='b'/><disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>";
        assert_eq!(dirty_sizes(xml).unwrap(), BTreeMap::from([("vda".to_owned(), 65536)]));
        assert!(dirty_sizes("<domaincheckpoint/>").unwrap().is_empty());
        assert_eq!(dirty_sizes("").unwrap_err().code, Code::Libvirt);
    }

    #[test]
    fn a_checkpoint_names_every_disk() {
        let xml = checkpoint_xml("b", Some(7), &["vda"], &["vdb"]);
        assert_eq!(
            xml,
            "<domaincheckpoint><name>b</name><creationTime>7</creationTime><disks><disk name=\"vda\" checkpoint=\"bitmap\"/>\
             <disk name=\"vdb\" checkpoint=\"no\"/></disks></domaincheckpoint>"
        );
    }
}
