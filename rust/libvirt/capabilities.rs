//! What this host's libvirt is, and can run (libvirt's formatcaps and formatdomaincaps).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::at;
use super::connection::connect;
use crate::error::{Code, Error, Result};

const STEP: &str = "ask what the host can run";

/// What the host can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The architecture of its processors.
    pub arch: String,
    /// User and group that QEMU runs as; none where libvirt does not tell, as that of a user of its own.
    pub owner: Option<(u32, u32)>,
    /// What guests are confined by, such as `apparmor`.
    pub models: Vec<String>,
    /// Its QEMUs by the architecture of their machines.
    pub emulators: BTreeMap<String, KnownEmulator>,
}

/// A QEMU of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownEmulator {
    /// Its program.
    pub path: String,
    /// The machines that it knows.
    pub machines: Vec<String>,
    /// The host's processor can run its guests.
    pub kvm: bool,
}

impl Capabilities {
    /// Asks the libvirt at `uri`.
    pub fn of_host(uri: &str) -> Result<Capabilities> {
        Capabilities::parse(&connect(uri)?.capabilities().map_err(at(STEP))?)
    }

    fn parse(text: &str) -> Result<Capabilities> {
        let found: CapabilitiesElement = understand(text)?;
        let dac = found.host.secmodel.iter().find(|security| security.model == "dac");
        let arches = found.guest.into_iter().filter(|guest| guest.os_type == "hvm").map(|guest| guest.arch);
        let emulator = |arch: Arch| {
            let kvm = arch.domain.iter().any(|domain| domain.kind == "kvm");
            (arch.name, KnownEmulator { path: arch.emulator, machines: arch.machine, kvm })
        };
        let owner = dac.and_then(|dac| dac.baselabel.first()).and_then(|label| owner(label));
        let models = found.host.secmodel.iter().map(|security| security.model.clone()).collect();
        Ok(Capabilities { arch: found.host.cpu.arch, owner, models, emulators: arches.map(emulator).collect() })
    }
}

/// What runs a host's guests. Versions count as libvirt does: 9.0.0 is 9,000,000.
#[derive(Debug, Clone)]
pub struct Hypervisor {
    /// libvirt's version.
    pub libvirt: u64,
    /// QEMU's version; an error where the host has none.
    pub qemu: Result<u64>,
    /// What it can run, and how.
    pub capabilities: Result<Capabilities>,
}

/// Asks the libvirt at `uri` what it is.
pub fn hypervisor(uri: &str) -> Result<Hypervisor> {
    const STEP: &str = "ask libvirt for versions";
    let connection = connect(uri)?;
    let libvirt = connection.lib_version().map_err(at(STEP))?;
    let qemu = connection.hyp_version().map(u64::from).map_err(at(STEP));
    Ok(Hypervisor { libvirt: libvirt.into(), qemu, capabilities: Capabilities::of_host(uri) })
}

/// The UEFI firmware that the host's libvirt knows for a machine.
pub fn loaders(uri: &str, emulator: &str, arch: &str, machine: &str) -> Result<Vec<String>> {
    let connection = connect(uri)?;
    let text = connection.domain_capabilities(Some(emulator), Some(arch), Some(machine), None, 0).map_err(at(STEP))?;
    let found: DomainCapabilitiesElement = understand(&text)?;
    Ok(found.os.loader.map(|loader| loader.value).unwrap_or_default())
}

fn understand<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    quick_xml::de::from_str(text).map_err(|e| Error::new(Code::Libvirt, STEP, e))
}

/// User and group of a label, which libvirt writes as `+64055:+108`.
pub(super) fn owner(label: &str) -> Option<(u32, u32)> {
    let (user, group) = label.split_once(':')?;
    let number = |text: &str| text.strip_prefix('+')?.parse().ok();
    Some((number(user)?, number(group)?))
}

#[derive(Deserialize)]
struct CapabilitiesElement {
    #[serde(default)]
    host: Host,
    #[serde(default)]
    guest: Vec<Guest>,
}

#[derive(Deserialize, Default)]
struct Host {
    #[serde(default)]
    cpu: Cpu,
    #[serde(default)]
    secmodel: Vec<SecurityModel>,
}

#[derive(Deserialize, Default)]
struct Cpu {
    #[serde(default)]
    arch: String,
}

#[derive(Deserialize)]
struct SecurityModel {
    #[serde(default)]
    model: String,
    #[serde(default)]
    baselabel: Vec<String>,
}

#[derive(Deserialize)]
struct Guest {
    #[serde(default)]
    os_type: String,
    arch: Arch,
}

#[derive(Deserialize)]
struct Arch {
    #[serde(rename = "@name")]
    name: String,
    #[serde(default)]
    emulator: String,
    #[serde(default)]
    machine: Vec<String>,
    #[serde(default)]
    domain: Vec<DomainType>,
}

#[derive(Deserialize)]
struct DomainType {
    #[serde(rename = "@type", default)]
    kind: String,
}

#[derive(Deserialize)]
struct DomainCapabilitiesElement {
    #[serde(default)]
    os: DomainOs,
}

#[derive(Deserialize, Default)]
struct DomainOs {
    loader: Option<Loader>,
}

#[derive(Deserialize)]
struct Loader {
    #[serde(default)]
    value: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_tells_its_emulators_and_whom_they_run_as() {
        let text = "<capabilities><host><cpu><arch>x86_64</arch></cpu><secmodel><model>apparmor</model><doi>0</doi></secmodel>\
            <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel>\
            <baselabel type='qemu'>+64055:+108</baselabel></secmodel></host>\
            <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize><emulator>/usr/bin/q</emulator>\
            <machine maxCpus='255'>pc-q35-7.2</machine><machine canonical='pc-q35-7.2' maxCpus='255'>q35</machine>\
            <domain type='qemu'/><domain type='kvm'/></arch><features><acpi default='on' toggle='yes'/></features></guest>\
            <guest><os_type>hvm</os_type><arch name='aarch64'><emulator>/usr/bin/a</emulator><domain type='qemu'/></arch></guest>\
            <guest><os_type>exe</os_type><arch name='i686'/></guest></capabilities>";
        let found = Capabilities::parse(text).unwrap();
        assert_eq!(found.arch, "x86_64");
        assert_eq!((found.owner, found.models.join(" ")), (Some((64055, 108)), "apparmor dac".to_owned()));
        let names: Vec<_> = found.emulators.keys().map(String::as_str).collect();
        assert_eq!(names, ["aarch64", "x86_64"]);
        let x86 = &found.emulators["x86_64"];
        assert_eq!(
            (x86.path.as_str(), x86.machines.join(" "), x86.kvm),
            ("/usr/bin/q", "pc-q35-7.2 q35".to_owned(), true)
        );
        assert!(!found.emulators["aarch64"].kvm);
        let none = Capabilities::parse("<capabilities/>").unwrap();
        assert!(none.owner.is_none() && none.models.is_empty());
        assert_eq!(Capabilities::parse("").unwrap_err().code, Code::Libvirt);
    }
}
