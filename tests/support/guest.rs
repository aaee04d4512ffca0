//! A transient domain like CloudStack's. It has no operating system: tests write to its disks through QEMU's monitor,
//! which takes the guest's own way, so bitmaps and copy-before-write see it.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use nasbackup::operation::take_backup::StoppedDisk;
use serde_json::{Value, json};

use super::ceph::{Ceph, ceph};
use super::image::{self, Image, MIB, PASSPHRASE_BASE64};
use super::libvirt::{self, Monitor};
use super::{folder, run, unique, until, xml};

/// How a disk hangs on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Virtio,
    Scsi,
    Sata,
}

/// A disk of a guest, also before it has one.
pub struct Disk {
    pub path: PathBuf,
    pub image: Image,
    pub bus: Bus,
    pub serial: Option<String>,
    size: u64,
    overlay: bool,
    /// Keeps the loop device of a block disk: the kernel detaches it when the last descriptor goes.
    block: Option<File>,
    /// The image in Ceph, of which the path is CloudStack's name.
    rbd: Option<(&'static Ceph, String)>,
    /// The storage pool of libvirt's that it is a volume of.
    pool: Option<String>,
    /// Backups leave it out because their request says so.
    pub excluded: bool,
    /// Attributes of its `<driver>`.
    driver: &'static str,
    /// Further elements inside `<disk>`, such as `<shareable/>`.
    pub extra: &'static str,
    /// The last write, looked for in the next copies.
    written: Option<(u8, u64, u64)>,
}

impl Disk {
    /// A qcow2 on virtio of 64 MiB.
    pub fn new() -> Disk {
        Disk {
            path: folder("disk").join(random_uuid()),
            image: Image::Qcow2,
            bus: Bus::Virtio,
            serial: None,
            size: 64 * MIB,
            overlay: false,
            block: None,
            rbd: None,
            pool: None,
            excluded: false,
            driver: "cache='none' discard='unmap'",
            extra: "",
            written: None,
        }
    }

    /// A root disk: an overlay of a template that holds data of its own.
    pub fn root() -> Disk {
        Disk { overlay: true, ..Disk::new() }
    }

    pub fn image(self, image: Image) -> Disk {
        Disk { image, ..self }
    }

    pub fn bus(self, bus: Bus) -> Disk {
        Disk { bus, ..self }
    }

    pub fn size(self, bytes: u64) -> Disk {
        Disk { size: bytes, ..self }
    }

    /// With these attributes of `<driver>` in place of CloudStack's.
    pub fn driver(self, driver: &'static str) -> Disk {
        Disk { driver, ..self }
    }

    pub fn extra(self, extra: &'static str) -> Disk {
        Disk { extra, ..self }
    }

    pub fn serial(self, serial: &str) -> Disk {
        Disk { serial: Some(serial.to_owned()), ..self }
    }

    /// With this file name, in a folder of its own.
    pub fn named(self, name: &str) -> Disk {
        Disk { path: folder("disk").join(name), ..self }
    }

    /// Its file exists already.
    pub fn existing(path: PathBuf, image: Image) -> Disk {
        Disk { path, image, size: 0, ..Disk::new() }
    }

    /// A block device in place of a file.
    pub fn block() -> Disk {
        let file = folder("disk").join("backing");
        File::create(&file).unwrap().set_len(64 * MIB).unwrap();
        let device = run("losetup", ["--find", "--show", file.to_str().unwrap()]).trim_end().to_owned();
        let block = File::open(&device).unwrap();
        run("losetup", ["--detach", &device]);
        Disk { path: device.into(), image: Image::Raw, block: Some(block), size: 0, ..Disk::new() }
    }

    /// A qcow2 on a block device.
    pub fn qcow2_on_block() -> Disk {
        let disk = Disk::block();
        // the device has room for the metadata of a disk that is not full
        Image::Qcow2.create(&disk.path, 64 * MIB);
        Disk { image: Image::Qcow2, ..disk }
    }

    /// A qcow2 that is a volume of a storage pool.
    pub fn in_pool() -> Disk {
        let (folder, volume) = (folder("pool"), random_uuid());
        Image::Qcow2.create(&folder.join(&volume), 64 * MIB);
        let pool = folder.file_name().unwrap().to_str().unwrap().to_owned();
        run("virsh", ["pool-create-as", "--name", &pool, "--type", "dir", "--target", folder.to_str().unwrap()]);
        Disk { path: folder.join(volume), pool: Some(pool), size: 0, ..Disk::new() }
    }

