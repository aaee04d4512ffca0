//! The lab's Ceph cluster, for guests with RBD disks. It starts with the first of them and ends with the lab.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::{folder, run};

/// The cluster's user that the guests and CloudStack have.
const USER: &str = "cloudstack";
/// Its pool, as CloudStack's `path` of the storage pool.
const POOL: &str = "cloudstack";

/// A cluster that runs.
pub struct Ceph {
    folder: PathBuf,
    /// The monitor's address.
    address: String,
    /// The secret of the user.
    pub key: String,
    /// libvirt's secret with that key.
    secret: String,
}

/// The cluster.
pub fn ceph() -> &'static Ceph {
    static CEPH: OnceLock<Ceph> = OnceLock::new();
    CEPH.get_or_init(Ceph::start)
}

impl Ceph {
    /// One of the test's own.
    pub fn start() -> Ceph {
        let folder = folder("ceph").join("cluster");
        run("tests/lab/ceph", [&folder]);
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap().trim().to_owned();
        let (address, key) = (read("address"), read("key"));
        let usage = format!("<usage type='ceph'><name>{USER}@{address}:6789/{POOL}</name></usage>");
        let secret = super::guest::secret(&usage, &key);
        Ceph { folder, address, key, secret }
    }

    /// From now on libvirt does not have its user's key.
    pub fn forget_key(&self) {
        run("virsh", ["secret-undefine", &self.secret]);
    }

    /// From now on no image answers.
    pub fn hang(&self) {
        self.signal("-STOP");
    }

