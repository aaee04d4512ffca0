//! Paths relative to the repository's root, which can't lead out of the repository.

use std::fmt;

use crate::error::{Code, Error, Result};
use crate::plain::plain;

const MAX_COMPONENT: usize = 255;
const MAX_PATH: usize = 4095;

/// A file or folder of the repository: one or more ordinary components, no `.`, no `..`, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(String);

impl RepoPath {
    /// Reads the request's `field`. `INVALID_ARGUMENT` for anything that is not a path below the root.
    pub fn parse(field: &str, text: &str) -> Result<RepoPath> {
        check_path(text).map_err(|why| Error::invalid(field, format!("'{}' {why}", plain(text))))?;
        Ok(RepoPath(text.to_owned()))
    }

    /// The path as text, components separated by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The folder that holds this file or folder; `None` for an entry of the root.
    pub fn parent(&self) -> Option<RepoPath> {
        self.0.rsplit_once('/').map(|(parent, _)| RepoPath(parent.to_owned()))
    }

    /// The entry `name` of this folder. `INVALID_ARGUMENT` unless `name` is one ordinary component.
    pub fn join(&self, name: &str) -> Result<RepoPath> {
        check_component(name).map_err(|why| Error::invalid("file name", format!("'{}' {why}", plain(name))))?;
        RepoPath::parse("path", &format!("{}/{name}", self.0))
    }

    /// True if this is `folder`, or inside `folder`.
    pub fn is_in(&self, folder: &RepoPath) -> bool {
        self.0.strip_prefix(&folder.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The name by which an image in `folder` refers to this file, e.g. `../T1/root.x.qcow2`.
    pub fn relative_to(&self, folder: &RepoPath) -> String {
        let (own, from): (Vec<_>, Vec<_>) = (self.0.split('/').collect(), folder.0.split('/').collect());
        let shared = own.iter().zip(&from).take_while(|(a, b)| a == b).count();
        let mut parts = vec![".."; from.len() - shared];
        // QEMU takes what precedes a colon in the first component for a protocol
        if parts.is_empty() && own.get(shared).is_some_and(|first| first.contains(':')) {
            parts.push(".");
        }
        parts.extend(&own[shared..]);
        parts.join("/")
    }

    /// The file that an image in `folder` names `relative` in its header. `UNSUPPORTED_IMAGE` when that is not a file below the
    /// root: absolute, a protocol, `json:`, or too many `..`.
    pub fn resolve(folder: &RepoPath, relative: &str) -> Result<RepoPath> {
        let refuse = |why: &str| {
            let cause = format!("'{}', named in '{folder}', {why}", plain(relative));
            Error::new(Code::UnsupportedImage, "resolve a backing file's name", cause)
        };
        if relative.starts_with('/') {
            return Err(refuse("is absolute"));
        }
        if relative.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(refuse("is not a file name"));
        }
        let mut parts: Vec<&str> = folder.0.split('/').collect();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." if parts.pop().is_none() => return Err(refuse("leads out of the repository")),
                ".." => {}
                part => parts.push(part),
            }
        }
        let path = parts.join("/");
        check_path(&path).map_err(refuse)?;
        Ok(RepoPath(path))
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A restore point: `<instance>/<timestamp>`, neither of which begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointPath {
    instance: String,
    name: String,
}

impl PointPath {
    /// Reads the request's `field`. `INVALID_ARGUMENT` for anything else than two ordinary components.
    pub fn parse(field: &str, text: &str) -> Result<PointPath> {
        let refuse = |why| Error::invalid(field, format!("'{}' {why}", plain(text)));
        check_path(text).map_err(refuse)?;
        match text.split_once('/') {
            Some((instance, name)) if !name.contains('/') => {
                if instance.starts_with('.') || name.starts_with('.') {
                    return Err(refuse("has a component that begins with a dot"));
                }
                // leaves room for the prefixes '.partial-' and '.deleted-'
                if name.len() > MAX_COMPONENT - 16 {
                    return Err(refuse("has a component that is too long"));
                }
                Ok(PointPath { instance: instance.to_owned(), name: name.to_owned() })
            }
            _ => Err(refuse("is not '<instance>/<timestamp>'")),
        }
    }

    /// The folder of the machine that the request's `field` names. `INVALID_ARGUMENT` for what no machine can be called.
    pub fn parse_instance(field: &str, name: &str) -> Result<RepoPath> {
        let point = PointPath::parse(field, &format!("{name}/x"));
        let refuse = |_| Error::invalid(field, format!("'{}' is no machine's name", plain(name)));
        point.map(|point| point.instance_folder()).map_err(refuse)
    }

    /// Name of the instance, the first component.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Name of the point, the second component.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The instance's folder.
    pub fn instance_folder(&self) -> RepoPath {
        RepoPath(self.instance.clone())
    }

    /// The point's folder.
    pub fn folder(&self) -> RepoPath {
        RepoPath(self.to_string())
    }

    /// The file `name` of the point.
    pub fn file(&self, name: &str) -> Result<RepoPath> {
        self.folder().join(name)
    }
}

impl fmt::Display for PointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.name)
    }
}