    /// A qcow2 whose data are in another file, which can be read without it or not.
    pub fn with_data_file(raw: bool) -> Disk {
        let disk = folder("disk");
        let (path, data) = (disk.join(random_uuid()), disk.join("data"));
        let options = format!("data_file={},data_file_raw={}", data.display(), if raw { "on" } else { "off" });
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, path.to_str().unwrap(), "64M"]);
        // libvirt 9 gives QEMU's user the image and not its data file
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o666)).unwrap();
        Disk::existing(path, Image::Qcow2)
    }

    /// One that backups leave out, since their request says so.
    pub fn excluded(self) -> Disk {
        Disk { excluded: true, ..self }
    }

    /// An image of 64 MiB in the lab's Ceph.
    pub fn rbd() -> Disk {
        Disk::in_ceph(ceph())
    }

    /// One in this Ceph.
    pub fn in_ceph(ceph: &'static Ceph) -> Disk {
        let image = random_uuid();
        Disk { path: ceph.source(&image).into(), image: Image::Raw, rbd: Some((ceph, image)), ..Disk::new() }
    }

    /// Does a backup have to hold it?
    pub fn is_backed_up(&self) -> bool {
        !self.excluded && !["<shareable/>", "<transient/>"].contains(&self.extra)
    }

    /// Can it carry a bitmap?
    pub fn takes_bitmaps(&self) -> bool {
        self.image == Image::Qcow2 && self.rbd.is_none() && self.is_writable()
    }

    /// May the guest write to it?
    pub fn is_writable(&self) -> bool {
        self.extra != "<readonly/>"
    }

    /// The last component of its path, or the image's name, which names the backup file.
    pub fn volume(&self) -> &str {
        self.rbd.as_ref().map_or_else(|| self.path.file_name().unwrap().to_str().unwrap(), |(_, image)| image)
    }

    /// As a request for a stopped guest names it.
    pub fn stopped(&self) -> StoppedDisk {
        let (path, format) = (self.path.to_str().unwrap().into(), self.image.format().into());
        StoppedDisk { path: Some(path), format: Some(format), backing: None }
    }

    fn create(&self) {
        if let Some((ceph, image)) = &self.rbd {
            ceph.create(image, self.size);
        } else if self.overlay {
            // as in CloudStack, where both are in one pool
            let template = self.path.with_file_name(random_uuid());
            Image::Qcow2.create(&template, self.size);
            let text = template.to_str().unwrap();
            run("qemu-io", ["-f", "qcow2", "-c", "write -P 0x11 0 1M", "-c", "write -P 0x12 32M 192k", text]);
            image::create_overlay(&self.path, &template);
        } else if self.size > 0 {
            self.image.create(&self.path, self.size);
        }
    }

    fn xml(&self, target: &str) -> String {
        let (format, driver, extra) = (self.image.format(), self.driver, self.extra);
        let bus = match self.bus {
            Bus::Virtio => "virtio",
            Bus::Scsi => "scsi",
            Bus::Sata => "sata",
        };
        let serial =
            self.serial.as_deref().map(|serial| format!("<serial>{}</serial>", xml(serial))).unwrap_or_default();
        let encryption = match self.image {
            Image::Luks => {
                let usage =
                    format!("<usage type='volume'><volume>{}-{}</volume></usage>", xml(&self.path), random_uuid());
                let uuid = secret(&usage, PASSPHRASE_BASE64);
                format!("<encryption format='luks'><secret type='passphrase' uuid='{uuid}'/></encryption>")
            }
            _ => String::new(),
        };
        let path = xml(&self.path);
        let (kind, source) = match (&self.rbd, &self.pool) {
            (Some((ceph, image)), _) => ("network", ceph.xml(image)),
            (_, Some(pool)) => ("volume", format!("<source pool='{pool}' volume='{}'/>", self.volume())),
            _ if self.block.is_some() => ("block", format!("<source dev='{path}'>{encryption}</source>")),
            _ => ("file", format!("<source file='{path}'>{encryption}</source>")),
        };
        format!(
            "<disk type='{kind}' device='disk'><driver name='qemu' type='{format}' {driver}/>\
             {source}<target dev='{target}' bus='{bus}'/>{serial}{extra}</disk>"
        )
    }
}

/// What CloudStack names volumes by.
fn random_uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim_end().to_owned()
}

