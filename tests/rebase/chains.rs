//! Chains of images, made by QEMU's tools from a seed.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use crate::mutation::Random;

pub(crate) fn run(program: &str, dir: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(text) } else { Err(format!("{program} {args:?}: {}: {text}", output.status)) }
}

pub(crate) fn qemu_img(dir: &Path, args: &[&str]) -> String {
    run("qemu-img", dir, args).unwrap_or_else(|error| panic!("{error}"))
}

/// A chain `0.qcow2` (the full) to `<n-1>.qcow2`, and what is to be done to it.
pub(crate) struct Chain {
    pub(crate) seed: u64,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) images: usize,
    /// Which image is rebased.
    pub(crate) target: usize,
    /// Onto which; none: it is to stand alone.
    pub(crate) onto: Option<usize>,
    what: Vec<String>,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: rebase {} onto {:?} in\n{}", self.seed, self.target, self.onto, self.what.join("\n"))
    }
}

pub(crate) fn name(image: usize) -> String {
    format!("{image}.qcow2")
}

/// How large and how odd the images are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything that is supported.
    Any,
    /// Small enough to try many cuts of one rebase.
    Small,
    /// The smallest clusters with the widest counts: refcount blocks are added, and mostly their table has to grow.
    Growing,
    /// Small, and all alike: each can be committed to the one below it.
    Alike,
}

impl Chain {
    pub(crate) fn make(seed: u64, kind: Kind) -> Chain {
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let images = 2 + random.below(if kind == Kind::Any { 5 } else { 2 }) as usize;
        let target = (1 + random.below(images as u64 - 1) as usize).max(images.min(3) - 1);
        // onto the image that it stands on already only where there is no other
        let onto = if random.chance(25) || target == 1 { None } else { Some(random.below(target as u64 - 1) as usize) };
        let mut chain = Chain { seed, dir, images, target, onto, what: Vec::new() };
        let mut size = disk_size(&mut random, kind);
        for image in 0..images {
            if image > 0 && kind != Kind::Alike && random.chance(20) {
                size = disk_size(&mut random, kind);
            }
            chain.add(&mut random, image, size, kind);
        }
        chain
    }

    fn add(&mut self, random: &mut Random, image: usize, size: u64, kind: Kind) {
        let v2 = !matches!(kind, Kind::Growing | Kind::Alike) && random.chance(15);
        let cluster_bits = match kind {
            Kind::Any => random.of(&[9, 10, 11, 12, 12, 13, 14, 15, 16, 16, 16, 17, 18, 20, 21]),
            Kind::Small => random.of(&[9, 10, 12, 12, 14, 16]),
            Kind::Growing => 9,
            Kind::Alike => [9, 12, 16][self.seed as usize % 3],
        };
        let extended = !v2 && kind != Kind::Alike && cluster_bits >= 14 && random.chance(35);
        let mut options = format!("cluster_size={},compat={}", 1_u64 << cluster_bits, if v2 { "0.10" } else { "1.1" });
        if !v2 {
            let bits = if kind == Kind::Growing { 64 } else { random.of(&[1, 2, 4, 8, 16, 16, 16, 32, 64]) };
            options += &format!(",refcount_bits={bits},extended_l2={}", if extended { "on" } else { "off" });
            if random.chance(40) {
                options += ",compression_type=zstd";
            }
            if random.chance(10) {
                options += ",lazy_refcounts=on";
            }
        }
        let (file, below) = (name(image), name(image.saturating_sub(1)));
        let size = size.to_string();
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
        if image > 0 {
            args.extend(["-b", &below, "-F", "qcow2"]);
        }
        args.extend([&*file, &*size]);
        let dir = self.dir.path();
        qemu_img(dir, &args);
        self.what.push(format!("qemu-img {args:?}"));

        let size: u64 = size.parse().unwrap();
        let cluster = 1 << cluster_bits;
        // QEMU 7.2 can damage an image when it compresses after it has freed a cluster: compressed ones go first
        let (first, then): (Vec<_>, Vec<_>) =
            writes(random, size, cluster, kind).into_iter().partition(|command| command.contains(" -c "));
        for commands in [first, then] {
            let mut arguments = vec!["-f", "qcow2", "-d", "unmap"];
            arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
            arguments.push(&file);
            // some commands are refused, such as a compressed write over another: then the image has less
            let output = Command::new("qemu-io").args(&arguments).current_dir(dir).output().unwrap();
            self.what.push(format!("  qemu-io -d unmap -c {commands:?} ({})", output.status));
        }

        if !v2 && kind != Kind::Alike && random.chance(30) {
            for bitmap in 0..1 + random.below(3) {
                qemu_img(dir, &["bitmap", "--add", &file, &format!("backup-{bitmap}")]);
            }
            self.what.push("  with bitmaps".into());
            let write = format!("write -q -P 7 0 {}", cluster.min(size));
            run("qemu-io", dir, &["-f", "qcow2", "-c", &write, &file]).unwrap();
        }
        if kind != Kind::Alike && random.chance(10) {
            let size = (size + 512 * random.below(size / 512)).to_string();
            if run("qemu-img", dir, &["resize", "-q", &file, &size]).is_ok() {
                self.what.push(format!("  resized to {size}"));
            }
        }
    }

