//! The XML of the domain of a boot test: a machine like the saved one as far as its system may mind, that reaches nothing of the
//! host but some files of its own.

use super::saved_xml::{SavedDisk, SavedDomain};
use super::xml::Xml;

/// Bytes a second that all disks together take, so that whoever watches how full the scratch gets has time to.
pub const WRITTEN_BYTES: u64 = 64 << 20;
/// Writes a second that they take: the smallest takes whole clusters.
pub const WRITES: u64 = 512;
/// The name of what bounds them together.
const ALL: &str = "all";
/// SCSI disks that libvirt puts on one controller, by the names of their targets.
const ON_ONE_CONTROLLER: usize = 7;

/// The machine that the test runs.
#[derive(Debug, Clone, Copy)]
pub struct BootDomain<'a> {
    /// What the restore point tells of it.
    pub saved: &'a SavedDomain,
    /// The domain's name.
    pub name: &'a str,
    /// libvirt's type of it: `kvm`, or `qemu`, which emulates the processor.
    pub kind: &'a str,
    /// The host's QEMU for it.
    pub emulator: &'a str,
    /// A machine that the host knows.
    pub machine: &'a str,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// The host's firmware, and the file for its variables, of a machine with UEFI. libvirt makes that file unless it is there.
    pub uefi: Option<(&'a str, &'a str)>,
    /// Its disks.
    pub disks: &'a [BootDisk<'a>],
    /// Its UUID and the model of its TPM, of a machine for which libvirt finds the state of one in the folder of that UUID.
    pub tpm: Option<(&'a str, &'a str)>,
}

/// A disk of it.
#[derive(Debug, Clone, Copy)]
pub struct BootDisk<'a> {
    /// What the restore point tells of it.
    pub saved: &'a SavedDisk,
    /// A qcow2 file that takes what the guest writes.
    pub overlay: &'a str,
    /// A raw file that the guest reads the rest of.
    pub below: &'a str,
}

/// The XML. Its files are accessible to QEMU already.
pub fn boot_xml(domain: &BootDomain<'_>) -> String {
    let saved = domain.saved;
    let mut xml = Xml::new();
    xml.open("domain", &[("type", domain.kind)]);
    xml.text("name", domain.name);
    domain.tpm.iter().for_each(|(uuid, _)| xml.text("uuid", uuid));
    xml.open("memory", &[("unit", "KiB")]);
    xml.content(&(domain.memory >> 10).to_string());
    xml.close("memory");
    xml.text("vcpu", &domain.cpus.to_string());
    add_os(&mut xml, domain);
    xml.open("features", &[]);
    saved.features.iter().for_each(|feature| xml.empty(feature, &[]));
    if is_secure(domain) {
        xml.empty("smm", &[("state", "on")]);
    }
    xml.close("features");
    // that of a host of then may be none of this host's
    xml.empty("cpu", &[("mode", if domain.kind == "kvm" { "host-passthrough" } else { "maximum" })]);
    xml.empty("clock", &[("offset", if saved.local_time { "localtime" } else { "utc" })]);
    for (event, action) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
        xml.text(event, action);
    }
    xml.open("devices", &[]);
    xml.text("emulator", domain.emulator);
    add_controllers(&mut xml, domain);
    let has_order = domain.disks.iter().any(|disk| disk.saved.boot.is_some());
    domain.disks.iter().for_each(|disk| add_disk(&mut xml, disk, has_order));
    add_devices(&mut xml, saved);
    if let Some((_, model)) = domain.tpm {
        xml.open("tpm", &[("model", model)]);
        xml.empty("backend", &[("type", "emulator"), ("version", "2.0")]);
        xml.close("tpm");
    }
    xml.close("devices");
    xml.close("domain");
    xml.done()
}

fn is_secure(domain: &BootDomain<'_>) -> bool {
    domain.uefi.is_some() && domain.saved.uefi.as_ref().is_some_and(|uefi| uefi.secure)
}

fn add_os(xml: &mut Xml, domain: &BootDomain<'_>) {
    xml.open("os", &[]);
    xml.open("type", &[("arch", &domain.saved.arch), ("machine", domain.machine)]);
    xml.content("hvm");
    xml.close("type");
    if let Some((loader, variables)) = domain.uefi {
        let secure = if is_secure(domain) { "yes" } else { "no" };
        let format: &[_] = if loader.ends_with(".qcow2") { &[("format", "qcow2")] } else { &[] };
        xml.open("loader", &[&[("readonly", "yes"), ("type", "pflash"), ("secure", secure)], format].concat());
        xml.content(loader);
        xml.close("loader");
        xml.open("nvram", format);
        xml.content(variables);
        xml.close("nvram");
    }
    if domain.disks.iter().all(|disk| disk.saved.boot.is_none()) {
        xml.empty("boot", &[("dev", "hd")]);
    }
    xml.close("os");
}

