//! What a boot test takes over of the XML that a restore point holds of its domain. The XML lies on a NAS, and anybody may have
//! written it: what this file names is taken over, each word from a list of ours, and nothing else is.

use serde::Deserialize;

use crate::error::{Code, Error, Result};

/// The features that a guest may need to boot.
const FEATURES: [&str; 3] = ["acpi", "apic", "pae"];
const BUSES: [&str; 5] = ["virtio", "scsi", "sata", "ide", "usb"];
const SCSI: [&str; 7] = [
    "virtio-scsi",
    "virtio-transitional",
    "virtio-non-transitional",
    "lsilogic",
    "lsisas1068",
    "lsisas1078",
    "vmpvscsi",
];
const TPMS: [&str; 2] = ["tpm-crb", "tpm-tis"];
const SECTORS: [&str; 2] = ["512", "4096"];
/// Longer than any serial that a disk's bus carries.
const LONGEST_SERIAL: usize = 256;

/// A saved domain, as far as a boot test heeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedDomain {
    /// The processor's architecture, and the machine. Nobody has checked these words: the host has to know them.
    pub arch: String,
    /// See there.
    pub machine: String,
    /// Its firmware, if that is UEFI.
    pub uefi: Option<Uefi>,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// Those of [`FEATURES`] that it has.
    pub features: Vec<&'static str>,
    /// Its clock shows the local time.
    pub local_time: bool,
    /// The model of its first SCSI controller.
    pub scsi: Option<&'static str>,
    /// Its disks, in XML order.
    pub disks: Vec<SavedDisk>,
    /// It has a channel to the guest's agent.
    pub agent: bool,
    /// The model of its TPM, if that is emulated.
    pub tpm: Option<&'static str>,
}

/// UEFI firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uefi {
    /// Its path on the host of then. Nobody has checked it: the host has to name it.
    pub loader: Option<String>,
    /// It checks what it boots.
    pub secure: bool,
}

/// A disk of a saved domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedDisk {
    /// Its name in the domain, e.g. `vda`: three or four letters.
    pub target: String,
    /// How it hangs on the machine.
    pub bus: &'static str,
    /// The path or name of its source.
    pub source: Option<String>,
    /// Its serial.
    pub serial: Option<String>,
    /// Its place among what is booted from.
    pub boot: Option<u32>,
    /// Bytes of a logical and of a physical sector, if it tells.
    pub sectors: [Option<&'static str>; 2],
}

impl SavedDomain {
    /// Reads a domain's XML; `CORRUPT_IMAGE` when that is none.
    pub fn parse(text: &str) -> Result<SavedDomain> {
        let refuse = |cause: String| Error::new(Code::CorruptImage, "read the domain's XML", cause);
        let domain: DomainElement = quick_xml::de::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let memory = domain.memory.bytes().ok_or_else(|| refuse("it tells no memory".to_owned()))?;
        let devices = domain.devices;
        Ok(SavedDomain {
            arch: domain.os.kind.arch.clone(),
            machine: domain.os.kind.machine.clone(),
            uefi: domain.os.uefi(),
            memory,
            cpus: domain.vcpu.parse().unwrap_or(1).max(1),
            features: domain.features.known(),
            local_time: domain.clock.is_some_and(|clock| clock.offset == "localtime"),
            scsi: devices.controller.iter().find_map(Controller::scsi_model),
            agent: devices.channel.iter().any(Channel::is_to_agent),
            tpm: devices.tpm.iter().find_map(TpmElement::model),
            disks: devices.disk.into_iter().filter_map(DiskElement::understood).collect(),
        })
    }
}