    pub(crate) fn path(&self, image: usize) -> PathBuf {
        self.dir.path().join(name(image))
    }

    /// The images below the target, nearest first.
    pub(crate) fn backing(&self) -> Vec<File> {
        (0..self.target).rev().map(|image| File::open(self.path(image)).unwrap()).collect()
    }

    /// As `Rebase::begin` wants it: the first image that stays below the target, and its name.
    pub(crate) fn keep(&self) -> (usize, Option<String>) {
        (self.onto.map_or(self.target, |onto| self.target - 1 - onto), self.onto.map(name))
    }

    pub(crate) fn open(&self, image: usize) -> File {
        OpenOptions::new().read(true).write(true).open(self.path(image)).unwrap()
    }

    /// What the guest sees in an image, as a raw file beside it.
    pub(crate) fn raw(&self, image: usize) -> PathBuf {
        let raw = self.dir.path().join(format!("{image}.raw"));
        qemu_img(self.dir.path(), &["convert", "-f", "qcow2", "-O", "raw", &name(image), raw.to_str().unwrap()]);
        raw
    }

    /// A copy of all the images.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for image in 0..self.images {
            fs::copy(self.path(image), copy.path().join(name(image))).unwrap();
        }
        copy
    }
}

/// A restore point `i-1/T1`, without a manifest, of one volume `v`.
pub(crate) struct Point {
    pub(crate) dir: tempfile::TempDir,
}

impl Point {
    /// Without an image yet.
    pub(crate) fn empty() -> Point {
        // where a sync takes no time
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::create_dir_all(dir.path().join("i-1/T1")).unwrap();
        Point { dir }
    }

    /// Of a copy of an image of the chain, and of all that it stands on.
    pub(crate) fn of(chain: &Chain, image: usize) -> Point {
        let point = Point::empty();
        for below in 0..=image {
            fs::copy(chain.path(below), point.image(below)).unwrap();
        }
        fs::hard_link(point.image(image), point.newest()).unwrap();
        point
    }

    pub(crate) fn image(&self, image: usize) -> PathBuf {
        self.dir.path().join("i-1/T1").join(name(image))
    }

    /// The volume's image.
    pub(crate) fn newest(&self) -> PathBuf {
        self.dir.path().join("i-1/T1/root.v.qcow2")
    }
}

fn disk_size(random: &mut Random, kind: Kind) -> u64 {
    let most = match kind {
        Kind::Any => random.of(&[1 << 20, 4 << 20, 9 << 20]),
        Kind::Small | Kind::Alike => random.of(&[64 << 10, 200 << 10, 1 << 20]),
        Kind::Growing => return 4 << 20,
    };
    512 * (1 + random.below(most / 512))
}

fn writes(random: &mut Random, size: u64, cluster: u64, kind: Kind) -> Vec<String> {
    let count = random.below(if kind == Kind::Any { 14 } else { 8 });
    let mut commands = Vec::new();
    if kind == Kind::Growing {
        commands.push(format!("write -q -P {} {} 1300k", 1 + random.below(255), random.below(2000) << 10));
    }
    for _ in 0..count {
        let unit = random.of(&[512, 4096, cluster, cluster, cluster]).min(size);
        let at = random.below(size / unit) * unit;
        let longest = random.of(&[unit, 4 * unit, 64 << 10, size / 3 + 512]).min(size - at).max(512);
        let length = (1 + random.below(longest / 512)) * 512;
        let length =
            if unit > 512 && random.chance(70) { length.next_multiple_of(unit) } else { length }.min(size - at);
        let pattern = 1 + random.below(255);
        commands.push(match random.below(10) {
            0..5 => format!("write -q -P {pattern} {at} {length}"),
            5 => format!("write -q -z {at} {length}"),
            6 => format!("write -q -zu {at} {length}"),
            7 => format!("discard -q {at} {length}"),
            _ => {
                let at = at - at % cluster;
                format!("write -q -c -P {pattern} {at} {}", cluster.min(size - at))
            }
        });
    }
    commands
}
