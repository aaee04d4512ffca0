//! What `mount` means by its words: whether trying again may help, whose fault it is, and what helps. Helpers tell no more than a
//! status that is the same for all failures, and a text: `mount.nfs` its own sentences and the C library's, `mount.cifs` the
//! number of the kernel's error. Both are asked for in the C locale; of another one's text numbers alone are understood.

use crate::error::Code;

/// Why `mount` failed, as far as it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The server, or a firewall before it, takes no connection.
    Refused,
    /// Nothing comes back, or no way or name leads there.
    Unreachable,
    /// It answers, and does not serve this: a server that starts says so, and one that never will.
    NotServed,
    /// The server does not let this host, or this user, have it.
    Denied,
    /// The server has nothing of that name.
    Missing,
    /// An option, or what one of them needs, is not understood, here or there.
    Options,
    /// This host lacks a program, a daemon or a module.
    Lacking,
    Unknown,
}

/// `mount`, and its helpers, end with it when they don't understand what they are given.
const USAGE: i32 = 1;

/// What each text means, the first that is found. Texts that are part of others' stand after these.
const TEXTS: [(&str, Why); 40] = [
    // of the program mount, which has found no helper
    ("unknown filesystem type", Why::Lacking),
    ("helper program", Why::Lacking),
    ("wrong fs type", Why::Lacking),
    ("not supported by the system", Why::Lacking),
    ("No such device", Why::Lacking),
    ("rpc.statd is not running", Why::Lacking),
    ("access denied by server", Why::Denied),
    ("Permission denied", Why::Denied),
    ("Operation not permitted", Why::Denied),
    ("Required key not available", Why::Denied),
    // of ssh, which then finds its connection reset
    ("Host key verification failed", Why::Denied),
    ("reason given by server", Why::Missing),
    ("No such file or directory", Why::Missing),
    ("Not a directory", Why::Missing),
    ("is not a directory", Why::Missing),
    ("incorrect mount option", Why::Options),
    ("bad option", Why::Options),
    ("unknown option", Why::Options),
    ("Unknown error 524", Why::Options),
    ("Invalid argument", Why::Options),
    ("Protocol not supported", Why::Options),
    ("Operation not supported", Why::Options),
    ("Connection refused", Why::Refused),
    ("requested NFS version or transport protocol is not supported", Why::NotServed),
    ("Program not registered", Why::NotServed),
    ("Stale ", Why::NotServed),
    // of mount.nfs when the kernel says EIO, as to a server that does not know the version
    ("mount system call failed", Why::NotServed),
    // of mount.ceph when the cluster answers
    ("error: no mds ", Why::NotServed),
    ("Temporary failure in name resolution", Why::Unreachable),
    ("ould not resolve", Why::Options),
    ("ailed to resolve", Why::Options),
    ("No route to host", Why::Unreachable),
    ("Network is unreachable", Why::Unreachable),
    ("Network is down", Why::Unreachable),
    ("Host is down", Why::Unreachable),
    ("imed out", Why::Unreachable),
    ("Unable to receive", Why::Unreachable),
    ("Connection reset", Why::Unreachable),
    ("Resource temporarily unavailable", Why::Unreachable),
    ("Operation now in progress", Why::Unreachable),
];

/// Judges by how `mount` ended and what it said, without what the caller gave to it.
pub(super) fn why(status: Option<i32>, text: &str) -> Why {
    let by_text = || TEXTS.iter().find(|(words, _)| text.contains(words)).map_or(Why::Unknown, |(_, why)| *why);
    let why = number(text).and_then(of_number).unwrap_or_else(by_text);
    match status {
        // killed, it has said nothing for sure
        None => Why::Unknown,
        Some(USAGE) if why == Why::Unknown => Why::Options,
        _ => why,
    }
}

