//! The domain's XML, read (libvirt's formatdomain).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::block::Block;
use super::capabilities::owner;
use super::disk_xml::{ControllerElement, Device, Disk, DiskElement, Source, TargetElement};
use super::machine_xml::{Nvram, OsElement, Tpm, TpmElement};
use crate::error::{Code, Error, Result};

/// What a backup needs of a domain's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainXml {
    /// Its disks of `device='disk'`, in XML order.
    pub disks: Vec<Disk>,
    /// Its other disks (CD-ROM, floppy, LUN), which no backup holds.
    pub others: Vec<Disk>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// It has a channel to the guest's agent.
    pub agent: bool,
    /// The host's end of its serial console, where that is a terminal.
    pub console: Option<String>,
    /// User and group that QEMU runs as, by the label of a guest that has one.
    pub owner: Option<(u32, u32)>,
    /// What confines QEMU, and what to look for where it may have denied something.
    pub confined: Option<String>,
    /// Its UEFI variables.
    pub nvram: Option<Nvram>,
    /// Its TPM.
    pub tpm: Option<Tpm>,
}

/// A network interface, as `domiflist.xml` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// libvirt's type, e.g. `bridge`.
    pub kind: String,
    /// The host's side, e.g. `vnet0`.
    pub target: Option<String>,
    /// What it is connected to.
    pub source: Option<String>,
    /// The device model.
    pub model: Option<String>,
    /// Its hardware address.
    pub mac: Option<String>,
}

#[derive(Deserialize)]
struct DomainElement {
    #[serde(default)]
    os: OsElement,
    #[serde(default)]
    devices: DevicesElement,
    #[serde(default)]
    seclabel: Vec<SecurityLabel>,
}

#[derive(Deserialize)]
struct SecurityLabel {
    #[serde(rename = "@model")]
    model: Option<String>,
    label: Option<String>,
}

impl SecurityLabel {
    /// User and group of a DAC label.
    fn owner(&self) -> Option<(u32, u32)> {
        let label = self.label.as_deref().filter(|_| self.model.as_deref() == Some("dac"))?;
        owner(label)
    }

    /// What is to be told of it where QEMU was refused something.
    fn confined(&self) -> Option<String> {
        let label = self.label.as_deref()?;
        match self.model.as_deref() {
            Some("apparmor") => Some(format!(
                "AppArmor confines QEMU (profile '{label}'): libvirt adds to the profile what a backup needs, unless a rule \
                 there or in /etc/apparmor.d/local/abstractions/libvirt-qemu says 'deny'"
            )),
            Some("selinux") => Some(format!(
                "SELinux confines QEMU ('{label}'): libvirt labels what a backup needs, but on NFS and CIFS, where a push wants \
                 the booleans virt_use_nfs and virt_use_samba; 'ausearch -m avc' shows what was denied"
            )),
            _ => None,
        }
    }
}

#[derive(Deserialize, Default)]
struct DevicesElement {
    #[serde(default)]
    disk: Vec<DiskElement>,
    #[serde(default)]
    interface: Vec<InterfaceElement>,
    #[serde(default)]
    channel: Vec<ChannelElement>,
    #[serde(default)]
    serial: Vec<SerialElement>,
    #[serde(default)]
    controller: Vec<ControllerElement>,
    #[serde(default)]
    tpm: Vec<TpmElement>,
}

#[derive(Deserialize)]
struct SerialElement {
    #[serde(rename = "@type", default)]
    kind: String,
    source: Option<SerialSource>,
}

#[derive(Deserialize)]
struct SerialSource {
    #[serde(rename = "@path")]
    path: Option<String>,
}

impl SerialElement {
    fn terminal(&self) -> Option<String> {
        self.source.as_ref().filter(|_| self.kind == "pty")?.path.clone()
    }
}

#[derive(Deserialize)]
struct ChannelElement {
    target: Option<ChannelTarget>,
}

#[derive(Deserialize)]
struct ChannelTarget {
    #[serde(rename = "@name")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct InterfaceElement {
    #[serde(rename = "@type", default)]
    kind: String,
    source: Option<InterfaceSource>,
    target: Option<TargetElement>,
    model: Option<InterfaceModel>,
    mac: Option<InterfaceMac>,
}

