//! `bootPoint`: starts the machine of a restore point on files of the host's that are thrown away, without a network, and looks whether
//! its system comes up. The point's disks are read, and never written.

mod choice;
mod console;
mod machine;
mod picture;
mod room;
mod tpm;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use super::checked_chain::{self, CheckedDisk};
use super::reading::Reading;
use super::show_point;
use super::verified::{self, Scope};
use super::verify_chain::Verdict;
use crate::config::{self, Config};
use crate::error::{Code, Error, Result};
use crate::libvirt::{BootDisk, BootDomain, Capabilities, Domain, KnownEmulator, SavedDomain, boot_xml, loaders};
use crate::limits;
use crate::nas::files::NasFiles;
use crate::nas::folder::Folder;
use crate::nas::path::PointPath;
use crate::nas::repository::Repository;
use crate::plain::plain;
use crate::point::{DOMAIN, Manifest, StateFile, StatePart};
use crate::work::deadline::{self, ask, bounded_until_cancelled};
use crate::work::job::{self, Listener, Reporter};
use crate::work::phase::Phase;
use console::Console;
use machine::{Machine, TestFolder};
use watch::{Awaited, Watch};

const STEP: &str = "boot the guest";
/// Seconds that a guest without a channel to its agent has to run.
const SECONDS: u64 = 60;
/// What a host tells of its memory.
const MEMORY: &str = "/proc/meminfo";

/// What `bootPoint` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BootPointRequest {
    /// The caller's id for this job.
    pub job: Option<String>,
    /// The NAS export.
    pub repository: Option<Repository>,
    /// The restore point, `<instance>/<timestamp>`.
    pub backup_path: Option<String>,
    /// The most bytes of memory that the guest gets. Absent: what it had, and at most half of what the host has left.
    pub memory: Option<u64>,
    /// What has to be seen. Absent: the agent's answer, or 60 seconds where the machine has no channel to an agent.
    pub wait: Option<Wait>,
    /// A file that gets a picture of the guest's screen, as PNG.
    pub screenshot: Option<PathBuf>,
}

/// What a boot test waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wait {
    /// The guest's agent answers.
    Agent,
    /// The guest's serial console shows what matches this regular expression.
    Console(String),
    /// The guest has run for so many seconds.
    Seconds(u64),
}

/// What `bootPoint` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootedPoint {
    /// Good if it was seen what was waited for. Bad if the guest has ended before, or the time was over. Else the test could not
    /// be made, or not finished.
    pub verdict: Verdict,
    /// Why it is not good.
    pub cause: Option<String>,
    /// What was waited for; null where it did not come to that.
    pub waited_for: Option<Wait>,
    /// The host's processor has run the guest. Else it was emulated, and slow.
    pub kvm: bool,
    /// Bytes of memory that it had.
    pub memory: u64,
    /// It had the TPM whose state the point holds.
    pub tpm: bool,
    /// Disks of the domain that the point does not hold, by their names in it.
    pub left_out: Vec<String>,
    /// The end of what the guest has written to its serial console.
    pub console: String,
    /// Why there is no screenshot, if one was asked for.
    pub screenshot_failure: Option<String>,
    /// Milliseconds of the whole call.
    pub total_millis: u64,
}

