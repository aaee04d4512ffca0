//! A stopped guest's disk in Ceph, as CloudStack's agent names it (`KVMPhysicalDisk.RBDStringBuilder`), which is QEMU's
//! spelling: `rbd:pool/image:option=value:...`, in which a backslash takes the meaning from what follows it.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};

use rustix::fs::MemfdFlags;

use crate::error::{Error, Result};
use crate::libvirt::CephSource;

const PREFIX: &str = "rbd:";
const KEY: &str = "key";
/// The options that CloudStack gives besides the key.
const OPTIONS: [&str; 6] =
    ["mon_host", "auth_supported", "id", "rbd_default_format", "rbd_default_data_pool", "client_mount_timeout"];

/// An image in Ceph.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::operation) struct Rbd {
    /// `rbd:pool/image`.
    pub name: String,
    /// The name that QEMU opens. In place of the key it says that Ceph reads the key from the standard input.
    pub location: String,
    /// The other options, without the key.
    options: Vec<(String, String)>,
    /// The key: never logged or shown.
    key: Option<String>,
}

impl fmt::Debug for Rbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Rbd {
    /// True of a path that names an image in Ceph.
    pub(in crate::operation) fn is_one(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// Parses the options that CloudStack gives, and refuses all others: these could have QEMU read a file, or change the cluster's
    /// configuration. The error is `INVALID_ARGUMENT` on `field`, and shows no option's value.
    pub(in crate::operation) fn parse(field: &str, path: &str) -> Result<Rbd> {
        let refuse = |cause: String| Err(Error::invalid(field, cause));
        if path.contains(char::is_control) {
            return refuse("has a control character".to_owned());
        }
        let Some(parts) = path.strip_prefix(PREFIX).and_then(split) else {
            return refuse("ends within an escape".to_owned());
        };
        let (image, options) = (parts[0], &parts[1..]);
        if !is_image(image) {
            return refuse("is not rbd:pool/image with options".to_owned());
        }
        let name = format!("{PREFIX}{image}");
        let (mut location, mut key, mut plain, mut seen) = (name.clone(), None, Vec::new(), Vec::new());
        for (i, option) in options.iter().enumerate() {
            let Some((option, value)) = option.split_once('=').filter(|(_, value)| !value.is_empty()) else {
                return refuse(format!("option {} of it has no value", i + 1));
            };
            if seen.contains(&option) {
                return refuse(format!("option '{option}' is given twice"));
            }
            match option {
                KEY => {
                    key = Some(unescaped(value));
                    location += ":keyfile=/dev/stdin";
                }
                // a missing escape may have swallowed the next option
                _ if OPTIONS.contains(&option) && value.contains('=') => {
                    return refuse(format!("option '{option}' is not understood"));
                }
                _ if OPTIONS.contains(&option) => {
                    location += &format!(":{option}={value}");
                    plain.push((option.to_owned(), unescaped(value)));
                }
                _ if option.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
                    return refuse(format!("option '{option}' is not one that CloudStack gives"));
                }
                // this may be a part of a value, so it is not shown
                _ => return refuse(format!("option {} of it is not one that CloudStack gives", i + 1)),
            }
            seen.push(option);
        }
        Ok(Rbd { name, location, options: plain, key })
    }

    /// The image that a domain names. The error shows no option's value.
    pub(in crate::operation) fn of_domain(source: &CephSource, key: Option<&[u8]>) -> Result<Rbd> {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace(':', "\\:");
        let CephSource { name, monitors, user, .. } = source;
        let auth = if user.is_some() { "cephx" } else { "none" };
        let mut path = format!("{PREFIX}{name}:mon_host={}:auth_supported={auth}", escaped(&monitors.join(";")));
        if let Some(user) = user {
            path += &format!(":id={}", escaped(user));
        }
        if let Some(key) = key {
            path += &format!(":{KEY}={}", base64(key));
        }
        Rbd::parse("disk", &path)
    }

