//! The configuration, given once to `init`; without it the defaults apply.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::user;

/// The mode of new folders: QEMU, which runs as another user, has to pass through.
pub const FOLDER_MODE: u32 = 0o711;
/// The mode of new files.
pub const FILE_MODE: u32 = 0o600;

/// Backups at the same time, unless it is configured.
const PLACES: usize = 4;
/// Bytes a second of the lowest limit: a cluster is read at once.
pub(crate) const LEAST_RATE: u64 = 1 << 16;
/// Bytes of the smallest scratch with which a backup begins.
pub(crate) const LEAST_SCRATCH: u64 = 64 << 20;

/// How the data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Whatever serves the guest best on this host.
    #[default]
    Auto,
    /// QEMU writes the target itself.
    Push,
    /// QEMU exports the instant over NBD and we write.
    Pull,
}

/// What to do when a guest's file systems can't be frozen although the request asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuiesceFailure {
    /// The backup fails with `QUIESCE_FAILED`.
    #[default]
    Error,
    /// The backup goes on and is crash-consistent; its `details` say so.
    Warn,
}

/// The settings of `init`. Absent keys take the default, unknown keys are refused by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// libvirt connection URI. Default `qemu:///system`.
    pub connection_uri: String,
    /// Folder for what must survive a restart of the agent. Default `/var/lib/nasbackup`.
    pub state_dir: PathBuf,
    /// Folder for mount points. Default `/run/nasbackup`.
    pub mount_dir: PathBuf,
    /// Folder on a fast local disk for the old blocks of a pull backup. Default: `scratch` below `state_dir`.
    pub scratch_dir: Option<PathBuf>,
    /// The engine for requests that leave it open.
    pub engine: Engine,
    /// Bytes a second that a backup reads at most, for requests that leave it open. Absent or 0: no limit.
    pub rate_limit: Option<u64>,
    /// Bytes a second that all backups of this process read at most, together. Absent or 0: no limit.
    pub host_rate_limit: Option<u64>,
    /// Backups that run at the same time; more of them are refused. Absent or 0: 4.
    pub parallel_backups: Option<usize>,
    /// Bytes of old blocks that a pull backup may keep. Absent or 0: as much as there is room for.
    pub scratch_per_vm: Option<u64>,
    /// The same for all pull backups on this host together.
    pub scratch_per_host: Option<u64>,
    /// A log4rs YAML file that replaces the default appender.
    pub log_config: Option<PathBuf>,
    /// `off`, `error`, `warn`, `info` (default), `debug` or `trace`; ignored when `log_config` is given.
    pub log_level: String,
    /// What a failed freeze does.
    pub quiesce_failure: QuiesceFailure,
    /// Seconds that the guest's agent may take for one answer, a freeze or a thaw among them. Default 20.
    pub freeze_seconds: u64,
    /// Where the file systems are mounted in the guest that are to be frozen. Absent or empty: all.
    pub freeze_mount_points: Vec<String>,
    /// Seconds that a mount is kept after its last use, for the next. Default 60; 0: it goes at once.
    pub mount_keep_seconds: u64,
    /// Permissions of files made in a repository, in octal digits. Default 600.
    pub file_mode: Option<String>,
    /// The same of folders. Default 711: QEMU, which runs as another user, passes through.
    pub folder_mode: Option<String>,
    /// A file of keys that vouch for restore points, which nobody else may read. Absent: nothing vouches for them.
    pub key_file: Option<PathBuf>,
    /// A file, written anew after each operation, that tells Prometheus' textfile collector what operations of this host have come to.
    /// Absent: nobody is told.
    pub metrics_file: Option<PathBuf>,
    /// What it holds, once the configuration was checked.
    #[serde(skip)]
    pub keys: Option<Arc<Keys>>,
}

/// A day: who mounts less often than that gains nothing.
const LONGEST_KEEP: u64 = 86_400;
/// Five minutes: Windows gives its writers one.
const LONGEST_FREEZE: u64 = 300;

impl Default for Config {
    fn default() -> Config {
        Config {
            connection_uri: "qemu:///system".to_owned(),
            state_dir: "/var/lib/nasbackup".into(),
            mount_dir: "/run/nasbackup".into(),
            scratch_dir: None,
            engine: Engine::Auto,
            rate_limit: None,
            host_rate_limit: None,
            parallel_backups: None,
            scratch_per_vm: None,
            scratch_per_host: None,
            log_config: None,
            log_level: "info".to_owned(),
            quiesce_failure: QuiesceFailure::Error,
            freeze_seconds: 20,
            freeze_mount_points: Vec::new(),
            mount_keep_seconds: 60,
            file_mode: None,
            folder_mode: None,
            key_file: None,
            metrics_file: None,
            keys: None,
        }
    }
}

