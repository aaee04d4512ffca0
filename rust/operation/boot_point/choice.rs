//! What is taken of the host for a boot test, and of the restore point: decided, and not done.

use crate::libvirt::{KnownEmulator, SavedDisk, SavedDomain, Uefi};
use crate::plain::size;
use crate::point::{Manifest, NVRAM_QCOW2, volume_of};

/// Bytes of memory below which no guest is started.
const LEAST_MEMORY: u64 = 16 << 20;
/// Bytes that stay free in the scratch folder's file system, more than a guest takes in five seconds, in which it is looked at and ended.
const STAYS_FREE: u64 = 1 << 30;

/// Bytes of the guest's memory: what it had, if not less is asked for, and without being asked no more than half of what the host
/// has left. An error in words if that is too little.
pub(super) fn memory(saved: u64, asked: Option<u64>, available: u64) -> Result<u64, String> {
    let memory = saved.min(asked.unwrap_or(available / 2));
    let refuse = |why: String| Err(format!("the guest is to have {}, and {why}", size(memory)));
    match memory {
        ..LEAST_MEMORY => refuse(format!("needs {} at least", size(LEAST_MEMORY))),
        _ if memory > available => refuse(format!("the host has {} left", size(available))),
        _ => Ok(memory),
    }
}

/// The bytes that a host has left for processes, by its `/proc/meminfo`.
pub(super) fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// Does a host with processors of this kind run what was made for `saved`? QEMU emulates others, by code that seldom meets a hostile guest.
pub(super) fn runs(host: &str, saved: &str) -> bool {
    saved == host || (host, saved) == ("x86_64", "i686")
}

/// The machine that the host has for the saved one: the very same, else the newest of its family. QEMU has others, of families that no
/// server's guest has.
pub(super) fn machine<'a>(saved: &str, host: &'a KnownEmulator) -> Option<&'a str> {
    let families = [("pc-q35", "q35"), ("q35", "q35"), ("pc", "pc"), ("virt", "virt"), ("s390-ccw", "s390-ccw-virtio")];
    let (_, newest) = families.into_iter().find(|(begin, _)| saved.starts_with(begin))?;
    let known = |name: &str| host.machines.iter().find(|known| *known == name).map(String::as_str);
    known(saved).or_else(|| known(newest))
}

/// The firmware among the host's for the saved one: the very same, else the first that checks what it boots, or does not, as that did.
pub(super) fn loader<'a>(saved: &Uefi, host: &'a [String]) -> Option<&'a str> {
    let checks = |path: &&String| ["secboot", "secure", ".ms."].iter().any(|word| path.contains(word));
    let same = host.iter().find(|path| Some(*path) == saved.loader.as_ref());
    same.or_else(|| host.iter().find(|path| checks(path) == saved.secure)).map(String::as_str)
}

/// Do the variables in a file of this name fit the host's `loader`? Those of another firmware may be of another size.
pub(super) fn fits(variables: &str, saved: &Uefi, loader: &str) -> bool {
    saved.loader.as_deref() == Some(loader) && (variables == NVRAM_QCOW2) == loader.ends_with(".qcow2")
}

/// For each saved disk the one among the point's, by their volumes, that is the same; none of a disk that the point does not hold.
pub(super) fn held(domain: &SavedDomain, manifest: Option<&Manifest>, volumes: &[&str]) -> Vec<Option<usize>> {
    let of_one =
        |serial: &&str| domain.disks.iter().filter(|other| other.serial.as_deref() == Some(*serial)).count() == 1;
    let find = |disk: &SavedDisk| {
        let volume = volume_of(disk.source.as_deref()?)?;
        let serial = disk.serial.as_deref().filter(of_one);
        let volume = manifest.map_or(Some(volume), |manifest| Some(&manifest.disk(serial, volume)?.volume));
        volumes.iter().position(|held| Some(*held) == volume)
    };
    domain.disks.iter().map(find).collect()
}