#[derive(Deserialize)]
struct InterfaceSource {
    #[serde(rename = "@bridge")]
    bridge: Option<String>,
    #[serde(rename = "@network")]
    network: Option<String>,
    #[serde(rename = "@dev")]
    dev: Option<String>,
}

#[derive(Deserialize)]
struct InterfaceModel {
    #[serde(rename = "@type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct InterfaceMac {
    #[serde(rename = "@address")]
    address: Option<String>,
}

impl DomainXml {
    /// Parses a domain's live XML.
    pub fn parse(text: &str) -> Result<DomainXml> {
        let domain: DomainElement =
            quick_xml::de::from_str(text).map_err(|e| Error::new(Code::Libvirt, "parse the domain's XML", e))?;
        let to_agent = |channel: &ChannelElement| {
            channel.target.as_ref().is_some_and(|target| target.name.as_deref() == Some("org.qemu.guest_agent.0"))
        };
        let (disks, others): (Vec<_>, Vec<_>) =
            domain.devices.disk.into_iter().partition(|disk| disk.device() == Device::Disk);
        let controllers = domain.devices.controller;
        let served_by_thread = |disk: &DiskElement| disk.has_iothread(&controllers);
        Ok(DomainXml {
            disks: disks
                .into_iter()
                .map(|disk| Disk { iothread: served_by_thread(&disk), ..Disk::from(disk) })
                .collect(),
            others: others.into_iter().map(Disk::from).collect(),
            interfaces: domain.devices.interface.into_iter().map(Interface::from).collect(),
            agent: domain.devices.channel.iter().any(to_agent),
            console: domain.devices.serial.iter().find_map(SerialElement::terminal),
            owner: domain.seclabel.iter().find_map(SecurityLabel::owner),
            confined: domain.seclabel.iter().find_map(SecurityLabel::confined),
            nvram: domain.os.nvram(),
            tpm: domain.devices.tpm.into_iter().find_map(TpmElement::tpm),
        })
    }
}

impl DomainXml {
    /// Has it disks that only libvirt can locate?
    pub fn has_volumes(&self) -> bool {
        self.disks.iter().any(|disk| matches!(disk.source, Source::Volume(_)))
    }

    /// Notes where libvirt has found the images of the disks.
    pub fn locate(&mut self, blocks: &BTreeMap<String, Block>) {
        for disk in self.disks.iter_mut().filter(|disk| disk.path.is_none()) {
            disk.path = blocks.get(&disk.target).and_then(|block| block.path.clone());
        }
    }

    /// Takes over where the images of the disks were found `before`, unless a disk has another one now.
    pub fn locate_as(&mut self, before: &DomainXml) {
        for disk in self.disks.iter_mut().filter(|disk| disk.path.is_none()) {
            let same = before.disks.iter().find(|known| known.target == disk.target && known.source == disk.source);
            disk.path = same.and_then(|known| known.path.clone());
        }
    }
}

