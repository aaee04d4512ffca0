//! What an error of `mount` means: whether another try may help, and what the operator can do. The helpers' exit status is the
//! same for all failures, so the text decides: `mount.nfs` prints its own sentences and the C library's, `mount.cifs` the
//! number of the kernel's error. Both run in the C locale; of another language's text only numbers are understood.

use crate::error::Code;

/// Why `mount` failed, as far as its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MountFailure {
    /// The server, or a firewall before it, refuses the connection.
    Refused,
    /// The server does not answer, or there is no route to it, or its name does not resolve.
    Unreachable,
    /// The server answers, and does not serve the export, maybe because it is starting.
    NotServed,
    /// The server denies the export to this host, or to this user.
    Denied,
    /// The server has no export of that name.
    Missing,
    /// This host or the server does not understand an option.
    Options,
    /// This host lacks a program, a daemon or a module.
    Lacking,
    Unknown,
}

/// The exit status of `mount` and its helpers when they don't understand their arguments.
const USAGE: i32 = 1;

/// What each text means; the first that is found counts, so a text that is part of another comes after it.
const TEXTS: [(&str, MountFailure); 40] = [
    // of the program mount, which has found no helper
    ("unknown filesystem type", MountFailure::Lacking),
    ("helper program", MountFailure::Lacking),
    ("wrong fs type", MountFailure::Lacking),
    ("not supported by the system", MountFailure::Lacking),
    ("No such device", MountFailure::Lacking),
    ("rpc.statd is not running", MountFailure::Lacking),
    ("access denied by server", MountFailure::Denied),
    ("Permission denied", MountFailure::Denied),
    ("Operation not permitted", MountFailure::Denied),
    ("Required key not available", MountFailure::Denied),
    // of ssh, which then finds its connection reset
    ("Host key verification failed", MountFailure::Denied),
    ("reason given by server", MountFailure::Missing),
    ("No such file or directory", MountFailure::Missing),
    ("Not a directory", MountFailure::Missing),
    ("is not a directory", MountFailure::Missing),
    ("incorrect mount option", MountFailure::Options),
    ("bad option", MountFailure::Options),
    ("unknown option", MountFailure::Options),
    ("Unknown error 524", MountFailure::Options),
    ("Invalid argument", MountFailure::Options),
    ("Protocol not supported", MountFailure::Options),
    ("Operation not supported", MountFailure::Options),
    ("Connection refused", MountFailure::Refused),
    ("requested NFS version or transport protocol is not supported", MountFailure::NotServed),
    ("Program not registered", MountFailure::NotServed),
    ("Stale ", MountFailure::NotServed),
    // of mount.nfs when the kernel says EIO, as to a server that does not know the version
    ("mount system call failed", MountFailure::NotServed),
    // of mount.ceph when the cluster answers
    ("error: no mds ", MountFailure::NotServed),
    ("Temporary failure in name resolution", MountFailure::Unreachable),
    ("ould not resolve", MountFailure::Options),
    ("ailed to resolve", MountFailure::Options),
    ("No route to host", MountFailure::Unreachable),
    ("Network is unreachable", MountFailure::Unreachable),
    ("Network is down", MountFailure::Unreachable),
    ("Host is down", MountFailure::Unreachable),
    ("imed out", MountFailure::Unreachable),
    ("Unable to receive", MountFailure::Unreachable),
    ("Connection reset", MountFailure::Unreachable),
    ("Resource temporarily unavailable", MountFailure::Unreachable),
    ("Operation now in progress", MountFailure::Unreachable),
];

/// Classifies a failure by `mount`'s exit status and its text, without the address that the caller gave.
pub(super) fn classify(status: Option<i32>, text: &str) -> MountFailure {
    let by_text =
        || TEXTS.iter().find(|(words, _)| text.contains(words)).map_or(MountFailure::Unknown, |(_, why)| *why);
    let why = parse_errno(text).and_then(classify_errno).unwrap_or_else(by_text);
    match status {
        // the text of a killed `mount` may be incomplete
        None => MountFailure::Unknown,
        Some(USAGE) if why == MountFailure::Unknown => MountFailure::Options,
        _ => why,
    }
}

