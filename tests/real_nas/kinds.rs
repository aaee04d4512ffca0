//! Every kind of NAS that users have, with the options that they give: all of `make nas`.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nasbackup::config;
use nasbackup::error::{Code, Error};
use nasbackup::nas::folder::Folder;
use nasbackup::nas::repository::Repository;
use nasbackup::operation::doctor::{self, State};
use nasbackup::operation::take_backup::TakeBackupRequest;
use serde_json::json;

use crate::chain::Chain;
use crate::life::{live, live_shortly};
use crate::served::{Counts, ROOT, USER, at_ipv6, cifs, mount, named, nfs, with_slash};
use crate::support::{Disk, Guest, Nas, Story, by, folder, listing, run, until};

/// All of them, and then the ones that failed.
fn each<T: std::fmt::Debug>(kinds: impl IntoIterator<Item = T>, check: impl Fn(&T)) {
    let failed = |kind: &T| catch_unwind(AssertUnwindSafe(|| check(kind))).is_err();
    let failed: Vec<_> = kinds.into_iter().filter(failed).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
#[ignore = "make nas"]
fn with_the_options_that_users_give() {
    let options = [
        "",
        "vers=4.1,nconnect=4",
        "vers=4.0,sec=sys",
        "vers=3,nolock",
        "soft",
        "hard,timeo=600",
        "noac",
        "actimeo=0",
        "vers=4.2,nosharecache,noatime",
    ];
    each(options, |options| live_shortly(nfs("nas", options)));
}

#[test]
#[ignore = "make nas"]
fn on_ext4_which_clones_nothing() {
    live("push", nfs("ext4", "vers=4.2"));
    live("pull", nfs("ext4", "vers=4.2"));
}

/// Where blocks are not shared, the image of a point that goes takes the place of its child's. That is one request if nobody has the
/// child's image open: else an NFS client gives it another name first, and a crash would leave the child without an image.
#[test]
fn an_image_takes_the_place_of_another_at_one_go() {
    each(["vers=4.2,nosharecache", "vers=4.0,nosharecache", "vers=3,nosharecache"], |options| {
        let mut chain = Chain::new(nfs("ext4", options));
        chain.write(0x12, 20, 8);
        for at in 0..2 {
            chain.take().unwrap();
            chain.write(0x30 + at, u64::from(at), 1);
        }
        let image = |chain: &Chain, point| fs::metadata(chain.image(point)).unwrap().ino();
        let (below, address) = (image(&chain, 0), chain.nas.repository().address.unwrap());
        let before = Counts::of(&address);
        chain.ask("rebasePoint", 1, json!({"goingPoint": chain.path(0)})).unwrap();
        let asked = Counts::of(&address).since(&before);
        assert_eq!(image(&chain, 1), below);
        // of the claim, of three manifests, of the index of fingerprints, and this one
        assert_eq!(asked.asked["RENAME"], 6, "{asked:?}");
        chain.delete(0).unwrap();
        chain.assert_good();
    });
}

#[test]
#[ignore = "make nas"]
fn at_addresses_that_users_write() {
    live_shortly(at_ipv6());
    live_shortly(with_slash());
    each(["a b R&D it's größer", "#1 a:b a*b,c"], |name| Chain::new(named("nfs", name)).live());
    // no server allows ':' and '*' there, and its client takes a comma for the end of the path
    Chain::new(named("cifs", "#1 a b R&D it's größer")).live();
}

#[test]
#[ignore = "make nas"]
fn on_cifs_as_a_user_of_the_server_s() {
    let owned = |options: &str| {
        let nas = cifs("ext4", &format!("{USER},{options}"));
        chown(nas.root(), Some(1000), Some(1000)).unwrap();
        nas
    };
    each(["vers=3.1.1", "uid=0,file_mode=0640,dir_mode=0750"], |options| Chain::new(owned(options)).live());
    each(["vers=3.0,noperm", "vers=2.1,uid=libvirt-qemu", "vers=3.1.1,seal,uid=libvirt-qemu"], |options| {
        live_shortly(owned(options));
    });
    live_shortly(cifs("nas", &format!("{ROOT},seal,uid=libvirt-qemu")));
}

/// By what the advice of a refused push names QEMU gets to its targets; and without each part of it there is that advice.
#[test]
#[ignore = "make nas"]
fn options_of_cifs_let_qemu_in_by_push_or_are_refused_with_those_that_do() {
    let group = "gid=libvirt-qemu";
    for (options, refused_for) in [
        ("uid=libvirt-qemu".to_owned(), None),
        ("noperm".to_owned(), None),
        (format!("{group},file_mode=0660,dir_mode=0710"), None),
        (String::new(), Some("dir_mode=")),
        (group.to_owned(), Some("dir_mode=")),
        (format!("{group},file_mode=0660"), Some("dir_mode=")),
        (format!("{group},dir_mode=0710"), Some("file_mode=")),
        (format!("{group},file_mode=0640,dir_mode=0710"), Some("file_mode=")),
        ("file_mode=0660,dir_mode=0710".to_owned(), Some("gid=")),
    ] {
        println!("{options}");
        let mut story = Story::new(Guest::new([Disk::new()]), cifs("nas", &format!("{ROOT},{options}")));
        let request = by("push", story.request("full"));
        match refused_for {
            None => {
                story.accept(request).assert_full(true);
                story.assert_all_restore();
            }
            Some(advice) => {
                let error = story.refuse(request, "PERMISSION_DENIED");
                let helps = ["uid=", "noperm", "by pull", advice];
                assert!(helps.iter().all(|what| error.cause.contains(what)), "{error}");
            }
        }
    }
}

/// The refusal of a backup on this NAS, which leaves nothing there.
fn refused(nas: Nas) -> Error {
    let mut chain = Chain::new(nas);
    let error = chain.take().unwrap_err();
    assert_eq!((error.code, error.leftovers), (Code::PermissionDenied, false), "{error}");
    assert!(listing(chain.nas.root()).is_empty());
    error
}

#[test]
#[ignore = "make nas"]
fn whoever_may_not_write_is_told_who_and_by_whom() {
    for (nas, what) in [
        (nfs("squash", ""), "the user that the export makes of it"),
        (nfs("all", ""), "the user that the export makes of it"),
        (nfs("ro", ""), "the server exports it read-only"),
        (nfs("nas", "ro"), "mounted read-only"),
        (cifs("ro", ROOT), "shares it read-only, or give the right to the user of the server's"),
        (cifs("ext4", USER), "the user of the server's that the mount options name (username=)"),
        (cifs("ext4", &format!("{USER},uid=0,gid=0,noperm")), "say nothing to the server"),
        (cifs("nas", &format!("{ROOT},ro")), "mounted read-only"),
    ] {
        let error = refused(nas);
        assert!(error.cause.contains(what), "{error}");
    }
}

/// Whose files another host has made that is not squashed.
#[test]
#[ignore = "make nas"]
fn whoever_may_not_read_or_remove_is_told_who_and_by_whom() {
    let nas = nfs("squash", "");
    chown(nas.root(), Some(65534), Some(65534)).unwrap();
    let mut chain = Chain::new(nas);
    chain.take().unwrap();
    run("chown", ["-R", "0:0", chain.nas.path()]);
    run("chmod", ["-R", "go-rwx", chain.nas.path()]);
    for operation in ["verifyChain", "rebasePoint", "deleteBackup"] {
        let error = chain.ask(operation, 0, serde_json::json!({})).unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied, "{error}");
        assert!(error.cause.contains("the user that the export makes of it"), "{error}");
    }
}

