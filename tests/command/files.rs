//! `nasbackup files` and `get`.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Host;
use super::support::{Disk, Fs, Guest, Image, MIB, Nas, RealGuest, Refusal, Story, folder, refusing, run, until};

impl Host {
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[&["-r", "nas", "--json"], arguments].concat())).unwrap()
    }

    /// The same host with the tools that a mount of a point needs, and a guestfish of this script if there is one.
    fn with_guestfish(self, script: &str) -> Host {
        let tools = folder("tools");
        std::os::unix::fs::symlink("/usr/bin/qemu-storage-daemon", tools.join("qemu-storage-daemon")).unwrap();
        if !script.is_empty() {
            let guestfish = tools.join("guestfish");
            std::fs::write(&guestfish, format!("#!/bin/sh\n{script}")).unwrap();
            std::fs::set_permissions(guestfish, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Host { tools: Some(tools), ..self }
    }

    /// Its status, and all that it says.
    fn ends(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(&[&["-r", "nas"], arguments].concat());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    /// Nothing of a call is left: no loop device of these volumes, no mount, no folder for one.
    fn assert_nothing_left(&self) {
        let place = self.settings.parent().unwrap();
        let is_ours = |path: PathBuf| {
            let backing = std::fs::read_to_string(path.join("loop/backing_file"));
            backing.is_ok_and(|backing| backing.starts_with(place.to_str().unwrap()))
        };
        // the kernel clears one after its last user
        until("the loop devices go", || names("/sys/block").into_iter().all(|path| !is_ours(path)));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(place.join("mounts").to_str().unwrap()), "{mounts}");
        assert_eq!(names(place.join("mounts")).len(), 0);
    }
}

fn names(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The same machine's points, by their names.
fn points(host: &Host) -> Vec<String> {
    let listed = host.json(&["list"]);
    let points = listed["machines"][0]["points"].as_array().unwrap();
    points.iter().map(|point| point["backupPath"].as_str().unwrap().to_owned()).collect()
}

/// Type and mode of what was listed, by its name.
fn listed<'a>(listing: &'a Value) -> BTreeMap<&'a str, (&'a str, &'a str)> {
    let entries = listing["entries"].as_array().unwrap();
    let told = |entry: &'a Value| {
        let [name, kind, mode] = ["name", "type", "mode"].map(|field| entry[field].as_str().unwrap());
        (name, (kind, mode))
    };
    entries.iter().map(told).collect()
}

