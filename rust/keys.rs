//! The keys that vouch for restore points. They lie in a file of this host, which no NAS sees: somebody who may write on a NAS can
//! compute any hash of a manifest, but no MAC.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::user::refuse_writable_by_others;

/// The setting that names the file.
const FIELD: &str = "keyFile";
/// Bytes of the longest file: about 1,000 keys.
const LONGEST: u64 = 1 << 16;
/// Derives the manifests' keys from those of the file, so that no other use of the file's keys yields a manifest's MAC.
const CONTEXT: &str = "nasbackup 2026-11-29 15:00:00 manifest of a restore point";

/// The keys of a host, never none. The first one signs, each of them verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<[u8; blake3::KEY_LEN]>);

impl Keys {
    /// Reads the file, which has a key of 64 hexadecimal digits on each line. `INVALID_ARGUMENT` unless the file belongs to this process's
    /// user, nobody else may read it, and nobody else may exchange it in its folder.
    pub fn read(path: &Path) -> Result<Keys> {
        let refuse = |why: &dyn fmt::Display| Error::invalid(FIELD, format!("'{}': {why}", path.display()));
        refuse_writable_by_others(FIELD, path.parent().unwrap_or(path))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| refuse(&e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| refuse(&e))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(refuse(&"is not a regular file"));
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(refuse(&format!("belongs to user {}, and not to us", stat.st_uid)));
        }
        if stat.st_mode & 0o7177 != 0 {
            return Err(refuse(&format!("has mode {:04o}: it has to be 0600", stat.st_mode & 0o7777)));
        }
        let mut text = String::new();
        File::from(file).take(LONGEST).read_to_string(&mut text).map_err(|e| refuse(&e))?;
        Keys::parse(&text).map_err(|why| refuse(&why))
    }

    /// The error names the line, and not its content, which may be a key.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let key = |(i, line): (usize, &str)| {
            let key =
                blake3::Hash::from_hex(line).map_err(|_| format!("line {} is not 64 hexadecimal digits", i + 1))?;
            Ok(blake3::derive_key(CONTEXT, key.as_bytes()))
        };
        let keys = text.lines().enumerate().map(key).collect::<Result<Vec<_>, String>>()?;
        if keys.is_empty() { Err("holds no key".into()) } else { Ok(Keys(keys)) }
    }

    /// The MAC of a text by the first key.
    pub fn sign(&self, text: &str) -> Digest {
        blake3::keyed_hash(&self.0[0], text.as_bytes()).into()
    }

    /// The position of the key that has made the text's MAC; `None` if none has.
    pub fn signer(&self, text: &str, mac: Digest) -> Option<usize> {
        let mac = blake3::Hash::from(mac);
        // this comparison takes the same time wherever the two differ
        self.0.iter().position(|key| blake3::keyed_hash(key, text.as_bytes()) == mac)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const ONE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const TWO: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

    #[test]
    fn the_first_key_signs_and_each_verifies() {
        let keys = |lines: &[&str]| Keys::parse(&lines.join("\n")).unwrap();
        let mac = keys(&[ONE]).sign("text");
        assert_eq!(keys(&[ONE]).signer("text", mac), Some(0));
        assert_eq!(keys(&[TWO, ONE]).signer("text", mac), Some(1));
        assert_eq!(keys(&[TWO]).signer("text", mac), None);
        assert_eq!(keys(&[ONE]).signer("Text", mac), None);
        assert_ne!(keys(&[TWO, ONE]).sign("text"), mac);
        // not the key as it stands in the file, which may be used elsewhere
        let raw = blake3::Hash::from_hex(ONE).unwrap();
        assert_ne!(Digest::from(blake3::keyed_hash(raw.as_bytes(), b"text")), mac);
        assert_eq!(format!("{:?}", keys(&[ONE, TWO])), "2 keys");
    }

    #[test]
    fn a_file_that_is_no_secret_of_ours_or_holds_no_keys_is_refused_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        };
        let refused = |word: &str| {
            let error = Keys::read(&path).unwrap_err();
            assert_eq!(error.code, crate::error::Code::InvalidArgument);
            assert!(error.cause.starts_with("keyFile: ") && error.cause.contains(word), "{word}: {error}");
            assert!(!error.cause.contains(&ONE[..8]), "{error}");
        };
        refused("No such file");
        for good in [ONE.to_owned(), format!("{ONE}\n"), format!("{}\n{TWO}\n", ONE.to_uppercase())] {
            write(&good);
            Keys::read(&path).unwrap();
        }
        for (text, word) in [
            ("", "holds no key"),
            ("\n", "line 1"),
            (&ONE[1..], "line 1"),
            (&format!("{ONE}\n\n{TWO}\n"), "line 2"),
            (&format!("{ONE}0\n"), "line 1"),
            (&format!("{ONE} \n"), "line 1"),
            (&format!("# a comment\n{ONE}\n"), "line 1"),
            (&format!("{ONE}\n{}", &TWO[1..]), "line 2"),
        ] {
            write(text);
            refused(word);
        }
        write(ONE);
        for mode in [0o640, 0o604, 0o660, 0o601, 0o700, 0o4600] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            refused("it has to be 0600");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        Keys::read(&path).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(65534), None).unwrap();
            refused("belongs to user 65534");
            chown(&path, Some(0), None).unwrap();
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        refused("others than its owner may write");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        fs::rename(&path, dir.path().join("real")).unwrap();
        symlink("real", &path).unwrap();
        refused("symbolic link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("is not a regular file");
    }
}