/// Those that its SCSI disks hang on.
fn add_controllers(xml: &mut Xml, domain: &BootDomain<'_>) {
    let Some(model) = domain.saved.scsi else { return };
    let on_scsi = domain.disks.iter().filter(|disk| disk.saved.bus == "scsi");
    let count = on_scsi.map(|disk| index_of(&disk.saved.target) / ON_ONE_CONTROLLER + 1).max().unwrap_or(0);
    for index in 0..count {
        xml.empty("controller", &[("type", "scsi"), ("index", &index.to_string()), ("model", model)]);
    }
}

/// Which of its bus's disks libvirt takes this one for: `sda` is the first, `sdaa` the 27th.
fn index_of(target: &str) -> usize {
    let letters = target.bytes().skip(2);
    letters.fold(0, |index, letter| index * 26 + usize::from(letter.saturating_sub(b'a')) + 1).saturating_sub(1)
}

fn add_disk(xml: &mut Xml, disk: &BootDisk<'_>, has_order: bool) {
    let saved = disk.saved;
    let file = |xml: &mut Xml, path: &str| {
        xml.open("source", &[("file", path)]);
        // whom it belongs to is right, and nobody's to change
        xml.empty("seclabel", &[("model", "dac"), ("relabel", "no")]);
        xml.close("source");
    };
    xml.open("disk", &[("type", "file"), ("device", "disk")]);
    let stop = [("error_policy", "stop"), ("rerror_policy", "stop")];
    let driver = [("name", "qemu"), ("type", "qcow2"), ("cache", "unsafe"), ("discard", "ignore")];
    xml.empty("driver", &[&driver[..], &stop].concat());
    file(xml, disk.overlay);
    xml.open("backingStore", &[("type", "file")]);
    xml.empty("format", &[("type", "raw")]);
    file(xml, disk.below);
    xml.empty("backingStore", &[]);
    xml.close("backingStore");
    xml.empty("target", &[("dev", &saved.target), ("bus", saved.bus)]);
    xml.open("iotune", &[]);
    xml.text("write_bytes_sec", &WRITTEN_BYTES.to_string());
    xml.text("write_iops_sec", &WRITES.to_string());
    xml.text("group_name", ALL);
    xml.close("iotune");
    if let Some(serial) = &saved.serial {
        xml.text("serial", serial);
    }
    if let (Some(order), true) = (saved.boot, has_order) {
        xml.empty("boot", &[("order", &order.to_string())]);
    }
    let names = ["logical_block_size", "physical_block_size"];
    let sectors: Vec<_> = names.into_iter().zip(saved.sectors).filter_map(|(name, size)| Some((name, size?))).collect();
    if !sectors.is_empty() {
        xml.empty("blockio", &sectors);
    }
    xml.close("disk");
}

/// A console and a picture, both for libvirt's callers alone, and what a system may wait for.
fn add_devices(xml: &mut Xml, saved: &SavedDomain) {
    xml.empty("serial", &[("type", "pty")]);
    if saved.agent {
        xml.open("channel", &[("type", "unix")]);
        xml.empty("target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")]);
        xml.close("channel");
    }
    xml.open("video", &[]);
    xml.empty("model", &[("type", if is_x86(&saved.arch) { "vga" } else { "virtio" })]);
    xml.close("video");
    xml.open("rng", &[("model", "virtio")]);
    xml.open("backend", &[("model", "random")]);
    xml.content("/dev/urandom");
    xml.close("backend");
    xml.close("rng");
    xml.empty("memballoon", &[("model", "none")]);
}