impl Config {
    /// The configuration of a host's own settings, each a name and a text. `INVALID_ARGUMENT` naming the one that is wrong.
    pub fn of_settings(settings: impl IntoIterator<Item = (String, String)>) -> Result<Config> {
        let typed = |(name, text): (String, String)| {
            let value = match (name.as_str(), text.parse::<u64>()) {
                // the agent takes them in capitals, too
                ("engine" | "quiesceFailure", _) => Value::String(text.to_ascii_lowercase()),
                ("fileMode" | "folderMode", _) | (_, Err(_)) if name != "freezeMountPoints" => Value::String(text),
                ("freezeMountPoints", _) if text.is_empty() => Value::Array(Vec::new()),
                ("freezeMountPoints", _) => text.split(',').map(str::trim).collect(),
                (_, Ok(number)) => number.into(),
                (_, Err(_)) => Value::String(text),
            };
            (name, value)
        };
        let settings: Map<_, _> = settings.into_iter().map(typed).collect();
        serde_path_to_error::deserialize(Value::Object(settings))
            .map_err(|error| Error::invalid(&error.path().to_string(), error.inner()))
    }

    /// Refuses what can't be meant, naming the key.
    pub fn check(mut self) -> Result<Config> {
        if self.connection_uri.is_empty() {
            return Err(Error::invalid("connectionUri", "is empty"));
        }
        for (key, path) in [
            ("stateDir", Some(&self.state_dir)),
            ("mountDir", Some(&self.mount_dir)),
            ("scratchDir", self.scratch_dir.as_ref()),
            ("logConfig", self.log_config.as_ref()),
            ("keyFile", self.key_file.as_ref()),
            ("metricsFile", self.metrics_file.as_ref()),
        ] {
            if path.is_some_and(|path| !path.is_absolute()) {
                return Err(Error::invalid(key, "is not an absolute path"));
            }
        }
        for (key, value, least) in [
            ("rateLimit", &mut self.rate_limit, LEAST_RATE),
            ("hostRateLimit", &mut self.host_rate_limit, LEAST_RATE),
            ("scratchPerVm", &mut self.scratch_per_vm, LEAST_SCRATCH),
            ("scratchPerHost", &mut self.scratch_per_host, LEAST_SCRATCH),
        ] {
            *value = check_limit(key, *value, least)?;
        }
        if self.mount_keep_seconds > LONGEST_KEEP {
            return Err(Error::invalid("mountKeepSeconds", format!("is more than {LONGEST_KEEP}")));
        }
        if !(1..=LONGEST_FREEZE).contains(&self.freeze_seconds) {
            return Err(Error::invalid("freezeSeconds", format!("is not between 1 and {LONGEST_FREEZE}")));
        }
        if self.freeze_mount_points.iter().any(|point| point.is_empty() || point.contains(char::is_control)) {
            return Err(Error::invalid("freezeMountPoints", "holds an empty name, or one with a control character"));
        }
        check_mode("fileMode", self.file_mode.as_deref(), 0o600)?;
        check_mode("folderMode", self.folder_mode.as_deref(), 0o700)?;
        self.log_level
            .parse::<log::LevelFilter>()
            .map_err(|_| Error::invalid("logLevel", format!("'{}' is not a level", self.log_level)))?;
        self.keys = self.key_file.as_deref().map(Keys::read).transpose()?.map(Arc::new);
        Ok(self)
    }

    /// Refuses folders of ours in which others may put something in the place of what is ours, naming the key. What is not
    /// there yet is looked at when it is made.
    pub(crate) fn check_folders(&self) -> Result<()> {
        let folders = [
            ("stateDir", Some(&self.state_dir)),
            ("mountDir", Some(&self.mount_dir)),
            ("scratchDir", self.scratch_dir.as_ref()),
        ];
        let mut given = folders.into_iter().filter_map(|(key, path)| Some((key, path?)));
        given.try_for_each(|(key, path)| user::refuse_writable_by_others(key, path))
    }

    /// The permissions of files made in a repository.
    pub fn file_mode(&self) -> u32 {
        self.file_mode.as_deref().and_then(mode).unwrap_or(FILE_MODE)
    }

    /// The same of folders.
    pub fn folder_mode(&self) -> u32 {
        self.folder_mode.as_deref().and_then(mode).unwrap_or(FOLDER_MODE)
    }

    /// How long the guest's agent may take for one answer.
    pub fn freeze_limit(&self) -> Duration {
        Duration::from_secs(self.freeze_seconds)
    }

    /// How many backups may run at the same time.
    pub fn places(&self) -> usize {
        self.parallel_backups.filter(|places| *places > 0).unwrap_or(PLACES)
    }
}

/// The keys of a request of `init` without those that are null, which means no more than an absent one. Unknown keys stay,
/// for the refusal.
pub(crate) fn given(mut keys: Map<String, Value>) -> Result<Value> {
    let known = serde_json::to_value(Config::default()).map_err(|e| Error::invalid("configuration", e))?;
    keys.retain(|key, value| !value.is_null() || known.get(key).is_none());
    Ok(Value::Object(keys))
}

fn mode(digits: &str) -> Option<u32> {
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777)
}