fn check_path(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.starts_with('/') {
        return Err("is absolute");
    }
    if text.len() > MAX_PATH {
        return Err("is too long");
    }
    text.split('/').try_for_each(check_component)
}

/// Says why `name` is not one ordinary component.
pub(crate) fn check_component(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("has an empty component"),
        "." | ".." => Err("has a component '.' or '..'"),
        _ if name.contains('/') => Err("has more than one component"),
        _ if name.contains(char::is_control) => Err("has a control character"),
        _ if name.len() > MAX_COMPONENT => Err("has a component that is too long"),
        _ => Ok(()),
    }
}

/// What the name of every unpublished point begins with.
pub const PARTIAL: &str = ".partial-";

/// The name under which a point lies in its instance's folder until it is published.
pub fn partial_name(point: &PointPath) -> String {
    format!("{PARTIAL}{}", point.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::parse("path", text).unwrap()
    }

    #[test]
    fn only_paths_below_the_root_are_paths() {
        for good in ["a", "a/b/c", ".hidden", "i-2-10-VM/2031.01.02.03.04.05/root.ä ö&<*'\".qcow2", "a b", "-rf"] {
            assert_eq!(path(good).to_string(), good);
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(2048) + "x";
        for bad in
            ["", "/", "/a", ".", "..", "a/..", "../a", "a/./b", "a//b", "a/", "a\nb", "a\0b", "a\u{7f}", &long, &deep]
        {
            let error = RepoPath::parse("backupPath", bad).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.cause.starts_with("backupPath: '"), "{error}");
            assert!(!error.cause.contains(char::is_control), "{error}");
        }
        assert!(RepoPath::parse("path", &"x".repeat(255)).is_ok());
    }

    #[test]
    fn paths_are_taken_apart_and_joined() {
        let file = path("i-1/T1/root.x.qcow2");
        assert_eq!((file.name(), file.parent()), ("root.x.qcow2", Some(path("i-1/T1"))));
        assert_eq!(path("i-1").parent(), None);
        assert_eq!(path("i-1/T1").join("root.x.qcow2").unwrap(), file);
        for bad in ["", ".", "..", "a/b", "a\n", "/a"] {
            assert_eq!(path("i-1").join(bad).unwrap_err().code, Code::InvalidArgument, "{bad:?}");
        }
        assert!(file.is_in(&path("i-1/T1")) && file.is_in(&file));
        assert!(!path("i-1/T10/x").is_in(&path("i-1/T1")));
    }

    #[test]
    fn relative_names_lead_back_to_the_file() {
        for (file, folder, relative) in [
            ("i-1/T1/root.x.qcow2", "i-1/T2", "../T1/root.x.qcow2"),
            ("i-1/T1/root.x.qcow2", "i-1/T1", "root.x.qcow2"),
            ("i-1/T1/root.a:b.qcow2", "i-1/T1", "./root.a:b.qcow2"),
            ("i-1/T1/root.a:b.qcow2", "i-1/T2", "../T1/root.a:b.qcow2"),
            ("a", "b/c", "../../a"),
            ("a/b/c", "d", "../a/b/c"),
            ("a", "a", ""),
        ] {
            assert_eq!(path(file).relative_to(&path(folder)), relative);
            assert_eq!(RepoPath::resolve(&path(folder), relative).unwrap(), path(file), "{file} from {folder}");
        }
    }

    #[test]
    fn names_in_headers_are_confined() {
        let folder = path("i-1/T2");
        for (relative, file) in [
            (".././T1//root.x.qcow2", "i-1/T1/root.x.qcow2"),
            ("../../i-2/T1/a:b", "i-2/T1/a:b"),
            ("../T2/../T1/x", "i-1/T1/x"),
        ] {
            assert_eq!(RepoPath::resolve(&folder, relative).unwrap(), path(file));
        }
        let outside =
            ["/i-1/T1/x", "../../../x", "../..", "json:{\"file\":\"x\"}", "nbd:unix:/x", "a:b", "../T1/a\nb", ":"];
        for bad in outside {
            assert_eq!(RepoPath::resolve(&folder, bad).unwrap_err().code, Code::UnsupportedImage, "{bad}");
        }
    }

    #[test]
    fn a_point_has_two_components() {
        let point = PointPath::parse("backupPath", "i-2-10-VM/2031.01.02.03.04.05").unwrap();
        assert_eq!((point.instance(), point.name()), ("i-2-10-VM", "2031.01.02.03.04.05"));
        assert_eq!(point.folder(), path("i-2-10-VM/2031.01.02.03.04.05"));
        assert_eq!(point.file("a").unwrap(), path("i-2-10-VM/2031.01.02.03.04.05/a"));
        for bad in ["", "a", "a/", "/a/b", "a/b/c", "a/.b", ".a/b", "a/..", "../a", "a/b\n", "a//b", "a/b/"] {
            assert_eq!(PointPath::parse("backupPath", bad).unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
    }
}
