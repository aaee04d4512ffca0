//! One guest with a disk of each kind that is rare: what carries a bitmap does so whether the guest runs or not, and what
//! can't be backed up is left out by name.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nasbackup::operation;
use nasbackup::operation::take_backup::TakeBackupRequest;
use nasbackup::point::Kind::{Full, Incremental};

use serde_json::json;

use crate::support::{Disk, Guest, Image, MIB, Nas, Story, details, folder, is_served, repository_json, until};

/// A vhost-user disk, which QEMU's own block layer knows nothing of, served by a process as SPDK would.
struct VhostUser {
    server: Child,
    xml: String,
}

impl VhostUser {
    fn serve(target: &str) -> VhostUser {
        let folder = folder("vhost-user");
        let (image, socket) = (folder.join("image"), folder.join("socket"));
        Image::Raw.create(&image, 64 * MIB);
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--blockdev").arg(format!("file,node-name=image,filename={}", image.display()));
        let address = format!("addr.type=unix,addr.path={}", socket.display());
        command.arg("--export").arg(format!("vhost-user-blk,id=export,node-name=image,writable=on,{address}"));
        let server = command.stdin(Stdio::null()).spawn().unwrap();
        until("the disk is served", || is_served(&socket));
        give_to_all(&socket);
        let xml = format!(
            "<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>\
             <source type='unix' path='{}'/><target dev='{target}' bus='virtio'/></disk>",
            socket.display()
        );
        VhostUser { server, xml }
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

fn give_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

/// The guest has disks of these kinds: a qcow2 on a device, in a storage pool, and with its data in another file.
const CARRYING: usize = 5;

fn odd_guest(vhost_user: &VhostUser) -> Guest {
    let mut guest = Guest::stopped([
        Disk::root(),
        Disk::qcow2_on_block(),
        Disk::in_pool(),
        Disk::with_data_file(false),
        Disk::with_data_file(true),
        Disk::new().serial("secret").image(Image::Luks).excluded(),
        Disk::new().image(Image::Raw).extra("<shareable/>"),
    ]);
    guest.devices = vhost_user.xml.clone();
    guest.elements = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
    guest.start();
    guest
}

fn excluding(request: TakeBackupRequest, names: &[&str]) -> TakeBackupRequest {
    TakeBackupRequest { exclude_disks: Some(names.iter().map(|name| (*name).to_owned()).collect()), ..request }
}

/// Writes into each disk that carries a bitmap.
fn write(story: &mut Story, pattern: u8, offset: u64) {
    for disk in 0..CARRYING {
        story.guest.write(disk, pattern, offset, MIB);
    }
}

#[test]
fn a_guest_with_odd_disks_is_backed_up_but_for_those_that_its_request_excludes() {
    let vhost_user = VhostUser::serve("vdz");
    let mut story = Story::new(odd_guest(&vhost_user), Nas::folder());
    for (names, code, disk) in [
        (&[][..], "UNSUPPORTED_IMAGE", Some("vdz")),
        (&["vdz"], "UNSUPPORTED_IMAGE", Some("vdf")),
        (&["secret", "vdz", "vdx"], "INVALID_ARGUMENT", None),
    ] {
        let error = story.refuse(excluding(story.request("full"), names), code);
        assert_eq!(error.disk.as_deref(), disk, "{error}");
        assert!(error.cause.contains("excludeDisks"), "{error}");
    }
    let take = |story: &mut Story, mode| {
        let point = story.accept(excluding(story.request(mode), &["secret", "vdz"]));
        let told = details(&point.taken);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "disk vdf: left out, the request leaves it out",
                "disk vdg: left out, it is shareable",
                "disk vdz: left out, the request leaves it out",
            ]
        );
        let path = point.path.clone();
        let manifest = story.manifest(&path);
        let targets: Vec<_> = manifest["leftOut"].as_array().unwrap().iter().map(|disk| &disk["target"]).collect();
        assert_eq!(targets, ["vdf", "vdg", "vdz"]);
        assert_eq!(manifest["leftOut"][0]["serial"], "secret");
        story.last().kinds()
    };
    write(&mut story, 0x51, 5 * MIB);
    assert_eq!(take(&mut story, "full"), [Full; CARRYING]);
    write(&mut story, 0x52, 6 * MIB);
    assert_eq!(take(&mut story, "incremental"), [Incremental; CARRYING]);
    story.guest.restart();
    write(&mut story, 0x53, 7 * MIB);
    assert_eq!(take(&mut story, "incremental"), [Incremental; CARRYING]);
    assert!(story.last().taken.bitmap_recreated.is_some());
    write(&mut story, 0x54, 8 * MIB);
    story.guest.stop();
    let luks = story.guest.disks[5].volume().to_owned();
    let shared = story.guest.disks[6].volume().to_owned();
    let stopped = excluding(story.stopped_request("incremental"), &[&luks, &shared]);
    let point = story.accept(stopped);
    assert_eq!(point.kinds(), [Incremental; CARRYING]);
    assert!(point.taken.details.contains("left out, the request leaves it out"), "{:?}", point.taken);
    story.guest.start();
    write(&mut story, 0x55, 9 * MIB);
    assert_eq!(take(&mut story, "incremental"), [Incremental; CARRYING]);
    story.assert_all_restore();
    let request = json!({"repository": repository_json(&story.nas.repository()), "backupPath": story.last().path});
    let verified = operation::call("verifyChain", &request.to_string(), &mut |_| Ok(())).unwrap();
    assert_eq!(verified["verdict"], "good", "{verified}");
}

