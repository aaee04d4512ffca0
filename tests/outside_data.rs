//! What comes from outside, damaged: domain XML, manifests, this host's records, requests, mount options, texts, what a server of
//! NBD replies. Each is understood or refused, within bounds, and what is understood keeps its promises. (Images:
//! tests/rebase/fuzz.rs; claims: rust/nas/claim.rs.)

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "requests go through the C ABI")]

#[path = "support/hostile_nbd.rs"]
mod hostile_nbd;
#[path = "support/mutation.rs"]
mod mutation;

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nasbackup::capi::{nasbackup_call, nasbackup_free};
use nasbackup::error::{Code, Error};
use nasbackup::host::{self, HostState};
use nasbackup::libvirt::{
    self, BackupDisk, BackupMode, BootDisk, BootDomain, DomainXml, SavedDomain, backup_xml, boot_xml,
};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::options;
use nasbackup::nas::repository::Repository;
use nasbackup::nbd::{ALLOCATION, Connection};
use nasbackup::plain::plain;
use nasbackup::point::{MANIFEST, Manifest, volume_of};
use serde_json::{Value, json};

use hostile_nbd::{Client, DATA, DONE, SIZE, STATUS, Server, extents};
use mutation::fuzz;

const ROUNDS: u64 = 3000;

/// What is likely to hurt in XML and in JSON.
const WORDS: &[&str] = &[
    "<",
    ">",
    "</",
    "/>",
    "&",
    "&lt;",
    "&#0;",
    "&#x110000;",
    "&x;",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<!DOCTYPE a [",
    "<?xml",
    "'",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\n",
    "\0",
    "\u{202e}",
    "../",
    "/",
    "..",
    "json:",
    "<disk>",
    "</disk>",
    "<source file='x'/>",
    "<backingStore>",
    "</backingStore>",
    "é",
    "%s",
    "=",
    "password=",
];

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/domain").join(name)).unwrap()
}

/// Whatever a boot test takes over of a domain's XML, it makes XML of it that holds the disks.
fn boot(text: &str) {
    let Ok(saved) = SavedDomain::parse(text) else { return };
    let disks = saved.disks.iter().map(|saved| BootDisk { saved, overlay: "/overlay", below: "/below" });
    let disks = disks.collect::<Vec<_>>();
    let written = boot_xml(&BootDomain {
        saved: &saved,
        name: "boot",
        kind: "qemu",
        emulator: "/qemu",
        machine: "pc",
        memory: saved.memory,
        cpus: saved.cpus,
        uefi: None,
        disks: &disks,
        tpm: saved.tpm.map(|model| ("00112233-4455-6677-8899-aabbccddeeff", model)),
    });
    let read = DomainXml::parse(&written).unwrap();
    let is_ours = |disk: &libvirt::Disk| disk.path.as_deref() == Some("/overlay");
    assert!(read.disks.len() == disks.len() && read.disks.iter().all(is_ours), "{written}");
}

#[test]
fn domain_xml() {
    let understood = Cell::new(0);
    let deep = format!("<domain><devices>{}</devices></domain>", "<disk>".repeat(100_000)).into_bytes();
    let seeds = ["cloudstack.xml", "kinds.xml"].map(fixture);
    let run = |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        boot(text);
        let Ok(domain) = DomainXml::parse(text) else { return };
        understood.set(understood.get() + 1);
        for disk in &domain.disks {
            let volume = disk.source.path().and_then(volume_of);
            assert!(volume.is_none_or(|volume| !volume.contains('/') && !volume.is_empty()), "{volume:?}");
        }
        // what is written with those names is read back as the same names
        let disks = domain.disks.iter().map(|disk| BackupDisk { target: &disk.target, file: None, since: None });
        let written = backup_xml(BackupMode::Push, &disks.collect::<Vec<_>>());
        let mut names = Vec::new();
        let mut reader = quick_xml::Reader::from_str(&written);
        loop {
            match reader.read_event().unwrap() {
                quick_xml::events::Event::Eof => break,
                quick_xml::events::Event::Empty(element) if element.name().as_ref() == "disk" => {
                    let name = element.try_get_attribute("name").unwrap().unwrap();
                    names.push(name.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap().into_owned());
                }
                _ => {}
            }
        }
        let plain = |name: &String| !name.contains(['\n', '\r', '\t']);
        let targets: Vec<_> = domain.disks.iter().map(|disk| disk.target.clone()).collect();
        if targets.iter().all(plain) {
            assert_eq!(names, targets);
        }
    };
    run(&deep);
    let chain = |length: usize| {
        let [begin, end] =
            ["<backingStore type='file'><source file='x'/>", "</backingStore>"].map(|one| one.repeat(length));
        let disk = format!("<disk type='file' device='disk'><target dev='vda'/>{begin}{end}</disk>");
        DomainXml::parse(&format!("<domain><devices>{disk}</devices></domain>"))
    };
    assert_eq!(chain(120).unwrap().disks[0].backing.len(), 120);
    // each in another takes room on the stack
    assert!(chain(10_000).unwrap_err().cause.contains("too deeply nested"));
    fuzz("domain_xml", &seeds, WORDS, ROUNDS, run);
    assert!(understood.get() > 100, "{} understood: the damage is not well chosen", understood.get());
}