/// Runs `bootPoint`. An error means that nothing was found out about the point, and nothing noted beside it.
pub fn run(request: BootPointRequest, listener: Listener<'_>) -> Result<BootedPoint> {
    let began = Instant::now();
    let export = Repository::check(request.repository.clone())?;
    let path = request.backup_path.clone().ok_or_else(|| Error::invalid("backupPath", "is missing"))?;
    let point = PointPath::parse("backupPath", &path)?;
    let asked = Asked::check(request)?;
    let job = job::start(asked.job.clone(), "bootPoint", &export, Some(point.instance().to_owned()))?;
    let mut job = Reporter::new(job, listener)?;
    job.begin(Phase::OpenRepository)?;
    let config = config::current();
    let reading = Reading::open(export, &point)?;
    job.begin(Phase::FollowChains)?;
    let (held, at) = (reading.clone(), point.clone());
    let manifest = bounded_until_cancelled("read the manifest", limits::STORAGE_STEP, move || {
        let folder = held.root().open_dir(&at.folder())?;
        Ok(Manifest::read_sound(&folder, &at).ok().flatten())
    });
    let manifest = manifest.inspect_err(|error| reading.note(error))?;
    let mut answer = BootedPoint::default();
    let mut test = Test { config: &config, reading: &reading, asked: &asked, answer: &mut answer };
    let (verdict, cause) = match test.run(&point, &mut job) {
        // as `verifyChain` would call it
        Err(error) if matches!(error.code, Code::CorruptImage | Code::ParentInvalid) => {
            (Verdict::Bad, Some(error.to_string()))
        }
        Err(error) if error.code == Code::Libvirt => (Verdict::Aborted, Some(error.to_string())),
        seen => seen?,
    };
    let answers = match reading.check() {
        Err(error) if matches!(error.code, Code::Busy | Code::Cancelled) => return Err(error),
        checked => checked.inspect_err(|error| reading.note(error)).is_ok(),
    };
    log::info!(
        "bootPoint of '{point}': {verdict:?}{}",
        cause.as_deref().map(|cause| format!(", {cause}")).unwrap_or_default()
    );
    if answers {
        verified::note(&reading, &point, manifest, Scope::Boot, verdict);
    }
    let total_millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let cause = cause.map(|cause| plain(&cause).into_owned());
    Ok(BootedPoint { verdict, cause, total_millis, ..answer })
}

/// Ends and removes what tests have left whose processes were killed.
pub(crate) fn clear_left(config: Arc<Config>) {
    let cleared = deadline::ask("clear what boot tests have left", limits::RECOVERY, move || {
        machine::sweep(&config);
        Ok(())
    });
    if let Err(error) = cleared {
        log::warn!("{error}");
    }
}

/// Nothing is known yet.
impl Default for BootedPoint {
    fn default() -> BootedPoint {
        BootedPoint {
            verdict: Verdict::Aborted,
            cause: None,
            waited_for: None,
            kvm: false,
            memory: 0,
            tpm: false,
            left_out: Vec::new(),
            console: String::new(),
            screenshot_failure: None,
            total_millis: 0,
        }
    }
}

/// A request, checked.
struct Asked {
    job: Option<String>,
    memory: Option<u64>,
    wait: Option<(Wait, Awaited)>,
    screenshot: Option<PathBuf>,
}

impl Asked {
    fn check(request: BootPointRequest) -> Result<Asked> {
        if let Some(path) = &request.screenshot
            && !path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir())
        {
            return Err(Error::invalid("screenshot", format!("'{}' lies in no folder", path.display())));
        }
        if let Some(path) = &request.screenshot
            && path.symlink_metadata().is_ok_and(|found| !found.is_file())
        {
            return Err(Error::invalid("screenshot", format!("'{}' is there, and no file", path.display())));
        }
        let wait = request.wait.map(|wait| Ok((wait.clone(), wait.awaited()?))).transpose()?;
        Ok(Asked { job: request.job, memory: request.memory, wait, screenshot: request.screenshot })
    }

    /// What is waited for.
    fn awaited(&self, saved: &SavedDomain) -> Result<(Wait, Awaited)> {
        match &self.wait {
            Some((Wait::Agent, _)) if !saved.agent => {
                Err(Error::invalid("wait", "the domain has no channel to the guest's agent"))
            }
            Some(wait) => Ok(wait.clone()),
            None if saved.agent => Ok((Wait::Agent, Awaited::Agent)),
            None => Ok((Wait::Seconds(SECONDS), Awaited::Time(Duration::from_secs(SECONDS)))),
        }
    }
}

impl Wait {
    fn awaited(&self) -> Result<Awaited> {
        Ok(match self {
            Wait::Agent => Awaited::Agent,
            Wait::Console(text) => Awaited::Console(Regex::new(text).map_err(|e| Error::invalid("wait", e))?),
            Wait::Seconds(seconds) => Awaited::Time(Duration::from_secs(*seconds)),
        })
    }
}

/// What was found of the point.
struct Found {
    saved: SavedDomain,
    disks: Vec<CheckedDisk>,
    /// For each disk of the domain the one of `disks`.
    held: Vec<Option<usize>>,
    /// Its UEFI variables, and the state of its TPM, if the point holds them.
    variables: Option<StateFile>,
    tpm: Option<StateFile>,
}