#[test]
fn a_disk_that_the_parent_left_out_is_full_inside_the_point_and_keeps_no_older_bitmap() {
    let mut story = Story::with_full();
    let volume = story.guest.disks[1].volume().to_owned();
    for stopped in [false, true] {
        // the bitmaps are in the images now
        story.guest.restart();
        for excluded in [true, false] {
            if !stopped {
                story.guest.write(0, 0x51, 5 * MIB, MIB);
                story.guest.write(1, 0x52, 6 * MIB, MIB);
            } else if story.guest.state() != "gone" {
                story.guest.stop();
            }
            story.guest.disks[1].excluded = excluded;
            let request = if stopped { story.stopped_request("incremental") } else { story.request("incremental") };
            let request = if excluded { excluding(request, &[&volume]) } else { request };
            let point = story.accept(request);
            assert_eq!(point.kinds(), if excluded { vec![Incremental] } else { vec![Incremental, Full] });
            if excluded {
                assert_eq!(story.guest.bitmaps(1), [] as [String; 0], "stopped: {stopped}");
            }
        }
    }
    story.assert_all_restore();
}

#[test]
fn the_bitmap_of_a_disk_that_can_not_be_read_is_not_forgotten() {
    let mut story = Story::with_full();
    let record = nasbackup::config::current().state_dir.join(format!("{}.json", story.guest.name));
    let (image, volume) = (story.guest.disks[1].path.clone(), story.guest.disks[1].volume().to_owned());
    let away = image.with_extension("away");
    for stopped in [false, true] {
        story.guest.disks[1].excluded = false;
        let older = story.take("full").taken.bitmap_created.clone().unwrap();
        story.guest.disks[1].excluded = true;
        // the bitmaps are in the images now
        story.guest.restart();
        if stopped {
            story.guest.stop();
        }
        let mut take = |hidden: bool| {
            if hidden {
                std::fs::rename(&image, &away).unwrap();
            }
            let request = if stopped { story.stopped_request("full") } else { story.request("full") };
            let point = story.accept(excluding(request, &[&volume]));
            if hidden {
                std::fs::rename(&away, &image).unwrap();
            }
            let known = std::fs::read_to_string(&record).unwrap().contains(&format!("\"{older}\""));
            (point.taken.details.contains("older bitmaps may stay"), known)
        };
        assert_eq!(take(true), (true, true), "stopped: {stopped}");
        assert_eq!(take(false), (false, false), "stopped: {stopped}");
    }
}
