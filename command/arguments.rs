//! The arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use nasbackup::error::{Error, Result};

/// Where the agent looks for the host's settings, too.
pub(crate) const SETTINGS: &str = "/etc/nasbackup/nasbackup.properties";

/// Lists, verifies and restores the restore points of KVM guests that lie on a NAS
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The repository: a folder, TYPE:ADDRESS as for mount(8), or NAME of a `repository.NAME` in the settings
    #[arg(long, short, global = true, value_name = "REPOSITORY")]
    pub(crate) repo: Option<String>,
    /// Mount options of the repository, or @FILE, whose first line holds them
    #[arg(long, global = true, value_name = "OPTIONS")]
    pub(crate) repo_options: Option<String>,
    /// The host's settings. Only the default may be missing
    #[arg(long, global = true, value_name = "FILE", default_value = SETTINGS)]
    pub(crate) settings: PathBuf,
    /// Print JSON, one value, and no progress
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print the library's log lines of level info; twice: debug
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Go into the background once the point is mounted
    #[arg(long, hide = true)]
    pub(crate) holder: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw the chains of restore points
    List(List),
    /// Tell all that a point says of itself
    Show(Show),
    /// Compare restore points with what was recorded of them
    Verify(Verify),
    /// Restore disks of a point to files, devices or images in Ceph
    Restore(Restore),
    /// Mount the disks of a point as raw files that nobody can write
    Mount(Mount),
    /// Unmount what `mount` has mounted
    Umount(Umount),
    /// List file systems and files of a guest in a point
    Files(Files),
    /// Copy files of a guest out of a point
    Get(Get),
    /// Start the machine of a point on files that are thrown away, and look whether its system comes up
    Boot(Boot),
    /// Remove a point
    Delete(Delete),
    /// Have a point stand on another one, or alone
    Rebase(Rebase),
    /// Write a disk of a point, however long its chain, as one image that stands on nothing
    Flatten(Flatten),
    /// Take a restore point of a running guest
    Take(Take),
    /// Print what the repository holds, for Prometheus
    Metrics,
    /// Tell what this host lacks, and what its repositories do
    Doctor,
    /// Tell what runs on this host, whoever started it
    Jobs,
    /// Have a job of this host stop
    Cancel(Cancel),
    /// Print what a shell needs to complete the arguments
    Completions(Completions),
    /// Print the manual page, for man(1)
    Manual,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The machine; without it all of them
    pub(crate) vm: Option<String>,
    /// Draw them into an SVG file, too: a point's area is what it takes, its colour the last verdict
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The same picture, and the text, as a page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// Print the domain's XML instead
    #[arg(long)]
    pub(crate) xml: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Restore points, MACHINE/TIMESTAMP, or machines: all points of theirs
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "POINT|MACHINE")]
    pub(crate) what: Vec<String>,
    /// All points of the repository
    #[arg(long)]
    pub(crate) all: bool,
    /// Pass over points that were found good or bad in this time, as 30d or 12h
    #[arg(long, value_name = "AGE")]
    pub(crate) not_verified_since: Option<String>,
    /// Read all data, and compare them with their fingerprints
    #[arg(long)]
    pub(crate) data: bool,
    /// Read at most so many bytes a second from the NAS
    #[arg(long, value_name = "BYTES", requires = "data")]
    pub(crate) rate_limit: Option<u64>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("where").required(true).args(["to", "output"])))]
