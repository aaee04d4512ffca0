//! Disk images, by way of `qemu-img`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::{folder, run, succeeds};

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;

/// The format of a guest's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Can carry bitmaps.
    Qcow2,
    /// `compat=0.10`: can't.
    Qcow2V2,
    Raw,
    /// qcow2 whose payload is encrypted.
    Luks,
}

/// The passphrase of every LUKS image here.
pub const PASSPHRASE: &str = "open";
/// The same as libvirt takes it.
pub const PASSPHRASE_BASE64: &str = "b3Blbg==";

impl Image {
    /// The name that QEMU, libvirt and the request give it.
    pub fn format(self) -> &'static str {
        if self == Image::Raw { "raw" } else { "qcow2" }
    }

    /// Makes an image of `size` bytes.
    pub fn create(self, path: &Path, size: u64) {
        let (size, path) = (size.to_string(), path.to_str().unwrap());
        let create = ["create", "-q", "-f", self.format()];
        match self {
            Image::Qcow2 | Image::Raw => run("qemu-img", [&create[..], &[path, &size]].concat()),
            Image::Qcow2V2 => run("qemu-img", [&create[..], &["-o", "compat=0.10", path, &size]].concat()),
            Image::Luks => run("cp", [encrypted(&size).to_str().unwrap(), path]),
        };
    }
}

/// An encrypted image of this size to make copies of: to make a LUKS key QEMU measures for seconds of a core how fast it is.
fn encrypted(size: &str) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let make = || {
        let path = folder("encrypted").join("image");
        let secret = format!("secret,id=key,data={PASSPHRASE}");
        let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
        let arguments =
            ["create", "-q", "-f", "qcow2", "--object", &secret, "-o", options, path.to_str().unwrap(), size];
        // it gives up on a machine whose clock is coarse or busy
        if !(0..10).any(|_| succeeds("qemu-img", arguments)) {
            run("qemu-img", arguments);
        }
        path
    };
    MADE.lock().unwrap().entry(size.to_owned()).or_insert_with(make).clone()
}

/// Makes `path` an overlay of `template`.
pub fn create_overlay(path: &Path, template: &Path) {
    run(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", template.to_str().unwrap(), path.to_str().unwrap()],
    );
}

/// Takes what tells the format of the backing file out of an image's header: that extension ends the extensions.
pub fn forget_format(disk: &Path) {
    let mut image = std::fs::read(disk).unwrap();
    let at = image.windows(4).position(|bytes| bytes == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    image[at..at + 4].fill(0);
    std::fs::write(disk, image).unwrap();
}

/// What `qemu-img info` says of one image, without taking its lock.
pub fn info(path: &Path, format: &str) -> Value {
    let path = path.to_str().unwrap();
    serde_json::from_str(&run("qemu-img", ["info", "-U", "-f", format, "--output=json", path])).unwrap()
}

/// The size that a guest sees of a qcow2, by its header, or of a raw image.
pub fn virtual_size(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0).unwrap();
    match header.split_first_chunk() {
        Some((b"QFI\xfb", _)) => u64::from_be_bytes(header[24..].try_into().unwrap()),
        _ => file.metadata().unwrap().len(),
    }
}

/// The backing file that the header of a qcow2 names.
pub fn backing(path: &Path) -> Option<String> {
    let file = File::open(path).unwrap();
    let mut header = [0; 20];
    file.read_exact_at(&mut header, 0).unwrap();
    let at = u64::from_be_bytes(header[8..16].try_into().unwrap());
    let mut name = vec![0; u32::from_be_bytes(header[16..].try_into().unwrap()) as usize];
    file.read_exact_at(&mut name, at).unwrap();
    (at > 0).then(|| String::from_utf8(name).unwrap())
}

/// The names of the bitmaps stored in a qcow2, in order.
pub fn stored_bitmaps(path: &Path) -> Vec<String> {
    names(&info(path, "qcow2")["format-specific"]["data"]["bitmaps"])
}

/// The `name`s in a JSON list of objects; an absent list has none.
pub fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    let mut names: Vec<_> = list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A raw copy of what an image holds, made without taking its lock.
pub fn raw_copy(path: &Path, format: &str) -> PathBuf {
    let copy = folder("copy").join("raw");
    run("qemu-img", ["convert", "-U", "-f", format, "-O", "raw", path.to_str().unwrap(), copy.to_str().unwrap()]);
    copy
}

/// The image is sound, as large as the raw copy, and holds the same bytes. Takes its lock: a writer left over fails it.
pub fn assert_holds(image: &Path, raw: &Path) {
    let image_text = image.to_str().unwrap();
    run("qemu-img", ["check", "-q", "-f", "qcow2", image_text]);
    assert_eq!(virtual_size(image), raw.metadata().unwrap().len(), "size of {image_text}");
    run("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), image_text]);
}

/// Two raw images are as large and hold the same bytes. Unlike `cmp` it reads no holes.
pub fn assert_same(image: &Path, other: &Path) {
    let length = |path: &Path| path.metadata().unwrap().len();
    assert_eq!(length(image), length(other), "size of {}", image.display());
    run("qemu-img", ["compare", "-f", "raw", "-F", "raw", image.to_str().unwrap(), other.to_str().unwrap()]);
}
