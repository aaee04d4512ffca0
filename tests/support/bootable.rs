//! Disks that boot by themselves (tests/lab/guest/boot.S).

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Disk, Guest, Image, MIB, folder, run};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Where Linux's files lie on a disk, in sectors.
const LINUX: u64 = 2048;

/// What a bootable disk does once it has told that it boots.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    Rest,
    PowerOff,
    /// It writes itself full.
    WriteOn,
    /// It starts Linux with the guest's agent.
    Linux,
}

/// What a guest tells on its console that has booted from such a disk, once: that it has not done so before, too.
pub const READY: &str = "1 boots\r\nready";

/// A disk of 256 MiB that a PC boots from.
pub fn bootable(then: Then) -> Disk {
    let place = folder("bootable");
    let at = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/guest/boot.S");
    run("as", ["--32", "-o", &at("object"), source]);
    run("ld", ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", &at("raw"), &at("object")]);
    let raw = std::fs::File::options().write(true).open(at("raw")).unwrap();
    raw.set_len(256 * MIB).unwrap();
    let mut sector = [0; SECTOR as usize];
    sector[..7].copy_from_slice(b"ready\r\n");
    sector[SECTOR as usize - 1] = match then {
        Then::Rest => 0,
        Then::PowerOff => b'O',
        Then::WriteOn => b'W',
        Then::Linux => b'L',
    };
    if let Then::Linux = then {
        let mut sectors = LINUX;
        for (name, entry) in [("vmlinuz", 480), ("initrd", 488)] {
            let bytes = std::fs::read(linux().join(name)).unwrap();
            let count = (bytes.len() as u64).div_ceil(SECTOR);
            raw.write_all_at(&bytes, sectors * SECTOR).unwrap();
            for (at, value) in [(entry, sectors), (entry + 4, count)] {
                sector[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
            }
            sectors += count;
        }
    }
    raw.write_all_at(&sector, SECTOR).unwrap();
    raw.write_all_at(b"0 boots\r\n\0", 2 * SECTOR).unwrap();
    drop(raw);
    let disk = folder("disk").join(place.file_name().unwrap());
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &at("raw"), disk.to_str().unwrap()]);
    std::fs::remove_dir_all(place).unwrap();
    Disk::existing(disk, Image::Qcow2)
}

/// The folder of the lab's Linux.
fn linux() -> &'static Path {
    let made = Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/../guest"));
    run(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/guest/mkguest.sh"), [made]);
    made
}

/// A guest that runs, without a system, and would boot from its first disk by the firmware that is usual.
pub fn bootable_guest(then: Then) -> Guest {
    let mut guest = Guest::stopped([bootable(then), Disk::new()]);
    if let Then::Linux = then {
        guest.memory_mib = 192;
        guest.devices =
            "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>".to_owned();
    }
    guest.start();
    guest
}
