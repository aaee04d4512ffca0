//! The host's settings, and the library under them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use java_properties::PropertiesIter;
use log::Record;
use log4rs::append::Append;
use nasbackup::config::Config;
use nasbackup::error::{Error, Result};
use nasbackup::logging::ANSWERED;
use nasbackup::nas::repository::Repository;
use nasbackup::{libvirt, logging, operation};

use crate::arguments::{Arguments, SETTINGS};
use crate::repository;

/// The library, ready for calls on one repository.
pub(crate) struct Host {
    repository: Option<Repository>,
    /// Those of the settings, by name.
    named: BTreeMap<String, String>,
}

impl Host {
    /// The repository that was asked for. `INVALID_ARGUMENT` without one.
    pub(crate) fn repository(&self) -> Result<Repository> {
        self.repository.clone().ok_or_else(|| Error::invalid("--repo", "is missing: which repository?"))
    }

    /// The repository that was asked for, else all that the settings name, each with what it is called.
    pub(crate) fn repositories(&self) -> Vec<(String, Result<Repository>)> {
        match &self.repository {
            Some(repository) => vec![(repository.address.clone().unwrap_or_default(), Ok(repository.clone()))],
            None => repository::all(&self.named),
        }
    }
}

/// Puts the settings into force. What killed processes have left on this host stays the agent's to clear.
pub(crate) fn open(arguments: &Arguments) -> Result<Host> {
    let (settings, named) = repository::split(read(&arguments.settings)?);
    let level = ["warn", "info", "debug"][usize::from(arguments.verbose.min(2))];
    // this process ends, and nobody would be left to unmount
    let config = Config { log_level: level.to_owned(), mount_keep_seconds: 0, ..Config::of_settings(settings)? };
    operation::prepare(config, Box::new(Unanswered(logging::stderr())))?;
    libvirt::be_silent();
    let options = arguments.repo_options.as_deref();
    let options = options.map(|options| from_file("--repo-options", options)).transpose()?;
    let repository = arguments.repo.as_deref().map(|name| repository::find(name, options, &named)).transpose()?;
    Ok(Host { repository, named })
}

/// Log lines, without those that say what the command says itself.
#[derive(Debug)]
struct Unanswered(Box<dyn Append>);

impl Append for Unanswered {
    fn append(&self, record: &Record<'_>) -> anyhow::Result<()> {
        if record.target() == ANSWERED { Ok(()) } else { self.0.append(record) }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The settings in a file, by name, as the agent reads them. Only the file that nobody has named may be missing: without the
/// settings, no key would vouch for points.
fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let refuse = |why: String| Error::invalid(&path.display().to_string(), why);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && path == Path::new(SETTINGS) => return Ok(BTreeMap::new()),
        Err(error) => return Err(refuse(error.to_string())),
    };
    let mut settings = BTreeMap::new();
    let keep = |name, value: String| _ = settings.insert(name, value.trim().to_owned());
    let lines = PropertiesIter::new_with_encoding(text.as_bytes(), encoding_rs::UTF_8).read_into(keep);
    lines.map_err(|error| refuse(error.to_string()))?;
    Ok(settings)
}

/// What an argument says, or the first line of the file that it names as `@FILE`: what is secret is on no command line then.
pub(crate) fn from_file(argument: &str, text: &str) -> Result<String> {
    let Some(file) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let refuse = |error| Error::invalid(argument, format!("'{file}': {error}"));
    let text = std::fs::read_to_string(file).map_err(refuse)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_utf_8_and_a_named_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings");
        assert!(read(&file).unwrap_err().cause.contains("No such file"));
        std::fs::write(&file, "stateDir = /sicherung/f\u{fc}nf \nlogLevel: \\\n  warn\n").unwrap();
        let settings = [("logLevel", "warn"), ("stateDir", "/sicherung/f\u{fc}nf")];
        assert_eq!(read(&file).unwrap(), settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        std::fs::write(&file, b"stateDir = /\xfc\n").unwrap();
        assert!(read(&file).is_err());
    }

    #[test]
    fn what_is_secret_may_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "password=x\nmore\n").unwrap();
        let named = format!("@{}", file.path().display());
        for (text, expected) in [("soft", "soft"), (named.as_str(), "password=x")] {
            assert_eq!(from_file("--repo-options", text).unwrap(), expected);
        }
        assert!(from_file("--repo-options", "@/no/such/file").unwrap_err().cause.contains("/no/such/file"));
    }
}
