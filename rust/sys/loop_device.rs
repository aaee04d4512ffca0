//! A part of a file as a block device (loop(4)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::limits;

const CONTROL: &str = "/dev/loop-control";
/// How often a device that was free is tried that somebody else takes first.
const RACES: u32 = 100;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// A block device that nobody can write. It is gone when it was dropped and nothing of it is mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    /// Open, and locked.
    _device: File,
    path: PathBuf,
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `struct loop_info64` there.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl LoopDevice {
    /// Makes one of `length` bytes of the file at `offset`. Its partitions, if it has any, get no devices. `InvalidInput` before
    /// Linux 5.8.
    pub fn of(file: &File, offset: u64, length: u64) -> io::Result<LoopDevice> {
        let control = File::open(CONTROL)?;
        for _ in 0..RACES {
            // SAFETY: the descriptor is open for the call, which takes no pointer.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number == -1 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            // udev leaves a device alone that is locked, with its labels, which may be those of the host's own
            match flock(&device, FlockOperation::NonBlockingLockExclusive) {
                // a call that is about to take it keeps the lock for as long as it has the device
                Err(Errno::WOULDBLOCK) => {
                    thread::sleep(limits::LOOP_DEVICE_PAUSE);
                    continue;
                }
                locked => locked?,
            }
            match configure(&device, &config(file, offset, length)) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                made => return made.map(|()| LoopDevice { _device: device, path }),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Its path on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn config(file: &File, offset: u64, length: u64) -> LoopConfig {
    // SAFETY: an all-zero value is a valid one of the plain C struct.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.file = file.as_raw_fd().cast_unsigned();
    config.info.offset = offset;
    config.info.size_limit = length;
    config.info.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
    config
}

fn configure(device: &File, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: both descriptors are open for the call, and the kernel only reads `config`.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