/// The last number in `mount error(111): ...`, as `mount.cifs` has it, or `mount error 110 = ...`, as `mount.ceph` has: of
/// several addresses the last one was tried last.
fn number(text: &str) -> Option<i32> {
    let after = text.rsplit("mount error").next().filter(|after| after.len() < text.len())?;
    let digits = after.trim_start_matches(['(', ' ']);
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

fn of_number(number: i32) -> Option<Why> {
    Some(match number {
        libc::ECONNREFUSED => Why::Refused,
        // EHOSTDOWN comes with a sentence on the SMB version, whatever it is: of a cable that was pulled, too
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ETIMEDOUT => Why::Unreachable,
        libc::EINPROGRESS | libc::EAGAIN | libc::ECONNRESET | libc::ECONNABORTED | libc::ENOTCONN => Why::Unreachable,
        libc::EACCES | libc::EPERM | libc::ENOKEY | libc::EKEYEXPIRED | libc::EKEYREVOKED | libc::EKEYREJECTED => {
            Why::Denied
        }
        libc::ENOENT | libc::ENXIO | libc::ENOTDIR => Why::Missing,
        libc::EINVAL | libc::EOPNOTSUPP => Why::Options,
        libc::ENODEV => Why::Lacking,
        // a server that shuts down, or starts
        libc::EIO => Why::NotServed,
        _ => return None,
    })
}

impl Why {
    /// May it pass? What a server that is restarted says passes, though one that never will serve this says it, too.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Why::Refused | Why::Unreachable | Why::NotServed)
    }

    /// What it is to the caller: a server that can't be reached is one that does not answer.
    pub(super) fn code(self) -> Code {
        if self == Why::Unreachable { Code::NasUnresponsive } else { Code::MountFailed }
    }

    /// What helps on a mount of this type.
    pub(super) fn advice(self, kind: &str) -> Option<&'static str> {
        let (nfs, cifs) = (is_nfs(kind), is_cifs(kind));
        Some(match self {
            Why::Refused if nfs => {
                "the server refuses the connection: is its NFS service running, is 'port=' right, does a firewall reject it?"
            }
            Why::Refused => "the server refuses the connection: is its service running, does a firewall reject it?",
            Why::Unreachable if cifs => {
                "the server can't be reached: look at the address, the network, firewalls (port 445), and 'vers='"
            }
            Why::Unreachable if nfs => {
                "the server can't be reached: look at the address, the network, firewalls (port 2049)"
            }
            Why::Unreachable => "the server can't be reached: look at the address, the network and firewalls",
            Why::NotServed if nfs => {
                "the server does not serve NFS in this version, or not yet: look at 'vers=' and what it offers (rpcinfo -p)"
            }
            Why::NotServed => "the server could not serve it: look at its log",
            Why::Denied if nfs => "the server does not export it to this host's address, or not with this 'sec='",
            Why::Denied if cifs => {
                "the server denies it to the user of the mount options: look at username=, password=, domain=, sec=, and at \
                 that user's right to the share"
            }
            Why::Missing if nfs => "the server exports no such path: look at the address (showmount -e)",
            Why::Missing if cifs => "the server has no such share, or no such folder in it: look at the address",
            Why::Options => "look at the repository's mount options and its address",
            Why::Lacking if nfs => {
                "this host lacks what NFS needs: the package nfs-common (nfs-utils), the kernel's module, rpc.statd"
            }
            Why::Lacking if cifs => "this host lacks what CIFS needs: the package cifs-utils, the kernel's module",
            Why::Lacking => "this host lacks what this type needs: its mount program, the kernel's module",
            Why::Denied | Why::Missing | Why::Unknown => return None,
        })
    }
}

fn is_nfs(kind: &str) -> bool {
    matches!(kind, "nfs" | "nfs4")
}

