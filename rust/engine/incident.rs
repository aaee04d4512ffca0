//! A storage error that the guest met while its backup ran. QEMU copies an old block to the scratch or the NAS before it lets
//! the guest overwrite that block: if the copy fails, the guest's write fails, too.

use std::fmt;

use crate::error::Error;
use crate::libvirt::{Action, IoError};

/// A disk that a backup job reads, under all names that libvirt may use for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDisk {
    /// The disk's name in the domain, e.g. `vda`.
    pub target: String,
    /// The alias of the disk's device.
    pub alias: Option<String>,
    /// The path of the disk's data.
    pub source: Option<String>,
}

/// The error that the guest met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// The disk's name in the domain, if libvirt says which it was.
    pub disk: Option<String>,
    action: Action,
    reason: Option<String>,
}

impl Incident {
    /// The incident that libvirt reports, or `None` if it names a disk that is none of `disks`. libvirt names no disk while a
    /// backup keeps old blocks of it, because it does not know the disk's topmost node then: such a report counts.
    pub(super) fn of(error: &IoError, disks: &[JobDisk]) -> Option<Incident> {
        let named = |name: &str, known: &Option<String>| !name.is_empty() && known.as_deref() == Some(name);
        let by_alias = disks.iter().find(|disk| named(&error.alias, &disk.alias));
        let disk = by_alias.or_else(|| disks.iter().find(|disk| named(&error.path, &disk.source)));
        let unnamed = error.alias.is_empty() && error.path.is_empty();
        (unnamed || disk.is_some()).then(|| Incident {
            disk: disk.map(|disk| disk.target.clone()),
            action: error.action,
            reason: error.reason.clone(),
        })
    }

    /// Adds this incident to the `error` of the job during which it happened.
    pub fn add_to(&self, error: Error) -> Error {
        let (cause, text) = (&error.cause, self.to_string());
        if cause.contains(&text) { error } else { Error { cause: format!("{cause}; {text}"), ..error } }
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let what = match self.action {
            Action::Pause => "the guest was paused for it",
            Action::Report => "the guest saw the error: look at its file systems",
            Action::Ignore => "the guest was told that it succeeded: look at its data",
        };
        write!(f, "QEMU could not carry out a read or write of the guest{reason}, and {what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_counts_unless_it_names_another_disk() {
        let disk = |target: &str, alias: Option<&str>, source: Option<&str>| JobDisk {
            target: target.to_owned(),
            alias: alias.map(str::to_owned),
            source: source.map(str::to_owned),
        };
        let disks = [
            disk("vda", Some("virtio-disk0"), Some("/disks/root")),
            disk("vdb", None, Some("/disks/data")),
            disk("vdc", Some("ua-mine"), None),
        ];
        let met = |path: &str, alias: &str, action, reason: Option<&str>| {
            let (path, alias, reason) = (path.to_owned(), alias.to_owned(), reason.map(str::to_owned));
            Incident::of(&IoError { path, alias, action, reason }, &disks)
        };
        for (path, alias, expected) in [
            ("/disks/root", "virtio-disk0", Some(Some("vda"))),
            ("", "virtio-disk0", Some(Some("vda"))),
            ("/disks/data", "", Some(Some("vdb"))),
            ("/moved/meanwhile", "ua-mine", Some(Some("vdc"))),
            ("", "", Some(None)),
            ("/disks/cd.iso", "sata0-0-0", None),
            ("", "sata0-0-0", None),
            ("/disks/cd.iso", "", None),
        ] {
            let found = met(path, alias, Action::Report, None).map(|incident| incident.disk);
            assert_eq!(found, expected.map(|disk| disk.map(str::to_owned)), "{path} {alias}");
        }
        let text = |action, reason| met("", "", action, reason).unwrap().to_string();
        assert!(
            text(Action::Pause, Some("enospc")).ends_with("of the guest (enospc), and the guest was paused for it")
        );
        assert!(text(Action::Report, None).contains("of the guest, and the guest saw the error"));
        assert!(text(Action::Ignore, None).contains("look at its data"));
    }
}