/// Does the lab's guest with Linux run by KVM? (`tests/lab/accelerator`)
fn is_accelerated() -> bool {
    std::env::var("NASBACKUP_LAB_ACCELERATOR").is_ok_and(|by| by == "kvm")
}

/// Firmware that halts the processor, for a guest without a system to start: QEMU's own takes one of the machine's cores for a second,
/// emulated, to find that out.
fn firmware_that_halts() -> &'static Path {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        const RESET: usize = 0xfff0; // where a processor begins, in a ROM that ends where its addresses do
        let mut rom = vec![0; 64 << 10];
        rom[RESET..RESET + 4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]); // cli; hlt; jmp to hlt
        let path = folder("firmware").join("halts");
        std::fs::write(&path, rom).unwrap();
        path
    });
    &MADE
}

/// Gives libvirt a secret, in Base64, for the `usage`, an element that no other has; its uuid.
pub fn secret(usage: &str, value: &str) -> String {
    let uuid = random_uuid();
    let file = folder("secret").join("xml");
    let text = format!("<secret ephemeral='yes' private='no'><uuid>{uuid}</uuid>{usage}</secret>");
    std::fs::write(&file, text).unwrap();
    run("virsh", ["secret-define", file.to_str().unwrap()]);
    std::fs::write(&file, value).unwrap();
    run("virsh", ["secret-set-value", &uuid, "--file", file.to_str().unwrap()]);
    uuid
}

/// A guest; its domain is destroyed on drop.
pub struct Guest {
    pub name: String,
    uuid: String,
    pub disks: Vec<Disk>,
    /// Further elements inside `<devices>`.
    pub devices: String,
    /// Further elements inside `<os>`.
    pub boot: String,
    /// Attributes of `<os>`.
    pub os: &'static str,
    pub machine: &'static str,
    /// Further elements inside `<domain>`.
    pub elements: &'static str,
    /// AppArmor confines it, where there is one: in the machine of tests/vm, where that takes its time.
    pub confined: bool,
    /// What stands inside its SCSI controller.
    pub scsi: &'static str,
    pub memory_mib: u32,
    folder: PathBuf,
}

impl Guest {
    /// A guest of these disks, which are made unless they exist; not started.
    pub fn stopped(disks: impl IntoIterator<Item = Disk>) -> Guest {
        Guest::named(&format!("i-{}-VM", unique()), disks)
    }

    /// One of that name.
    pub fn named(name: &str, disks: impl IntoIterator<Item = Disk>) -> Guest {
        let disks: Vec<_> = disks.into_iter().collect();
        disks.iter().for_each(Disk::create);
        Guest {
            name: name.to_owned(),
            uuid: random_uuid(),
            disks,
            devices: String::new(),
            boot: String::new(),
            os: "",
            machine: "q35",
            elements: "",
            confined: false,
            scsi: "",
            memory_mib: 64,
            folder: folder("guest"),
        }
    }

    /// Gives the stopped guest one more disk.
    pub fn add(&mut self, disk: Disk) {
        disk.create();
        self.disks.push(disk);
    }

    /// A running guest of these disks.
    pub fn new(disks: impl IntoIterator<Item = Disk>) -> Guest {
        let guest = Guest::stopped(disks);
        guest.start();
        guest
    }

    /// A running guest with a root disk and a data disk, each holding a few MiB of its own.
    pub fn ordinary() -> Guest {
        let mut guest = Guest::new([Disk::root(), Disk::new()]);
        guest.write(0, 0x21, 4 * MIB, 3 * MIB);
        guest.write(1, 0x22, 0, 2 * MIB);
        guest
    }

    /// A running guest whose only disk holds `mib` MiB of data: on a slow repository its backup takes a while.
    pub fn full_of_data(mib: u64) -> Guest {
        let mut guest = Guest::new([Disk::new().size((mib + 16) * MIB)]);
        guest.write(0, 0x31, 0, mib * MIB);
        guest
    }

    /// The same, its disk served by an iothread.
    pub fn on_iothread(mib: u64) -> Guest {
        let disk = Disk::new().size((mib + 16) * MIB).driver("cache='none' discard='unmap' iothread='1'");
        let mut guest = Guest::stopped([disk]);
        guest.elements = "<iothreads>1</iothreads>";
        guest.start();
        guest.write(0, 0x31, 0, mib * MIB);
        guest
    }