#[test]
#[ignore = "make nas"]
fn a_squashed_root_may_write_where_its_user_may() {
    for (export, user) in [("squash", 65534), ("all", 1000)] {
        let nas = nfs(export, "");
        chown(nas.root(), Some(user), Some(user)).unwrap();
        let mut story = Story::new(Guest::new([Disk::new()]), nas.same());
        if export == "all" {
            // QEMU's user is the same one there
            story.take("full").assert_full(true);
            story.assert_all_restore();
        } else {
            let error = story.refuse(story.request("full"), "PERMISSION_DENIED");
            assert!(error.cause.contains("as which QEMU runs") && error.cause.contains("no_root_squash"), "{error}");
        }
        Chain::new(nas).live();
    }
}

#[test]
#[ignore = "make nas"]
fn one_that_has_no_room_or_a_quota_is_full_and_goes_on() {
    for export in ["small", "quota"] {
        let nas = nfs(export, "");
        std::fs::set_permissions(nas.root(), Permissions::from_mode(0o777)).unwrap();
        let mut chain = Chain::new(nas);
        chain.write(0x61, 0, 90);
        let error = chain.take().unwrap_err();
        assert_eq!((error.code, error.leftovers), (Code::NoSpace, false), "{error}");
        let mut chain = Chain::new(chain.nas.same());
        chain.take().unwrap();
        chain.assert_good();
        chain.delete(0).unwrap();
    }
}

#[test]
#[ignore = "make nas"]
fn a_refused_connection_is_told() {
    let told = |nas: Nas, wait_seconds| {
        let request = |request| TakeBackupRequest { wait_seconds: Some(wait_seconds), ..request };
        let error = Chain::new(nas).take_and(request, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code, Code::MountFailed, "{error}");
        assert!(error.cause.contains("the server refuses the connection"), "{error}");
    };
    told(nfs("nas", "vers=4.2,port=2050"), 30);
    told(nfs("nas", "vers=4.2,port=2050,retry=0"), 600);
    told(cifs("nas", &format!("{ROOT},port=4450")), 30);
}

