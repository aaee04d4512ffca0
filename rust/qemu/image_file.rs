//! The files of a guest's images are opened here, and nowhere else. The guest's QEMU writes their headers, and where it may
//! write to a folder it can exchange what lies there for a link, a device or a FIFO: so each file is looked at through the
//! descriptor that is then read, and of the files that a header names only those are opened that the caller has listed, or,
//! where it has no list, that lie in a folder of the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use log::Level;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Code, Error, Result};
use crate::{descriptor, lacking};

const STEP: &str = "open the disk's image";
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// How often a file on NFS is looked up while another gets its name.
const RACES: u32 = 100;
/// Links that may lead to a file, as many as the kernel follows.
const LINKS: u32 = 40;

/// Opens a disk, or an image of one, that CloudStack or libvirt names, for reading: a regular file or a block device. Links
/// lead to it, as volumes of LVM and DRBD have them, but none that anybody but root has made.
pub(crate) fn open_named(path: &str) -> Result<File> {
    let opened = open_found(|| look_up(Path::new(path)), |kind| kind.is_file() || kind.is_block_device());
    let refused = || {
        let what = "is no regular file and no block device, or a link that root has not made leads there";
        refused(format!("'{path}' {what}"))
    };
    opened.map_err(|e| Error::io(STEP, path, e))?.ok_or_else(refused)
}

/// Opens a file that libvirt names, for reading: as `open_named`, but for devices.
pub(crate) fn open_named_file(path: &str) -> io::Result<File> {
    let opened = open_found(|| look_up(Path::new(path)), FileType::is_file)?;
    opened.ok_or_else(|| io::Error::other("it is no regular file, or a link that root has not made leads there"))
}

/// The path without links of what lies at `path`, and what that is; none when a link leads there that root has not made.
pub(crate) fn resolve(path: &Path) -> io::Result<Option<(PathBuf, Metadata)>> {
    let Some(found) = look_up(path)? else { return Ok(None) };
    let path = path_of(&found)?;
    Ok(Some((path, File::from(found).metadata()?)))
}

fn path_of(found: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/thread-self/fd/{}", found.as_raw_fd()))
}

/// Looks `path` up over root's links alone, those of folders among them: another's may lead anywhere, and elsewhere the next
/// time. None when there is such a one.
fn look_up(path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let mut path = path.to_owned();
    for _ in 0..=LINKS {
        match first_link(&path)? {
            // somebody makes links of it all the time: there it is once more
            None => match look_without_links(&path) {
                Err(Errno::LOOP) => {}
                found => return found.map(Some),
            },
            Some(link) if link.of_root => path = link.leads_to,
            Some(_) => return Ok(None),
        }
    }
    Err(Errno::LOOP)
}

struct Link {
    of_root: bool,
    /// The whole path, without this link.
    leads_to: PathBuf,
}

/// The first link in `path`.
fn first_link(path: &Path) -> rustix::io::Result<Option<Link>> {
    let mut components = path.components();
    let mut so_far = PathBuf::new();
    while let Some(component) = components.next() {
        let folder = so_far.clone();
        so_far.push(component);
        let found = rustix::fs::openat(CWD, &so_far, LOOK | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode).is_symlink() {
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
            let mut leads_to = folder.join(OsStr::from_bytes(target.as_bytes()));
            leads_to.extend(components);
            return Ok(Some(Link { of_root: stat.st_uid == 0, leads_to }));
        }
    }
    Ok(None)
}

