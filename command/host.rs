//! The host's settings, and the library under them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use nasbackup::config::Config;
use nasbackup::error::{Error, Result};
use nasbackup::nas::repository::Repository;
use nasbackup::{logging, operation};

use crate::arguments::Arguments;
use crate::repository;

/// Where the agent looks for the host's settings, too.
pub(crate) const SETTINGS: &str = "/etc/nasbackup/nasbackup.properties";

/// The library, ready for calls on one repository.
pub(crate) struct Host {
    repository: Option<Repository>,
}

impl Host {
    /// The repository that was asked for. `INVALID_ARGUMENT` without one.
    pub(crate) fn repository(&self) -> Result<Repository> {
        self.repository.clone().ok_or_else(|| Error::invalid("--repo", "is missing: which repository?"))
    }
}

/// Puts the settings into force. What killed processes have left on this host stays the agent's to clear.
pub(crate) fn open(arguments: &Arguments) -> Result<Host> {
    let (settings, repositories) = repository::split(read(&arguments.settings)?);
    let level = ["warn", "info", "debug"][usize::from(arguments.verbose.min(2))];
    // this process ends, and nobody would be left to unmount
    let config = Config { log_level: level.to_owned(), mount_keep_seconds: 0, ..Config::of_settings(settings)? };
    operation::prepare(config, logging::stderr())?;
    let options = arguments.repo_options.clone();
    let repository =
        arguments.repo.as_deref().map(|name| repository::find(name, options, &repositories)).transpose()?;
    Ok(Host { repository })
}

/// The settings in a file, by name; none without the file.
fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let refuse = |why: String| Error::invalid(&path.display().to_string(), why);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(refuse(error.to_string())),
    };
    let lines = java_properties::read(BufReader::new(file)).map_err(|error| refuse(error.to_string()))?;
    Ok(lines.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect())
}