/// The last number in `mount error(111): ...`, as `mount.cifs` prints it, or `mount error 110 = ...`, as `mount.ceph` does. The
/// last number belongs to the address that was tried last.
fn parse_errno(text: &str) -> Option<i32> {
    let after = text.rsplit("mount error").next().filter(|after| after.len() < text.len())?;
    let digits = after.trim_start_matches(['(', ' ']);
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

fn classify_errno(number: i32) -> Option<MountFailure> {
    Some(match number {
        libc::ECONNREFUSED => MountFailure::Refused,
        // `mount.cifs` blames the SMB version for each EHOSTDOWN, also for a pulled cable
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ETIMEDOUT => {
            MountFailure::Unreachable
        }
        libc::EINPROGRESS | libc::EAGAIN | libc::ECONNRESET | libc::ECONNABORTED | libc::ENOTCONN => {
            MountFailure::Unreachable
        }
        libc::EACCES | libc::EPERM | libc::ENOKEY | libc::EKEYEXPIRED | libc::EKEYREVOKED | libc::EKEYREJECTED => {
            MountFailure::Denied
        }
        libc::ENOENT | libc::ENXIO | libc::ENOTDIR => MountFailure::Missing,
        libc::EINVAL | libc::EOPNOTSUPP => MountFailure::Options,
        libc::ENODEV => MountFailure::Lacking,
        // from a server that shuts down or starts
        libc::EIO => MountFailure::NotServed,
        _ => return None,
    })
}

impl MountFailure {
    /// True if the failure may pass, as that of a restarting server does.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, MountFailure::Refused | MountFailure::Unreachable | MountFailure::NotServed)
    }

    /// The code for the caller: a server that can't be reached does not answer.
    pub(super) fn code(self) -> Code {
        if self == MountFailure::Unreachable { Code::NasUnresponsive } else { Code::MountFailed }
    }

    /// What the operator can do about a mount of this type.
    pub(super) fn advice(self, kind: &str) -> Option<&'static str> {
        let (nfs, cifs) = (is_nfs(kind), is_cifs(kind));
        Some(match self {
            MountFailure::Refused if nfs => {
                "the server refuses the connection: is its NFS service running, is 'port=' right, does a firewall reject it?"
            }
            MountFailure::Refused => {
                "the server refuses the connection: is its service running, does a firewall reject it?"
            }
            MountFailure::Unreachable if cifs => {
                "the server can't be reached: look at the address, the network, firewalls (port 445), and 'vers='"
            }
            MountFailure::Unreachable if nfs => {
                "the server can't be reached: look at the address, the network, firewalls (port 2049)"
            }
            MountFailure::Unreachable => "the server can't be reached: look at the address, the network and firewalls",
            MountFailure::NotServed if nfs => {
                "the server does not serve NFS in this version, or not yet: look at 'vers=' and what it offers (rpcinfo -p)"
            }
            MountFailure::NotServed => "the server could not serve it: look at its log",
            MountFailure::Denied if nfs => {
                "the server does not export it to this host's address, or not with this 'sec='"
            }
            MountFailure::Denied if cifs => {
                "the server denies it to the user of the mount options: look at username=, password=, domain=, sec=, and at \
                 that user's right to the share"
            }
            MountFailure::Missing if nfs => "the server exports no such path: look at the address (showmount -e)",
            MountFailure::Missing if cifs => {
                "the server has no such share, or no such folder in it: look at the address"
            }
            MountFailure::Options => "look at the repository's mount options and its address",
            MountFailure::Lacking if nfs => {
                "this host lacks what NFS needs: the package nfs-common (nfs-utils), the kernel's module, rpc.statd"
            }
            MountFailure::Lacking if cifs => {
                "this host lacks what CIFS needs: the package cifs-utils, the kernel's module"
            }
            MountFailure::Lacking => "this host lacks what this type needs: its mount program, the kernel's module",
            MountFailure::Denied | MountFailure::Missing | MountFailure::Unknown => return None,
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
    const SEEN: [(MountFailure, &str, i32, &str); 61] = [
        (MountFailure::Refused, "nfs", 32, "mount.nfs: Connection refused"),
        (MountFailure::Refused, "nfs", 32, "mount.nfs: Connection refused for nas:/x on /run/m"),
        (MountFailure::Refused, "nfs4", 32, "mount.nfs4: Connection refused"),
        (
            MountFailure::Refused,
            "nfs",
            32,
            "mount.nfs: mount to NFS server 'nas' failed: System Error: Connection refused",
        ),
        (
            MountFailure::Refused,
            "nfs",
            32,
            "mount.nfs: portmap query failed: RPC: Remote system error - Connection refused",
        ),
        (
            MountFailure::Refused,
            "cifs",
            32,
            "mount error(111): could not connect to 10.0.0.1Unable to find suitable address.",
        ),
        (
            MountFailure::Refused,
            "cifs",
            2,
            "mount error(111): could not connect to ::1mount error(111): could not connect to 127.0.0.1Unable to find \
             suitable address.",
        ),
        (
            MountFailure::Refused,
            "cifs",
            32,
            "mount error(111): Verbindungsaufbau abgelehnt\nRefer to the mount.cifs(8) manual page",
        ),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: Connection timed out"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs4: Connection timed out for nas:/x on /run/m"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: No route to host"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: No route to host for nas:/x on /run/m"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: Network is unreachable"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: Resource temporarily unavailable for nas:/x on /run/m"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: mount to NFS server 'nas' failed: timed out, giving up"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: RPC: Port mapper failure - RPC: Unable to receive"),
        (MountFailure::Unreachable, "nfs", 32, "mount.nfs: portmap query failed: RPC: Timed out"),
        (
            MountFailure::Unreachable,
            "nfs",
            32,
            "mount.nfs: Failed to resolve server nas: Temporary failure in name resolution",
        ),
        (
            MountFailure::Unreachable,
            "cifs",
            1,
            "mount error: could not resolve address for nas: Temporary failure in name resolution",
        ),
        (
            MountFailure::Unreachable,
            "cifs",
            32,
            "mount error(113): could not connect to 10.0.0.1Unable to find suitable address.",
        ),
        (
            MountFailure::Unreachable,
            "cifs",
            32,
            "mount error(111): could not connect to ::1mount error(113): could not connect to 10.0.0.1Unable to find \
             suitable address.",
        ),
        (
            MountFailure::Unreachable,
            "cifs",
            32,
            "mount error(115): Operation now in progress\nRefer to the mount.cifs(8) manual page",
        ),
        (MountFailure::Unreachable, "cifs", 32, "mount error(115): Die Operation ist jetzt in Bearbeitung"),
        (MountFailure::Unreachable, "cifs", 32, "mount error(110): Connection timed out"),
        (
            MountFailure::Unreachable,
            "cifs",
            32,
            "mount error(112): Host is down\nRefer to the mount.cifs(8) manual page",
        ),
        (
            MountFailure::Unreachable,
            "cifs",
            32,
            "mount error: Server abruptly closed the connection.\nThis can happen if the server does not support the SMB \
             version you are trying to use.\nThe default SMB version recently changed from SMB1 to SMB2.1 and above. Try \
             mounting with vers=1.0.\nmount error(112): Host is down\nRefer to the mount.cifs(8) manual page",
        ),
        (MountFailure::Unreachable, "smb3", 32, "mount error(101): Network is unreachable"),
        (MountFailure::Unreachable, "cifs", 32, "mount error(11): Resource temporarily unavailable"),
        (MountFailure::Unreachable, "ceph", 32, "mount error 110 = Connection timed out"),
        (MountFailure::Unreachable, "ceph", 1, "mount error 113 = No route to host"),
        (MountFailure::NotServed, "nfs", 32, "mount.nfs: requested NFS version or transport protocol is not supported"),
        (
            MountFailure::NotServed,
            "nfs",
            32,
            "mount.nfs: requested NFS version or transport protocol is not supported for /run/m",
        ),
        (
            MountFailure::NotServed,
            "nfs",
            32,
            "mount.nfs: mount to NFS server 'nas' failed: RPC Error: Program not registered",
        ),
        (MountFailure::NotServed, "nfs", 32, "mount.nfs: Stale NFS file handle"),
        (MountFailure::NotServed, "nfs", 32, "mount.nfs: Stale file handle for nas:/x on /run/m"),
        (MountFailure::NotServed, "nfs", 32, "mount.nfs: mount system call failed for /run/m"),
        (MountFailure::NotServed, "cifs", 32, "mount error(5): Input/output error"),
        (MountFailure::NotServed, "ceph", 32, "mount error: no mds server is up or the cluster is laggy"),
        (
            MountFailure::NotServed,
            "ceph",
            32,
            "mount error: no mds (Metadata Server) is up. The cluster might be laggy, or you may not be authorized",
        ),
        (MountFailure::Denied, "nfs", 32, "mount.nfs: access denied by server while mounting nas:/x"),
        (MountFailure::Denied, "nfs", 32, "mount.nfs: access denied by server while mounting (null)"),
        (MountFailure::Denied, "nfs", 32, "mount.nfs: Operation not permitted for nas:/x on /run/m"),
        (
            MountFailure::Denied,
            "cifs",
            32,
            "mount error(13): Permission denied\nRefer to the mount.cifs(8) manual page",
        ),
        (MountFailure::Denied, "cifs", 32, "mount error(13): Keine Berechtigung"),
        (MountFailure::Denied, "cifs", 32, "mount error(126): Required key not available"),
        (MountFailure::Denied, "ceph", 32, "mount error 13 = Permission denied"),
        (MountFailure::Denied, "fuse.sshfs", 1, "Host key verification failed.\nread: Connection reset by peer"),
        (
            MountFailure::Missing,
            "nfs",
            32,
            "mount.nfs: mounting nas:/x failed, reason given by server: No such file or directory",
        ),
        (
            MountFailure::Missing,
            "nfs",
            32,
            "mount.nfs: mounting nas:/x failed, reason given by server:\n  No such file or directory",
        ),
        (MountFailure::Missing, "cifs", 32, "mount error(2): No such file or directory"),
        (
            MountFailure::Missing,
            "cifs",
            32,
            "Retrying with upper case share name\nmount error(6): No such device or address",
        ),
        (MountFailure::Options, "nfs", 32, "mount.nfs: an incorrect mount option was specified"),
        (MountFailure::Options, "nfs", 32, "mount.nfs: Protocol not supported for nas:/x on /run/m"),
        (MountFailure::Options, "nfs", 32, "mount.nfs: Failed to resolve server nas: Name or service not known"),
        (MountFailure::Options, "cifs", 1, "mount error: could not resolve address for nas: Unknown error"),
        (
            MountFailure::Options,
            "cifs",
            32,
            "mount error(22): Invalid argument\nRefer to the mount.cifs(8) manual page",
        ),
        (MountFailure::Options, "cifs", 32, "mount error(95): Operation not supported"),
        (MountFailure::Options, "cifs", 1, "Usage: mount.cifs <remotetarget> <dir> -o <options>"),
        (
            MountFailure::Lacking,
            "nosuch",
            32,
            "mount: /run/m: unknown filesystem type 'nosuch'.\n       dmesg(1) may have more",
        ),
        (
            MountFailure::Lacking,
            "nfs",
            32,
            "mount: /run/m: bad option; for several filesystems (e.g. nfs, cifs) you might need a /sbin/mount.<type> helper \
             program.",
        ),
        (
            MountFailure::Lacking,
            "nfs",
            32,
            "mount.nfs: rpc.statd is not running but is required for remote locking.\nmount.nfs: Either use '-o nolock' to keep \
             locks local, or start statd.\nmount.nfs: an incorrect mount option was specified",
        ),
    ];

    #[test]
    fn texts_that_were_seen_are_classified() {
        for (why, kind, status, text) in SEEN {
            assert_eq!(classify(Some(status), text), why, "{text}");
            let advice = why.advice(kind);
            assert!(kind.starts_with(['c', 'f']) || advice.is_some(), "{why:?} {kind}");
            assert_eq!(classify(None, text), MountFailure::Unknown, "killed: {text}");
        }
    }

    #[test]
    fn an_unknown_text_is_not_tried_again() {
        for text in [
            "",
            "mount.nfs: Verbindungsaufbau abgelehnt",
            "mount error(",
            "mount error(99999999999999): x",
            "mount error()",
            "mount error(-111)",
            "mount: /run/m: failed to setup loop device for /srv/image.",
        ] {
            let why = classify(Some(32), text);
            assert_eq!((why, why.may_pass(), why.code()), (MountFailure::Unknown, false, Code::MountFailed), "{text}");
        }
    }

    #[test]
    fn a_failure_that_can_not_pass_is_not_tried_again_and_a_server_that_answers_is_not_hung() {
        use MountFailure::*;
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