#[test]
fn files_of_a_real_guest_are_those_that_it_had_at_an_incremental_of_depth_5() {
    let linux = RealGuest::boot(8, "");
    let nas = Nas::folder();
    let host = Host::new(nas.root());
    for step in 0..6 {
        // a point has the second as its name
        let before = jiff::Timestamp::now().as_second();
        until("the next second", || jiff::Timestamp::now().as_second() > before);
        linux.run(&format!(
            "mkdir -p /mnt/etc /mnt/home/x && cd /mnt/home/x && echo at {step} >/mnt/etc/fstab && \
             head -c 300000 /dev/urandom >file{step}"
        ));
        if step == 5 {
            linux.run(
                "cd /mnt/home/x && ln -s /etc/shadow out && ln -s ../../../../../etc/fstab up && ln -s /home /mnt/h && \
                 echo x >\"$(printf 'new\\nline')\" && echo x >\"$(printf 'es\\033[2Jcape')\" && \
                 echo end | dd of=sparse bs=1 seek=100000000 2>/dev/null && echo s >suid && chmod 4751 suid && \
                 mknod null c 1 3 && mkfifo pipe && mkdir -m 500 closed && echo x >closed/in && \
                 touch -d '2020-01-02 03:04:05' /mnt/etc/fstab closed && sha256sum file* sparse suid >sums",
            );
        }
        let how = if step == 0 { "--full" } else { "--incremental" };
        host.json(&["take", &linux.guest.name, how, "--quiesce"]);
        linux.run(&format!("echo after >/mnt/etc/fstab; rm -f /mnt/home/x/file{}", step + 1));
    }
    let host = host.with_guestfish("");
    let (points, to) = (points(&host), folder("to"));
    let (last, to_text) = (&points[5], to.to_str().unwrap());
    let volume = linux.guest.disks[0].volume();
    let found = host.json(&["files", last]);
    assert_eq!(
        (found.as_array().unwrap().len(), &found[0]["type"], &found[0]["volume"]),
        (1, &"ext4".into(), &volume.into())
    );
    assert!(host.says(&["-r", "nas", "files", last]).contains("ext4"));
    host.assert_nothing_left();

    let home = host.json(&["files", &format!("{last}:{volume}"), "/home/x"]);
    let home = listed(&home);
    assert_eq!(home["new\nline"], ("file", "0644"));
    assert_eq!(home["suid"], ("file", "4751"));
    assert_eq!((home["out"].0, home["closed"], home["null"].0), ("link", ("folder", "0500"), "other"));
    let text = host.says(&["-r", "nas", "files", last, "/h/x"]);
    assert!(
        text.contains(" new\\nline\n") && text.contains(" es\\u{1b}[2Jcape\n") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(text.contains("-rwxr-x--x") && text.contains(" out -> /etc/shadow\n"), "{text}");

    let got = host.json(&["get", last, "/etc/fstab", "/home/x", to_text]);
    let copies = ["fstab", "x"].map(|name| to.join(name).to_str().unwrap().to_owned());
    assert_eq!(got["copies"], Value::from_iter(copies));
    assert_eq!(got["leftOut"], Value::from_iter(["/home/x/null", "/home/x/pipe"]));
    assert_eq!(std::fs::read_to_string(to.join("fstab")).unwrap(), "at 5\n");
    run("sh", ["-c", "cd \"$0\" && sha256sum --check --quiet sums", to.join("x").to_str().unwrap()]);
    let x = |name: &str| to.join("x").join(name);
    let seen = |path: &Path| path.symlink_metadata().unwrap();
    assert_eq!(std::fs::read_link(x("out")).unwrap(), Path::new("/etc/shadow"), "it is not followed");
    assert_eq!(seen(&x("suid")).mode() & 0o7777, 0o751);
    assert_eq!((seen(&x("closed")).mode() & 0o7777, seen(&x("closed")).uid()), (0o500, 0));
    assert_eq!([x("closed"), to.join("fstab")].map(|path| seen(&path).mtime()), [1_577_934_245; 2]);
    assert!(x("new\nline").exists() && x("closed/in").exists() && !x("null").exists() && !x("pipe").exists());
    let sparse = seen(&x("sparse"));
    assert!(sparse.len() > 100_000_000 && sparse.blocks() * 512 < MIB, "{sparse:?}");

    // what a link of the guest's leads to is the guest's
    host.says(&["-r", "nas", "get", last, "/home/x/up", to_text]);
    assert_eq!(std::fs::read_to_string(to.join("up")).unwrap(), "at 5\n");
    assert_eq!(host.fails(&["-r", "nas", "get", last, "/home/x/out", to_text]).0, 3);
    for (step, point) in points.iter().enumerate() {
        let copy = to.join(format!("of {step}"));
        host.says(&["-r", "nas", "get", point, "etc/fstab", copy.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), format!("at {step}\n"));
    }

    let there = names(&to).len();
    std::fs::write(to.join("fstab"), "mine").unwrap();
    for (arguments, status) in [
        (vec!["/etc/fstab", to_text], 4),
        (vec!["/home/x/sums", "/etc/fstab", to_text], 4),
        (vec!["/home/x/sums", "/home/x/gone", to_text], 3),
        (vec!["/home/x/sums", "/home/x/sums", to_text], 2),
        (vec!["/", to_text], 2),
        (vec!["/home/x/sums", "/home/x/suid", "/no/such/folder"], 3),
    ] {
        let (found, complaint) = host.fails(&[&["-r", "nas", "get", last], &arguments[..]].concat());
        assert_eq!((found, complaint.lines().count()), (status, 1), "{arguments:?}: {complaint}");
        assert_eq!(names(&to).len(), there, "{arguments:?}");
    }
    assert_eq!(std::fs::read_to_string(to.join("fstab")).unwrap(), "mine");
    host.assert_nothing_left();
}

/// A raw file with ext4 in it that holds this folder.
fn ext4(label: &str, seed: &Path) -> PathBuf {
    let raw = folder("ext4").join(label);
    std::fs::File::create(&raw).unwrap().set_len(16 * MIB).unwrap();
    run("mkfs.ext4", ["-q", "-F", "-L", label, "-d", seed.to_str().unwrap(), raw.to_str().unwrap()]);
    raw
}

/// A folder with one file.
fn seed(name: &str, content: &str) -> PathBuf {
    let seed = folder("seed");
    std::fs::write(seed.join(name), content).unwrap();
    seed
}

/// A guest's disk whose primary partitions hold these files, each of 16 MiB at most.
fn partitioned(name: &str, parts: &[&Path]) -> Disk {
    let raw = folder("raw").join("raw");
    let mut disk = std::fs::File::create(&raw).unwrap();
    disk.set_len((1 + 16 * parts.len() as u64) * MIB).unwrap();
    for (i, part) in parts.iter().enumerate() {
        let start = MIB + 16 * MIB * i as u64;
        let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap().to_le_bytes();
        let entry = [&[0, 0, 0, 0, 0x83, 0, 0, 0][..], &sectors(start), &sectors(16 * MIB)].concat();
        disk.seek(SeekFrom::Start(446 + 16 * i as u64)).unwrap();
        disk.write_all(&entry).unwrap();
        disk.seek(SeekFrom::Start(start)).unwrap();
        disk.write_all(&std::fs::read(part).unwrap()).unwrap();
    }
    disk.seek(SeekFrom::Start(510)).unwrap();
    disk.write_all(&[0x55, 0xaa]).unwrap();
    let image = folder("disk").join(name);
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
    Disk::existing(image, Image::Qcow2)
}

/// A physical volume of LVM's, as its label says.
fn lvm() -> PathBuf {
    let raw = folder("lvm").join("raw");
    let mut label = vec![0; 512];
    label.extend_from_slice(b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
    std::fs::write(&raw, label).unwrap();
    raw
}

/// The point of a guest with three partitions and a second disk, whose file system is damaged behind its superblock.
fn damaged_story() -> Story {
    let root = ext4("root", &seed("which", "root\n"));
    let damaged = ext4("damaged", &seed("which", "damaged\n"));
    let file = std::fs::File::options().write(true).open(&damaged).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xff; 1 << 20], 4096).unwrap();
    let boot = ext4("boot", &seed("which", "boot\n"));
    let disks = [partitioned("parts", &[&boot, &root, &lvm()]), partitioned("damaged", &[&damaged])];
    let mut story = Story::new(Guest::new(disks), Nas::folder());
    story.take("full");
    story
}

