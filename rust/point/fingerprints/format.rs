//! How an index is laid out: a header, then runs in the order of the guest's disk, then an end mark.
//!
//! Header: magic number (8 bytes), version, binary logarithm of the cluster size (4 bytes each), size that the guest sees
//! (8 bytes), all big-endian. Run: clusters since the end of the run before, then `count << 1 | is_zero`, both as
//! base-128 numbers with the low digits first, then `count` hashes unless zero. A run of no clusters ends the index.

use std::io::{self, Read, Write};

use super::damaged;
use crate::qcow2::CLUSTER;

pub(super) const HEADER: usize = 24;
const MAGIC: [u8; 8] = *b"nbkfpidx";
const VERSION: u32 = 1;

/// A run as it begins: what it skips, how long it is, whether it is of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EncodedRun {
    pub(super) gap: u64,
    pub(super) count: u64,
    pub(super) zero: bool,
}

pub(super) const END: EncodedRun = EncodedRun { gap: 0, count: 0, zero: false };

pub(super) fn header(virtual_size: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    header[12..16].copy_from_slice(&CLUSTER.ilog2().to_be_bytes());
    header[16..].copy_from_slice(&virtual_size.to_be_bytes());
    header
}

/// Reads the header; the size that the guest sees, in bytes.
pub(super) fn read_header(from: &mut impl Read) -> io::Result<u64> {
    let mut read = [0; HEADER];
    from.read_exact(&mut read)?;
    let mut size = [0; 8];
    size.copy_from_slice(&read[16..]);
    let size = u64::from_be_bytes(size);
    if read == header(size) { Ok(size) } else { Err(damaged("its header is not known")) }
}

pub(super) fn write_run(to: &mut impl Write, run: EncodedRun) -> io::Result<()> {
    write_number(to, run.gap)?;
    write_number(to, run.count << 1 | u64::from(run.zero))
}

pub(super) fn read_run(from: &mut impl Read) -> io::Result<EncodedRun> {
    let gap = read_number(from)?;
    let count = read_number(from)?;
    Ok(EncodedRun { gap, count: count >> 1, zero: count & 1 != 0 })
}

fn write_number(to: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut digits = [0; 10];
    let mut length = 0;
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        digits[length] = if number == 0 { low } else { low | 0x80 };
        length += 1;
        if number == 0 {
            return to.write_all(&digits[..length]);
        }
    }
}

fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let mut digit = [0];
        from.read_exact(&mut digit)?;
        let low = u64::from(digit[0] & 0x7f);
        if low << shift >> shift != low {
            break;
        }
        number |= low << shift;
        if digit[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(damaged("a number is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_too_large_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, 1 << 32, u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            write_number(&mut bytes, number).unwrap();
            assert_eq!(read_number(&mut bytes.as_slice()).unwrap(), number);
            assert!(bytes.len() <= 10);
        }
        for bad in [&[0xff; 11][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert!(super::super::is_damage(&read_number(&mut &bad[..]).unwrap_err()));
        }
        assert!(super::super::is_damage(&read_number(&mut &[0x80][..]).unwrap_err()), "it ends within");
    }
}
