//! A repository as the caller names it, and the export after the library checked it.

use std::fmt;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The type of a host folder that is already mounted.
const DIR: &str = "dir";

/// A NAS export, as the caller names it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Repository {
    /// `dir` for a host folder that is already mounted, else a type that `mount -t` knows.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// A host path for `dir`, else what `mount` takes as source.
    pub address: Option<String>,
    /// Mount options. They may hold a password, so no message shows them.
    pub options: Option<String>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_deref().unwrap_or("?"), self.address.as_deref().unwrap_or("?"))
    }
}

/// A checked NAS export. Two exports are equal if their types, addresses and options are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Export {
    kind: String,
    address: String,
    options: String,
}

impl Repository {
    /// Checks the request's `repository`. `INVALID_ARGUMENT` naming the field.
    pub fn check(repository: Option<Repository>) -> Result<Export> {
        let repository = repository.ok_or_else(|| Error::invalid("repository", "is missing"))?;
        let kind = required("repository.type", repository.kind)?;
        let address = required("repository.address", repository.address)?;
        let options = plain("repository.options", repository.options.unwrap_or_default())?;
        if !kind.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) || kind.starts_with(['.', '-']) {
            return Err(Error::invalid("repository.type", format!("'{kind}' is not the name of a file system")));
        }
        // a mount helper would take the address for an option
        if address.starts_with('-') {
            return Err(Error::invalid("repository.address", format!("'{address}' begins with a dash")));
        }
        if kind == DIR && !address.starts_with('/') {
            return Err(Error::invalid("repository.address", format!("'{address}' is not an absolute path")));
        }
        if kind == DIR && !options.is_empty() {
            return Err(Error::invalid("repository.options", "type 'dir' is not mounted and takes none"));
        }
        Ok(Export { kind, address, options })
    }
}

impl Export {
    /// True for a host folder, which the library neither mounts nor unmounts.
    pub fn is_dir(&self) -> bool {
        self.kind == DIR
    }

    /// The type for `mount -t`, or `dir`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The host path of a `dir`, else what `mount` takes as source.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The mount options, empty if there are none. Secret.
    pub(super) fn options(&self) -> &str {
        &self.options
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.kind, self.address)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn required(field: &str, value: Option<String>) -> Result<String> {
    match value {
        None => Err(Error::invalid(field, "is missing")),
        Some(value) if value.is_empty() => Err(Error::invalid(field, "is empty")),
        Some(value) => plain(field, value),
    }
}

fn plain(field: &str, value: String) -> Result<String> {
    if value.contains(char::is_control) {
        return Err(Error::invalid(field, "has a control character"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn check(kind: &str, address: &str, options: &str) -> Result<Export> {
        let some = |text: &str| (text != "-").then(|| text.to_owned());
        Repository::check(Some(Repository { kind: some(kind), address: some(address), options: some(options) }))
    }

    #[test]
    fn each_field_is_refused_by_name() {
        for (kind, address, options, field) in [
            ("-", "x", "-", "repository.type"),
            ("", "x", "-", "repository.type"),
            ("nfs,ext4", "x", "-", "repository.type"),
            ("../x", "x", "-", "repository.type"),
            ("--bind", "x", "-", "repository.type"),
            ("nfs", "-", "-", "repository.address"),
            ("nfs", "", "-", "repository.address"),
            ("nfs", "host:/a\nb", "-", "repository.address"),
            ("nfs", "--help", "-", "repository.address"),
            ("nfs", "host:/a", "ro\0", "repository.options"),
            ("dir", "relative", "-", "repository.address"),
            ("dir", "/srv", "ro", "repository.options"),
        ] {
            let error = check(kind, address, options).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.cause.starts_with(&format!("{field}: ")), "{error}");
        }
        assert!(Repository::check(None).unwrap_err().cause.starts_with("repository: "));
    }

    #[test]
    fn options_may_be_empty_and_are_never_shown() {
        assert_eq!(check("nfs", "host:/a b*", "-").unwrap(), check("nfs", "host:/a b*", "").unwrap());
        assert_eq!(check("fuse.sshfs", "h:/", "").unwrap().kind(), "fuse.sshfs");
        assert!(check("dir", "/srv/a b", "").unwrap().is_dir());
        let export = check("cifs", "//host/share", "password=geheim").unwrap();
        assert_eq!(export.options(), "password=geheim");
        assert_eq!(format!("{export} {export:?}"), "cifs '//host/share' cifs '//host/share'");
    }
}