    /// The name libvirt gives the disk inside the guest.
    pub fn target(&self, disk: usize) -> String {
        let bus = self.disks[disk].bus;
        let letter = |index: usize| char::from(b'a' + u8::try_from(index).unwrap());
        match bus {
            Bus::Virtio => format!("vd{}", letter(self.index_on_bus(disk))),
            Bus::Scsi => format!("sd{}", letter(self.index_on_bus(disk))),
            Bus::Sata => format!("hd{}", letter(self.index_on_bus(disk))),
        }
    }

    fn index_on_bus(&self, disk: usize) -> usize {
        self.disks[..disk].iter().filter(|other| other.bus == self.disks[disk].bus).count()
    }

    /// QEMU's path of the disk's device.
    pub fn device(&self, disk: usize) -> String {
        let index = self.index_on_bus(disk);
        match self.disks[disk].bus {
            Bus::Virtio => format!("/machine/peripheral/virtio-disk{index}/virtio-backend"),
            Bus::Scsi => format!("/machine/peripheral/scsi0-0-0-{index}"),
            Bus::Sata => format!("/machine/peripheral/sata0-0-{index}"),
        }
    }

    pub fn xml(&self) -> String {
        let disks: String = (0..self.disks.len()).map(|i| self.disks[i].xml(&self.target(i))).collect();
        let (name, uuid, memory) = (xml(&self.name), &self.uuid, self.memory_mib);
        let (devices, os, machine, elements) = (&self.devices, self.os, self.machine, self.elements);
        let halts = || format!("<loader readonly='yes' type='rom'>{}</loader>", xml(firmware_that_halts()));
        let boot = if os.is_empty() && self.boot.is_empty() { halts() } else { self.boot.clone() };
        let scsi = format!("<controller type='scsi' model='virtio-scsi'>{}</controller>", self.scsi);
        let scsi = if disks.contains("bus='scsi'") { scsi } else { String::new() };
        let is_free = !self.confined && std::env::var_os("NASBACKUP_VM").is_some();
        let kind = if self.boot.starts_with("<kernel>") && is_accelerated() { "kvm" } else { "qemu" };
        let label = if is_free { "<seclabel type='none' model='apparmor'/>" } else { "" };
        format!(
            "<domain type='{kind}'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>\
             {elements}<os{os}><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os><features><acpi/></features>\
             <on_crash>preserve</on_crash><devices>{scsi}{disks}{devices}<memballoon model='none'/></devices>{label}</domain>"
        )
    }

    /// Starts it from fresh XML, as CloudStack does: libvirt knows no checkpoint of it.
    pub fn start(&self) {
        let xml = self.xml();
        until("the one that ran before is gone", || match libvirt::create(&xml) {
            Ok(()) => true,
            // whoever asks for it at its end holds it up for a moment
            Err(error) if error.to_string().contains("already being removed") => false,
            Err(error) => panic!("{xml}: {error}"),
        });
    }

    /// Stops it as CloudStack does at the end: its bitmaps are stored.
    pub fn stop(&self) {
        libvirt::destroy(&self.name).unwrap();
    }

    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Saves it to a file and restores it: to libvirt and the bitmaps the same as a migration.
    pub fn save_restore(&self) {
        let file = self.folder.join("saved");
        let file = file.to_str().unwrap();
        self.virsh(&["save", file]);
        run("virsh", ["restore", file]);
    }

    /// Sends QEMU a signal.
    pub fn signal_qemu(&self, signal: &str) {
        run("kill", [signal, &self.pid()]);
    }

    /// Kills QEMU, and waits until libvirt knows.
    pub fn kill_qemu(&self) {
        self.signal_qemu("-KILL");
        until("libvirt notices that QEMU is gone", || self.state() == "gone");
    }

