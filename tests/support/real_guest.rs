//! A guest with Linux, ext4 and the guest agent in it, driven over a serial port.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nasbackup::operation::take_backup::TakeBackupRequest;

use super::{Disk, Guest, Image, MIB, Nas, PATIENCE, backup_path, folder, init, run, unique, until, xml};

/// A running Linux guest whose disk, `/mnt`, holds `ballast` and its sum in `ballast.sum`.
pub struct RealGuest {
    pub guest: Guest,
    shell: PathBuf,
}

impl RealGuest {
    /// Boots one with `ballast_mib` MiB of random data. `words` go to the kernel: `w=64` writes files of 64 KiB for ever.
    pub fn boot(ballast_mib: u64, words: &str) -> RealGuest {
        RealGuest::boot_beside(ballast_mib, words, [])
    }

    /// The same whose disk is served by an iothread.
    pub fn boot_on_iothread(ballast_mib: u64, words: &str) -> RealGuest {
        RealGuest::boot_with("cache='none' discard='unmap' iothread='1'", ballast_mib, words, [])
    }

    /// The same with further disks.
    pub fn boot_beside(ballast_mib: u64, words: &str, disks: impl IntoIterator<Item = Disk>) -> RealGuest {
        RealGuest::boot_with("cache='none' discard='unmap'", ballast_mib, words, disks)
    }

    fn boot_with(
        driver: &'static str,
        ballast_mib: u64,
        words: &str,
        disks: impl IntoIterator<Item = Disk>,
    ) -> RealGuest {
        let root = Disk::existing(file_system(ballast_mib), Image::Qcow2).driver(driver);
        RealGuest::boot_from(words, std::iter::once(root).chain(disks))
    }