    /// The image as it was when this snapshot was taken, which nobody can write.
    pub(in crate::operation) fn at(&self, snapshot: &str) -> Rbd {
        Rbd { location: format!("{}@{snapshot}{}", self.name, &self.location[self.name.len()..]), ..self.clone() }
    }

    /// The arguments by which Ceph's tool finds the image, or a snapshot of it. The tool reads the key from the standard input.
    pub(super) fn arguments(&self, snapshot: Option<&str>) -> Vec<String> {
        let key = self.key.iter().map(|_| "--keyfile=/dev/stdin".to_owned());
        let options = self.options.iter().map(|(option, value)| format!("--{option}={value}")).chain(key);
        let snapshot = snapshot.map(|name| format!("@{name}")).unwrap_or_default();
        options.chain([format!("{}{snapshot}", &self.name[PREFIX.len()..])]).collect()
    }

    /// Writes the key into a memory file, which has no path.
    pub(in crate::operation) fn key_file(&self) -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("key", MemfdFlags::CLOEXEC)?);
        file.write_all(self.key.as_deref().unwrap_or_default().as_bytes())?;
        Ok(file)
    }
}

/// The bytes in base64 (RFC 4648, section 4), in which Ceph writes keys.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |three: &[u8]| {
        let bits = three.iter().fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digit = move |i: usize| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize % 64]);
        let told = three.len() + 1;
        (0..4).map(move |i| if i < told { digit(i) } else { '=' })
    };
    bytes.chunks(3).flat_map(digits).collect()
}

/// True if the name is one pool and one image, and not a snapshot of it.
fn is_image(image: &str) -> bool {
    let parts: Vec<_> = image.split('/').collect();
    parts.len() == 2
        && parts.iter().all(|part| !part.is_empty() && !part.starts_with(['.', '-']))
        && !image.contains(['\\', '@', '='])
}

/// Splits a text at the colons that are not escaped; `None` when the text ends within an escape.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!escaped).then_some(parts)
}

