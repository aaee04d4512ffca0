//! The machine of a boot test: a transient domain whose disks are the point's, which nobody can write, below files of the host's that
//! take what the guest writes. Nothing of it outlasts the test.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use super::room::{Guard, Room};
use super::tpm;
use crate::config::Config;
use crate::engine::scratch;
use crate::error::{Code, Error, Result};
use crate::host::{RunDir, RunDirs, make_folder};
use crate::libvirt::Domain;
use crate::limits;
use crate::operation::checked_chain::CheckedDisk;
use crate::operation::mount_point::place::{self, Place, take_away};
use crate::operation::mount_point::raw_file::RawFile;
use crate::point::StateFile;
use crate::qcow2;
use crate::work::deadline::{ask, ask_and_free, bounded_for_host};

const STEP: &str = "make the machine's files";
const SWEEP: &str = "clear what a boot test has left";
const END: &str = "end the machine";
/// What the name of a test's folder begins with; behind `nasbackup-` it is its domain's.
const PREFIX: &str = "boot-";
/// The folder of the point's disks in that of a test.
const DISKS: &str = "disks";

/// The folder of a test, in which the point's disks are. Its drop ends the test's domain and removes it. Where that does not end, the
/// folder stays: it is what leads the next sweep there.
pub(super) struct TestFolder {
    /// In their order. Unmounted first.
    disks: Vec<RawFile>,
    place: Place,
    /// Whom QEMU runs as; none: as this process.
    owner: Option<(u32, u32)>,
    room: Room,
    uri: String,
    /// There may be a domain.
    is_used: bool,
    /// The domain's UUID, if there may be state of a TPM of it.
    tpm: Option<String>,
    dir: RunDir,
}

impl TestFolder {
    /// Makes it, below the folder for scratch. `NO_SPACE` when that has no room.
    pub(super) fn make(config: &Config, owner: Option<(u32, u32)>) -> Result<TestFolder> {
        let dir = RunDirs { prefix: PREFIX, ..scratch::make_all(config)? }.make(STEP)?;
        let made = dir.path().join(DISKS);
        let place = || {
            make_folder(&made, 0o711).map_err(|e| Error::io(STEP, &made, e))?;
            Ok(Place::take(&made)?.read_by(owner))
        };
        let place = place().inspect_err(|_| remove(dir.path()))?;
        let (room, uri) = (Room::of(dir.path(), config), config.connection_uri.clone());
        let folder = TestFolder { disks: Vec::new(), place, owner, room, uri, is_used: false, tpm: None, dir };
        match folder.room.lack()? {
            Some(lack) => Err(Error::new(Code::NoSpace, STEP, lack)),
            None => Ok(folder),
        }
    }

    /// The name for the test's domain.
    pub(super) fn domain(&self) -> String {
        domain_of(self.dir.path())
    }

    /// The path of a file in the folder.
    pub(super) fn path(&self, name: &str) -> Result<String> {
        let path = self.dir.path().join(name).into_os_string().into_string();
        path.map_err(|path| Error::new(Code::InvalidArgument, STEP, format!("'{}' is not UTF-8", path.display())))
    }

    /// Makes one of the point's disks a raw file that QEMU's user can read, below a file for what the guest writes. Returns the paths of
    /// both, that file's first.
    pub(super) fn serve(&mut self, disk: &CheckedDisk) -> Result<(String, String)> {
        let name = self.disks.len().to_string();
        // a volume's name may be anything, and the domain's XML is to hold this one
        let below = RawFile::mount(&self.place, &name, &disk.chain)?;
        let overlay = self.path(&format!("{name}.{}", scratch::FILES))?;
        let file = self.create(Path::new(&overlay))?;
        qcow2::create(&file, below.size.next_multiple_of(512), None).map_err(|e| e.at(STEP, &overlay))?;
        let raw = self.path(&format!("{DISKS}/{name}.raw"))?;
        self.disks.push(below);
        Ok((overlay, raw))
    }