/// Why the scratch has no room for more of what the guest writes, if that is so: `free` bytes of its file system, `allowed` by settings.
pub(super) fn lack(free: u64, allowed: u64) -> Option<String> {
    if free < STAYS_FREE {
        return Some(format!("the scratch folder has {} free, and {} are to stay so", size(free), size(STAYS_FREE)));
    }
    (allowed == 0).then(|| "the scratch folder holds all that scratchPerVm or scratchPerHost allows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::libvirt::{WRITES, WRITTEN_BYTES};
    use crate::qcow2::CLUSTER;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_guest_has_what_it_had_and_leaves_the_host_half_of_its_memory() {
        for (saved, asked, available, expected) in [
            (2 * GIB, None, 8 * GIB, Ok(2 * GIB)),
            (64 * GIB, None, 8 * GIB, Ok(4 * GIB)),
            (64 * GIB, Some(6 * GIB), 8 * GIB, Ok(6 * GIB)),
            (2 * GIB, Some(6 * GIB), 8 * GIB, Ok(2 * GIB)),
            (64 * GIB, Some(9 * GIB), 8 * GIB, Err(())),
            (2 * GIB, Some(1 << 20), 8 * GIB, Err(())),
            (2 * GIB, None, 0, Err(())),
        ] {
            assert_eq!(memory(saved, asked, available).map_err(drop), expected, "{saved} {asked:?} {available}");
        }
        let refused = |asked, available| memory(2 * GIB, asked, available).unwrap_err();
        assert_eq!(refused(Some(1 << 10), GIB), "the guest is to have 1.00 KiB, and needs 16.00 MiB at least");
        assert_eq!(refused(Some(3 * GIB), GIB), "the guest is to have 2.00 GiB, and the host has 1.00 GiB left");
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   7 kB\n"), Some(7 << 10));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn a_machine_or_firmware_is_the_host_s_own() {
        let machines = ["pc-q35-7.2", "q35", "pc", "virt", "isapc", "none"].map(str::to_owned).to_vec();
        let host = KnownEmulator { machines, ..KnownEmulator::default() };
        for (saved, expected) in [
            ("pc-q35-7.2", Some("pc-q35-7.2")),
            ("pc-q35-rhel9.2.0", Some("q35")),
            ("pc-i440fx-2.1", Some("pc")),
            ("virt-9.0", Some("virt")),
            ("s390-ccw-virtio-7.2", None),
            ("q35", Some("q35")),
            ("isapc", None),
            ("none", None),
            ("evil", None),
            ("", None),
        ] {
            assert_eq!(machine(saved, &host), expected, "{saved}");
        }
        for (host, saved, expected) in [
            ("x86_64", "x86_64", true),
            ("x86_64", "i686", true),
            ("x86_64", "aarch64", false),
            ("x86_64", "m68k", false),
            ("aarch64", "i686", false),
            ("", "x86_64", false),
        ] {
            assert_eq!(runs(host, saved), expected, "{host} {saved}");
        }
        let paths = ["/f/CODE.secboot.fd", "/f/CODE.fd", "/f/CODE.ms.fd"].map(str::to_owned);
        let saved = |loader: Option<&str>, secure| Uefi { loader: loader.map(str::to_owned), secure };
        for (uefi, expected) in [
            (saved(Some("/f/CODE.ms.fd"), false), Some("/f/CODE.ms.fd")),
            (saved(Some("/etc/evil"), false), Some("/f/CODE.fd")),
            (saved(Some("/etc/evil"), true), Some("/f/CODE.secboot.fd")),
            (saved(None, false), Some("/f/CODE.fd")),
        ] {
            assert_eq!(loader(&uefi, &paths), expected, "{uefi:?}");
        }
        assert_eq!(loader(&saved(None, true), &paths[1..2]), None);
        for (variables, then, now, expected) in [
            ("nvram.fd", Some("/f/CODE.fd"), "/f/CODE.fd", true),
            ("nvram.fd", Some("/f/CODE.fd"), "/f/CODE_4M.fd", false),
            ("nvram.fd", None, "/f/CODE.fd", false),
            ("nvram.qcow2.fd", Some("/f/CODE.fd"), "/f/CODE.fd", false),
            ("nvram.qcow2.fd", Some("/f/CODE.qcow2"), "/f/CODE.qcow2", true),
        ] {
            assert_eq!(fits(variables, &saved(then, false), now), expected, "{variables} {then:?} {now}");
        }
    }

    #[test]
    fn the_disks_of_a_point_are_found_in_its_domain() {
        let disk = |source: &str| format!("<disk><source file='{source}'/><target dev='vda' bus='virtio'/></disk>");
        let devices = disk("/mnt/a") + &disk("/mnt/gone") + &disk("/mnt/b") + &disk("");
        let text = format!("<domain><memory>1</memory><os><type/></os><devices>{devices}</devices></domain>");
        let domain = SavedDomain::parse(&text).unwrap();
        assert_eq!(held(&domain, None, &["b", "a"]), [Some(1), None, Some(0), None]);
    }

    #[test]
    fn the_scratch_keeps_room_for_others() {
        for (free, allowed, lacks) in
            [(2 * GIB, u64::MAX, false), (GIB - 1, u64::MAX, true), (2 * GIB, 1, false), (2 * GIB, 0, true)]
        {
            assert_eq!(lack(free, allowed).is_some(), lacks, "{free} {allowed}");
        }
        // at both of its ends a write takes a cluster that it does not fill, and a table of such
        let a_second = WRITTEN_BYTES + WRITES * 4 * CLUSTER;
        assert!(STAYS_FREE > 5 * a_second, "{a_second}");
    }
}
