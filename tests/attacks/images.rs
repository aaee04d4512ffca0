//! A stopped guest's QEMU has left headers that name files of the host.

use std::path::{Path, PathBuf};

use nasbackup::operation::take_backup::{BackingFile, TakeBackupRequest};

use crate::support::{Disk, Guest, Image, MIB, Nas, Story, folder, forget_format, listing, run};

/// What only root may read: a file of the host, which begins with the returned text.
fn secret() -> (PathBuf, Vec<u8>) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder("secret").join("shadow");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = b"only root may read this; ".repeat(4096);
    std::fs::write(&path, &text).unwrap();
    (path, text)
}

fn qemu_img(arguments: &[&str]) {
    run("qemu-img", arguments);
}

/// A qcow2 disk that stands on `backing`, of which nobody asks whether it is there.
fn standing_on(backing: &str, format: &str) -> PathBuf {
    let disk = folder("disk").join("disk");
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", backing, disk.to_str().unwrap(), "1M"]);
    disk
}

/// A qcow2 whose data are in `data`, which qemu-img does not get to see.
fn with_data_file(disk: &Path, data: &str) -> PathBuf {
    let other = format!("{}/{}", folder("other").display(), "x".repeat(data.len()));
    let of = &other[..data.len()];
    let option = format!("data_file={of},data_file_raw=on");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, disk.to_str().unwrap(), "1M"]);
    let mut image = std::fs::read(disk).unwrap();
    let at = image.windows(of.len()).position(|bytes| bytes == of.as_bytes()).unwrap();
    image[at..at + of.len()].copy_from_slice(data.as_bytes());
    std::fs::write(disk, image).unwrap();
    disk.to_owned()
}

fn assert_nowhere(story: &Story, secret: &[u8]) {
    let line = &secret[..100];
    for (file, _) in listing(story.nas.root()) {
        let path = story.nas.root().join(&file);
        if path.is_file() {
            let bytes = std::fs::read(path).unwrap();
            assert!(!bytes.windows(line.len()).any(|part| part == line), "{} holds it", file.display());
        }
    }
}

#[test]
fn what_a_stopped_guest_s_header_names_elsewhere_is_refused_before_any_effect() {
    let (secret, text) = secret();
    let name = secret.to_str().unwrap();
    let json = format!("json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{name}\"}}}}");
    let no_format = standing_on("template", "raw");
    forget_format(&no_format);
    std::fs::write(no_format.with_file_name("template"), "").unwrap();
    let beside = standing_on("shadow", "raw");
    std::os::unix::fs::symlink(&secret, beside.with_file_name("shadow")).unwrap();
    let data_file = with_data_file(&folder("disk").join("disk"), name);
    for (disk, told) in [
        (data_file, format!("'{name}' as its data file")),
        (standing_on(name, "raw"), format!("'{name}' as its backing file")),
        (standing_on(name, "qcow2"), format!("'{name}' as its backing file")),
        (standing_on(&json, "raw"), "json:".to_owned()),
        (standing_on("file:///etc/shadow", "raw"), "file:///etc/shadow".to_owned()),
        (standing_on("/dev/vda", "raw"), "/dev/vda".to_owned()),
        (standing_on("../secret", "raw"), "../secret".to_owned()),
        (standing_on("template", "vmdk"), "of format 'vmdk'".to_owned()),
        (no_format, "does not tell the format".to_owned()),
        (beside, "'shadow' as its backing file, which is no regular file".to_owned()),
    ] {
        let mut story = Story::new(Guest::stopped([Disk::existing(disk.clone(), Image::Qcow2)]), Nas::folder());
        let before = std::fs::read(&disk).unwrap();
        let error = story.refuse(story.stopped_request("full"), "UNSUPPORTED_IMAGE");
        assert!(error.cause.contains(&told) && error.cause.contains(disk.to_str().unwrap()), "{error}");
        assert!(!error.cause.contains('\n'), "{error}");
        assert!(std::fs::read(&disk).unwrap() == before, "a bitmap was begun: {error}");
        assert_nowhere(&story, &text);
    }
}

/// A pool of CloudStack's is one folder with everybody's volumes: what a disk may stand on is told with it.
struct Pool {
    folder: PathBuf,
    secret: Vec<u8>,
}