#[test]
fn one_of_several_file_systems_is_named_and_what_can_t_be_read_leaves_nothing_mounted() {
    let story = damaged_story();
    let host = Host::new(story.nas.root()).with_guestfish("");
    let point = story.last().path.as_str();
    let in_point = story.nas.at(point);
    let in_point = in_point.to_str().unwrap();
    let [disk, bad] = [0, 1].map(|disk| format!("{point}:{}", story.guest.disks[disk].volume()));
    let (status, found) = host.ends(&["files", point]);
    assert!(
        status == 0 && found.lines().count() == 5 && found.lines().filter(|line| line.ends_with(" no")).count() == 1,
        "{found}"
    );
    for (arguments, expected, tells) in [
        (&["files", point, "/"][..], 2, "which one, and of which volume? There are 1 of 'parts' (ext4), 2 of"),
        (&["files", &disk, "/which", "--partition", "2"], 0, " which\n"),
        (&["files", &disk, "/", "--partition", "3"], 9, "(LVM2_member); libguestfs reads more, LVM among it"),
        (&["files", &disk, "/", "--partition", "4"], 3, "in partition '4'"),
        (&["files", &bad, "/"], 8, "the ext4 can't be mounted"),
        (&["get", &disk, "which", in_point, "--partition", "1"], 2, "where the repository's restore points are"),
        (&["files", &format!("{point}:no"), "/"], 3, "has no disk of volume 'no'"),
    ] {
        let (status, said) = host.ends(arguments);
        assert!(status == expected && said.contains(tells), "{arguments:?}: {status} {said}");
        host.assert_nothing_left();
    }
    let to = folder("to");
    for (partition, content) in [("1", "boot\n"), ("2", "root\n")] {
        let copy = to.join(partition);
        assert_eq!(host.ends(&["get", &disk, "which", copy.to_str().unwrap(), "--partition", partition]).0, 0);
        assert_eq!(std::fs::read_to_string(copy).unwrap(), content);
    }
}