#[test]
fn manifest() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = Folder::open_root(dir.path()).unwrap();
    let disk = |name: &str| {
        json!({"volume": name, "serial": null, "file": format!("root.{name}.qcow2"), "kind": "incremental", "size": 1,
            "virtualSize": 1_048_576, "bitmap": "backup-1"})
    };
    let seed = json!({"version": 1, "pointId": "0123456789abcdef", "vmName": "i-2-10-VM", "when": "2031-01-02T03:04:05Z",
        "kind": "incremental", "bitmap": "backup-1", "engine": "push",
        "parent": {"backupPath": "i-2-10-VM/2031.01.01.00.00.00", "pointId": "ff"}, "disks": [disk("a"), disk("b")]});
    let understood = Cell::new(0);
    let run = |input: &[u8]| {
        fs::write(dir.path().join(MANIFEST), input).unwrap();
        if let Ok(Some(manifest)) = Manifest::read(&folder) {
            understood.set(understood.get() + 1);
            manifest.replace(&folder).unwrap();
            let again = Manifest::read(&folder).unwrap().unwrap();
            assert!(again.checksum.is_some());
            assert_eq!(Manifest { checksum: None, ..again }, Manifest { checksum: None, ..manifest.clone() });
            assert!(manifest.disk(None, "a").is_none_or(|disk| disk.volume == "a"));
        }
    };
    run("[".repeat(1 << 20).as_bytes());
    fuzz("manifest", &[seed.to_string().into_bytes()], WORDS, ROUNDS, run);
    assert!(understood.get() > 100, "{} understood: the damage is not well chosen", understood.get());
}

/// A host's record of what it has begun: one that is damaged is as good as none, and hinders nobody.
#[test]
fn host_record() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let seed = json!({"bitmaps": ["backup-1", "backup-2"], "begun": {"vm": "i-2-10-VM", "job": "j", "root": "/mnt/nas",
        "point": "i-2-10-VM/2031.01.02.03.04.05", "bitmap": "backup-2", "mayResume": false, "disks": ["/a"]},
        "frozen": "i-2-10-VM"});
    let understood = Cell::new(0);
    let run = |input: &[u8]| {
        fs::write(dir.path().join("vm.json"), input).unwrap();
        let mut state = HostState::lock(dir.path(), "vm").unwrap();
        let (bitmaps, begun) = (state.bitmaps().clone(), state.begun().cloned());
        understood.set(understood.get() + u32::from(begun.is_some()));
        assert_eq!(host::begun(dir.path()).len(), usize::from(begun.is_some()));
        // what is recorded further on is there with it
        state.remember("backup-3").unwrap();
        drop(state);
        let state = HostState::lock(dir.path(), "vm").unwrap();
        assert_eq!(state.begun(), begun.as_ref());
        assert!(state.bitmaps().is_superset(&bitmaps) && state.bitmaps().contains("backup-3"));
    };
    run("[".repeat(1 << 20).as_bytes());
    fuzz("host_record", &[seed.to_string().into_bytes()], WORDS, ROUNDS, run);
    assert!(understood.get() > 100, "{} understood: the damage is not well chosen", understood.get());
}