impl Found {
    fn find(root: &Folder, point: &PointPath) -> Result<Found> {
        let none = || Error::new(Code::NotFound, STEP, format!("'{point}' holds no XML of its domain"));
        let text = show_point::domain(root, point)?.ok_or_else(none)?;
        let folder = root.open_dir(&point.folder())?;
        let manifest = Manifest::read_sound(&folder, point)?;
        if let Some(manifest) = &manifest {
            manifest.check_text(&folder, DOMAIN, &text)?;
        }
        let saved = SavedDomain::parse(&String::from_utf8_lossy(&text))?;
        let read = |part| manifest.as_ref().map_or(Ok(None), |manifest| StateFile::read(&folder, manifest, part));
        let (variables, tpm) = (read(StatePart::Nvram)?, read(StatePart::Tpm)?);
        let disks = checked_chain::open_all(root, point, None, &checked_chain::all(root, point)?)?;
        let volumes: Vec<_> = disks.iter().map(|disk| disk.volume.as_str()).collect();
        let held = choice::held(&saved, manifest.as_ref(), &volumes);
        if held.iter().all(Option::is_none) {
            return Err(Error::new(Code::NotFound, STEP, format!("'{point}' holds no disk of its domain")));
        }
        Ok(Found { saved, disks, held, variables, tpm })
    }
}

/// What the host has for the machine.
struct Host {
    owner: Option<(u32, u32)>,
    emulator: KnownEmulator,
    machine: String,
    loader: Option<String>,
}

impl Host {
    /// `LIBVIRT` when it can't run the machine.
    fn find(uri: &str, saved: &SavedDomain) -> Result<Host> {
        let lacks = |what: String| Error::new(Code::Libvirt, STEP, format!("the host has no {what}"));
        let capabilities = Capabilities::of_host(uri)?;
        let emulators = &capabilities.emulators;
        let emulator = emulators.get(&saved.arch).filter(|_| choice::runs(&capabilities.arch, &saved.arch)).cloned();
        let emulator = emulator.ok_or_else(|| lacks(format!("processor for '{}'", saved.arch)))?;
        let machine = choice::machine(&saved.machine, &emulator).map(str::to_owned);
        let machine = machine.ok_or_else(|| lacks(format!("machine '{}', nor one like it", saved.machine)))?;
        let loader = match &saved.uefi {
            None => None,
            Some(uefi) => {
                let known = loaders(uri, &emulator.path, &saved.arch, &machine)?;
                let loader = choice::loader(uefi, &known).map(str::to_owned);
                Some(loader.ok_or_else(|| lacks("UEFI firmware like the guest's".to_owned()))?)
            }
        };
        Ok(Host { owner: capabilities.owner, emulator, machine, loader })
    }
}

/// A test under way.
struct Test<'a> {
    config: &'a Config,
    reading: &'a Reading,
    asked: &'a Asked,
    answer: &'a mut BootedPoint,
}