impl Pool {
    /// With a template, and the disk of a stopped guest of somebody else.
    fn new() -> Pool {
        let folder = folder("pool");
        let secret = b"what another tenant has in its disk; ".repeat(4096);
        std::fs::write(folder.join("raw"), &secret).unwrap();
        let pool = Pool { folder, secret };
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &pool.at("raw"), &pool.at("victim")]);
        qemu_img(&["create", "-q", "-f", "qcow2", &pool.at("template"), "1M"]);
        pool
    }

    fn at(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn overlay(&self, name: &str, backing: &str, format: &str) -> PathBuf {
        qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", backing, &self.at(name), "1M"]);
        self.at(name).into()
    }

    /// The request that tells that the disk may stand on these.
    fn request(&self, story: &Story, files: &[&str]) -> TakeBackupRequest {
        let mut request = story.stopped_request("full");
        let file = |name: &&str| BackingFile { path: Some(self.at(name)), format: Some("qcow2".into()) };
        request.disks.as_mut().unwrap()[0].backing = Some(files.iter().map(file).collect());
        request
    }
}

#[test]
fn a_stopped_guest_s_header_names_no_volume_of_others_in_its_pool() {
    let pool = Pool::new();
    let between = pool.overlay("between", "victim", "qcow2");
    let no_format = pool.overlay("no-format", "victim", "qcow2");
    forget_format(&no_format);
    let link = pool.at("link");
    std::os::unix::fs::symlink("victim", &link).unwrap();
    for (disk, listed, told) in [
        (pool.overlay("relative", "victim", "qcow2"), &["template"][..], "none of the files"),
        (pool.overlay("absolute", &pool.at("victim"), "qcow2"), &["template"], "none of the files"),
        (pool.overlay("as-raw", "victim", "raw"), &["template"], "none of the files"),
        (no_format, &["template"], "none of the files"),
        (pool.overlay("no-backing", "template", "qcow2"), &[], "none of the files"),
        (with_data_file(Path::new(&pool.at("split")), &pool.at("victim")), &["template"], "as its data file"),
        // a backing file's own
        (pool.overlay("deep", "between", "qcow2"), &["template", "between"], "'victim' as its backing file"),
        (pool.overlay("by-link", "link", "qcow2"), &["link"], "is no regular file"),
        (pool.overlay("other-format", "template", "raw"), &["template"], "the request says that it is qcow2"),
    ] {
        let mut story = Story::new(Guest::stopped([Disk::existing(disk.clone(), Image::Qcow2)]), Nas::folder());
        let before = std::fs::read(&disk).unwrap();
        let error = story.refuse(pool.request(&story, listed), "UNSUPPORTED_IMAGE");
        assert!(error.cause.contains(told) && error.disk.as_deref() == disk.to_str(), "{error}");
        assert!(std::fs::read(&disk).unwrap() == before, "a bitmap was begun: {error}");
        assert_nowhere(&story, &pool.secret);
    }
    std::fs::remove_file(between).unwrap();
}

/// QEMU would take what begins as a qcow2 for one, were it not told the format.
#[test]
fn raw_bytes_stay_what_they_are_whatever_they_begin_with() {
    let (secret, text) = secret();
    let forged = std::fs::read(standing_on(secret.to_str().unwrap(), "raw")).unwrap();
    let template = folder("disk").join("template");
    std::fs::write(&template, &forged).unwrap();
    std::fs::File::options().write(true).open(&template).unwrap().set_len(MIB).unwrap();
    let (disk, raw) = (template.with_file_name("disk"), template.with_file_name("raw"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "template", disk.to_str().unwrap(), "1M"]);
    std::fs::copy(&template, &raw).unwrap();
    let disks = [Disk::existing(disk, Image::Qcow2), Disk::existing(raw, Image::Raw)];
    let mut story = Story::new(Guest::stopped(disks), Nas::folder());
    story.take_stopped("full").assert_full(true);
    story.assert_all_restore();
    for disk in &story.last().taken.disks {
        let copy = folder("copy").join("raw");
        qemu_img(&["convert", "-O", "raw", story.nas.at(&disk.file).to_str().unwrap(), copy.to_str().unwrap()]);
        assert!(std::fs::read(copy).unwrap().starts_with(&forged), "{}", disk.file);
    }
    assert_nowhere(&story, &text);
}