fn is_cifs(kind: &str) -> bool {
    matches!(kind, "cifs" | "smb3")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of nfs-utils 1.2 to 2.8, cifs-utils 5 to 7, ceph, sshfs and util-linux, as they were seen.
    const SEEN: [(Why, &str, i32, &str); 61] = [
        (Why::Refused, "nfs", 32, "mount.nfs: Connection refused"),
        (Why::Refused, "nfs", 32, "mount.nfs: Connection refused for nas:/x on /run/m"),
        (Why::Refused, "nfs4", 32, "mount.nfs4: Connection refused"),
        (Why::Refused, "nfs", 32, "mount.nfs: mount to NFS server 'nas' failed: System Error: Connection refused"),
        (Why::Refused, "nfs", 32, "mount.nfs: portmap query failed: RPC: Remote system error - Connection refused"),
        (Why::Refused, "cifs", 32, "mount error(111): could not connect to 10.0.0.1Unable to find suitable address."),
        (
            Why::Refused,
            "cifs",
            2,
            "mount error(111): could not connect to ::1mount error(111): could not connect to 127.0.0.1Unable to find \
             suitable address.",
        ),
        (
            Why::Refused,
            "cifs",
            32,
            "mount error(111): Verbindungsaufbau abgelehnt\nRefer to the mount.cifs(8) manual page",
        ),
        (Why::Unreachable, "nfs", 32, "mount.nfs: Connection timed out"),
        (Why::Unreachable, "nfs", 32, "mount.nfs4: Connection timed out for nas:/x on /run/m"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: No route to host"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: No route to host for nas:/x on /run/m"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: Network is unreachable"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: Resource temporarily unavailable for nas:/x on /run/m"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: mount to NFS server 'nas' failed: timed out, giving up"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: RPC: Port mapper failure - RPC: Unable to receive"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: portmap query failed: RPC: Timed out"),
        (Why::Unreachable, "nfs", 32, "mount.nfs: Failed to resolve server nas: Temporary failure in name resolution"),
        (
            Why::Unreachable,
            "cifs",
            1,
            "mount error: could not resolve address for nas: Temporary failure in name resolution",
        ),
        (
            Why::Unreachable,
            "cifs",
            32,
            "mount error(113): could not connect to 10.0.0.1Unable to find suitable address.",
        ),
        (
            Why::Unreachable,
            "cifs",
            32,
            "mount error(111): could not connect to ::1mount error(113): could not connect to 10.0.0.1Unable to find \
             suitable address.",
        ),
        (
            Why::Unreachable,
            "cifs",
            32,
            "mount error(115): Operation now in progress\nRefer to the mount.cifs(8) manual page",
        ),
        (Why::Unreachable, "cifs", 32, "mount error(115): Die Operation ist jetzt in Bearbeitung"),
        (Why::Unreachable, "cifs", 32, "mount error(110): Connection timed out"),
        (Why::Unreachable, "cifs", 32, "mount error(112): Host is down\nRefer to the mount.cifs(8) manual page"),
        (
            Why::Unreachable,
            "cifs",
            32,
            "mount error: Server abruptly closed the connection.\nThis can happen if the server does not support the SMB \
             version you are trying to use.\nThe default SMB version recently changed from SMB1 to SMB2.1 and above. Try \
             mounting with vers=1.0.\nmount error(112): Host is down\nRefer to the mount.cifs(8) manual page",
        ),
        (Why::Unreachable, "smb3", 32, "mount error(101): Network is unreachable"),
        (Why::Unreachable, "cifs", 32, "mount error(11): Resource temporarily unavailable"),
        (Why::Unreachable, "ceph", 32, "mount error 110 = Connection timed out"),
        (Why::Unreachable, "ceph", 1, "mount error 113 = No route to host"),
        (Why::NotServed, "nfs", 32, "mount.nfs: requested NFS version or transport protocol is not supported"),
        (
            Why::NotServed,
            "nfs",
            32,
            "mount.nfs: requested NFS version or transport protocol is not supported for /run/m",
        ),
        (Why::NotServed, "nfs", 32, "mount.nfs: mount to NFS server 'nas' failed: RPC Error: Program not registered"),
        (Why::NotServed, "nfs", 32, "mount.nfs: Stale NFS file handle"),
        (Why::NotServed, "nfs", 32, "mount.nfs: Stale file handle for nas:/x on /run/m"),
        (Why::NotServed, "nfs", 32, "mount.nfs: mount system call failed for /run/m"),
        (Why::NotServed, "cifs", 32, "mount error(5): Input/output error"),
        (Why::NotServed, "ceph", 32, "mount error: no mds server is up or the cluster is laggy"),
        (
            Why::NotServed,
            "ceph",
            32,
            "mount error: no mds (Metadata Server) is up. The cluster might be laggy, or you may not be authorized",
        ),
        (Why::Denied, "nfs", 32, "mount.nfs: access denied by server while mounting nas:/x"),
        (Why::Denied, "nfs", 32, "mount.nfs: access denied by server while mounting (null)"),
        (Why::Denied, "nfs", 32, "mount.nfs: Operation not permitted for nas:/x on /run/m"),
        (Why::Denied, "cifs", 32, "mount error(13): Permission denied\nRefer to the mount.cifs(8) manual page"),
        (Why::Denied, "cifs", 32, "mount error(13): Keine Berechtigung"),
        (Why::Denied, "cifs", 32, "mount error(126): Required key not available"),
        (Why::Denied, "ceph", 32, "mount error 13 = Permission denied"),
        (Why::Denied, "fuse.sshfs", 1, "Host key verification failed.\nread: Connection reset by peer"),
        (
            Why::Missing,
            "nfs",
            32,
            "mount.nfs: mounting nas:/x failed, reason given by server: No such file or directory",
        ),
        (
            Why::Missing,
            "nfs",
            32,
            "mount.nfs: mounting nas:/x failed, reason given by server:\n  No such file or directory",
        ),
        (Why::Missing, "cifs", 32, "mount error(2): No such file or directory"),
        (Why::Missing, "cifs", 32, "Retrying with upper case share name\nmount error(6): No such device or address"),
        (Why::Options, "nfs", 32, "mount.nfs: an incorrect mount option was specified"),
        (Why::Options, "nfs", 32, "mount.nfs: Protocol not supported for nas:/x on /run/m"),
        (Why::Options, "nfs", 32, "mount.nfs: Failed to resolve server nas: Name or service not known"),
        (Why::Options, "cifs", 1, "mount error: could not resolve address for nas: Unknown error"),
        (Why::Options, "cifs", 32, "mount error(22): Invalid argument\nRefer to the mount.cifs(8) manual page"),
        (Why::Options, "cifs", 32, "mount error(95): Operation not supported"),
        (Why::Options, "cifs", 1, "Usage: mount.cifs <remotetarget> <dir> -o <options>"),
        (Why::Lacking, "nosuch", 32, "mount: /run/m: unknown filesystem type 'nosuch'.\n       dmesg(1) may have more"),
        (
            Why::Lacking,
            "nfs",
            32,
            "mount: /run/m: bad option; for several filesystems (e.g. nfs, cifs) you might need a /sbin/mount.<type> helper \
             program.",
        ),
        (
            Why::Lacking,
            "nfs",
            32,
            "mount.nfs: rpc.statd is not running but is required for remote locking.\nmount.nfs: Either use '-o nolock' to keep \
             locks local, or start statd.\nmount.nfs: an incorrect mount option was specified",
        ),
    ];

    #[test]
    fn what_was_seen_is_understood() {
        for (why, kind, status, text) in SEEN {
            assert_eq!(super::why(Some(status), text), why, "{text}");
            let advice = why.advice(kind);
            assert!(kind.starts_with(['c', 'f']) || advice.is_some(), "{why:?} {kind}");
            assert_eq!(super::why(None, text), Why::Unknown, "killed: {text}");
        }
    }

    #[test]
    fn what_is_not_understood_does_not_pass() {
        for text in [
            "",
            "mount.nfs: Verbindungsaufbau abgelehnt",
            "mount error(",
            "mount error(99999999999999): x",
            "mount error()",
            "mount error(-111)",
            "mount: /run/m: failed to setup loop device for /srv/image.",
        ] {
            let why = why(Some(32), text);
            assert_eq!((why, why.may_pass(), why.code()), (Why::Unknown, false, Code::MountFailed), "{text}");
        }
    }

    #[test]
    fn what_can_not_pass_fails_at_once_and_nobody_is_taken_for_hung_who_answers() {
        use Why::*;
        for (why, passes, code) in [
            (Refused, true, Code::MountFailed),
            (Unreachable, true, Code::NasUnresponsive),
            (NotServed, true, Code::MountFailed),
            (Denied, false, Code::MountFailed),
            (Missing, false, Code::MountFailed),
            (Options, false, Code::MountFailed),
            (Lacking, false, Code::MountFailed),
            (Unknown, false, Code::MountFailed),
        ] {
            assert_eq!((why.may_pass(), why.code()), (passes, code), "{why:?}");
        }
    }
}
