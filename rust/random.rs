//! Names that nobody can guess.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Code, Error, Result};

/// 128 random bits as hexadecimal digits.
pub(crate) fn hex(step: &'static str) -> Result<String> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let more = getrandom(&mut bytes[filled..], GetRandomFlags::empty());
        filled += more.map_err(|e| Error::new(Code::Internal, step, format!("no random bits - {e}")))?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