    /// Puts a file that the guest may write into the folder.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = Path::new(path);
        self.create(path)?.write_all(bytes).map_err(|e| Error::io(STEP, path, e))
    }

    /// Puts the state of a TPM where libvirt looks for that of the domain with the returned UUID.
    pub(super) fn put_tpm(&mut self, state: &StateFile) -> Result<String> {
        let none = || Error::new(Code::Internal, STEP, format!("'{}' has no random name", self.dir.path().display()));
        let uuid = tpm::uuid_of(self.dir.path()).ok_or_else(none)?;
        self.tpm = Some(uuid.clone());
        tpm::put(&uuid, state).map(|()| uuid)
    }

    /// Makes an empty file of QEMU's user.
    fn create(&self, path: &Path) -> Result<File> {
        let io = |e| Error::io(STEP, path, e);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        if let Some((user, group)) = self.owner {
            fchown(&file, Some(user), Some(group)).map_err(io)?;
        }
        Ok(file)
    }

    /// The failure of whoever serves a disk, if there is one.
    pub(super) fn check(&self) -> Result<()> {
        self.disks.iter().try_for_each(RawFile::check)
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        // first, because QEMU waits for the NAS through these, and does not end while they are there
        self.disks.clear();
        if self.is_used
            && let Err(error) = end(&self.uri, self.domain())
        {
            return log::error!("unable to end the domain '{}', leaving it to the next sweep: {error}", self.domain());
        }
        if let Some(Err(error)) = self.tpm.as_deref().map(tpm::remove) {
            return log::error!("leaving that to the next sweep: {error}");
        }
        remove(self.dir.path());
    }
}

/// Nobody but root can have made anything in there.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        log::error!("unable to remove '{}', leaving it to the next sweep: {error}", path.display());
    }
}

fn domain_of(folder: &Path) -> String {
    format!("nasbackup-{}", folder.file_name().unwrap_or_default().display())
}

/// Ends the domain of this name, if there is one. The daemon may be another one than at the last question.
fn end(uri: &str, name: String) -> Result<()> {
    let uri = uri.to_owned();
    ask(END, limits::LIBVIRT_CALL, move || {
        let end = || Domain::find(&uri, &name)?.map_or(Ok(()), |domain| domain.destroy());
        end().or_else(|_| end())
    })
}

/// A domain that runs, or did.
pub(super) struct Machine {
    domain: Domain,
    /// Its drop ends the domain.
    pub(super) folder: TestFolder,
}

impl Machine {
    /// Starts it; its guest is still paused.
    pub(super) fn start(mut folder: TestFolder, xml: String) -> Result<Machine> {
        let disks: Vec<_> = folder.disks.iter().map(RawFile::path).collect();
        // one that comes too late ends itself
        let start = move || {
            folder.is_used = true;
            Ok(Machine { domain: Domain::create_paused(&folder.uri, &xml)?, folder })
        };
        ask_and_free("start the machine", limits::LIBVIRT_CALL, start, || disks.iter().for_each(|disk| take_away(disk)))
    }

    /// Ends it once the host has no more room for what its guest writes.
    pub(super) fn guard(&self) -> Result<Guard> {
        let (room, uri, name) = (self.folder.room.clone(), self.folder.uri.clone(), self.folder.domain());
        let end = move || end(&uri, name).unwrap_or_else(|error| log::error!("{error}"));
        Guard::begin(move || room.lack(), end)
    }

    /// Asks libvirt about it.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        step: &'static str,
        question: impl FnOnce(&Domain) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let domain = self.domain.clone();
        ask(step, limits::LIBVIRT_CALL, move || question(&domain))
    }
}

/// Ends and removes what tests have left whose processes were killed.
pub(super) fn sweep(config: &Config) {
    RunDirs { prefix: PREFIX, ..scratch::all(config) }.sweep(|_| true, |left| clear(config, left.path()));
}

fn clear(config: &Config, path: &Path) -> Result<bool> {
    end(&config.connection_uri, domain_of(path))?;
    let disks = path.join(DISKS);
    let unmount = move || if disks.exists() { place::clear_left(&disks) } else { Ok(()) };
    bounded_for_host(SWEEP, limits::STORAGE_STEP, unmount)?;
    tpm::uuid_of(path).map_or(Ok(()), |uuid| tpm::remove(&uuid))?;
    fs::remove_dir_all(path).map_err(|e| Error::io(SWEEP, path, e)).map(|()| true)
}
