//! The table of kinds in docs/install.md: what each of them can, measured through the library's own mount.

use std::fs::{self, File};
use std::os::unix::fs::chown;

use nasbackup::host::Flock;
use nasbackup::nas::repository::Repository;
use nasbackup::nas::session::Session;
use nasbackup::sys;
use rustix::io::Errno;

use crate::served::{Alone, ROOT, USER, at_ipv6, cifs, nfs, with_slash};
use crate::support::{MIB, Nas, init};

/// What an export, mounted by us, does for two files of it.
#[derive(Debug, PartialEq, Eq)]
struct Can {
    clone: bool,
    copy_on_server: bool,
    lock_others_out: bool,
}

/// More goes over the wire than what a copy on the server is asked by.
const COPIED: u64 = 8 * MIB;

impl Can {
    /// Nobody else uses the machine's servers meanwhile: what goes over its loopback is counted.
    fn measure(nas: &Nas, _alone: &Alone) -> Can {
        init();
        let session = open(&nas.repository());
        let seen = |name: &str| session.root().path.join(name);
        // not by way of the client, which would have it in memory
        fs::write(nas.at("source"), vec![0x5a; usize::try_from(COPIED).unwrap()]).unwrap();
        chown(nas.at("source"), Some(1000), Some(1000)).unwrap();
        let source = File::open(seen("source")).unwrap();
        let made = |name: &str| File::create_new(seen(name)).unwrap();
        let clone = sys::clone_range(&made("clone"), 0, &source, 0, 0).is_ok();

        let before = sent();
        copy(&source, &made("copy"));
        let copy_on_server = sent() - before < COPIED / 4;
        assert!(fs::read(nas.at("copy")).unwrap() == fs::read(nas.at("source")).unwrap());

        let _lock = Flock::take(made("lock")).unwrap();
        let lock_others_out = is_locked_for(&another_host(nas));
        Can { clone, copy_on_server, lock_others_out }
    }
}

/// The same folder, as a client names it that shares nothing with ours.
fn another_host(nas: &Nas) -> Repository {
    let ours = nas.repository();
    match ours.kind.as_deref() {
        Some("dir") => Repository {
            kind: Some("nfs".into()),
            address: Some(format!("127.0.0.1:/nas/{}", nas.root().file_name().unwrap().display())),
            options: Some(String::new()),
        },
        Some("cifs") => Repository { options: Some(format!("{},nosharesock", ours.options.unwrap())), ..ours },
        _ => Repository { options: Some(format!("{},nosharecache", ours.options.unwrap())), ..ours },
    }
}

/// Does the lock keep out who uses this repository?
fn is_locked_for(repository: &Repository) -> bool {
    let session = open(repository);
    let file = File::options().read(true).write(true).open(session.root().path.join("lock")).unwrap();
    match Flock::take(file) {
        Ok(_) => false,
        Err(Errno::WOULDBLOCK) => true,
        Err(error) => panic!("{repository:?}: {error}"),
    }
}

fn open(repository: &Repository) -> Session {
    let export = Repository::check(Some(repository.clone())).unwrap();
    Session::open(&export, &nasbackup::config::current()).unwrap()
}

/// Copies all of it as the kernel does.
fn copy(source: &File, target: &File) {
    let (mut from, mut to) = (0, 0);
    while from < COPIED {
        let left = usize::try_from(COPIED - from).unwrap();
        let copied = rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left).unwrap();
        assert!(copied > 0);
    }
    target.sync_all().unwrap();
}

/// Bytes that have gone over the loopback.
fn sent() -> u64 {
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    let loopback = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    loopback.split_whitespace().next().unwrap().parse().unwrap()
}

/// A row of the table: how it begins, and what it says.
fn documented() -> Vec<(String, Can)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/install.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| type, options and server | clones files |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let says = |cell: &str| match cell.split([' ', ';']).next() {
                Some("yes") => true,
                Some("no") => false,
                _ => panic!("neither yes nor no: {row}"),
            };
            let can = Can { clone: says(cells[2]), copy_on_server: says(cells[3]), lock_others_out: says(cells[4]) };
            (cells[1].to_owned(), can)
        })
        .collect()
}

#[test]
#[ignore = "make nas"]
fn each_kind_can_what_the_table_of_the_docs_says() {
    let alone = Alone::now();
    let all = |options: &[&str]| options.iter().map(|options| nfs("nas", options)).collect::<Vec<_>>();
    let others = ["soft", "nconnect=4", "noac", "actimeo=0", "hard,timeo=600", "sec=sys"];
    let of_user = |more: &str| {
        let nas = cifs("ext4", &format!("{USER},{more}"));
        chown(nas.root(), Some(1000), Some(1000)).unwrap();
        nas
    };
    let on_disk = || {
        let nas = nfs("nas", "");
        let itself = Repository { kind: Some("dir".into()), address: Some(nas.path().into()), options: None };
        Nas::served(nas.root().to_owned(), itself)
    };
    let kinds: [(&str, Vec<Nas>); 10] = [
        ("`nfs`, `vers=4.2` or no options, on XFS", all(&["vers=4.2", ""])),
        ("the same, on ext4", vec![nfs("ext4", "vers=4.2")]),
        ("`vers=4.1`, `vers=4.0`", all(&["vers=4.1", "vers=4.0"])),
        ("`vers=3`", all(&["vers=3"])),
        ("`vers=3,nolock`", all(&["vers=3,nolock"])),
        ("`nosharecache`", all(&["nosharecache"])),
        ("`soft`", all(&others).into_iter().chain([at_ipv6(), with_slash()]).collect()),
        (
            "`cifs`, 3.1.1, as the server's root, also with `seal`",
            vec![cifs("nas", ROOT), cifs("nas", &format!("{ROOT},seal"))],
        ),
        (
            "`cifs`, 3.1.1, 3.0, 2.1, as another user, also with `seal`",
            ["vers=3.1.1", "vers=3.0", "vers=2.1,noperm"].map(of_user).into(),
        ),
        ("`dir` on the server's own disk", vec![on_disk()]),
    ];
    let documented = documented();
    assert_eq!(documented.len(), kinds.len());
    let mut wrong = Vec::new();
    for ((row, says), (begins, instances)) in documented.iter().zip(kinds) {
        assert!(row.starts_with(begins), "{row}");
        for nas in instances {
            let can = Can::measure(&nas, &alone);
            println!("{row}: {can:?}");
            if can != *says {
                wrong.push((row, can));
            }
        }
    }
    // or it says nothing that nobody is kept out elsewhere
    assert!(Can::measure(&cifs("nas", &format!("{ROOT},brl")), &alone).lock_others_out);
    assert!(wrong.is_empty(), "the table says something else of {wrong:#?}");
}