    fn pid(&self) -> String {
        // libvirt escapes the name in the file's name; the domain's id is in QEMU's command line.
        let id = self.virsh(&["domid"]);
        let master = format!("/domain-{}-", id.trim());
        let of_domain = |pid: &String| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with("/usr/bin/qemu-system") && command.contains(&master)
        };
        let processes = std::fs::read_dir("/proc").unwrap();
        let names = processes.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.into_iter().find(of_domain).expect("QEMU runs")
    }

    /// Suspends it to memory, as its operating system does, through a register of q35's chip set.
    pub fn fall_asleep(&self) {
        // A firmware tells the chip set that there is such a register at 0x600, and that a system uses it.
        for (register, value) in [("0x8000f840", "0x601"), ("0x8000f844", "0x80")] {
            self.hmp(&format!("o /w 0xcf8 {register}"));
            self.hmp(&format!("o /w 0xcfc {value}"));
        }
        self.hmp("o /h 0x604 0x2400");
        until("the guest sleeps", || self.state() == "pmsuspended");
    }

    /// Has it tell its panic device that it crashed, as its operating system does. It has to have `<panic model='isa'/>`.
    /// It is `paused` at once; libvirt says `crashed` when no job runs, and never if that takes 30 s.
    pub fn crash(&self) {
        self.hmp("o /b 0x505 1");
        until("the guest has crashed", || self.state() != "running");
    }

    pub fn suspend(&self) {
        self.virsh(&["suspend"]);
    }

    pub fn resume(&self) {
        self.virsh(&["resume"]);
    }

    /// `running`, `paused` ..., or `gone`.
    pub fn state(&self) -> String {
        libvirt::state(&self.name).unwrap_or_else(|_| "gone".to_owned())
    }

    /// What libvirt tells of it while it runs.
    pub fn live_xml(&self) -> String {
        libvirt::xml(&self.name).unwrap()
    }

    /// Runs `virsh` on this domain and returns what it prints.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        run("virsh", [&arguments[..1], &["--domain", &self.name], &arguments[1..]].concat())
    }

    /// Asks QEMU's monitor in JSON.
    pub fn qmp(&self, command: Value) -> Value {
        let reply = libvirt::monitor(&self.name, Monitor::Json, &command.to_string()).unwrap();
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert!(reply["error"].is_null(), "{command}: {reply}");
        reply["return"].clone()
    }

    /// Asks it in a human's words.
    pub fn hmp(&self, command: &str) -> String {
        hmp(&self.name, command)
    }

    /// Writes `pattern` to `length` bytes of a disk and flushes it.
    pub fn write(&mut self, disk: usize, pattern: u8, offset: u64, length: u64) {
        self.write_on(disk, pattern, offset, length);
        self.disks[disk].written = Some((pattern, offset, length));
    }

    /// The same while something else looks on.
    pub fn write_on(&self, disk: usize, pattern: u8, offset: u64, length: u64) {
        self.qemu_io(disk, &format!("write -P {pattern} {offset} {length}"), offset + length);
    }

    /// Writes zeros by a command for it, not by data.
    pub fn write_zeroes(&mut self, disk: usize, offset: u64, length: u64) {
        self.qemu_io(disk, &format!("write -z {offset} {length}"), offset + length);
        self.disks[disk].written = Some((0, offset, length));
    }

    /// Gives a range back.
    pub fn discard(&mut self, disk: usize, offset: u64, length: u64) {
        self.qemu_io(disk, &format!("discard {offset} {length}"), offset + length);
        self.disks[disk].written = None;
    }

    fn qemu_io(&self, disk: usize, command: &str, end: u64) {
        // QEMU prints the outcome on its own standard output: `copy` finds out.
        assert!(end <= self.virtual_size(disk), "beyond the end of the disk");
        let device = self.device(disk);
        for command in [command, "flush"] {
            let line = format!("qemu-io -d {device} \"{command}\"");
            assert_eq!(self.hmp(&line).trim(), "", "{line}");
        }
    }

    /// The size that the guest sees, in bytes.
    pub fn virtual_size(&self, disk: usize) -> u64 {
        let disk = &self.disks[disk];
        if disk.block.is_some() {
            return 64 * MIB;
        }
        if disk.rbd.is_some() {
            return image::info(&disk.path, disk.image.format())["virtual-size"].as_u64().unwrap();
        }
        image::virtual_size(&disk.path)
    }

    /// A raw copy of what a disk holds now. Every write was flushed, and only tests write.
    pub fn copy(&self, disk: usize) -> PathBuf {
        let disk = &self.disks[disk];
        let copy = image::raw_copy(&disk.path, disk.image.format());
        if let Some((pattern, offset, length)) = disk.written {
            let mut read = vec![0; usize::try_from(length).unwrap()];
            File::open(&copy).unwrap().read_exact_at(&mut read, offset).unwrap();
            assert!(read == vec![pattern; read.len()], "the last write did not arrive");
        }
        copy
    }

    /// Raw copies of all disks.
    pub fn copies(&self) -> Vec<PathBuf> {
        (0..self.disks.len()).map(|disk| self.copy(disk)).collect()
    }

    /// Gives a disk of the running guest another size.
    pub fn resize(&self, disk: usize, bytes: u64) {
        self.virsh(&["blockresize", &self.target(disk), &format!("{bytes}B")]);
    }

    /// As a request for the stopped guest names them.
    pub fn stopped_disks(&self) -> Vec<StoppedDisk> {
        self.disks.iter().map(Disk::stopped).collect()
    }

    /// The names of the checkpoints that libvirt knows.
    pub fn checkpoints(&self) -> Vec<String> {
        let mut names = libvirt::checkpoints(&self.name).unwrap();
        names.sort();
        names
    }

    /// The names of a disk's bitmaps: of the running QEMU, else those stored in the image.
    pub fn bitmaps(&self, disk: usize) -> Vec<String> {
        if self.state() == "gone" {
            return image::stored_bitmaps(&self.disks[disk].path);
        }
        let blocks = self.qmp(json!({"execute": "query-block"}));
        let device = self.device(disk);
        // QEMU names a device by its id if it has one, else by its path.
        let names = [device.as_str(), device.trim_start_matches("/machine/peripheral/")];
        let block = blocks.as_array().unwrap().iter().find(|block| names.iter().any(|name| block["qdev"] == *name));
        image::names(&block.expect("the disk is there")["inserted"]["dirty-bitmaps"])
    }

    /// Lets QEMU's backup job start nothing new, and waits until what is on its way to the repository has arrived there.
    pub fn hold_job_still(&self) {
        for job in self.qmp(json!({"execute": "query-block-jobs"})).as_array().unwrap() {
            let slowly = json!({"device": job["device"], "speed": 65536});
            self.qmp(json!({"execute": "block-job-set-speed", "arguments": slowly}));
        }
        let progress = || self.qmp(json!({"execute": "query-jobs"}));
        let (mut before, mut equal) = (progress(), 0);
        assert_ne!(before, json!([]), "the job is over");
        until("the writes under way arrive", || {
            std::thread::sleep(Duration::from_millis(300)); // the time in which nothing may arrive
            let last = std::mem::replace(&mut before, progress());
            // once is not enough: a QEMU that waits for a processor writes nothing
            equal = if last == before { equal + 1 } else { 0 };
            equal == 4
        });
    }

    /// Neither libvirt nor QEMU has a job on this domain.
    pub fn assert_no_job(&self) {
        assert!(!libvirt::has_job(&self.name).unwrap(), "libvirt has a job");
        assert_eq!(self.qmp(json!({"execute": "query-jobs"})), json!([]));
    }
}

