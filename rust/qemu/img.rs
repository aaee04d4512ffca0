//! What is left to `qemu-img`: bitmaps, for QEMU alone writes to a guest's disk. What it reads there a hostile guest may have
//! written: it runs as the owner of the disk's file, which has no privileges, in a root folder with that file and the system's
//! programs, without a network, and follows none of the names in the header.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;
use std::time::Instant;

use rustix::process::Resource;

use super::image_file::{Nameable, open_named};
use super::layers;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::process::Tool;
use crate::qcow2;
use crate::sys::{Confinement, Root, with_own_processes};

const PROGRAM: &str = "qemu-img";
const STEP: &str = "change the disk's bitmaps";
const QEMU_IMG: Tool = Tool { program: PROGRAM, step: STEP, late: "qemu-img did not end" };
/// What it may map, in bytes. It holds all of a bitmap, and maps some 300 MiB besides.
const MEMORY: u64 = 4 << 30;
/// By how much the image may grow, in bytes.
const GROWTH: u64 = 1 << 30;
/// Its names of the image and of the file that the image's data are in.
const IMAGE: &str = "image";
const DATA: &str = "data";

/// Adds or removes a bitmap (`--add`, `--remove`), under QEMU's image lock.
pub(crate) fn bitmap(what: &str, path: &str, bitmap: &str) -> Result<()> {
    bitmap_until(Instant::now() + limits::QEMU_IMG, what, path, bitmap)
}

/// Does what `bitmap` does, and nothing after `until`, however long the disk's storage has held it up.
pub(crate) fn bitmap_until(until: Instant, what: &str, path: &str, bitmap: &str) -> Result<()> {
    change(until, what, path, bitmap).map_err(|error| error.on_disk(path))
}

fn change(until: Instant, what: &str, path: &str, bitmap: &str) -> Result<()> {
    let image = open_named(path)?;
    let info = qcow2::inspect(&image).map_err(|e| e.at(STEP, path))?;
    let data = layers::data_file(path, &info, &Nameable::beside([path]))?;
    let mut command = QEMU_IMG.command().map_err(|e| Error::io(STEP, PROGRAM, e))?;
    let opened =
        [Some((&image, IMAGE)), data.as_ref().map(|data| (data, DATA))].into_iter().flatten().collect::<Vec<_>>();
    let (names, confinement) = confine(&command, &opened).map_err(|e| Error::io(STEP, path, e))?;
    command.args(["bitmap", what, "--", &names, bitmap]);
    confinement.put_on(&mut command);
    if Instant::now() >= until {
        return Err(Error::new(Code::Timeout, STEP, "nobody waits for it any more"));
    }
    let changed = with_own_processes(|| {
        let limit = limits::QEMU_IMG.min(until.saturating_duration_since(Instant::now()));
        QEMU_IMG.run(&mut command, limit, || Ok(()))?.result().map(drop)
    });
    changed.map_err(|e| Error::io(STEP, PROGRAM, e))?
}

