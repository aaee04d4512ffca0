//! A disk in the domain's XML (libvirt's formatdomain, "Hard drives, floppy disks, CDROMs").

use serde::Deserialize;

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the domain, e.g. `vda`.
    pub target: String,
    /// What it is to the guest.
    pub device: Device,
    /// The name of its device, e.g. `virtio-disk0`.
    pub alias: Option<String>,
    /// Where its data is.
    pub source: Source,
    /// How QEMU reaches its image in Ceph, if the disk is one, byte for byte, and if the XML tells all of that.
    pub ceph: Option<CephSource>,
    /// Host path of its top image, a file or a device, as far as that is known: the path of a pool's volume is not in the
    /// XML (`DomainXml::locate`).
    pub path: Option<String>,
    /// Format of its top image, e.g. `qcow2`.
    pub format: String,
    /// The images that its top image stands on, nearest first.
    pub backing: Vec<BackingImage>,
    /// Its serial.
    pub serial: Option<String>,
    /// Several domains may write to it.
    pub shareable: bool,
    /// What is written to it is dropped when the domain stops.
    pub transient: bool,
    /// The guest can't write to it.
    pub read_only: bool,
    /// It, or an image below it, is encrypted by QEMU.
    pub encrypted: bool,
    /// QEMU serves it on a thread of its own: the disk's, or that of its SCSI controller.
    pub iothread: bool,
}

/// What a disk is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A disk.
    Disk,
    /// A disk to which the guest's SCSI commands go as they are.
    Lun,
    /// A drive (CD-ROM, floppy) whose medium can be exchanged.
    Removable,
}

/// An image below a disk's top image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingImage {
    /// Where its data is.
    pub source: Source,
    /// Its format, e.g. `qcow2`.
    pub format: String,
}

/// Where a disk's data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(String),
    /// A block device.
    Block(String),
    /// An image on the network, e.g. `pool/image` of RBD.
    Network(String),
    /// A volume of a libvirt storage pool.
    Volume(String),
    /// Anything else, by libvirt's name for the type, or no source at all.
    Other(String),
}

impl Source {
    /// The host path of a file or device.
    pub fn host_path(&self) -> Option<&str> {
        match self {
            Source::File(path) | Source::Block(path) => Some(path),
            Source::Network(_) | Source::Volume(_) | Source::Other(_) => None,
        }
    }

    /// libvirt's name for what it is.
    pub fn kind(&self) -> &str {
        match self {
            Source::File(_) => "file",
            Source::Block(_) => "block",
            Source::Network(_) => "network",
            Source::Volume(_) => "volume",
            Source::Other(kind) => kind,
        }
    }

    /// The path or name by which the source is known.
    pub fn path(&self) -> Option<&str> {
        match self {
            Source::File(path) | Source::Block(path) | Source::Network(path) | Source::Volume(path) => Some(path),
            Source::Other(_) => None,
        }
    }
}

/// How QEMU reaches an image in Ceph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CephSource {
    /// `pool/image`.
    pub name: String,
    /// Ceph's monitors, each with its port if that is told.
    pub monitors: Vec<String>,
    /// Ceph's user.
    pub user: Option<String>,
    /// Where libvirt keeps the user's key.
    pub secret: Option<SecretName>,
}

/// How a disk's XML names a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretName {
    /// By its UUID.
    Uuid(String),
    /// By what it is for.
    Usage(String),
}

#[derive(Deserialize)]
pub(super) struct ControllerElement {
    #[serde(rename = "@type", default)]
    kind: String,
    #[serde(rename = "@index", default)]
    index: String,
    driver: Option<DriverElement>,
}

#[derive(Deserialize)]
pub(super) struct DiskElement {
    #[serde(rename = "@type", default)]
    kind: String,
    #[serde(rename = "@device")]
    device: Option<String>,
    source: Option<SourceElement>,
    driver: Option<DriverElement>,
    target: Option<TargetElement>,
    serial: Option<String>,
    shareable: Option<Present>,
    transient: Option<Present>,
    readonly: Option<Present>,
    alias: Option<AliasElement>,
    encryption: Option<Present>,
    auth: Option<AuthElement>,
    address: Option<AddressElement>,
    #[serde(rename = "backingStore")]
    backing: Option<Box<BackingElement>>,
}

#[derive(Deserialize)]
struct AddressElement {
    #[serde(rename = "@controller")]
    controller: Option<String>,
}

#[derive(Deserialize)]
struct Present {}

#[derive(Deserialize)]
struct AliasElement {
    #[serde(rename = "@name")]
    name: String,
}

#[derive(Deserialize)]
struct SourceElement {
    #[serde(rename = "@file")]
    file: Option<String>,
    #[serde(rename = "@dev")]
    dev: Option<String>,
    #[serde(rename = "@name")]
    name: Option<String>,
    #[serde(rename = "@volume")]
    volume: Option<String>,
    #[serde(rename = "@protocol")]
    protocol: Option<String>,
    #[serde(default)]
    host: Vec<HostElement>,
    snapshot: Option<Present>,
    config: Option<Present>,
    slices: Option<Present>,
    auth: Option<AuthElement>,
    encryption: Option<Present>,
}

#[derive(Deserialize)]
struct HostElement {
    #[serde(rename = "@name")]
    name: Option<String>,
    #[serde(rename = "@port")]
    port: Option<String>,
}

