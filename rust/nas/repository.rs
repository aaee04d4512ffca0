//! What the caller says of a repository.

use serde::Deserialize;

/// A NAS export, as the caller names it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Repository {
    /// `dir` for a host folder that is already mounted, else a type that `mount -t` knows.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where it is: a host path for `dir`, else what `mount` takes as source.
    pub address: Option<String>,
    /// Mount options; may hold a password and is never shown.
    pub options: Option<String>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_deref().unwrap_or("?"), self.address.as_deref().unwrap_or("?"))
    }
}