fn unescaped(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use std::io::{Read, Seek};

    fn parse(path: &str) -> Result<Rbd> {
        Rbd::parse("disks[0].path", path)
    }

    #[test]
    fn what_cloudstack_gives_is_understood_and_the_key_taken_out() {
        for (path, name, location, key) in [
            (
                "rbd:p/11-22:mon_host=a\\:6789\\;[fd00\\:\\:1]\\:6789:auth_supported=cephx:id=c:key=AQ/b+==\
                 :rbd_default_format=2:client_mount_timeout=30",
                "rbd:p/11-22",
                "rbd:p/11-22:mon_host=a\\:6789\\;[fd00\\:\\:1]\\:6789:auth_supported=cephx:id=c:keyfile=/dev/stdin\
                 :rbd_default_format=2:client_mount_timeout=30",
                Some("AQ/b+=="),
            ),
            (
                "rbd:p/i:mon_host=a:auth_supported=none:rbd_default_data_pool=d:rbd_default_format=2",
                "rbd:p/i",
                "rbd:p/i:mon_host=a:auth_supported=none:rbd_default_data_pool=d:rbd_default_format=2",
                None,
            ),
            ("rbd:p/i:id=a\\:b:key=\\a\\\\b", "rbd:p/i", "rbd:p/i:id=a\\:b:keyfile=/dev/stdin", Some("a\\b")),
            ("rbd:p/i", "rbd:p/i", "rbd:p/i", None),
        ] {
            let found = parse(path).unwrap();
            assert_eq!((&*found.name, &*found.location, found.key.as_deref()), (name, location, key));
            assert_eq!(format!("{found:?}"), name);
            let at = found.at("s");
            assert_eq!((at.name, at.location), (name.to_owned(), location.replacen(name, &format!("{name}@s"), 1)));
        }
    }

    #[test]
    fn an_image_of_a_domain_is_reached_as_the_domain_reaches_it() {
        let mut source = CephSource {
            name: "p/i".into(),
            monitors: vec!["192.0.2.1:6789".into(), "[fd00::1]".into()],
            user: Some("a:b\\c".into()),
            secret: None,
        };
        let found = Rbd::of_domain(&source, Some(b"\x00\xffkey")).unwrap();
        assert_eq!((&*found.name, found.key.as_deref()), ("rbd:p/i", Some("AP9rZXk=")));
        let options = ["--mon_host=192.0.2.1:6789;[fd00::1]", "--auth_supported=cephx", "--id=a:b\\c"];
        assert_eq!(found.arguments(Some("s")), [&options[..], &["--keyfile=/dev/stdin", "p/i@s"]].concat());
        source.user = None;
        let found = Rbd::of_domain(&source, None).unwrap();
        assert_eq!((found.key.as_deref(), &*found.arguments(None)[1]), (None, "--auth_supported=none"));
        source.name = "p/n/i".into();
        assert!(Rbd::of_domain(&source, Some(b"secret")).is_err());
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn anything_else_is_refused_without_its_values() {
        for (path, reason) in [
            ("rbd:", "is not rbd:pool/image"),
            ("rbd:image:id=secret", "is not rbd:pool/image"),
            ("rbd:p/n/i", "is not rbd:pool/image"),
            ("rbd:p/i@secret", "is not rbd:pool/image"),
            ("rbd:p/..:id=a", "is not rbd:pool/image"),
            ("rbd:/i", "is not rbd:pool/image"),
            ("rbd:-p/i", "is not rbd:pool/image"),
            ("rbd:p/i\\:x", "is not rbd:pool/image"),
            ("rbd:p/i:conf=/secret", "option 'conf' is not one"),
            ("rbd:p/i:keyfile=/secret", "option 'keyfile' is not one"),
            ("rbd:p/i:keyring=/secret", "option 'keyring' is not one"),
            ("rbd:p/i:key=a:SECRET=", "option 2 of it has no value"),
            ("rbd:p/i:key=a:SECRET==", "option 2 of it is not one"),
            ("rbd:p/i:secret", "option 1 of it has no value"),
            ("rbd:p/i:key=", "option 1 of it has no value"),
            ("rbd:p/i::id=a", "option 1 of it has no value"),
            ("rbd:p/i:id=a:key=secret:id=b", "option 'id' is given twice"),
            ("rbd:p/i:id=akey=secret", "option 'id' is not understood"),
            ("rbd:p/ikey=secret", "is not rbd:pool/image"),
            ("rbd:p/i:id=secret\\", "ends within an escape"),
            ("rbd:p/i:id=a\nsecret", "has a control character"),
        ] {
            let error = parse(path).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{path}");
            assert!(error.cause.starts_with(&format!("disks[0].path: {reason}")), "{path}: {error}");
            assert!(!error.cause.to_lowercase().contains("secret"), "{error}");
        }
    }

    /// Whatever single character is cut, put in or exchanged.
    #[test]
    fn a_damaged_name_does_not_tell_the_key() {
        const KEY: &str = "AQD7/4secret+kQ==";
        let name =
            format!("rbd:p/11-22:mon_host=a\\:6789\\;b:auth_supported=cephx:id=c:key={KEY}:rbd_default_format=2");
        let secret = name.find(KEY).unwrap()..name.find(KEY).unwrap() + KEY.len();
        for at in (0..name.len()).filter(|at| !secret.contains(at)) {
            let (before, after) = name.split_at(at);
            let pieces = ["", ":", "\\", "=", "@", "/", ",", "é", "\n", "key=", "::"];
            let damaged = pieces
                .iter()
                .flat_map(|piece| [format!("{before}{piece}{after}"), format!("{before}{piece}{}", &after[1..])]);
            for damaged in damaged.chain([before.to_owned()]) {
                match parse(&damaged) {
                    Ok(found) => assert!(!format!("{} {}", found.location, found.name).contains(KEY), "{damaged}"),
                    Err(error) => assert!(!error.cause.contains(KEY), "{damaged}: {error}"),
                }
            }
        }
    }

    #[test]
    fn the_key_comes_in_a_file_without_a_path() {
        let mut file = parse("rbd:p/i:key=AQ==").unwrap().key_file().unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "AQ==");
    }
}