fn look_without_links(path: &Path) -> rustix::io::Result<OwnedFd> {
    for _ in 0..RACES {
        match rustix::fs::openat2(CWD, path, LOOK | OFlags::NOFOLLOW, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Err(Errno::AGAIN) => {}
            Err(error) if lacking::is_unsettable(error) => {
                let found = rustix::fs::openat(CWD, path, LOOK | OFlags::NOFOLLOW, Mode::empty())?;
                lacking::tell(Level::Info, &found, "openat2", error, "a link made in this moment is followed");
                return Ok(found);
            }
            found => return found,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens what is open as `file` once more: its locks are not shared.
pub(crate) fn open_again(file: &File) -> io::Result<File> {
    Ok(descriptor::open_again(file, READ)?)
}

/// Opens what `look_up_file` finds for reading; none when that is nothing, or not of the kind `wanted`. To open a device or a FIFO does
/// harm by itself, so what is found is looked at first, and that very file opened.
fn open_found(
    look_up_file: impl Fn() -> rustix::io::Result<Option<OwnedFd>>,
    wanted: impl Fn(FileType) -> bool,
) -> io::Result<Option<File>> {
    for _ in 0..RACES {
        let Some(found) = look_up_file()? else { return Ok(None) };
        if !wanted(FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode)) {
            return Ok(None);
        }
        match open_again(&File::from(found)) {
            // on NFS: another has its name by now
            Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => {}
            opened => return opened.map(Some),
        }
    }
    Err(Errno::STALE.into())
}

fn refused(cause: String) -> Error {
    Error::new(Code::UnsupportedImage, STEP, cause)
}

/// The files that the headers of a guest's images may name.
#[derive(Debug)]
pub(crate) struct Nameable {
    places: Vec<ImageFolder>,
    /// Those that the caller has listed?
    listed: bool,
}

#[derive(Debug)]
struct ImageFolder {
    folder: OwnedFd,
    /// What headers call it: its path as CloudStack or libvirt has it, and that without links.
    names: [PathBuf; 2],
    files: Files,
}

/// Files of a folder.
#[derive(Debug)]
enum Files {
    Any,
    /// By name, whether it is a qcow2 (raw otherwise).
    Listed(BTreeMap<OsString, bool>),
}

/// A file that a header may name.
#[derive(Debug)]
pub(crate) struct NamedFile<'a> {
    /// Its path, as the header has it.
    pub path: String,
    /// Whether it is a qcow2 (raw otherwise), where the caller has told.
    pub qcow2: Option<bool>,
    folder: &'a OwnedFd,
    not_regular: Error,
}

impl Nameable {
    /// What lies in the folders of the disks at `paths`: in CloudStack those of its storage pools, where the templates are, too.
    pub(crate) fn beside<'a>(paths: impl IntoIterator<Item = &'a str>) -> Nameable {
        let folders: BTreeSet<_> = paths.into_iter().filter_map(|path| Path::new(path).parent()).collect();
        let places = folders.into_iter().filter_map(|folder| ImageFolder::open(folder, Files::Any)).collect();
        Nameable { places, listed: false }
    }

    /// These files alone, by path, with whether each is a qcow2 (raw otherwise).
    pub(crate) fn only(files: &BTreeMap<String, bool>) -> Nameable {
        let mut folders: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (path, qcow2) in files {
            if let (Some(folder), Some(name)) = (Path::new(path).parent(), Path::new(path).file_name()) {
                folders.entry(folder).or_default().insert(name.to_owned(), *qcow2);
            }
        }
        let open = |(folder, files)| ImageFolder::open(folder, Files::Listed(files));
        Nameable { places: folders.into_iter().filter_map(open).collect(), listed: true }
    }

    /// The file that the header of the image at `of` means by `name`, by QEMU's rules. `UNSUPPORTED_IMAGE` for whatever is not
    /// the name of one of these files; `what` it is to the image. Names alone are compared: to look up where others lead could
    /// have the host mount something.
    pub(crate) fn find(&self, of: &str, what: &str, name: &str) -> Result<NamedFile<'_>> {
        let refuse = |why: &str| {
            let help = if self.listed {
                "if it belongs to the disk, back that up while the guest runs"
            } else {
                "if it belongs to the disk, copy it to the disk's folder and name it there by 'qemu-img rebase -u'"
            };
            refused(format!("'{of}' has '{name}' as its {what}, which {why}; {help}"))
        };
        let outside = || {
            refuse(if self.listed {
                "is none of the files that the request says it may stand on"
            } else {
                "is no file's name in a folder of the disks of this backup"
            })
        };
        let path = beside(of, name).ok_or_else(outside)?;
        let (folder, file) = Path::new(&path).parent().zip(Path::new(&path).file_name()).ok_or_else(outside)?;
        let (folder, qcow2) = self.places.iter().find_map(|place| place.has(folder, file)).ok_or_else(outside)?;
        Ok(NamedFile { path, qcow2, folder, not_regular: refuse("is no regular file") })
    }
}