    /// They answer again.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.folder.join("osd.0.pid")).unwrap();
        run("kill", [signal, pid.trim()]);
    }

    /// Makes an image of so many bytes.
    pub fn create(&self, image: &str, bytes: u64) {
        self.rbd(&["create", "--size", &format!("{bytes}B"), image]);
    }

    /// Gives it another size.
    pub fn resize(&self, image: &str, bytes: u64) {
        self.rbd(&["resize", "--no-progress", "--allow-shrink", "--size", &format!("{bytes}B"), image]);
    }

    /// Its name is another one from now on, for whoever has it open too.
    pub fn rename(&self, image: &str, name: &str) {
        self.rbd(&["rename", image, name]);
    }

    /// Begins to move its data to an image that has its name from now on.
    pub fn begin_migration(&self, image: &str) {
        let image = format!("{POOL}/{image}");
        self.rbd(&["migration", "prepare", &image, &image]);
    }

    /// Moves the data.
    pub fn end_migration(&self, image: &str) {
        let image = format!("{POOL}/{image}");
        self.rbd(&["migration", "execute", "--no-progress", &image]);
        self.rbd(&["migration", "commit", "--no-progress", &image]);
    }

    /// Keeps others from removing the snapshot, or no more.
    pub fn protect(&self, image: &str, name: &str, on: bool) {
        self.rbd(&["snap", if on { "protect" } else { "unprotect" }, &format!("{image}@{name}")]);
    }

    /// A program that has the image open for writing, until its standard input ends.
    pub fn open(&self, image: &str) -> std::process::Child {
        let mut opened = std::process::Command::new("qemu-io");
        opened.args(["-f", "raw", &self.source(image)]);
        opened.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap()
    }

    pub fn remove(&self, image: &str) {
        self.rbd(&["remove", "--no-progress", image]);
    }

    /// Has nobody opened the image? A client that was killed counts for half a minute, for which others wait.
    pub fn is_closed(&self, image: &str) -> bool {
        self.rbd(&["status", image]).contains("Watchers: none")
    }

    /// What the image holds.
    pub fn content(&self, image: &str) -> Vec<u8> {
        let copy = folder("export").join("copy");
        self.rbd(&["export", "--no-progress", image, copy.to_str().unwrap()]);
        std::fs::read(copy).unwrap()
    }

    /// Makes an image of this content, so that what is zero takes room, too.
    pub fn import(&self, image: &str, content: &[u8]) {
        let copy = folder("import").join("copy");
        std::fs::write(&copy, content).unwrap();
        self.rbd(&["import", "--no-progress", "--sparse-size", "0", copy.to_str().unwrap(), image]);
    }

    /// What it is from now on can be told from what is written to it.
    pub fn snapshot(&self, image: &str, name: &str) {
        self.rbd(&["snap", "create", "--no-progress", &format!("{image}@{name}")]);
    }

    /// The names of its snapshots, the oldest first.
    pub fn snapshots(&self, image: &str) -> Vec<String> {
        let told: serde_json::Value = serde_json::from_str(&self.rbd(&["snap", "ls", "--format=json", image])).unwrap();
        let name = |listed: &serde_json::Value| listed["name"].as_str().unwrap().to_owned();
        told.as_array().unwrap().iter().map(name).collect()
    }

    pub fn remove_snapshot(&self, image: &str, name: &str) {
        self.rbd(&["snap", "rm", "--no-progress", &format!("{image}@{name}")]);
    }

    /// It holds again what it held then.
    pub fn roll_back(&self, image: &str, name: &str) {
        self.rbd(&["snap", "rollback", "--no-progress", &format!("{image}@{name}")]);
    }

    /// Puts a clone of this content in the place of the image.
    pub fn replace_by_clone(&self, image: &str, content: &[u8]) {
        let template = format!("template-{image}");
        self.import(&template, content);
        self.snapshot(&template, "base");
        self.rbd(&["snap", "protect", &format!("{template}@base")]);
        self.remove(image);
        self.rbd(&["clone", &format!("{template}@base"), &format!("{POOL}/{image}")]);
    }

    /// Takes these features from it.
    pub fn disable(&self, image: &str, features: &[&str]) {
        self.rbd(&[&["feature", "disable", image], features].concat());
    }

    /// Gives it these features.
    pub fn enable(&self, image: &str, features: &[&str]) {
        self.rbd(&[&["feature", "enable", image], features].concat());
    }

    /// Where it holds something, by begin and length: of all, or of what was written since the snapshot.
    pub fn extents(&self, image: &str, since: Option<&str>) -> Vec<(u64, u64)> {
        let since = since.map(|name| format!("--from-snap={name}"));
        let arguments = ["diff", "--format=json", image].into_iter().chain(since.as_deref());
        let told: serde_json::Value = serde_json::from_str(&self.rbd(&arguments.collect::<Vec<_>>())).unwrap();
        let number = |extent: &serde_json::Value, name: &str| extent[name].as_u64().unwrap();
        let extents = told.as_array().unwrap().iter().filter(|extent| extent["exists"] == "true");
        extents.map(|extent| (number(extent, "offset"), number(extent, "length"))).collect()
    }

    fn rbd(&self, arguments: &[&str]) -> String {
        let conf = self.folder.join("ceph.conf");
        run("rbd", [&["--conf", conf.to_str().unwrap(), "--pool", POOL], arguments].concat())
    }

    /// What CloudStack's agent makes of an image's name (`KVMPhysicalDisk.RBDStringBuilder`).
    pub fn source(&self, image: &str) -> String {
        let Ceph { address, key, .. } = self;
        format!(
            "rbd:{POOL}/{image}:mon_host={address}\\:6789:auth_supported=cephx:id={USER}:key={key}\
             :rbd_default_format=2:client_mount_timeout=30"
        )
    }

    /// The parts of `<disk>` that libvirt gets from CloudStack's agent.
    pub fn xml(&self, image: &str) -> String {
        let Ceph { address, secret, .. } = self;
        format!(
            "<source protocol='rbd' name='{POOL}/{image}'><host name='{address}' port='6789'/></source>\
             <auth username='{USER}'><secret type='ceph' uuid='{secret}'/></auth>"
        )
    }
}