impl Test<'_> {
    fn run(&mut self, point: &PointPath, job: &mut Reporter<'_>) -> Result<watch::Seen> {
        let (held, at) = (self.reading.clone(), point.clone());
        let find = move || Found::find(held.root(), &at);
        let found = bounded_until_cancelled("follow the chains", limits::STORAGE_STEP, find);
        let found = NasFiles::from(found.inspect_err(|error| self.reading.note(error))?);
        let (wait, awaited) = self.asked.awaited(&found.saved)?;
        job.begin(Phase::MakeMachine)?;
        machine::sweep(self.config);
        let (uri, saved) = (self.config.connection_uri.clone(), found.saved.clone());
        let host = ask("ask what the host can run", limits::LIBVIRT_CALL, move || Host::find(&uri, &saved))?;
        let text = std::fs::read_to_string(MEMORY).map_err(|e| Error::io(STEP, MEMORY, e))?;
        let memory = choice::memory(found.saved.memory, self.asked.memory, choice::available(&text).unwrap_or(0));
        self.answer.memory = memory.map_err(|cause| Error::invalid("memory", cause))?;
        (self.answer.kvm, self.answer.waited_for) = (host.emulator.kvm, Some(wait));
        let mut folder = TestFolder::make(self.config, host.owner)?;
        let xml = self.xml(&found, &host, &mut folder, job)?;
        drop(found);
        let machine = Machine::start(folder, xml)?;
        job.begin(Phase::BootGuest)?;
        self.watch(&machine, &awaited, job)
    }

    /// The machine's XML, whose files are there then.
    fn xml(&mut self, found: &Found, host: &Host, folder: &mut TestFolder, job: &mut Reporter<'_>) -> Result<String> {
        let Found { saved, disks, held, variables, tpm } = found;
        let (mut paths, mut served) = (Vec::new(), BTreeSet::new());
        for (saved, held) in saved.disks.iter().zip(held) {
            job.tell()?;
            match held {
                Some(held) if served.insert(held) => paths.push((saved, folder.serve(&disks[*held])?)),
                _ => self.answer.left_out.push(saved.target.clone()),
            }
        }
        let disk = |(saved, (overlay, below))| BootDisk { saved, overlay, below };
        let disks: Vec<_> = paths
            .iter()
            .map(|(saved, (overlay, below))| (*saved, (overlay.as_str(), below.as_str())))
            .map(disk)
            .collect();
        let path = folder.path("variables")?;
        if let (Some(held), Some(uefi), Some(loader)) = (variables, &saved.uefi, &host.loader) {
            if choice::fits(held.name, uefi, loader) {
                folder.put(&path, &held.bytes)?;
            } else {
                log::info!("the point's UEFI variables are of another firmware than '{loader}', which begins without");
            }
        }
        let tpm = self.put_tpm(saved, tpm.as_ref(), folder)?;
        self.answer.tpm = tpm.is_some();
        Ok(boot_xml(&BootDomain {
            saved,
            name: &folder.domain(),
            kind: if host.emulator.kvm { "kvm" } else { "qemu" },
            emulator: &host.emulator.path,
            machine: &host.machine,
            memory: self.answer.memory,
            cpus: saved.cpus.min(processors()),
            uefi: host.loader.as_deref().map(|loader| (loader, path.as_str())),
            disks: &disks,
            tpm: tpm.as_ref().map(|(uuid, model)| (uuid.as_str(), *model)),
        }))
    }

    /// Puts the TPM's state into its place, and returns the domain's UUID and the TPM's model; none of a machine that begins without.
    fn put_tpm(
        &self,
        saved: &SavedDomain,
        state: Option<&StateFile>,
        folder: &mut TestFolder,
    ) -> Result<Option<(String, &'static str)>> {
        let (Some(state), Some(model)) = (state, saved.tpm) else { return Ok(None) };
        if let Some(why) = tpm::lack(state, &self.config.connection_uri) {
            log::info!("the point's state of a TPM is not used, and the guest begins without a TPM: {why}");
            return Ok(None);
        }
        Ok(Some((folder.put_tpm(state)?, model)))
    }

    fn watch(&mut self, machine: &Machine, awaited: &Awaited, job: &mut Reporter<'_>) -> Result<watch::Seen> {
        let (_, live) = machine.ask("look at the machine", Domain::xml)?;
        let none = || Error::new(Code::Libvirt, STEP, "libvirt has made no console");
        let mut console = Console::open(Path::new(&live.console.ok_or_else(none)?))?;
        if matches!(awaited, Awaited::Agent) {
            machine.ask("bound the agent's answers", |domain| domain.bound_agent(limits::BOOT_AGENT))?;
        }
        let guard = machine.guard()?;
        machine.ask("let the guest run", Domain::resume)?;
        let watch = Watch { machine, guard: &guard, reading: self.reading };
        let seen = watch.wait(awaited, &mut console, job);
        self.answer.console = console.end();
        if let (Some(path), Ok(_)) = (&self.asked.screenshot, &seen) {
            let taken = machine.ask("take a screenshot", |domain| domain.screenshot(picture::LARGEST));
            let written = taken.and_then(|picture| picture::write(path, &picture));
            self.answer.screenshot_failure = written.err().map(|error| error.to_string());
        }
        seen
    }
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}
