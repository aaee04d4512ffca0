//! A guest that is nothing but a boot sector: on a word over its serial port it overwrites a part of its disk by the BIOS, and
//! tells what its disk told it. A second after its start it is ready, and its writes take a guest's whole way.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Disk, Guest, MIB, folder, init, run, xml};

/// Echoes each byte of the serial port but `w`: then it writes 64 KiB in each 128 KiB (int 13h, function 43h), says `E` for each
/// error and `.` at the end. The first sector and the one after the last follow it.
#[rustfmt::skip]
const CODE: [u8; 106] = [
    0xfa,                                                 //        cli
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0,                   //        ax = ds = ss = 0
    0xbc, 0x00, 0x7c, 0xfb,                               //        mov sp, 0x7c00; sti
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8,       // idle:  wait until the line status says "received"
    0xba, 0xf8, 0x03, 0xec,                               //        in al, 0x3f8
    0x3c, 0x77, 0x74, 0x03, 0xee, 0xeb, 0xed,             //        if al != 'w' { out 0x3f8, al; goto idle }
    0x66, 0xa1, 0x6a, 0x7c, 0x66, 0xa3, 0x62, 0x7c,       //        sector = first
    0xc7, 0x06, 0x5c, 0x7c, 0x80, 0x00,                   // next:  count = 128, in which an error leaves what was done
    0xbe, 0x5a, 0x7c, 0xb8, 0x00, 0x43, 0xb2, 0x80,       //        si = packet; ax = 0x4300; dl = 0x80
    0xcd, 0x13, 0x73, 0x06,                               //        int 0x13; if carry {
    0xba, 0xf8, 0x03, 0xb0, b'E', 0xee,                   //            out 0x3f8, 'E' }
    0x66, 0x81, 0x06, 0x62, 0x7c, 0x00, 0x01, 0x00, 0x00, //        sector += 256
    0x66, 0xa1, 0x6e, 0x7c, 0x66, 0x39, 0x06, 0x62, 0x7c, //        if sector < end
    0x72, 0xd4,                                           //            { goto next }
    0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xeb, 0xb1,       //        out 0x3f8, '.'; goto idle
    0x10, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, // packet: at 0x7c5c count, data at 0x1000:0, at 0x7c62 sector
];

/// The running guest.
pub struct Writer {
    pub guest: Guest,
    console: RefCell<UnixStream>,
}

impl Writer {
    /// One whose disk holds `mib` MiB of data, of which it overwrites the last `over` MiB.
    pub fn boot(mib: u64, over: u64) -> Writer {
        init();
        let root = Disk::new().size((mib + 2) * MIB);
        let (image, place) = (root.path.clone(), folder("writer"));
        let mut guest = Guest::stopped([root]);
        // half a cluster further: each write is to two
        let [first, end] =
            [mib + 1 - over, mib + 1].map(|mib| (u32::try_from(mib * MIB / 512).unwrap() + 64).to_le_bytes());
        let mut code = vec![0; 512];
        code[..CODE.len()].copy_from_slice(&CODE);
        code[CODE.len()..][..4].copy_from_slice(&first);
        code[CODE.len() + 4..][..4].copy_from_slice(&end);
        code[510..].copy_from_slice(&[0x55, 0xaa]);
        let boot = place.join("boot");
        std::fs::write(&boot, code).unwrap();
        let boot = format!("write -s {} 0 512", boot.to_str().unwrap());
        run("qemu-io", ["-c", &format!("write -P 0x31 {MIB} {mib}M"), "-c", &boot, image.to_str().unwrap()]);
        let console = place.join("console");
        guest.devices = format!("<serial type='unix'><source mode='bind' path='{}'/></serial>", xml(&console));
        // by QEMU's own firmware
        guest.boot = "<boot dev='hd'/>".into();
        guest.start();
        let console = UnixStream::connect(&console).unwrap();
        console.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // what nobody reads fills it
        console.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        let writer = Writer { guest, console: RefCell::new(console) };
        let end = Instant::now() + Duration::from_secs(60);
        // the BIOS takes none of them
        while !writer.told(b'?', Duration::ZERO).contains('?') {
            assert!(Instant::now() < end, "the boot sector does not answer");
            writer.console.borrow_mut().write_all(b"?").unwrap();
        }
        writer
    }

    /// Begins to overwrite its disk.
    pub fn begin(&self) {
        self.console.borrow_mut().write_all(b"w").unwrap();
    }

    /// Waits until it has overwritten its disk; how many errors it met.
    pub fn errors(&self) -> usize {
        let told = self.told(b'.', Duration::from_secs(120));
        assert!(told.contains('.'), "it does not end: '{told}'");
        told.matches('E').count()
    }

    /// What it says until it says `last`, or for longer than `limit` nothing of that kind.
    fn told(&self, last: u8, limit: Duration) -> String {
        let (end, mut told) = (Instant::now() + limit, String::new());
        loop {
            let mut byte = [0];
            match self.console.borrow_mut().read(&mut byte) {
                Ok(0) => panic!("the guest is gone"),
                Ok(_) => told.push(char::from(byte[0])),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return told,
                Err(error) => panic!("console: {error}"),
            }
            if byte[0] == last {
                return told;
            }
        }
    }
}