/// The reply to a request as bytes, which hold no NUL.
fn call(operation: &str, request: &[u8]) -> Value {
    let (operation, request) = (CString::new(operation).unwrap(), CString::new(request).unwrap());
    // SAFETY: both texts live through the call, and the reply is copied before it is freed, once.
    unsafe {
        let reply = nasbackup_call(operation.as_ptr(), request.as_ptr());
        let value = serde_json::from_slice(CStr::from_ptr(reply).to_bytes()).unwrap();
        nasbackup_free(reply);
        value
    }
}

#[test]
fn request() {
    let nas = tempfile::tempdir_in("/dev/shm").unwrap();
    let repository = json!({"type": "dir", "address": nas.path()});
    let requests = [
        (
            "takeBackup",
            json!({"vmName": "i-fuzz", "backupPath": "i-fuzz/T2", "repository": repository, "quiesce": true,
            "mode": "incremental", "bitmapNew": "backup-2", "bitmapParent": "backup-1", "waitSeconds": 7,
            "parentPaths": ["i-fuzz/T1/root.a.qcow2"], "excludeDisks": ["b"],
            "disks": [{"path": "/no/where.qcow2", "format": "qcow2"}, {"path": "/no/b", "format": "raw"}]}),
        ),
        ("rebaseBackup", json!({"repository": repository, "target": "i-fuzz/T2/a", "newBacking": "i-fuzz/T1/a"})),
        ("rebasePoint", json!({"repository": repository, "backupPath": "i-fuzz/T2", "newParent": null})),
        ("deleteBackup", json!({"job": "x", "repository": repository, "backupPath": "i-fuzz/T2"})),
        ("backupStats", json!({"repository": repository})),
        ("verifyChain", json!({"repository": repository, "backupPath": "i-fuzz/T2"})),
        (
            "flatten",
            json!({"repository": repository, "backupPath": "i-fuzz/T2", "volume": "a",
            "output": {"path": "/no/where", "format": "raw"}}),
        ),
        ("jobs", json!({})),
        ("cancel", json!({"job": "x"})),
    ];
    // the operation goes before the request in each input, on a line of its own
    let seeds = requests.map(|(operation, request)| format!("{operation}\n{request}").into_bytes());
    let run = |input: &[u8]| {
        let mut parts = input.splitn(2, |byte| *byte == b'\n');
        let operation = String::from_utf8_lossy(parts.next().unwrap()).replace('\0', "");
        let request: Vec<u8> = parts.next().unwrap_or_default().iter().copied().filter(|byte| *byte != 0).collect();
        let reply = call(if operation == "init" { "none" } else { &operation }, &request);
        let code = reply["error"]["code"].as_str();
        assert!(reply["ok"] == true || code.is_some_and(|code| code != "INTERNAL"), "{reply}");
        assert_eq!(fs::read_dir(nas.path()).unwrap().count(), 0, "{reply}");
    };
    fuzz("request", &seeds, WORDS, 1000, run);
}

/// Whatever a server says, from its first byte on: each call ends, and an answer is one to what was asked.
#[test]
fn nbd_replies() {
    const BITMAP: &str = "qemu:dirty-bitmap:backup-vda";
    let tick = Duration::from_millis(20);
    let session = |socket: OwnedFd| -> Result<(), Error> {
        let looks = Cell::new(0);
        let go_on = || {
            looks.set(looks.get() + 1);
            assert!(looks.get() < 1_000_000, "it has no end");
            Ok(())
        };
        let mut connection = Connection::open(socket, "vda", &[ALLOCATION, BITMAP], tick, go_on)?;
        for offset in [0, connection.size() / 2] {
            let status = connection.status(offset, SIZE / 2, tick, go_on)?;
            for (context, extents) in status {
                assert!(context == ALLOCATION || context == BITMAP);
                let all: u64 = extents.iter().map(|extent| extent.length).sum();
                assert!(all - extents.last().unwrap().length < SIZE / 2 && all <= connection.size() - offset);
                assert!(extents.len() <= 1 << 17);
            }
            let ticket = connection.read(offset, 4096, vec![0; 4096].into())?;
            while connection.take(ticket)?.is_none() {
                go_on()?;
                connection.poll(tick)?;
            }
        }
        connection.settle(tick, go_on)
    };
    let server = Server::start(|client: &mut Client, request| match request.kind {
        7 => {
            client.chunk(0, STATUS, request.cookie, &extents(0, &[4096, 0, 8192, 3]))?;
            client.chunk(DONE, STATUS, request.cookie, &extents(1, &[4096, 1, request.length - 4096, 0]))
        }
        _ => client.chunk(DONE, DATA, request.cookie, &[&request.offset.to_be_bytes()[..], &[7; 4096]].concat()),
    });
    session(UnixStream::connect(server.socket()).unwrap().into()).unwrap();
    let seed = server.recorded();
    let understood = Cell::new(0);
    let run = |input: &[u8]| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        // all of it, as far as the socket has room, and then the end
        _ = ours.write_all(input);
        ours.shutdown(Shutdown::Write).unwrap();
        understood.set(understood.get() + u32::from(session(theirs.into()).is_ok()));
    };
    run(&seed);
    assert_eq!(understood.get(), 1);
    let words = ["\0\0\0\0", "\0\0\0\x01", "\x7f", "IHAVEOPT", "NBDMAGIC", "\0\x01\0\x05", "\u{ff}", BITMAP];
    fuzz("nbd_replies", &[seed], &words, ROUNDS, run);
    assert!(understood.get() > 100, "{} understood: the damage is not well chosen", understood.get());
}