impl ImageFolder {
    /// None where the folder can't be opened: its own file can't either, and tells why.
    fn open(name: &Path, files: Files) -> Option<ImageFolder> {
        let folder = look_up(name).ok()??;
        let path = path_of(&folder).ok()?;
        Some(ImageFolder { folder, names: [name.to_owned(), path], files })
    }

    /// The folder, if it is the one called `folder` and `file` one of the files, and whether that is a qcow2, if that was told.
    fn has(&self, folder: &Path, file: &OsStr) -> Option<(&OwnedFd, Option<bool>)> {
        if !self.names.iter().any(|name| name == folder) {
            return None;
        }
        match &self.files {
            Files::Any => Some((&self.folder, None)),
            Files::Listed(files) => files.get(file).map(|qcow2| (&self.folder, Some(*qcow2))),
        }
    }
}

impl NamedFile<'_> {
    /// Opens it, if it is a regular file.
    pub(crate) fn open(self) -> Result<(String, File)> {
        let NamedFile { path, folder, not_regular, .. } = self;
        let name = Path::new(&path).file_name().unwrap_or_default();
        let look = || rustix::fs::openat(folder, name, LOOK | OFlags::NOFOLLOW, Mode::empty()).map(Some);
        let opened = open_found(look, FileType::is_file).map_err(|e| Error::io(STEP, &path, e))?;
        let opened = opened.ok_or(not_regular)?;
        Ok((path, opened))
    }
}