/// Refuses permissions without ours, which are `least`, and those that let everybody write.
fn check_mode(key: &str, digits: Option<&str>, least: u32) -> Result<()> {
    let suits = |digits| mode(digits).is_some_and(|mode| mode & least == least && mode & 0o002 == 0);
    match digits {
        Some(digits) if !suits(digits) => {
            Err(Error::invalid(key, format!("'{digits}' is not octal with {least:o} in it and without write for all")))
        }
        _ => Ok(()),
    }
}

/// `None` for no limit; one that no backup can keep is refused.
pub(crate) fn check_limit(field: &str, limit: Option<u64>, least: u64) -> Result<Option<u64>> {
    match limit.filter(|limit| *limit > 0) {
        Some(limit) if limit < least => Err(Error::invalid(field, format!("is less than {least} bytes"))),
        limit => Ok(limit),
    }
}

static CURRENT: RwLock<Option<Arc<Config>>> = RwLock::new(None);

/// The configuration in force.
pub fn current() -> Arc<Config> {
    let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner).clone();
    current.unwrap_or_default()
}

/// Puts a checked configuration into force for the calls that follow.
pub fn set(config: Config) {
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_refused_by_key() {
        for (json, key) in [
            (r#"{"stateDir":"here"}"#, "stateDir"),
            (r#"{"connectionUri":""}"#, "connectionUri"),
            (r#"{"logLevel":"loud"}"#, "logLevel"),
            (r#"{"rateLimit":65535}"#, "rateLimit"),
            (r#"{"hostRateLimit":1}"#, "hostRateLimit"),
            (r#"{"scratchPerVm":67108863}"#, "scratchPerVm"),
            (r#"{"scratchPerHost":1}"#, "scratchPerHost"),
            (r#"{"mountKeepSeconds":86401}"#, "mountKeepSeconds"),
            (r#"{"freezeSeconds":0}"#, "freezeSeconds"),
            (r#"{"freezeSeconds":301}"#, "freezeSeconds"),
            (r#"{"freezeMountPoints":["/",""]}"#, "freezeMountPoints"),
            (r#"{"fileMode":"rw"}"#, "fileMode"),
            (r#"{"fileMode":"440"}"#, "fileMode"),
            (r#"{"fileMode":"666"}"#, "fileMode"),
            (r#"{"fileMode":"4600"}"#, "fileMode"),
            (r#"{"folderMode":"611"}"#, "folderMode"),
            (r#"{"keyFile":"key"}"#, "keyFile"),
            (r#"{"metricsFile":"a.prom"}"#, "metricsFile"),
            (r#"{"keyFile":"/dev/null"}"#, "keyFile"),
        ] {
            let error = serde_json::from_str::<Config>(json).unwrap().check().unwrap_err();
            assert!(error.cause.starts_with(key), "{error}");
        }
        assert!(serde_json::from_str::<Config>(r#"{"statedir":"/x"}"#).unwrap_err().to_string().contains("statedir"));
    }

    #[test]
    fn a_host_s_settings_are_those_that_the_agent_reads() {
        let agent = include_str!("../java/cloudstack-agent/src/main/java/org/nasbackup/HostSettings.java");
        let mut theirs: Vec<_> =
            agent.split("Map.entry(").skip(1).filter_map(|entry| entry.split('"').nth(1)).collect();
        // the agent's log lines go where its own go
        theirs.push("logConfig");
        theirs.sort_unstable();
        let ours = serde_json::to_value(Config::default()).unwrap();
        let mut ours: Vec<_> = ours.as_object().unwrap().keys().map(String::as_str).collect();
        ours.sort_unstable();
        assert_eq!(ours, theirs);
        let capitals = [("engine", "PUSH"), ("quiesceFailure", "WARN")].map(|(name, text)| (name.into(), text.into()));
        let config = Config::of_settings(capitals).unwrap();
        assert_eq!((config.engine, config.quiesce_failure), (Engine::Push, QuiesceFailure::Warn));
    }

    #[test]
    fn absent_keys_and_nulls_take_the_defaults() {
        let config = |json: &str| serde_json::from_str::<Config>(json).unwrap().check().unwrap();
        assert_eq!(config("{}"), Config::default());
        assert_eq!((config("{}").file_mode(), config("{}").folder_mode()), (0o600, 0o711));
        let modes = config(r#"{"fileMode":"0640","folderMode":"751"}"#);
        assert_eq!((modes.file_mode(), modes.folder_mode()), (0o640, 0o751));
        let zeroes = r#"{"rateLimit":0,"hostRateLimit":0,"scratchPerVm":0,"scratchPerHost":0}"#;
        assert_eq!(config(zeroes), Config::default());
        let keys = serde_json::to_value(Config::default()).unwrap();
        let nulls = keys.as_object().unwrap().keys().map(|key| (key.clone(), Value::Null)).collect();
        assert_eq!(config(&given(nulls).unwrap().to_string()), Config::default());
        let places = [r#"{}"#, r#"{"parallelBackups":0}"#, r#"{"parallelBackups":1}"#];
        assert_eq!(places.map(|json| config(json).places()), [4, 4, 1]);
    }
}