fn is_x86(arch: &str) -> bool {
    ["x86_64", "i686"].contains(&arch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(saved: &SavedDomain) -> String {
        let disks: Vec<_> = saved
            .disks
            .iter()
            .map(|disk| BootDisk { saved: disk, overlay: "/run/a & b/overlay", below: "/run/raw" })
            .collect();
        boot_xml(&BootDomain {
            saved,
            name: "nasbackup-boot-1-2",
            kind: "qemu",
            emulator: "/usr/bin/qemu",
            machine: "q35",
            memory: 1 << 30,
            cpus: 2,
            uefi: saved.uefi.as_ref().map(|_| ("/usr/share/ovmf", "/run/variables")),
            disks: &disks,
            tpm: saved.tpm.map(|model| ("00112233-4455-6677-8899-aabbccddeeff", model)),
        })
    }

    /// Each word that a hostile XML has is 'evil', or lies in a place where it may be.
    const HOSTILE: &str = r#"<domain type='evil' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
        <name>evil</name><uuid>evil</uuid><title>evil</title><metadata><evil/></metadata>
        <memory unit='MiB'>512</memory><currentMemory>evil</currentMemory>
        <memoryBacking><source type='file'/><evil/></memoryBacking><numatune><evil/></numatune>
        <vcpu placement='evil' cpuset='evil'>4</vcpu><cputune><evil/></cputune><iothreads>evil</iothreads>
        <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>evil</type><loader type='pflash' secure='evil'>/etc/evil</loader>
        <nvram template='/etc/evil'>/etc/evil</nvram><kernel>/etc/evil</kernel><initrd>/evil</initrd><cmdline>evil</cmdline>
        <dtb>/evil</dtb><acpi><table type='slic'>/etc/evil</table></acpi><smbios mode='sysinfo'/><boot dev='network'/></os>
        <sysinfo type='fwcfg'><entry name='evil' file='/etc/evil'/></sysinfo>
        <features><acpi evil='evil'/><hyperv mode='evil'/><evil/></features><cpu mode='custom'><model>evil</model></cpu>
        <clock offset='evil'><timer name='evil'/></clock><on_crash>evil</on_crash>
        <devices><emulator>/etc/evil</emulator>
        <disk type='file' device='disk'><driver name='qemu' type='raw' cache='evil' iothread='9'/><source file='/etc/evil'/>
        <backingStore type='file'><format type='raw'/><source file='/etc/evil'/></backingStore><target dev='vda' bus='virtio'/>
        <serial>"/&gt;&lt;evil/&gt;</serial><boot order='1'/><address type='evil'/><blockio logical_block_size='evil'/></disk>
        <disk type='file' device='cdrom'><source file='/etc/evil'/><target dev='hdc' bus='ide'/></disk>
        <disk type='block' device='lun'><source dev='/dev/evil'/><target dev='sda' bus='scsi'/></disk>
        <disk type='file'><target dev="x'/>" bus='virtio'/></disk><disk type='file'><target dev='vdc' bus='evil'/></disk>
        <filesystem type='mount'><source dir='/evil'/><target dir='evil'/></filesystem>
        <interface type='bridge'><source bridge='evil'/><script path='/etc/evil'/></interface>
        <hostdev mode='subsystem' type='pci'><source evil=''/></hostdev><redirdev bus='usb' type='tcp'><evil/></redirdev>
        <controller type='scsi' model='evil'/><shmem name='evil'/><memory model='nvdimm'><evil/></memory>
        <serial type='tcp'><source host='evil'/></serial><console type='file'><source path='/etc/evil'/></console>
        <channel type='unix'><source path='/etc/evil'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        <channel type='pipe'><source path='/etc/evil'/></channel><parallel type='dev'><source path='/dev/evil'/></parallel>
        <graphics type='vnc' listen='evil' passwd='evil'/><sound model='evil'/><video><model type='evil'/></video>
        <rng model='virtio'><backend model='egd' type='udp'><evil/></backend></rng><tpm model='evil'/><vsock><evil/></vsock>
        <smartcard mode='host'/><watchdog model='evil'/><panic model='evil'/><iommu model='evil'/><crypto model='evil'/></devices>
        <seclabel type='none'/><launchSecurity type='evil'/><keywrap><evil/></keywrap>
        <qemu:commandline><qemu:arg value='evil'/></qemu:commandline></domain>"#;

    #[test]
    fn of_a_hostile_xml_nothing_comes_through_but_what_is_named() {
        let saved = SavedDomain::parse(HOSTILE).unwrap();
        let xml = boot(&saved);
        let expected = concat!(
            r#"<domain type="qemu"><name>nasbackup-boot-1-2</name><memory unit="KiB">1048576</memory><vcpu>2</vcpu>"#,
            r#"<os><type arch="x86_64" machine="q35">hvm</type><loader readonly="yes" type="pflash" secure="no">/usr/share/ovmf</loader>"#,
            r#"<nvram>/run/variables</nvram></os><features><acpi/></features><cpu mode="maximum"/><clock offset="utc"/>"#,
            r#"<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>"#,
            r#"<devices><emulator>/usr/bin/qemu</emulator><disk type="file" device="disk"><driver name="qemu" type="qcow2" "#,
            r#"cache="unsafe" discard="ignore" error_policy="stop" rerror_policy="stop"/>"#,
            r#"<source file="/run/a &amp; b/overlay"><seclabel model="dac" relabel="no"/></source><backingStore type="file">"#,
            r#"<format type="raw"/><source file="/run/raw"><seclabel model="dac" relabel="no"/></source><backingStore/></backingStore>"#,
            r#"<target dev="vda" bus="virtio"/><iotune><write_bytes_sec>67108864</write_bytes_sec>"#,
            r#"<write_iops_sec>512</write_iops_sec><group_name>all</group_name></iotune>"#,
            r#"<serial>"/&gt;&lt;evil/&gt;</serial><boot order="1"/></disk><serial type="pty"/>"#,
            r#"<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>"#,
            r#"<video><model type="vga"/></video><rng model="virtio"><backend model="random">/dev/urandom</backend></rng>"#,
            r#"<memballoon model="none"/></devices></domain>"#
        );
        assert_eq!(xml.replace("&quot;", "\""), expected);
        // these are looked at by whoever chooses what of the host's own is taken
        assert_eq!(saved.uefi.unwrap().loader.as_deref(), Some("/etc/evil"));
        assert_eq!(saved.disks[0].source.as_deref(), Some("/etc/evil"));
    }

    #[test]
    fn what_a_system_boots_from_is_as_it_was() {
        let text = |devices: &str| {
            format!(
                "<domain><memory>65536</memory><vcpu>8</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>\
                 <clock offset='localtime'/><features><pae/><apic/></features><devices>{devices}</devices></domain>"
            )
        };
        let disk = |target: &str, bus: &str, more: &str| {
            format!("<disk type='file'><source file='/p/{target}'/><target dev='{target}' bus='{bus}'/>{more}</disk>")
        };
        let controller =
            "<controller type='scsi' model='virtio-scsi'/><controller type='scsi' index='1' model='lsilogic'/>";
        for (devices, expected, unexpected) in [
            (disk("vda", "virtio", ""), "<boot dev=\"hd\"/></os>", "<boot order"),
            (disk("vda", "virtio", "<boot order='2'/>"), "<boot order=\"2\"/>", "<boot dev"),
            (disk("sdh", "scsi", "") + controller, "index=\"1\" model=\"virtio-scsi\"/><disk", "index=\"2\""),
            (disk("sda", "scsi", "") + controller, "index=\"0\" model=\"virtio-scsi\"/><disk", "index=\"1\""),
            (disk("sda", "sata", "") + controller, "<target dev=\"sda\" bus=\"sata\"/>", "<controller"),
            (
                disk("vda", "virtio", "<blockio logical_block_size='4096' physical_block_size='4096'/>"),
                "<blockio logical_block_size=\"4096\" physical_block_size=\"4096\"/>",
                "evil",
            ),
            (disk("vda", "virtio", "<serial> a&amp;b</serial>"), "a&amp;b</serial>", "<channel"),
            (
                disk("vda", "virtio", "")
                    + "<tpm model='tpm-tis'><backend type='emulator' version='1.2' evil=''/></tpm>",
                "<tpm model=\"tpm-tis\"><backend type=\"emulator\" version=\"2.0\"/></tpm></devices>",
                "evil",
            ),
            (
                disk("vda", "virtio", "") + "<tpm model='tpm-tis'><backend type='passthrough'/></tpm>",
                "</disk><serial",
                "<tpm",
            ),
            (disk("vda", "virtio", "<serial>\u{e4}</serial>"), "<clock offset=\"localtime\"/>", "<serial>"),
        ] {
            let saved = SavedDomain::parse(&text(&devices)).unwrap();
            assert_eq!((saved.memory, saved.cpus, saved.features.len()), (64 << 20, 8, 2));
            let xml = boot(&saved);
            assert!(xml.contains(expected) && !xml.contains(unexpected), "{expected}: {xml}");
        }
    }

    #[test]
    fn text_that_is_no_domain_is_the_point_s_fault() {
        use crate::error::Code;
        let with = |memory: &str| format!("<domain>{memory}<os><type>hvm</type></os></domain>");
        for text in [
            "",
            "<domain",
            "<domain/>",
            &with(""),
            &with("<memory unit='evil'>1</memory>"),
            &with("<memory>0</memory>"),
        ] {
            assert_eq!(SavedDomain::parse(text).unwrap_err().code, Code::CorruptImage, "{text}");
        }
        SavedDomain::parse(&with("<memory>1</memory>")).unwrap();
    }

    #[test]
    fn targets_are_counted_as_libvirt_counts_them() {
        for (target, index) in [("sda", 0), ("vdb", 1), ("hdz", 25), ("sdaa", 26), ("sdab", 27), ("hd", 0)] {
            assert_eq!(index_of(target), index, "{target}");
        }
    }
}