#[test]
fn libguestfs_reads_what_it_is_told_where_it_is_installed() {
    let story = damaged_story();
    let log = folder("log").join("log");
    // what libguestfs does in its appliance, by this kernel; the volume is the second partition
    let script = format!(
        "echo \"$LIBGUESTFS_BACKEND $*\" >>'{}'\n\
         disks=; while [ $# -gt 0 ]; do\n\
           case $1 in -a) disks=\"$disks $2\" ;; mount-ro) device=$2 ;; mount-local) at=$2 ;;\n\
             list-filesystems) printf '/dev/sda1: ext4\\n/dev/vg/root: ext4\\n/dev/vg/swap: swap\\n' ;;\n\
           esac; shift; done\n\
         [ -n \"$at\" ] || exit 0\n\
         case $device in /dev/sda1) start=1 ;; /dev/vg/root) start=17 ;; *) echo \"no $device\" >&2; exit 1 ;; esac\n\
         set -- $disks\n\
         mount -t ext4 -o \"loop,ro,noload,offset=$((start << 20)),sizelimit=$((16 << 20))\" \"$1\" \"$at\" || exit\n\
         while mountpoint -q \"$at\"; do sleep 0.1; done\n",
        log.display()
    );
    let host = Host::new(story.nas.root()).with_guestfish(&script);
    let point = format!("{}:{}", story.last().path, story.guest.disks[0].volume());
    let to = folder("to");
    let copy = to.join("copy");
    for (arguments, status, tells) in [
        (&["files", &point][..], 0, "vg/root"),
        (&["files", &point, "which"], 2, "There are 1 of 'parts' (ext4), 2 of 'parts' (ext4), vg/root (ext4)"),
        (&["get", &point, "which", copy.to_str().unwrap(), "--partition", "vg/root"], 0, "1 files, 5 B"),
        (&["files", &point, "which", "--partition", "1"], 0, " which\n"),
        (&["files", &point, "which", "--partition", "2"], 16, "guestfish: no /dev/sda2"),
        (&["files", &point, "which", "--partition", "vg/swap"], 9, "can't read vg/swap (swap)"),
    ] {
        let (found, said) = host.ends(arguments);
        assert!(found == status && said.contains(tells), "{arguments:?}: {found} {said}");
        host.assert_nothing_left();
    }
    assert_eq!(std::fs::read_to_string(copy).unwrap(), "root\n");
    let told = std::fs::read_to_string(&log).unwrap();
    let is_safe = |line: &str| line.starts_with("direct --ro --format=raw -a ") && !line.contains("network");
    assert!(told.lines().all(is_safe), "{told}");
    // not for a partition that has its name
    assert_eq!(told.lines().filter(|line| line.ends_with("list-filesystems")).count(), 4, "{told}");
}

/// The point of a guest with one file of 8 MiB, `/ballast`.
fn ballast_story() -> Story {
    let seed = folder("seed");
    std::fs::write(seed.join("ballast"), vec![0x5a; 8 * MIB as usize]).unwrap();
    let mut story = Story::new(Guest::new([partitioned("data", &[&ext4("data", &seed)])]), Nas::folder());
    story.take("full");
    story
}

#[test]
fn a_copy_that_can_t_be_made_durable_is_none() {
    let story = ballast_story();
    let host = Host::new(story.nas.root()).with_guestfish("");
    let to = folder("to");
    let get = || host.ends(&["get", &story.last().path, "/ballast", to.to_str().unwrap()]);
    let refusal = Refusal { call: "fsync".into(), errnos: vec![libc::EIO] };
    let ((status, said), met) = refusing(&to, &[refusal], get);
    assert!(status == 20 && said.contains("sync the copies"), "{status} {said}");
    assert_eq!((met.get("fsync"), names(&to).len()), (Some(&1), 0));
    host.assert_nothing_left();
}

#[test]
fn a_get_leaves_room_where_it_copies_to() {
    let story = ballast_story();
    let host = Host::new(story.nas.root()).with_guestfish("");
    let to = Nas::image(Fs::Ext4, 32);
    let get = || host.ends(&["get", &story.last().path, "/ballast", to.path()]);
    let told = rustix::fs::statvfs(to.root()).unwrap();
    let filler = std::fs::File::create(to.at("filler")).unwrap();
    // the copy would fit
    let filled = told.f_bavail * told.f_frsize - 9 * MIB;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, filled).unwrap();
    let before = names(to.root()).len();
    let (status, said) = get();
    assert!(status == 10 && said.contains("is nearly full"), "{status} {said}");
    assert_eq!(names(to.root()).len(), before);
    filler.set_len(filled - 2 * MIB).unwrap();
    assert_eq!(get().0, 0);
}

