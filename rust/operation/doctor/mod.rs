//! `doctor`: what this host lacks for backups, and what its repositories do. It looks at each thing by itself and for as long as that
//! may take; what it makes to try something is gone when it has been tried.

mod finding;
mod judgement;
mod probe;

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustix::thread::{CapabilitySet, capabilities};

use crate::config::{Config, Engine};
use crate::engine::pull;
use crate::engine::scratch::Scratch;
use crate::error::{Error, Result};
use crate::libvirt;
use crate::limits;
use crate::nas::access::check_qemu;
use crate::nas::folder::Folder;
use crate::nas::repository::Repository;
use crate::nas::session::Session;
use crate::nas::{health, tree};
use crate::nbd;
use crate::process::Tool;
use crate::work::deadline::{ask, bounded, bounded_for_host};
use crate::work::owner::WorkFor;
pub use finding::{Finding, State};

const STEP: &str = "look at this host";

/// Looks at the host.
pub fn host(config: &Arc<Config>) -> Vec<Finding> {
    let mut findings = vec![judgement::rights(&lacking_rights().map_err(|error| error.to_string()))];
    let (hypervisor, owner) = hypervisor(config);
    findings.extend(hypervisor);
    let version = qemu_img().map_err(|error| error.reason());
    findings.push(judgement::qemu_img(&version));
    findings.push(judgement::mount(&there("mount")));
    findings
        .extend(judgement::SOME_NEED.map(|(program, advice)| judgement::some_need(program, &there(program), advice)));
    findings.push(judgement::libnbd(&nbd::available().map_err(|error| error.cause), config.engine));
    if config.engine != Engine::Push {
        findings.push(judgement::scratch(&scratch(config.clone(), owner), config.engine));
    }
    findings.push(judgement::links(&tree::knows_nosymfollow().map_err(|error| error.reason()), config.engine));
    findings.push(judgement::keys(config.key_file.as_deref()));
    findings
}

/// Looks at the repository that is called `name`.
pub fn repository(name: &str, repository: Result<Repository>, config: Arc<Config>) -> Vec<Finding> {
    judgement::repository(name, &repository.and_then(|repository| try_repository(repository, config)))
}

fn try_repository(repository: Repository, config: Arc<Config>) -> Result<probe::Tried> {
    let export = Repository::check(Some(repository))?;
    let _owner = WorkFor::repository(&export);
    let tried = Session::open_bounded(export.clone(), config)
        .and_then(|session| bounded("try the repository", limits::NAS_PROBE, move || probe::try_out(session.root())));
    tried.inspect_err(|error| health::note_failure(&export, error))
}

/// What is said of libvirt and QEMU, and the user and group that QEMU runs as, if libvirt tells them.
fn hypervisor(config: &Config) -> (Vec<Finding>, Option<(u32, u32)>) {
    let uri = config.connection_uri.clone();
    let asked = ask("ask libvirt", limits::LIBVIRT_CALL, move || libvirt::hypervisor(&uri));
    let asked = asked.map_err(|error| error.reason());
    let unknown = |_| "libvirt does not tell".to_owned();
    let qemu = asked.as_ref().map_err(unknown).and_then(|host| host.qemu.clone().map_err(|error| error.reason()));
    let can =
        asked.as_ref().map_err(unknown).and_then(|host| host.capabilities.clone().map_err(|error| error.reason()));
    let owner = can.as_ref().ok().and_then(|can| can.owner);
    let mut findings = vec![judgement::libvirt(&asked.map(|host| host.libvirt))];
    findings.extend(judgement::qemu(&qemu));
    findings.push(judgement::apparmor(&apparmor().map_err(|error| error.to_string()), &can.map(|can| can.models)));
    findings.push(judgement::selinux(&selinux().map_err(|error| error.to_string()), config.engine));
    (findings, owner)
}

/// The capabilities that this process lacks.
fn lacking_rights() -> io::Result<Vec<&'static str>> {
    let ours = capabilities(None)?.effective;
    let needed = [
        ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
        ("CAP_SETUID", CapabilitySet::SETUID),
        ("CAP_SETGID", CapabilitySet::SETGID),
        ("CAP_CHOWN", CapabilitySet::CHOWN),
    ];
    Ok(needed.into_iter().filter(|(_, right)| !ours.contains(*right)).map(|(name, _)| name).collect())
}

const fn tool(program: &'static str) -> Tool {
    Tool { program, step: STEP, late: "it does not end" }
}

fn there(program: &'static str) -> judgement::Asked<String> {
    let found = tool(program).command().map_err(|error| error.to_string())?;
    Ok(found.get_program().to_string_lossy().into_owned())
}

/// What it says of its version.
fn qemu_img() -> Result<String> {
    let tool = tool("qemu-img");
    let mut command = tool.command().map_err(|error| Error::io(STEP, tool.program, error))?;
    command.arg("--version");
    Ok(tool.run_apart(command, limits::QEMU_IMG, || Ok(()))?.output)
}

/// The room in the scratch folder. The folder of a backup is made there, tried as QEMU's user, and removed.
fn scratch(config: Arc<Config>, owner: Option<(u32, u32)>) -> Result<u64> {
    bounded_for_host("try the scratch folder", limits::STORAGE_STEP, move || {
        let mut scratch = Scratch::make(&config, "doctor", owner)?;
        if let Some(owner) = owner {
            check_qemu(&Folder::open_root(scratch.folder())?, scratch.folder(), owner)?;
        }
        pull::check_scratch(&mut scratch)?;
        scratch.room()
    })
}

/// Whether AppArmor is in force, and what rules of the operator's deny all guests.
fn apparmor() -> io::Result<Option<Vec<String>>> {
    const RULES: &str = "/etc/apparmor.d/local/abstractions/libvirt-qemu";
    let enabled = read("/sys/module/apparmor/parameters/enabled")?;
    if enabled.is_none_or(|enabled| enabled.trim() != "Y") {
        return Ok(None);
    }
    Ok(Some(judgement::denials(&read(RULES)?.unwrap_or_default())))
}

/// Whether SELinux is in force, and which of the booleans that a push needs are off; none without SELinux.
fn selinux() -> io::Result<Option<(bool, Vec<&'static str>)>> {
    let Some(enforces) = read("/sys/fs/selinux/enforce")? else { return Ok(None) };
    let mut off = Vec::new();
    for name in ["virt_use_nfs", "virt_use_samba"] {
        // "0 1": off, and on from the next load of the policy on
        if read(&format!("/sys/fs/selinux/booleans/{name}"))?.is_some_and(|value| value.starts_with('0')) {
            off.push(name);
        }
    }
    Ok(Some((enforces.trim() == "1", off)))
}

/// A file of the host's; none if it is not there.
fn read(path: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