impl HostElement {
    fn address(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        let name = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        Some(self.port.as_ref().map_or(name.clone(), |port| format!("{name}:{port}")))
    }
}

#[derive(Deserialize)]
struct AuthElement {
    #[serde(rename = "@username")]
    username: Option<String>,
    secret: Option<SecretElement>,
}

#[derive(Deserialize)]
struct SecretElement {
    #[serde(rename = "@uuid")]
    uuid: Option<String>,
    #[serde(rename = "@usage")]
    usage: Option<String>,
}

impl SecretElement {
    fn name(&self) -> Option<SecretName> {
        let usage = || self.usage.clone().map(SecretName::Usage);
        self.uuid.clone().map(SecretName::Uuid).or_else(usage)
    }
}

#[derive(Deserialize)]
struct DriverElement {
    #[serde(rename = "@type")]
    format: Option<String>,
    #[serde(rename = "@iothread")]
    iothread: Option<String>,
    /// Several of them, since libvirt 10.
    iothreads: Option<Present>,
}

impl DriverElement {
    fn has_iothread(&self) -> bool {
        self.iothread.is_some() || self.iothreads.is_some()
    }
}

#[derive(Deserialize)]
struct FormatElement {
    #[serde(rename = "@type", default)]
    kind: String,
}

#[derive(Deserialize)]
pub(super) struct TargetElement {
    #[serde(rename = "@dev", default)]
    pub dev: String,
    #[serde(rename = "@bus")]
    bus: Option<String>,
}

#[derive(Deserialize)]
struct BackingElement {
    #[serde(rename = "@type", default)]
    kind: String,
    format: Option<FormatElement>,
    source: Option<SourceElement>,
    #[serde(rename = "backingStore")]
    backing: Option<Box<BackingElement>>,
}

impl DiskElement {
    pub(super) fn device(&self) -> Device {
        match self.device.as_deref() {
            None | Some("disk") => Device::Disk,
            Some("lun") => Device::Lun,
            Some(_) => Device::Removable,
        }
    }

    /// Has it an iothread, or the controller that it hangs on?
    pub(super) fn has_iothread(&self, controllers: &[ControllerElement]) -> bool {
        let bus = self.target.as_ref().and_then(|target| target.bus.as_deref());
        let index = self.address.as_ref().and_then(|address| address.controller.as_deref());
        let its = |controller: &&ControllerElement| {
            Some(controller.kind.as_str()) == bus && Some(controller.index.as_str()) == index
        };
        let drivers = self.driver.iter().chain(controllers.iter().filter(its).flat_map(|its| &its.driver));
        drivers.into_iter().any(DriverElement::has_iothread)
    }
}

impl From<DiskElement> for Disk {
    fn from(disk: DiskElement) -> Disk {
        let device = disk.device();
        let mut encrypted =
            disk.encryption.is_some() || disk.source.as_ref().is_some_and(|source| source.encryption.is_some());
        let mut backing = Vec::new();
        let mut layer = disk.backing;
        while let Some(this) = layer {
            encrypted |= this.source.as_ref().is_some_and(|source| source.encryption.is_some());
            // the element that ends a chain is empty
            if this.source.is_some() {
                let format = this.format.map_or_else(|| "raw".to_owned(), |format| format.kind);
                backing.push(BackingImage { source: Source::from(&this.kind, this.source), format });
            }
            layer = this.backing;
        }
        let format = disk.driver.and_then(|d| d.format).unwrap_or_else(|| "raw".to_owned());
        let ceph = disk.source.as_ref().filter(|_| format == "raw");
        let ceph = ceph.and_then(|source| source.ceph(disk.auth.as_ref()));
        let source = Source::from(&disk.kind, disk.source);
        Disk {
            target: disk.target.map(|t| t.dev).unwrap_or_default(),
            device,
            ceph,
            path: source.host_path().map(str::to_owned),
            source,
            alias: disk.alias.map(|alias| alias.name),
            format,
            backing,
            serial: disk.serial.filter(|s| !s.is_empty()),
            shareable: disk.shareable.is_some(),
            transient: disk.transient.is_some(),
            read_only: disk.readonly.is_some(),
            encrypted,
            iothread: false,
        }
    }
}

impl SourceElement {
    /// How QEMU reaches the image in Ceph. `auth` is the disk's own, which libvirt writes where it was given.
    fn ceph(&self, auth: Option<&AuthElement>) -> Option<CephSource> {
        let told = self.snapshot.is_none() && self.config.is_none() && self.slices.is_none();
        let plain = self.protocol.as_deref() == Some("rbd") && told;
        let name = self.name.clone().filter(|_| plain)?;
        let monitors: Vec<_> = self.host.iter().map(HostElement::address).collect::<Option<_>>()?;
        let auth = self.auth.as_ref().or(auth);
        let user = auth.and_then(|auth| auth.username.clone());
        let secret = auth.and_then(|auth| auth.secret.as_ref()?.name());
        (!monitors.is_empty()).then_some(CephSource { name, monitors, user, secret })
    }
}

impl Source {
    fn from(kind: &str, source: Option<SourceElement>) -> Source {
        let other = || Source::Other(kind.to_owned());
        let Some(source) = source else { return other() };
        let known = match kind {
            "file" => source.file.map(Source::File),
            "block" => source.dev.map(Source::Block),
            "network" => source.name.map(Source::Network),
            "volume" => source.volume.map(Source::Volume),
            _ => None,
        };
        known.unwrap_or_else(other)
    }
}