#[test]
fn a_loop_device_that_another_call_is_about_to_take_holds_up_no_call() {
    let story = ballast_story();
    let host = Host::new(story.nas.root()).with_guestfish("");
    let next = run("losetup", ["--find"]).trim().to_owned();
    let taken = std::fs::File::open(&next).unwrap();
    rustix::fs::flock(&taken, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut command = host.command();
    command.args(["-r", "nas", "files", &story.last().path, "/"]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let open = format!("/proc/{}/fd", child.id());
    let is_at_it = || names(&open).iter().any(|fd| std::fs::read_link(fd).is_ok_and(|path| path == Path::new(&next)));
    let mut ended = None;
    until("it finds the device", || {
        ended = child.try_wait().unwrap();
        ended.is_some() || is_at_it()
    });
    // as the other one does; if a third one has taken it by now, all the better. It goes with the last that has it open
    if super::support::succeeds("losetup", [Path::new(&next), &story.guest.disks[0].path]) {
        run("losetup", ["--detach", &next]);
    }
    until("it goes on", || child.try_wait().unwrap().is_some_and(|ended| ended.success()));
    drop(taken);
    host.assert_nothing_left();
}

#[test]
fn an_end_while_libguestfs_starts_ends_it_and_frees_the_point() {
    let story = damaged_story();
    let started = folder("log").join("started");
    let script = format!("case $* in *mount-local*) echo $$ >'{}'; exec sleep 1000 ;; esac\n", started.display());
    let host = Host::new(story.nas.root()).with_guestfish(&script);
    let point = format!("{}:{}", story.last().path, story.guest.disks[0].volume());
    for signal in [Signal::INT, Signal::KILL] {
        let mut command = host.command();
        command.args(["-r", "nas", "files", &point, "which", "--partition", "1"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let number = || std::fs::read_to_string(&started).ok().and_then(|text| text.trim().parse::<u32>().ok());
        until("guestfish starts", || number().is_some());
        let guestfish = number().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), if signal == Signal::INT { Some(130) } else { None });
        until("guestfish ends", || !Path::new(&format!("/proc/{guestfish}")).exists());
        host.assert_nothing_left();
        std::fs::remove_file(&started).unwrap();
    }
    until("the point is free", || host.run(&["-r", "nas", "delete", &story.last().path]).status.success());
}

#[test]
fn a_get_that_is_ended_leaves_nothing_half() {
    let linux = RealGuest::boot(48, "");
    let nas = Nas::folder();
    let host = Host::new(nas.root());
    host.json(&["take", &linux.guest.name, "--full", "--quiesce"]);
    let point = points(&host).remove(0);
    let slow = nas.same().view_with(&["--read-rate=2M"]);
    let (host, slow) = (host.with_guestfish(""), Host::new(slow.root()).with_guestfish(""));
    let to = folder("to");
    let get = ["-r", "nas", "get", &point, "/ballast", to.to_str().unwrap()];
    let under_way = || {
        names(&to).first().is_some_and(|unfinished| {
            names(unfinished).first().is_some_and(|copy| copy.metadata().is_ok_and(|copy| copy.len() > 0))
        })
    };
    for signal in [Signal::INT, Signal::KILL] {
        let mut child = slow.command().args(get).stderr(Stdio::piped()).spawn().unwrap();
        until("something is copied", under_way);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = child.wait().unwrap();
        if signal == Signal::INT {
            assert_eq!((ended.code(), names(&to).len()), (Some(130), 0));
        } else {
            assert_eq!(names(&to).len(), 1, "the next call clears it");
        }
        slow.assert_nothing_left();
    }
    let output = host.run(&get);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(&to), [to.join("ballast")]);
    host.says(&["-r", "nas", "get", &point, "/ballast.sum", to.to_str().unwrap()]);
    run("sh", ["-c", "cd \"$0\" && sha256sum --check --quiet ballast.sum", to.to_str().unwrap()]);
}
