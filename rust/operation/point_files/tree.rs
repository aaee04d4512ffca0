//! The files of a guest's file system. The kernel follows none of its symbolic links: they are followed here, and lead to what
//! is in the guest, as they do there.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use jiff::Timestamp;
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;

use crate::descriptor::open_again;
use crate::error::{Code, Error, Result};
use crate::nas::beneath::open_beneath;

const STEP: &str = "read the guest's files";
/// As many symbolic links as the kernel follows in one path.
const MOST_LINKS: usize = 40;
/// What one call may keep in memory of names and of where links lead: some 500,000 files of one folder. A guest may have made any
/// number of them, each as long as it can be.
const MEMORY: usize = 128 << 20;
/// What a name takes besides its bytes, in the list and of the allocator.
const NAME: usize = 64;

/// A file system that is mounted.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Bytes of `MEMORY` that nothing takes.
    memory: Cell<usize>,
}

/// A file of it, of whatever type, by its descriptor, which reads nothing.
#[derive(Debug)]
pub(super) struct Node {
    fd: OwnedFd,
    pub(super) stat: Stat,
    /// As the guest calls it.
    pub(super) path: Vec<u8>,
}

/// What a guest's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// A file of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its name, in which a byte that is no UTF-8 is replaced.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Its permissions, in octal digits.
    pub mode: String,
    /// The number of its owner, in the guest.
    pub owner: u32,
    /// The number of its group, in the guest.
    pub group: u32,
    /// Bytes.
    pub size: u64,
    /// When its content was changed last; none if that is no time.
    pub modified: Option<Timestamp>,
    /// Where a symbolic link leads, in the guest.
    pub target: Option<String>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Tree {
        Tree { root, memory: Cell::new(MEMORY) }
    }

    /// Takes memory for what was read in the folder, or of the file, at `path`.
    fn take_memory(&self, bytes: usize, path: &[u8]) -> Result<()> {
        let left = self.memory.get().checked_sub(bytes).ok_or_else(|| {
            let cause = format!("the names and links in '{}' take too much memory", String::from_utf8_lossy(path));
            Error::new(Code::UnsupportedImage, STEP, cause)
        })?;
        self.memory.set(left);
        Ok(())
    }

    /// The file that the guest has at this path.
    pub(super) fn find(&self, path: &[u8]) -> Result<Node> {
        let link = |at: &[Vec<u8>]| {
            let node = self.open(at)?;
            if node.kind() == FileKind::Link { node.target().map(Some) } else { Ok(None) }
        };
        self.open(&without_links(path, link)?)
    }

    /// The file of this path, which leads through no links.
    fn open(&self, path: &[Vec<u8>]) -> Result<Node> {
        let shown = [b"/", path.join(&b'/').as_slice()].concat();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_empty() {
            rustix::fs::openat(&self.root, ".", flags, Mode::empty())
        } else {
            open_beneath(self.root.as_fd(), OsStr::from_bytes(&shown[1..]), flags)
        };
        Node::of(opened, shown)
    }
}

impl Node {
    fn of(opened: rustix::io::Result<OwnedFd>, path: Vec<u8>) -> Result<Node> {
        let io = |e| failed(&path, e);
        let fd = opened.map_err(io)?;
        let stat = rustix::fs::fstat(&fd).map_err(io)?;
        Ok(Node { fd, stat, path })
    }

    pub(super) fn kind(&self) -> FileKind {
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Folder,
            FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        }
    }

    /// Where the link leads.
    pub(super) fn target(&self) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.fd, "", Vec::new());
        target.map(CString::into_bytes).map_err(|e| failed(&self.path, e))
    }

    /// The content of the regular file.
    pub(super) fn read(&self) -> Result<File> {
        open_again(&self.fd, OFlags::RDONLY | OFlags::NOCTTY).map_err(|e| failed(&self.path, e))
    }

    /// Calls `each` for all that is in this folder of the tree, in the order of their names. What memory that takes is free after
    /// it.
    pub(super) fn children(&self, tree: &Tree, mut each: impl FnMut(&CStr, Node) -> Result<()>) -> Result<()> {
        let before = tree.memory.get();
        for name in self.names(tree)? {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let path = [self.path.as_slice(), if self.path == b"/" { b"" } else { b"/" }, name.as_bytes()].concat();
            each(&name, Node::of(rustix::fs::openat(&self.fd, &*name, flags, Mode::empty()), path)?)?;
        }
        tree.memory.set(before);
        Ok(())
    }

    fn names(&self, tree: &Tree) -> Result<Vec<CString>> {
        let io = |e| failed(&self.path, e);
        let folder = open_again(&self.fd, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name().to_owned();
            match name.as_bytes() {
                b"." | b".." => continue,
                // old kernels let a damaged folder have such names
                plain if plain.is_empty() || plain.contains(&b'/') => return Err(io(Errno::IO)),
                plain => tree.take_memory(NAME + plain.len(), &self.path)?,
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What it tells of itself, under this name.
    pub(super) fn entry(&self, tree: &Tree, name: &[u8]) -> Result<Entry> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let target = if self.kind() == FileKind::Link { Some(text(&self.target()?)) } else { None };
        let name = text(name);
        let texts = name.len() + target.as_ref().map_or(0, String::len);
        tree.take_memory(size_of::<Entry>() + NAME + texts, &self.path)?;
        Ok(Entry {
            name,
            kind: self.kind(),
            mode: format!("{:04o}", self.stat.st_mode & 0o7777),
            owner: self.stat.st_uid,
            group: self.stat.st_gid,
            size: u64::try_from(self.stat.st_size).unwrap_or(0),
            modified: modified(&self.stat),
            target,
        })
    }
}

fn modified(stat: &Stat) -> Option<Timestamp> {
    Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).ok()?).ok()
}