pub(crate) struct Restore {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// All disks, or those of --volume, to files in a folder: VOLUME.qcow2, or VOLUME.raw; with all of them UEFI variables and the
    /// state of a TPM, if the point holds them. A file that is there is refused, unless --keep-old is given
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// A volume of the point's; may be given several times
    #[arg(long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// Where the volume before goes, one for each: a file or device that it replaces, rbd:POOL/IMAGE:OPTIONS, or @FILE,
    /// whose first line tells that: a key of Ceph's would be seen on the command line
    #[arg(long, value_name = "PATH", requires = "volume")]
    pub(crate) output: Vec<String>,
    /// What is written
    #[arg(long, value_enum, default_value = "qcow2")]
    pub(crate) format: Format,
    /// Compare all data with their fingerprints, and refuse a point that has none
    #[arg(long)]
    pub(crate) verify_data: bool,
    /// Keep what is replaced; the answer tells its name
    #[arg(long)]
    pub(crate) keep_old: bool,
    /// The folder for what is kept of devices and images in Ceph
    #[arg(long, value_name = "DIR", requires = "keep_old")]
    pub(crate) keep_old_in: Option<String>,
    /// Read at most so many bytes a second from the NAS
    #[arg(long, value_name = "BYTES")]
    pub(crate) rate_limit: Option<u64>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Format {
    Qcow2,
    Raw,
}

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// An empty folder, which gets a file VOLUME.raw for each disk
    pub(crate) dir: PathBuf,
    /// Stay in the foreground; a Ctrl-C unmounts
    #[arg(long)]
    pub(crate) foreground: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Umount {
    /// The folder that the point is mounted in
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// The restore point, MACHINE/TIMESTAMP, or one volume of it, MACHINE/TIMESTAMP:VOLUME
    pub(crate) point: String,
    /// A folder or file of the guest, as seen from the root of its file system: what is /boot/x in the guest is /x of a file system
    /// that the guest mounts at /boot. Without it the file systems are listed
    pub(crate) path: Option<OsString>,
    /// Which file system, if there are several: the partition as it is listed, as 2 or GROUP/VOLUME
    #[arg(long, value_name = "PARTITION", requires = "path")]
    pub(crate) partition: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The restore point, MACHINE/TIMESTAMP, or one volume of it, MACHINE/TIMESTAMP:VOLUME
    pub(crate) point: String,
    /// Folders or files of the guest, as seen from the root of its file system
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
    /// A folder of this host, or, for one PATH, a name that is not there. Copies belong to the caller; nothing that is there is
    /// replaced, and nothing of a get that fails stays
    #[arg(required = true)]
    pub(crate) dest: PathBuf,
    /// Which file system, if there are several: the partition as `files` lists it
    #[arg(long, value_name = "PARTITION")]
    pub(crate) partition: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Boot {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// The most memory that the guest gets, as 512M or 2G. Without it what it had, and at most half of what this host has left
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// What has to be seen: `agent` (its agent answers), `console:REGEX` (its serial console shows what matches), or the seconds
    /// that it has to run. Without it the agent, where the machine has a channel to one, else 60 seconds
    #[arg(long, value_name = "agent|console:REGEX|SECONDS")]
    pub(crate) wait: Option<String>,
    /// Write a picture of the guest's screen at the end, as PNG
    #[arg(long, value_name = "FILE")]
    pub(crate) screenshot: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// Rebase the points that stand on it first, which then hold what they lack
    #[arg(long)]
    pub(crate) merge: bool,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("onto").required(true).args(["parent", "alone"])))]
pub(crate) struct Rebase {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// A point that it stands on, next or further down
    #[arg(long, value_name = "POINT")]
    pub(crate) parent: Option<String>,
    /// It is to stand on none
    #[arg(long)]
    pub(crate) alone: bool,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Flatten {
    /// The restore point, MACHINE/TIMESTAMP, and which of its volumes, if it has several
    #[arg(value_name = "POINT[:VOLUME]")]
    pub(crate) point: String,
    /// Where it goes: a file that is not there, a device that it replaces, rbd:POOL/IMAGE:OPTIONS, or @FILE, whose first line tells that
    pub(crate) output: String,
    /// What is written
    #[arg(long, value_enum, default_value = "qcow2")]
    pub(crate) format: Format,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Take {
    /// The machine: a running domain of this host
    pub(crate) vm: String,
    /// Begin a chain; without this and --incremental the point is a full that nothing can stand on
    #[arg(long, conflicts_with = "incremental")]
    pub(crate) full: bool,
    /// Stand on the machine's newest point that one can stand on: of --full, of --incremental or of a chain of CloudStack's.
    /// Newer ones that begin no chain are passed over
    #[arg(long)]
    pub(crate) incremental: bool,
    /// Freeze the guest's file systems around the begin
    #[arg(long)]
    pub(crate) quiesce: bool,
    /// auto, push or pull, in place of the settings'
    #[arg(long)]
    pub(crate) engine: Option<String>,
    /// A disk to leave out, by target, serial or volume; may be given several times
    #[arg(long, value_name = "DISK")]
    pub(crate) exclude: Vec<String>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Its id, as `jobs` tells it
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// A path of the caller's, as the library wants it, which is in no folder of its own.
pub(crate) fn absolute(argument: &str, path: &str) -> Result<String> {
    let found = std::path::absolute(path).map_err(|error| Error::invalid(argument, error))?;
    found.into_os_string().into_string().map_err(|_| Error::invalid(argument, "its folder's name is not UTF-8"))
}