/// Whatever text leaves this library: it acts on no terminal, is one line, is bounded, and stays what it is.
#[test]
fn log_text() {
    let seeds = [
        "unable to open '/nas/i-1/T1': No such file",
        "\n\r\t\u{1b}[2J\u{7}\0\u{7f}\u{9b}",
        "\u{202e}\u{200f}ä漢\u{1f4be}",
    ];
    let run = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let told = plain(&text);
        let acts = |c: char| {
            c.is_control() || ('\u{200b}'..='\u{200f}').contains(&c) || ('\u{2028}'..='\u{202e}').contains(&c)
        };
        assert!(!told.contains(acts) && !told.contains('\u{2066}'), "{told:?}");
        assert!(told.len() <= 16 << 10);
        assert_eq!(plain(&told), told);
        let shows =
            text.len() < 15 << 10 && text.chars().all(|c| c == ' ' || c.is_ascii_graphic() || c.is_alphabetic());
        assert!(!shows || told == text, "{text}");
        let error = Error::new(Code::Io, "read", &text).on_disk(&text).to_string();
        assert!(!error.contains(acts) && error.starts_with("IO: read, disk '"), "{error:?}");
    };
    run("\u{202e}\u{1b}".repeat(1 << 20).as_bytes());
    let words = [WORDS, &["\u{1b}[", "\u{9b}", "\u{2066}", "\r", "\u{2028}", "\u{85}"]].concat();
    fuzz("log_text", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, 3 * ROUNDS, run);
}

#[test]
fn mount_options() {
    let seeds = [
        "vers=3.0,username=me,password=hunter22,domain=D,nobrl",
        "name=admin,secret=QVFE==,noatime",
        "username=u,password=\"p,w\",dom=D",
        "",
        "ro,,=,x==\"",
        "pass=a=b\"c,user=\"x",
    ];
    let run = |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        for kind in ["cifs", "ceph", "nfs"] {
            let given =
                Repository { kind: Some(kind.into()), address: Some("//h/s".into()), options: Some(text.into()) };
            let Ok(export) = Repository::check(Some(given)) else { continue };
            let prepared = options::prepare(&export);
            let line = prepared.options.join(",");
            let secret = prepared.secret.map_or(String::new(), |secret| secret.text);
            assert!(kind != "nfs" || secret.is_empty());
            if kind == "cifs" {
                let keys = ["user", "username", "pass", "password", "pass2", "password2", "dom", "domain", "workgroup"];
                let key = |option: &String| option.split_once('=').map(|(key, _)| key.to_owned());
                assert!(!prepared.options.iter().filter_map(key).any(|key| keys.contains(&key.as_str())), "{line}");
                assert!(secret.lines().all(|line| line.contains('=')), "{secret}");
            }
            let told = options::redact(&export, &format!("mount: bad option: {text}."));
            let values = secret.lines().map(|line| line.split_once('=').map_or(line, |(_, value)| value));
            for value in
                values.filter(|value| value.len() > 3 && !value.contains('*') && !"mount: bad option: ".contains(value))
            {
                assert!(!told.contains(value), "'{value}' in '{told}'");
            }
        }
    };
    let words = [WORDS, &["username=", "pass=", "secret=", "\"", ",", ",,", "domain="]].concat();
    fuzz("mount_options", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, 20 * ROUNDS, run);
}