fn failed(path: &[u8], error: Errno) -> Error {
    Error::io(STEP, OsStr::from_bytes(path), error)
}

/// The path that leads to what `path` leads to, without links and from the root. `link` tells where a path, which has none but
/// perhaps its last component, leads if that is one.
fn without_links(path: &[u8], mut link: impl FnMut(&[Vec<u8>]) -> Result<Option<Vec<u8>>>) -> Result<Vec<Vec<u8>>> {
    let parts = |path: &[u8]| path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_owned).collect::<Vec<_>>();
    let (mut at, mut links) = (Vec::new(), 0);
    // what is still to be passed, its end first
    let mut rest = parts(path);
    while let Some(part) = rest.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            _ => at.push(part),
        }
        if let Some(target) = link(&at)? {
            links += 1;
            if links > MOST_LINKS {
                return Err(failed(path, Errno::LOOP));
            }
            at.pop();
            if target.starts_with(b"/") {
                at.clear();
            }
            rest.extend(parts(&target));
        }
    }
    Ok(at)
}

/// The last component of a path, as its user has written it; none if that is no name.
pub(super) fn name_of(path: &[u8]) -> Option<&[u8]> {
    let name = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty())?;
    (!matches!(name, b"." | b"..")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_what_is_in_the_guest() {
        let link = |at: &[Vec<u8>]| {
            let target: Option<&[u8]> = match at.join(&b'/').as_slice() {
                b"bin" => Some(b"usr/bin"),
                b"etc/host" => Some(b"/etc/passwd"),
                b"out" => Some(b"../../../../etc"),
                b"var/run" => Some(b"../run/./"),
                b"loop" => Some(b"loop"),
                b"empty" => Some(b""),
                _ => None,
            };
            Ok(target.map(<[u8]>::to_owned))
        };
        for (path, leads_to) in [
            ("/", Some("")),
            ("", Some("")),
            ("../../..", Some("")),
            ("/etc/fstab", Some("etc/fstab")),
            ("//etc/./fstab/", Some("etc/fstab")),
            ("/bin/sh", Some("usr/bin/sh")),
            ("/bin/../lib", Some("usr/lib")),
            ("/etc/host", Some("etc/passwd")),
            ("/out/shadow", Some("etc/shadow")),
            ("/var/run/x", Some("run/x")),
            ("/a/empty", Some("a/empty")),
            ("/empty/x", Some("x")),
            ("/loop/x", None),
        ] {
            let found = without_links(path.as_bytes(), link).ok();
            assert_eq!(found.map(|path| path.join(&b'/')), leads_to.map(|path| path.as_bytes().to_owned()), "{path}");
        }
    }

    #[test]
    fn names_and_links_take_no_more_memory_than_a_call_has() {
        let guest = tempfile::tempdir().unwrap();
        let (folder, names) = (guest.path().join("a/b/c"), 10);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..names {
            std::os::unix::fs::symlink("x".repeat(1000), folder.join(format!("{number:0250}"))).unwrap();
        }
        let listed = |memory: usize, links: bool| {
            let root = rustix::fs::open(guest.path(), OFlags::PATH, Mode::empty()).unwrap();
            let tree = Tree { memory: Cell::new(memory), ..Tree::new(root) };
            let (node, mut count) = (tree.find(b"a/b/c").unwrap(), 0);
            let listed = node.children(&tree, |name, child| {
                count += 1;
                if links { child.entry(&tree, name.to_bytes()).map(drop) } else { Ok(()) }
            });
            assert_eq!(listed.is_ok(), tree.memory.get() == memory, "what was taken is given back");
            listed.map(|()| count).map_err(|error| error.code)
        };
        let refused = Err(Code::UnsupportedImage);
        assert_eq!(listed(names * 250, false), refused);
        assert_eq!(listed(names * 400, false), Ok(names));
        assert_eq!(listed(names * 1000, true), refused);
        assert_eq!(listed(names * 2000, true), Ok(names));
    }

    #[test]
    fn a_path_s_last_component_is_a_name_or_none() {
        for (path, name) in
            [("/etc/fstab", Some("fstab")), ("etc/", Some("etc")), ("/", None), ("", None), ("a/..", None), (".", None)]
        {
            assert_eq!(name_of(path.as_bytes()), name.map(str::as_bytes), "{path}");
        }
    }
}