impl From<InterfaceElement> for Interface {
    fn from(interface: InterfaceElement) -> Interface {
        Interface {
            kind: interface.kind,
            target: interface.target.map(|t| t.dev),
            source: interface.source.and_then(|s| s.bridge.or(s.network).or(s.dev)),
            model: interface.model.and_then(|m| m.kind),
            mac: interface.mac.and_then(|m| m.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk_xml::SecretName;
    use super::*;

    fn fixture(name: &str) -> DomainXml {
        let path = format!("{}/tests/fixtures/domain/{name}.xml", env!("CARGO_MANIFEST_DIR"));
        DomainXml::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn a_cloudstack_guest_has_its_disks_in_order() {
        let domain = fixture("cloudstack");
        let disks: Vec<_> =
            domain.disks.iter().map(|d| (d.target.as_str(), d.source.path().unwrap(), d.serial.as_deref())).collect();
        assert_eq!(
            disks,
            [
                ("vda", "/mnt/5f9d/0a1b2c3d-0000-4000-8000-00000000000a", Some("0a1b2c3d000040008000")),
                ("vdb", "/mnt/5f9d/0a1b2c3d-0000-4000-8000-00000000000b", Some("0a1b2c3d000040008001")),
            ]
        );
        assert!(matches!(&domain.others[..], [drive] if drive.target == "hdc" && drive.device == Device::Removable));
        assert!(domain.disks.iter().all(|d| d.format == "qcow2" && !d.encrypted));
        assert!(domain.agent && !fixture("kinds").agent);
        let nic = &domain.interfaces[0];
        assert_eq!(
            (nic.kind.as_str(), nic.source.as_deref(), nic.target.as_deref()),
            ("bridge", Some("cloudbr0"), Some("vnet3"))
        );
    }

    #[test]
    fn every_kind_of_disk_is_told_apart() {
        let domain = fixture("kinds");
        let by = |target: &str| domain.disks.iter().find(|d| d.target == target).unwrap();
        assert_eq!(by("vda").source, Source::File("/var/lib/a b/it's \"fünf\" & <co>*.qcow2".to_owned()));
        assert_eq!(by("vdb").source, Source::Block("/dev/drbd/by-res/cs-11/0".to_owned()));
        assert_eq!(by("vdc").source, Source::Network("pool/image".to_owned()));
        assert_eq!(by("vdd").source, Source::Volume("vol-1".to_owned()));
        assert_eq!(by("vde").source, Source::Other("vhostuser".to_owned()));
        assert!(by("vdf").shareable && by("vdg").transient && by("vdh").read_only);
        assert!(
            by("vdi").encrypted && by("vdj").encrypted && by("vdk").encrypted,
            "disk, source and backing encryption"
        );
        assert_eq!(by("vdm").format, "raw", "without a driver element");
        assert_eq!(by("vdm").serial.as_deref(), Some(" leading & trailing "));
        let others: Vec<_> = domain.others.iter().map(|disk| (disk.target.as_str(), disk.device)).collect();
        assert_eq!(others, [("sda", Device::Removable), ("fda", Device::Removable), ("sdb", Device::Lun)]);
    }

    #[test]
    fn an_image_in_ceph_is_reached_as_its_source_says() {
        let disk = |source: &str, rest: &str| {
            let source = format!("<source protocol='rbd' name='p/i'>{source}</source>");
            let disk = format!("<disk type='network' device='disk'>{source}<target dev='vda'/>{rest}</disk>");
            let domain = DomainXml::parse(&format!("<domain><devices>{disk}</devices></domain>")).unwrap();
            domain.disks.into_iter().next().unwrap().ceph
        };
        let hosts = "<host name='a' port='6789'/><host name='fd00::1' port='6789'/><host name='b'/>";
        let auth = "<auth username='u'><secret type='ceph' uuid='6a1c6a5e-1111-4222-8333-944455556666'/></auth>";
        let found = disk(hosts, auth).unwrap();
        assert_eq!((&*found.name, found.monitors.join(" ")), ("p/i", "a:6789 [fd00::1]:6789 b".to_owned()));
        assert_eq!(found.user.as_deref(), Some("u"));
        assert_eq!(found.secret, Some(SecretName::Uuid("6a1c6a5e-1111-4222-8333-944455556666".to_owned())));
        assert_eq!(disk(&format!("{hosts}{auth}"), ""), Some(found), "libvirt leaves it where it was given");
        let by_usage = "<auth username='u'><secret type='ceph' usage='x'/></auth>";
        assert_eq!(disk(hosts, by_usage).unwrap().secret, Some(SecretName::Usage("x".to_owned())));
        let bare = disk("<host name='a'/>", "").unwrap();
        assert_eq!((bare.user, bare.secret), (None, None));
        for source in ["", "<host transport='unix' socket='/s'/>", "<host name='a'/><snapshot name='s'/>"] {
            assert_eq!(disk(source, auth), None, "{source}");
        }
        assert_eq!(disk("<host name='a'/><config file='/etc/ceph/other.conf'/>", auth), None);
        assert_eq!(disk("<host name='a'/><slices><slice type='storage' offset='1' size='2'/></slices>", auth), None);
        assert_eq!(disk("<host name='a'/>", "<driver name='qemu' type='qcow2'/>"), None);
        assert!(disk("<host name='a'/>", "<driver name='qemu' type='raw'/>").is_some());
    }

    #[test]
    fn an_iothread_is_the_disk_s_or_its_controller_s() {
        let disk = |target: &str, bus: &str, driver: &str, controller: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' {driver}</driver><target dev='{target}' bus='{bus}'/>\
                 <address type='drive' controller='{controller}' bus='0' target='0' unit='0'/></disk>"
            )
        };
        let disks = [
            disk("vda", "virtio", "iothread='1'>", "0"),
            disk("vdb", "virtio", "type='qcow2'><iothreads><iothread id='2'/></iothreads>", "0"),
            disk("vdc", "virtio", "type='qcow2'>", "0"),
            disk("sda", "scsi", ">", "0"),
            disk("sdb", "scsi", ">", "1"),
            disk("sdc", "sata", ">", "1"),
        ];
        let controllers = "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='sata' index='1'/>\
            <controller type='scsi' index='1' model='virtio-scsi'><driver queues='4' iothread='3'/></controller>";
        let xml = format!("<domain><devices>{}{controllers}</devices></domain>", disks.concat());
        let with = DomainXml::parse(&xml).unwrap().disks.into_iter().filter(|disk| disk.iothread);
        assert_eq!(with.map(|disk| disk.target).collect::<Vec<_>>(), ["vda", "vdb", "sdb"]);
    }

    #[test]
    fn a_pool_s_volume_is_where_libvirt_says() {
        let mut domain = fixture("kinds");
        assert!(domain.has_volumes() && !fixture("cloudstack").has_volumes());
        let at = |path: &str| Block { path: Some(path.to_owned()), capacity: None };
        domain.locate(&BTreeMap::from(["vda", "vdd"].map(|target| (target.to_owned(), at("/pool/vol-1")))));
        let paths: BTreeMap<_, _> = domain.disks.iter().map(|d| (d.target.as_str(), d.path.as_deref())).collect();
        assert_eq!(paths["vda"], Some("/var/lib/a b/it's \"fünf\" & <co>*.qcow2"), "the XML's own");
        assert_eq!((paths["vdb"], paths["vdd"]), (Some("/dev/drbd/by-res/cs-11/0"), Some("/pool/vol-1")));
        assert_eq!((paths["vdc"], paths["vde"]), (None, None), "on the network, and elsewhere");
    }

    #[test]
    fn text_that_is_no_domain_is_an_error() {
        for text in ["", "<domain", "<domain><devices><disk></devices></domain>"] {
            assert_eq!(DomainXml::parse(text).unwrap_err().code, Code::Libvirt, "{text}");
        }
        assert!(DomainXml::parse("<domain/>").unwrap().disks.is_empty());
    }

    #[test]
    fn the_user_that_qemu_runs_as_is_read() {
        let owner = |labels: &str| DomainXml::parse(&format!("<domain>{labels}</domain>")).unwrap().owner;
        let other = "<seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-x</label></seclabel>";
        let dac = "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>";
        assert_eq!(owner(&format!("{other}{dac}")), Some((64055, 108)));
        assert_eq!(owner(other), None);
        assert_eq!(owner("<seclabel type='none' model='dac'/>"), None);
    }

    #[test]
    fn what_confines_qemu_is_told_by_its_label() {
        let confined = |labels: &str| DomainXml::parse(&format!("<domain>{labels}</domain>")).unwrap().confined;
        let label = |model: &str| format!("<seclabel model='{model}'><label>the label</label></seclabel>");
        for (model, where_to_look) in [("apparmor", "/etc/apparmor.d/local"), ("selinux", "ausearch")] {
            let told = confined(&(label("dac") + &label(model))).unwrap();
            assert!(told.contains("'the label'") && told.contains(where_to_look), "{told}");
        }
        assert_eq!(confined(&label("dac")), None);
        assert_eq!(confined("<seclabel type='none' model='apparmor'/>"), None);
    }
}