/// QEMU's words for the opened files, the image first, of which it opens no other, and what it may reach of the host.
fn confine(command: &Command, opened: &[(&File, &str)]) -> std::io::Result<(String, Confinement)> {
    let mut nodes = Vec::new();
    let (mut owner, mut largest) = (None, 0);
    for (file, name) in opened {
        let found = file.metadata()?;
        let driver = if found.file_type().is_block_device() { "host_device" } else { "file" };
        // without that it goes on without a lock where it does not find out how to lock
        nodes.push(format!(r#"{{"driver":"{driver}","locking":"on","filename":"/{name}"}}"#));
        owner = owner.or(Some((found.uid(), found.gid())));
        largest = largest.max(found.len());
    }
    let data = nodes.get(1).map(|node| format!(r#","data-file":{node}"#)).unwrap_or_default();
    let names = format!(r#"json:{{"driver":"qcow2","backing":null,"file":{}{data}}}"#, nodes[0]);
    let limits = vec![
        (Resource::As, MEMORY),
        (Resource::Fsize, largest.saturating_add(GROWTH)),
        (Resource::Cpu, limits::QEMU_IMG.as_secs()),
        (Resource::Nofile, 64),
        (Resource::Core, 0),
    ];
    let root = Some(Root::new(opened, command)?);
    Ok((names, Confinement { owner: owner.unwrap_or((0, 0)), limits, root }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::image_lock::ImageLock;
    use std::os::unix::fs::chown;
    use std::path::Path;
    use std::process::Stdio;

    fn qemu_img(arguments: &[&str]) {
        let output = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn names(path: &Path) -> Vec<String> {
        let info = qcow2::inspect(&File::open(path).unwrap()).unwrap();
        info.bitmaps.into_iter().map(|bitmap| bitmap.name).collect()
    }

    /// Whoever owns it, and whatever it stands on, which need not even be there.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn bitmaps_come_and_go_and_the_header_s_names_are_kept_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (plain, overlay, split) = (at("a, 'b' \"c\"=%\u{e4}"), at("overlay"), at("split"));
        qemu_img(&["create", "-q", "-f", "qcow2", &plain, "64M"]);
        let backing = ["-F", "qcow2", "-b", "/nowhere/at/all"];
        qemu_img(&[&["create", "-q", "-u", "-f", "qcow2"][..], &backing, &[&overlay, "64M"]].concat());
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &format!("data_file={}", at("data")), &split, "64M"]);
        for owner in [0, 65534] {
            for path in [&plain, &overlay, &split] {
                for path in [path, &at("data")] {
                    chown(path, Some(owner), Some(owner)).unwrap();
                }
                bitmap("--add", path, "backup-1").unwrap();
                bitmap("--add", path, "'backup' \"2\"").unwrap();
                assert_eq!(names(Path::new(path)).len(), 2, "{path}");
                bitmap("--remove", path, "backup-1").unwrap();
                assert_eq!(names(Path::new(path)), ["'backup' \"2\""], "{path}");
                bitmap("--remove", path, "'backup' \"2\"").unwrap();
                let info = qcow2::inspect(&File::open(path).unwrap()).unwrap();
                assert_eq!(
                    info.backing.map(|backing| backing.file),
                    (path == &overlay).then(|| "/nowhere/at/all".to_owned())
                );
                assert_eq!(info.data_file, (path == &split).then(|| at("data")));
            }
        }
        let error = bitmap_until(Instant::now(), "--add", &plain, "backup-1").unwrap_err();
        assert_eq!((error.code, names(Path::new(&plain)).len()), (Code::Timeout, 0), "{error}");
        let error = bitmap("--remove", &plain, "backup-1").unwrap_err();
        assert_eq!((error.code, error.disk.as_deref()), (Code::JobFailed, Some(plain.as_str())), "{error}");
        // as a guest does it, or whoever reads the disk
        let used = ImageLock::take(open_named(&plain).unwrap(), &plain).unwrap();
        let error = bitmap("--add", &plain, "backup-1").unwrap_err();
        assert!(error.cause.contains("lock"), "{error}");
        drop(used);
        bitmap("--add", &plain, "backup-1").unwrap();
    }

    /// What stands in the place of `qemu-img` sees of this host.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn it_reaches_the_image_and_the_system_s_programs_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("image"), dir.path().join("secret"));
        std::fs::write(&secret, "x").unwrap();
        for owner in [0, 64055] {
            std::fs::write(&path, "the image").unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
            let image = open_named(path.to_str().unwrap()).unwrap();
            let mut command = (Tool { program: "bash", ..QEMU_IMG }).command().unwrap();
            let script = format!(
                "cd /; echo *; id -u; id -G; [[ -e '{}' || -e /proc/self ]] && echo more; echo dev/*; cat image; echo
                 for file in /written /usr/written /etc/written; do : >$file && echo may write; done 2>&-
                 (: </dev/tcp/127.0.0.1/1) 2>&1 | grep -om1 unreachable; env; echo changed >>image; cat",
                secret.display()
            );
            let (_, confinement) = confine(&command, &[(&image, IMAGE)]).unwrap();
            confinement.put_on(&mut command);
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = with_own_processes(|| command.spawn()).unwrap().unwrap();
            let of = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", child.id())).unwrap();
            let status = of("status");
            for (line, value) in [
                ("CapInh", "0000000000000000"),
                ("CapPrm", "0000000000000000"),
                ("CapEff", "0000000000000000"),
                ("CapBnd", "0000000000000000"),
                ("CapAmb", "0000000000000000"),
                ("NoNewPrivs", "1"),
                ("Groups", ""),
                ("Uid", &[owner.to_string().as_str(); 4].join("\t")),
                ("Gid", &[owner.to_string().as_str(); 4].join("\t")),
            ] {
                let found = status.lines().find_map(|found| found.strip_prefix(&format!("{line}:"))).unwrap();
                assert_eq!(found.trim(), value, "{line}");
            }
            for namespace in ["mnt", "net", "ipc", "uts", "pid"] {
                let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
                assert_ne!(of(&child.id().to_string()), of("self"), "{namespace}");
            }
            for limit in [
                "Max address space         4294967296",
                "Max file size             1073741833",
                "Max core file size        0",
            ] {
                assert!(of("limits").contains(limit), "{}", of("limits"));
            }
            let descriptors = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
            assert!(descriptors.map(|fd| fd.unwrap().file_name().into_string().unwrap()).all(|fd| fd.len() == 1));
            drop(child.stdin.take());
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let mut lines: Vec<_> = said.lines().collect();
            let names: Vec<_> = lines.remove(0).split(' ').filter(|name| !name.starts_with("lib")).collect();
            assert_eq!(names, ["bin", "dev", "etc", "image", "sbin", "usr"]);
            let owner = owner.to_string();
            // bash sets three of them
            let own =
                ["LC_ALL=C", "PATH=/usr/bin:/usr/sbin:/bin:/sbin", "PWD=/", "OLDPWD=/", "SHLVL=0", "_=/usr/bin/env"];
            lines.retain(|line| !own.contains(line) && !line.starts_with("SHLVL="));
            assert_eq!(lines, [&owner, &owner, "dev/null", "the image", "unreachable"]);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "the imagechanged\n");
        }
    }

    /// QEMU, or whoever has its rights, exchanges headers and names as the tool runs.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_header_that_is_exchanged_meanwhile_has_it_open_nothing() {
        use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
        use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (secret, image) = (other.path().join("secret").to_str().unwrap().to_owned(), at("image"));
        File::create(&secret).unwrap().set_len(64 << 20).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let json = format!("json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{secret}\"}}}}");
        let option = format!("data_file={secret},data_file_raw=on");
        qemu_img(&["create", "-q", "-f", "qcow2", &image, "64M"]);
        let headers = [
            &["-F", "raw", "-b", &secret][..],
            &["-F", "qcow2", "-b", &secret],
            &["-F", "raw", "-b", &json],
            &["-o", &option],
        ];
        let header = |more: &[&str]| {
            qemu_img(&[&["create", "-q", "-u", "-f", "qcow2"][..], more, &[&at("forged"), "64M"]].concat());
            let mut header = vec![0; 64 << 10];
            File::open(at("forged")).unwrap().read_exact_at(&mut header, 0).unwrap();
            header
        };
        let headers: Vec<_> = std::iter::once(&[][..]).chain(headers).map(header).collect();
        symlink(&secret, at("link")).unwrap();
        lchown(at("link"), Some(65534), None).unwrap();
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &secret, WatchFlags::OPEN).unwrap();
        let opened = || rustix::io::read(&watch, &mut [0u8; 4096]).is_ok();
        let add = |name: &str| bitmap("--add", &image, name);

        let (stop, rounds, done) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(&image).unwrap();
                while !stop.load(Relaxed) {
                    for header in &headers {
                        file.write_all_at(header, 0).unwrap();
                        rustix::fs::renameat_with(
                            rustix::fs::CWD,
                            &image,
                            rustix::fs::CWD,
                            at("link"),
                            rustix::fs::RenameFlags::EXCHANGE,
                        )
                        .unwrap();
                        rounds.fetch_add(1, Relaxed);
                    }
                }
            });
            for i in (0..).take_while(|i| *i < 30 || rounds.load(Relaxed) < 2000) {
                done.fetch_add(u32::from(add(&format!("backup-{i}")).is_ok()), Relaxed);
            }
            stop.store(true, Relaxed);
        });
        assert!(!opened(), "after {rounds:?} exchanges, {done:?} bitmaps");

        // where it is not confined, it does: the last header that was made has a data file
        qemu_img(&["bitmap", "--add", "-f", "qcow2", &at("forged"), "x"]);
        assert!(opened());
    }
}