/// The one of our words that this is.
fn among<const N: usize>(words: [&'static str; N], word: &str) -> Option<&'static str> {
    words.into_iter().find(|known| *known == word)
}

#[derive(Deserialize)]
struct DomainElement {
    memory: Memory,
    #[serde(default)]
    vcpu: String,
    os: Os,
    #[serde(default)]
    features: Features,
    clock: Option<Clock>,
    #[serde(default)]
    devices: Devices,
}

#[derive(Deserialize)]
struct Memory {
    #[serde(rename = "@unit")]
    unit: Option<String>,
    #[serde(rename = "$text")]
    amount: String,
}

impl Memory {
    /// None of a unit that libvirt does not write.
    fn bytes(&self) -> Option<u64> {
        let unit: u64 = match self.unit.as_deref() {
            Some("b" | "bytes") => 1,
            None | Some("k" | "KiB") => 1 << 10,
            Some("M" | "MiB") => 1 << 20,
            Some("G" | "GiB") => 1 << 30,
            Some("T" | "TiB") => 1 << 40,
            Some(_) => return None,
        };
        self.amount.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
    }
}

#[derive(Deserialize)]
struct Os {
    #[serde(rename = "@firmware")]
    firmware: Option<String>,
    #[serde(rename = "type")]
    kind: OsType,
    loader: Option<Loader>,
}

#[derive(Deserialize)]
struct OsType {
    #[serde(rename = "@arch", default)]
    arch: String,
    #[serde(rename = "@machine", default)]
    machine: String,
}

#[derive(Deserialize)]
struct Loader {
    #[serde(rename = "@type")]
    kind: Option<String>,
    #[serde(rename = "@secure")]
    secure: Option<String>,
    #[serde(rename = "$text")]
    path: Option<String>,
}

impl Os {
    fn uefi(&self) -> Option<Uefi> {
        let flash = self.loader.as_ref().filter(|loader| loader.kind.as_deref() == Some("pflash"));
        let secure = self.loader.as_ref().is_some_and(|loader| loader.secure.as_deref() == Some("yes"));
        let is_uefi = flash.is_some() || self.firmware.as_deref() == Some("efi");
        is_uefi.then(|| Uefi { loader: flash.and_then(|loader| loader.path.clone()), secure })
    }
}

#[derive(Deserialize, Default)]
struct Features {
    acpi: Option<Present>,
    apic: Option<Present>,
    pae: Option<Present>,
}

impl Features {
    fn known(&self) -> Vec<&'static str> {
        let has = [&self.acpi, &self.apic, &self.pae].map(Option::is_some);
        FEATURES.into_iter().zip(has).filter_map(|(name, has)| has.then_some(name)).collect()
    }
}

#[derive(Deserialize)]
struct Present {}

#[derive(Deserialize)]
struct Clock {
    #[serde(rename = "@offset", default)]
    offset: String,
}

#[derive(Deserialize, Default)]
struct Devices {
    #[serde(default)]
    disk: Vec<DiskElement>,
    #[serde(default)]
    controller: Vec<Controller>,
    #[serde(default)]
    channel: Vec<Channel>,
    #[serde(default)]
    tpm: Vec<TpmElement>,
}

#[derive(Deserialize)]
struct TpmElement {
    #[serde(rename = "@model", default)]
    model: String,
    backend: Option<TpmBackend>,
}

#[derive(Deserialize)]
struct TpmBackend {
    #[serde(rename = "@type", default)]
    kind: String,
}

impl TpmElement {
    fn model(&self) -> Option<&'static str> {
        let is_emulated = self.backend.as_ref().is_some_and(|backend| backend.kind == "emulator");
        if is_emulated { among(TPMS, &self.model) } else { None }
    }
}

#[derive(Deserialize)]
struct Controller {
    #[serde(rename = "@type", default)]
    kind: String,
    #[serde(rename = "@model", default)]
    model: String,
}

impl Controller {
    fn scsi_model(&self) -> Option<&'static str> {
        if self.kind == "scsi" { among(SCSI, &self.model) } else { None }
    }
}

#[derive(Deserialize)]
struct Channel {
    target: Option<ChannelTarget>,
}

#[derive(Deserialize)]
struct ChannelTarget {
    #[serde(rename = "@name", default)]
    name: String,
}

impl Channel {
    fn is_to_agent(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.name == "org.qemu.guest_agent.0")
    }
}

#[derive(Deserialize)]
struct DiskElement {
    #[serde(rename = "@device")]
    device: Option<String>,
    source: Option<Source>,
    target: Option<Target>,
    serial: Option<String>,
    boot: Option<Boot>,
    blockio: Option<BlockIo>,
}

#[derive(Deserialize)]
struct Source {
    #[serde(rename = "@file")]
    file: Option<String>,
    #[serde(rename = "@dev")]
    dev: Option<String>,
    #[serde(rename = "@name")]
    name: Option<String>,
    #[serde(rename = "@volume")]
    volume: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(rename = "@dev", default)]
    dev: String,
    #[serde(rename = "@bus", default)]
    bus: String,
}

#[derive(Deserialize)]
struct Boot {
    #[serde(rename = "@order", default)]
    order: String,
}

#[derive(Deserialize)]
struct BlockIo {
    #[serde(rename = "@logical_block_size", default)]
    logical: String,
    #[serde(rename = "@physical_block_size", default)]
    physical: String,
}

impl DiskElement {
    /// None of a drive with an exchangeable medium, or of a disk that is no disk of ours.
    fn understood(self) -> Option<SavedDisk> {
        let target = self.target?;
        let is_name = (3..=4).contains(&target.dev.len()) && target.dev.bytes().all(|byte| byte.is_ascii_lowercase());
        if !is_name || self.device.is_some_and(|device| device != "disk") {
            return None;
        }
        let is_plain = |serial: &String| {
            (1..=LONGEST_SERIAL).contains(&serial.len()) && serial.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        let sectors = self.blockio.map(|io| [among(SECTORS, &io.logical), among(SECTORS, &io.physical)]);
        Some(SavedDisk {
            bus: among(BUSES, &target.bus)?,
            target: target.dev,
            source: self.source.and_then(|source| source.file.or(source.dev).or(source.name).or(source.volume)),
            serial: self.serial.filter(is_plain),
            boot: self.boot.and_then(|boot| boot.order.parse().ok()).filter(|order| *order > 0),
            sectors: sectors.unwrap_or_default(),
        })
    }
}