    /// One of these disks, the first of which has `/mnt`.
    pub fn boot_from(words: &str, disks: impl IntoIterator<Item = Disk>) -> RealGuest {
        init();
        let files = folder("linux");
        // QEMU's user can't reach into every folder a repository is checked out to.
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("guest");
        run(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/guest/mkguest.sh"), [&made]);
        for name in ["vmlinuz", "initrd"] {
            std::fs::copy(made.join(name), files.join(name)).unwrap();
        }
        let shell = files.join("shell");
        let mut guest = Guest::stopped(disks);
        guest.elements = "<iothreads>1</iothreads>";
        guest.memory_mib = 128;
        guest.boot = format!(
            "<kernel>{0}/vmlinuz</kernel><initrd>{0}/initrd</initrd>\
             <cmdline>console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable {words}</cmdline>",
            xml(&files)
        );
        guest.devices = format!(
            "<serial type='file'><source path='{}'/></serial>\
             <serial type='unix'><source mode='bind' path='{}'/></serial>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
            xml(files.join("console")),
            xml(&shell)
        );
        guest.start();
        let guest = RealGuest { guest, shell };
        guest.wait_for_agent();
        guest
    }

    /// A request for its `n`th backup, a full one.
    pub fn request(&self, nas: &Nas, n: usize) -> TakeBackupRequest {
        TakeBackupRequest {
            vm_name: Some(self.guest.name.clone()),
            backup_path: Some(backup_path(&self.guest, n)),
            repository: Some(nas.repository()),
            mode: Some("full".into()),
            bitmap_new: Some(format!("backup-{n}")),
            ..Default::default()
        }
    }

    /// Waits until the agent has opened its port.
    pub fn wait_for_agent(&self) {
        until("the guest's agent connects", || {
            self.guest.live_xml().contains("name='org.qemu.guest_agent.0' state='connected'")
        });
    }

    /// Runs a shell command in the guest and returns what it prints; panics when it fails or takes too long.
    pub fn run(&self, command: &str) -> String {
        let mut shell = UnixStream::connect(&self.shell).unwrap();
        shell.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let end = Instant::now() + PATIENCE;
        let key = unique();
        // A guest still booting drops input: ask until the shell answers. The quotes keep an echo from looking like it.
        let mut seen = String::new();
        while !seen.contains(&format!("R{key}")) {
            assert!(Instant::now() < end, "the guest's shell does not answer '{command}': {seen}");
            writeln!(shell, "\n echo R''{key}").unwrap();
            while read_some(&mut shell, &mut seen) && !seen.contains(&format!("R{key}")) {}
        }
        writeln!(shell, "\necho B''{key}; ( {command} ); echo E''{key} $?").unwrap();
        let (begin, finish) = (format!("B{key}"), format!("E{key} "));
        loop {
            if let Some((_, answer)) = seen.rsplit_once(&begin)
                && let Some((text, status)) = answer.split_once(&finish)
                && let Some((status, _)) = status.split_once('\n')
            {
                let text = text.replace('\r', "").trim().to_owned();
                assert_eq!(status.trim(), "0", "'{command}' in the guest: {text}");
                return text;
            }
            assert!(Instant::now() < end, "'{command}' in the guest does not end: {seen}");
            read_some(&mut shell, &mut seen);
        }
    }

    /// Waits until the writer has finished `count` files.
    pub fn wait_for_files(&self, count: u64) {
        self.run(&format!("until [ \"$(cat /mnt/next 2>/dev/null || echo 0)\" -ge {count} ]; do usleep 50000; done"));
    }

    /// Starts a command that takes the guest, and with it the shell, down.
    pub fn launch(&self, command: &str) {
        self.run(&format!("({command}) >/dev/null 2>&1 &"));
    }

    /// Stops the agent in the middle of whatever it does: it answers nothing and stays connected.
    pub fn stop_agent(&self) {
        self.run("kill -STOP $(pidof qemu-ga)");
    }

    /// Lets it go on.
    pub fn wake_agent(&self) {
        self.run("kill -CONT $(pidof qemu-ga)");
    }

    /// Has the agent take its time for the next freeze: it answers nothing until it is released, and freezes then.
    pub fn hold_freeze(&self) {
        self.run("touch /tmp/hold");
    }

    pub fn release_freeze(&self) {
        self.run("rm /tmp/hold");
    }

    /// Are its file systems frozen? The agent tells it after everything that it was asked before.
    pub fn is_frozen(&self) -> bool {
        let answer = self.guest.virsh(&["qemu-agent-command", r#"{"execute": "guest-fsfreeze-status"}"#]);
        answer.contains(r#""frozen""#)
    }

    /// Can the guest write to its disk?
    pub fn assert_writes(&self) {
        let mark = unique();
        self.run(&format!("echo x >/mnt/{mark} && sync"));
    }

    pub fn reboot(&self) {
        self.launch("sleep 0.2; reboot -f");
    }

    pub fn power_off(&self) {
        self.launch("sleep 0.2; poweroff -f");
    }
}

/// What a restored file system has to show: it was frozen, or at least every file with a sum verifies.
pub struct Restored(PathBuf);

impl Restored {
    /// Flattens a restore point's file.
    pub fn from(file: &Path) -> Restored {
        Restored(super::image::raw_copy(file, "qcow2"))
    }

    /// The journal is clean: the file system was frozen at that instant.
    pub fn was_frozen(&self) -> bool {
        !run("dumpe2fs", ["-h", self.0.to_str().unwrap()]).contains("needs_recovery")
    }

    /// Every file that has a sum matches it. `replay`: let the kernel replay the journal first, as after a crash.
    /// Returns how many there were.
    pub fn verified_files(&self, replay: bool) -> usize {
        let point = folder("restored");
        let options = if replay { "loop" } else { "loop,ro,noload" };
        run("mount", ["-t", "ext4", "-o", options, self.0.to_str().unwrap(), point.to_str().unwrap()]);
        let verified = run(
            "sh",
            ["-c", "cd \"$1\" && cat ballast.sum s[0-9]* 2>/dev/null | sha256sum -c", "-", point.to_str().unwrap()],
        );
        run("umount", [&point]);
        verified.lines().count()
    }
}

/// Was there something within half a second?
fn read_some(shell: &mut UnixStream, seen: &mut String) -> bool {
    let mut buffer = [0; 4096];
    match shell.read(&mut buffer) {
        Ok(read) => {
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            read > 0
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("the guest's shell: {error}"),
    }
}

/// A qcow2 with ext4 on it that holds `ballast` of random bytes.
fn file_system(ballast_mib: u64) -> PathBuf {
    let work = folder("mkfs");
    let seed = work.join("seed");
    std::fs::create_dir(&seed).unwrap();
    let script = "cd \"$1\" && head -c \"$2\" /dev/urandom >ballast && sha256sum ballast >ballast.sum";
    run("sh", ["-c", script, "-", seed.to_str().unwrap(), &(ballast_mib * MIB).to_string()]);
    let raw = work.join("raw");
    std::fs::File::create(&raw).unwrap().set_len((ballast_mib + 96) * MIB).unwrap();
    run("mkfs.ext4", ["-q", "-F", "-d", seed.to_str().unwrap(), raw.to_str().unwrap()]);
    let disk = folder("disk").join("linux");
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), disk.to_str().unwrap()]);
    disk
}