/// Begins a pull of all disks that is not ours.
pub fn begin_foreign_backup(guest: &Guest) {
    let files = folder("pull");
    // QEMU itself makes the socket.
    std::fs::set_permissions(&files, std::fs::Permissions::from_mode(0o777)).unwrap();
    let at = xml(&files);
    let disk = |i| {
        let target = guest.target(i);
        format!("<disk name='{target}' type='file'><scratch file='{at}/{target}'/></disk>")
    };
    let disks: String = (0..guest.disks.len()).map(disk).collect();
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{at}/socket'/><disks>{disks}</disks></domainbackup>"
    );
    let file = files.join("backup.xml");
    std::fs::write(&file, text).unwrap();
    guest.virsh(&["backup-begin", "--backupxml", file.to_str().unwrap()]);
}

/// Asks the monitor of that guest in a human's words.
pub fn hmp(name: &str, command: &str) -> String {
    libvirt::monitor(name, Monitor::Hmp, command).unwrap_or_else(|error| panic!("{command}: {error}"))
}

impl Drop for Guest {
    fn drop(&mut self) {
        let gone = self.state() == "gone" || libvirt::destroy(&self.name).is_ok();
        assert!(gone || std::thread::panicking(), "'{}' could not be destroyed", self.name);
    }
}

/// The certificate in a TPM's state: DER begins it by `30 82` and two bytes of its length.
pub fn certificate(state: &[u8]) -> &[u8] {
    let length = |at: usize| usize::from(u16::from_be_bytes([state[at + 2], state[at + 3]]));
    let is_one = |at: &usize| state[*at..*at + 2] == [0x30, 0x82] && (600..2000).contains(&length(*at));
    let at = (0..state.len() - 4).find(is_one).expect("it has a certificate");
    &state[at..at + 4 + length(at)]
}