/// The path that the header of the image at `of` means by `name`; none where that is no path, or not known.
fn beside(of: &str, name: &str) -> Option<String> {
    let protocol = name.find([':', '/']).is_some_and(|first| name[first..].starts_with(':'));
    if protocol || name.contains(char::REPLACEMENT_CHARACTER) || name.contains('\0') {
        return None;
    }
    let folder = of.rfind('/').map_or("", |slash| &of[..=slash]);
    Some(if name.starts_with('/') { name.to_owned() } else { format!("{folder}{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{lchown, symlink};

    /// A pool, also known by a link, and beside it what no header may name.
    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("pool/sub")).unwrap();
            symlink("pool", dir.path().join("link")).unwrap();
            let fixture = Fixture { dir };
            for file in ["secret", "pool/disk", "pool/template", "pool/a, b", "pool/sub/file"] {
                std::fs::write(fixture.at(file), file).unwrap();
            }
            fixture
        }

        fn at(&self, path: &str) -> String {
            self.dir.path().join(path).to_str().unwrap().to_owned()
        }

        fn open(&self, disk: &str, name: &str) -> Result<String> {
            let disk = self.at(disk);
            let mut text = String::new();
            let nameable = Nameable::beside([disk.as_str()]);
            let (path, mut file) = nameable.find(&disk, "backing file", name)?.open()?;
            assert!(path.starts_with('/'));
            file.read_to_string(&mut text).unwrap();
            Ok(text)
        }
    }

    /// The files that are listed for a disk, all qcow2.
    fn only(files: &[String]) -> Nameable {
        Nameable::only(&files.iter().map(|file| (file.clone(), true)).collect())
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn of_a_disk_whose_files_are_listed_a_header_names_those_and_no_other() {
        let fixture = Fixture::new();
        symlink("disk", fixture.at("pool/to-disk")).unwrap();
        let listed = [fixture.at("pool/template"), fixture.at("secret"), fixture.at("pool/to-disk")];
        let (pool, by_link) = (only(&listed), only(&listed.clone().map(|path| path.replace("/pool/", "/link/"))));
        for (of, name, file) in [
            ("pool/top", "template", "pool/template"),
            ("link/top", "template", "pool/template"),
            ("pool/top", "./template", "pool/template"),
            ("pool/top", &fixture.at("pool//./template"), "pool/template"),
            ("pool/top", &fixture.at("secret"), "secret"),
        ] {
            // known by the one name, and called by the other
            for (nameable, of) in [(&pool, of.replace("link", "pool")), (&by_link, of.to_owned())] {
                let mut text = String::new();
                let named = nameable.find(&fixture.at(&of), "backing file", name).unwrap();
                assert_eq!(named.qcow2, Some(true));
                named.open().unwrap().1.read_to_string(&mut text).unwrap();
                assert_eq!(text, file, "{of} on {name}");
            }
        }
        let top = fixture.at("pool/top");
        for name in
            ["disk", &fixture.at("pool/disk"), "a, b", "sub/file", "sub/../template", "../secret", "nbd:template", ""]
        {
            for nameable in [&pool, &only(&[]), &only(&[fixture.at("nowhere/template")])] {
                let error = nameable.find(&top, "backing file", name).unwrap_err();
                assert_eq!(error.code, Code::UnsupportedImage, "{name}: {error}");
                let told = format!("'{top}' has '{name}' as its backing file, which is none of the files");
                assert!(error.cause.contains(&told), "{error}");
            }
        }
        let error = pool.find(&top, "backing file", "to-disk").unwrap().open().unwrap_err();
        assert_eq!(error.code, Code::UnsupportedImage, "{error}");
        assert!(error.cause.contains("is no regular file"), "{error}");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_header_names_files_in_the_disks_folders_where_qemu_finds_them() {
        let fixture = Fixture::new();
        for (name, file) in [
            ("template", "pool/template"),
            ("./template", "pool/template"),
            (&fixture.at("pool/template"), "pool/template"),
            (&fixture.at("pool//./template"), "pool/template"),
            ("a, b", "pool/a, b"),
        ] {
            for disk in ["pool/disk", "link/disk"] {
                assert_eq!(fixture.open(disk, name).unwrap(), file, "{name}");
            }
        }
        assert_eq!(fixture.open("link/disk", &fixture.at("link/template")).unwrap(), "pool/template");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn nothing_else_that_a_header_names_is_opened() {
        let fixture = Fixture::new();
        for (name, to) in [("pool/to-secret", "../secret"), ("pool/to-template", "template")] {
            symlink(to, fixture.at(name)).unwrap();
        }
        rustix::fs::mknodat(CWD, fixture.at("pool/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, fixture.at("pool/null"), FileType::CharacterDevice, Mode::RWXU, null).unwrap();
        let secret = fixture.at("secret");
        let names = [
            "../secret",
            "../pool/template",
            "sub/file",
            "sub/../template",
            "sub",
            "to-secret",
            "to-template",
            "fifo",
            "null",
            "..",
            ".",
            "/",
            "",
            &secret,
            "/etc/shadow",
            "/dev/vda",
            "json:{\"driver\":\"raw\",\"file.filename\":\"/etc/shadow\"}",
            "nbd:localhost:10809",
            "file:template",
            "a\u{fffd}b",
        ];
        for name in names {
            let error = fixture.open("pool/disk", name).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedImage, "{name}: {error}");
            assert!(error.cause.contains(&format!("'{}'", fixture.at("pool/disk"))), "{error}");
            assert!(error.cause.contains(&format!("'{name}' as its backing file")), "{error}");
        }
        assert_eq!(fixture.open("pool/disk", "missing").unwrap_err().code, Code::NotFound);
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_disk_is_a_file_or_a_block_device_and_its_name_no_link_of_another_s() {
        let fixture = Fixture::new();
        for link in ["pool/root-s", "pool/another-s"] {
            symlink("../secret", fixture.at(link)).unwrap();
        }
        lchown(fixture.at("pool/another-s"), Some(65534), None).unwrap();
        rustix::fs::mknodat(CWD, fixture.at("pool/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, fixture.at("pool/null"), FileType::CharacterDevice, Mode::RWXU, null).unwrap();
        for (disk, content) in [("pool/disk", "pool/disk"), ("link/disk", "pool/disk"), ("pool/root-s", "secret")] {
            let mut text = String::new();
            open_named(&fixture.at(disk)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, content, "{disk}");
        }
        for disk in ["pool/another-s", "pool/fifo", "pool/null", "pool/sub"] {
            let error = open_named(&fixture.at(disk)).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedImage, "{disk}: {error}");
        }
        assert_eq!(open_named(&fixture.at("pool/missing")).unwrap_err().code, Code::NotFound);
    }

    /// Whoever may write to a folder makes links there, and root's own may lead there.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn no_link_of_another_s_is_followed_however_far_down_the_way_it_lies() {
        let fixture = Fixture::new();
        let link = |name: &str, to: &str, owner: u32| {
            symlink(to, fixture.at(name)).unwrap();
            lchown(fixture.at(name), Some(owner), None).unwrap();
        };
        link("pool/another-s", "../secret", 65534);
        link("pool/folder-of-another-s", "..", 65534);
        link("pool/one", "sub/two", 0);
        link("pool/sub/two", "../../link/three", 0);
        link("pool/three", &fixture.at("pool/disk"), 0);
        link("pool/to-another-s", "sub/to-another-s", 0);
        link("pool/sub/to-another-s", "../another-s", 0);
        link("pool/through-another-s", "folder-of-another-s/secret", 0);
        link("pool/round", "sub/round", 0);
        link("pool/sub/round", "../round", 0);
        let mut text = String::new();
        open_named(&fixture.at("pool/one")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "pool/disk");
        for disk in ["pool/to-another-s", "pool/through-another-s", "pool/folder-of-another-s/secret"] {
            let error = open_named(&fixture.at(disk)).unwrap_err();
            assert_eq!(error.code, Code::UnsupportedImage, "{disk}: {error}");
            assert!(error.cause.contains("a link that root has not made"), "{error}");
        }
        assert_eq!(open_named(&fixture.at("pool/round")).unwrap_err().code, Code::Io);
        // nor to a folder in which headers may name files
        let named = fixture.at("pool/folder-of-another-s/secret");
        let error =
            only(std::slice::from_ref(&named)).find(&fixture.at("pool/disk"), "backing file", &named).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedImage, "{error}");
    }

    /// Somebody who may write to the pool exchanges the names all the time.
    #[test]
    fn what_is_exchanged_meanwhile_is_not_followed() {
        let fixture = Fixture::new();
        symlink("../secret", fixture.at("pool/to")).unwrap();
        lchown(fixture.at("pool/to"), Some(65534), None).unwrap();
        let template = fixture.at("pool/template");
        let listed = only(std::slice::from_ref(&template));
        while_exchanged(&fixture.at("pool/to"), &template, || {
            let of = fixture.at("pool/disk");
            for opened in [
                open_named(&template),
                Nameable::beside([of.as_str()]).find(&of, "backing file", "template").and_then(|n| Ok(n.open()?.1)),
                listed.find(&of, "backing file", "template").and_then(|named| Ok(named.open()?.1)),
            ] {
                assert_is_or_refused(opened, "pool/template");
            }
        });
    }

    /// The same with a folder on the way of root's link.
    #[test]
    fn a_folder_that_is_exchanged_for_a_link_meanwhile_is_not_passed() {
        let fixture = Fixture::new();
        std::fs::create_dir(fixture.at("elsewhere")).unwrap();
        std::fs::write(fixture.at("elsewhere/file"), "elsewhere").unwrap();
        symlink("../elsewhere", fixture.at("pool/to")).unwrap();
        lchown(fixture.at("pool/to"), Some(65534), None).unwrap();
        symlink("pool/sub/file", fixture.at("root-s")).unwrap();
        while_exchanged(&fixture.at("pool/to"), &fixture.at("pool/sub"), || {
            assert_is_or_refused(open_named(&fixture.at("root-s")), "pool/sub/file");
        });
    }

    fn assert_is_or_refused(opened: Result<File>, content: &str) {
        match opened {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, content);
            }
            Err(error) => assert!([Code::UnsupportedImage, Code::Io].contains(&error.code), "{error}"),
        }
    }

    /// Calls `act` thousands of times while the two names are exchanged.
    fn while_exchanged(one: &str, other: &str, act: impl Fn()) {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

        /// Ends it after a failure, too.
        struct Stop<'a>(&'a AtomicBool);

        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }

        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, one, CWD, other, flags).unwrap();
                }
            });
            let _stop = Stop(&stop);
            (0..5000).for_each(|_| act());
        });
    }
}