/// Each with what `mount` said and what helps, and at once.
#[test]
#[ignore = "make nas"]
fn what_can_not_be_mounted_is_told_at_once() {
    let missing = |nas: Nas, address: &str| {
        let export = Repository { address: Some(address.into()), ..nas.repository() };
        Nas::served(nas.root().to_owned(), export)
    };
    let cifs_as = |options: &str| cifs("nas", options);
    for (nas, said, helps) in [
        (missing(nfs("nas", "vers=4.2"), "127.0.0.1:/none"), "No such file or directory", "exports no such path"),
        (missing(nfs("nas", "vers=3"), "127.0.0.1:/none"), "access denied", "does not export it to this host"),
        (nfs("nas", "nosuch=1"), "incorrect mount option", "mount options"),
        (nfs("nas", "vers=3,sec=krb5"), "access denied", "'sec='"),
        (cifs_as("username=root,password=wrong"), "mount error(13)", "password="),
        (missing(cifs("nas", ROOT), "//127.0.0.1/none"), "mount error(2)", "no such share"),
        (missing(cifs("nas", ROOT), "//127.0.0.1/nas/none"), "mount error(2)", "no such folder"),
        (cifs_as(&format!("{ROOT},nosuch=1")), "mount error(22)", "mount options"),
        (missing(cifs("nas", ROOT), "//no.such.host.invalid/nas"), "could not resolve address", "its address"),
    ] {
        let error = Chain::new(nas).take().unwrap_err();
        assert_eq!(error.code, Code::MountFailed, "{error}");
        assert!(error.cause.contains(said) && error.cause.contains(helps), "{error}");
        assert!(!error.cause.contains("wrong") && !error.cause.contains("secret"), "{error}");
    }
    // nobody has this address, and no way leads there
    for nas in [missing(nfs("nas", ""), "192.0.2.1:/nas"), missing(cifs("nas", ROOT), "//192.0.2.1/nas")] {
        let request = |request| TakeBackupRequest { wait_seconds: Some(30), ..request };
        let error = Chain::new(nas).take_and(request, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code, Code::NasUnresponsive, "{error}");
        assert!(error.cause.contains("Network is unreachable") && error.cause.contains("can't be reached"), "{error}");
    }
}

/// Who has a file open keeps it on NFS, under another name.
#[test]
#[ignore = "make nas"]
fn a_point_that_somebody_reads_goes_all_the_same() {
    let mut chain = Chain::new(nfs("nas", ""));
    chain.take().unwrap();
    let file = chain.take().unwrap().disks[0].file.clone();
    let seen = mount(&chain.nas);
    let open = std::fs::File::open(seen.path.join(&file)).unwrap();
    chain.delete(1).unwrap();
    chain.assert_good();
    drop(open);
    chain.take().unwrap();
    chain.assert_good();
}

/// A server that was set up anew knows no handle of before.
#[test]
#[ignore = "make nas"]
fn a_repository_that_was_made_anew_is_mounted_anew() {
    let mut chain = Chain::new(nfs("nas", ""));
    chain.take().unwrap();
    let root = chain.nas.root().to_owned();
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    // the client may believe for a moment what it knows
    crate::support::until("it is found out", || Chain::new(chain.nas.same()).take().is_ok());
}

/// Its client may close a file at the server later than it was closed here, and the server renames no folder in which one is open.
#[test]
#[ignore = "make nas"]
fn a_folder_of_cifs_is_renamed_once_the_server_has_its_files_closed() {
    let (nas, at) = (cifs("nas", ""), folder("mounted"));
    let who = at.with_extension("who");
    fs::write(&who, "username=root\npassword=secret,word\n").unwrap();
    let options = format!("vers=3.1.1,credentials={}", who.display());
    let address = nas.repository().address.unwrap();
    run("mount", ["-t", "cifs", "-o", &options, &address, at.to_str().unwrap()]);
    let root = Folder::open_root(&at).unwrap();
    fs::create_dir(at.join("made")).unwrap();
    let open = fs::File::create(at.join("made/file")).unwrap();
    let refused = fs::rename(at.join("made"), at.join("published")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    std::thread::scope(|scope| {
        let renamed = scope.spawn(|| root.rename("made", "published"));
        drop(open);
        renamed.join().unwrap().unwrap();
    });
    drop(root);
    run("umount", ["-l", at.to_str().unwrap()]);
}

/// It leaves nothing, and says what the table of docs/install.md says.
#[test]
#[ignore = "make nas"]
fn doctor_tells_what_each_kind_does() {
    use State::{Lacks, Ok as Good};
    crate::support::init();
    each(
        [
            ("nfs", "nas", "vers=4.2", Good, Good),
            ("nfs", "ext4", "vers=4.2", Good, Lacks),
            ("nfs", "nas", "vers=3", Good, Lacks),
            ("nfs", "nas", "vers=3,nolock", Lacks, Lacks),
            ("cifs", "nas", ROOT, Lacks, Lacks),
        ],
        |(kind, export, options, locks, clones)| {
            let nas = if *kind == "nfs" { nfs(export, options) } else { cifs(export, options) };
            let found = doctor::repository("nas", Ok(nas.repository()), config::current());
            let states: Vec<_> = found.iter().map(|finding| finding.state).collect();
            assert_eq!(states, [Good, *locks, *clones], "{found:?}");
            // a client of NFS removes what was open a moment later
            until("nothing is left", || listing(nas.root()).is_empty());
        },
    );
}
