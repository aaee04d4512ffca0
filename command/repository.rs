//! How a repository is named: by its folder, by type and address, or by a name from the settings.

use std::collections::BTreeMap;

use nasbackup::error::{Error, Result};
use nasbackup::nas::repository::Repository;
use nasbackup::plain::plain;

use crate::arguments::absolute;

/// How the settings name a repository: `repository.NAME = TYPE:ADDRESS`, and `repository.NAME.options = OPTIONS`.
const PREFIX: &str = "repository.";
const OPTIONS: &str = ".options";

/// The settings without those of repositories, and these, by name.
pub(crate) fn split(settings: BTreeMap<String, String>) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (repositories, rest): (BTreeMap<_, _>, _) =
        settings.into_iter().partition(|(name, _)| name.starts_with(PREFIX));
    (rest, repositories.into_iter().map(|(name, value)| (name[PREFIX.len()..].to_owned(), value)).collect())
}

/// The repository that `text` names. `options` come before those of the settings. `INVALID_ARGUMENT` for a name that the
/// settings do not have.
pub(crate) fn find(text: &str, options: Option<String>, named: &BTreeMap<String, String>) -> Result<Repository> {
    if text.starts_with("./") || text.starts_with("../") || text == "." || text == ".." {
        return Ok(repository("dir", &absolute("--repo", text)?, options));
    }
    let is_dir = text.starts_with('/');
    let (place, known) = match named.get(text) {
        _ if is_dir => (text, None),
        Some(place) => (place.as_str(), named.get(&format!("{text}{OPTIONS}")).cloned()),
        None => (text, None),
    };
    if place.starts_with('/') {
        return Ok(repository("dir", place, options.or(known)));
    }
    let (kind, address) = place.split_once(':').ok_or_else(|| {
        Error::invalid("--repo", format!("'{place}' is no folder, no TYPE:ADDRESS, and no repository of the settings"))
    })?;
    Ok(repository(kind, address, options.or(known)))
}

/// All that the settings name, with what is wrong with those that can't be meant.
pub(crate) fn all(named: &BTreeMap<String, String>) -> Vec<(String, Result<Repository>)> {
    let names = named.keys().filter(|name| !name.ends_with(OPTIONS));
    names.map(|name| (name.clone(), find(name, None, named))).collect()
}

/// How a repository is called: its options may hold a password.
pub(crate) fn told(repository: &Repository) -> String {
    let [kind, address] = [&repository.kind, &repository.address].map(|text| text.as_deref().unwrap_or_default());
    plain(&if kind == "dir" { address.to_owned() } else { format!("{kind}:{address}") }).into_owned()
}

fn repository(kind: &str, address: &str, options: Option<String>) -> Repository {
    Repository { kind: Some(kind.to_owned()), address: Some(address.to_owned()), options }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_a_folder_a_type_with_its_address_or_a_name_of_the_settings() {
        let settings = [
            ("engine", "push"),
            ("repository.nas", "nfs:10.0.0.5:/export/backup"),
            ("repository.nas.options", "vers=4.2,soft"),
            ("repository.local", "/mnt/nas"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (rest, named) = split(settings);
        assert_eq!(rest.into_keys().collect::<Vec<_>>(), ["engine"]);
        let find = |text: &str, options: Option<&str>| {
            let found = find(text, options.map(str::to_owned), &named).map_err(|error| error.cause)?;
            Ok((found.kind.unwrap(), found.address.unwrap(), found.options))
        };
        let all = |kind: &str, address: &str, options: Option<&str>| {
            Ok::<_, String>((kind.to_owned(), address.to_owned(), options.map(str::to_owned)))
        };
        for (text, options, found) in [
            ("/mnt/nas", None, all("dir", "/mnt/nas", None)),
            ("nfs:10.0.0.5:/export", None, all("nfs", "10.0.0.5:/export", None)),
            ("nfs4:[fd00::5]:/export", Some("soft"), all("nfs4", "[fd00::5]:/export", Some("soft"))),
            ("cifs://nas/share", None, all("cifs", "//nas/share", None)),
            ("nas", None, all("nfs", "10.0.0.5:/export/backup", Some("vers=4.2,soft"))),
            ("nas", Some("hard"), all("nfs", "10.0.0.5:/export/backup", Some("hard"))),
            ("local", None, all("dir", "/mnt/nas", None)),
        ] {
            assert_eq!(find(text, options), found, "{text}");
        }
        let all: Vec<_> = super::all(&named).into_iter().map(|(name, found)| (name, found.is_ok())).collect();
        assert_eq!(all, [("local".to_owned(), true), ("nas".to_owned(), true)]);
        for (text, end) in [(".", ""), ("./a/b", "/a/b")] {
            let here = std::env::current_dir().unwrap();
            let found = find(text, None).unwrap();
            assert_eq!((found.0.as_str(), found.1), ("dir", format!("{}{end}", here.display())));
        }
        assert!(find("elsewhere", None).unwrap_err().contains("'elsewhere' is no folder"));
    }
}
