//! The serial console of a guest: what it writes, of which the end is kept.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use regex_lite::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::{Code, Error, Result};

const STEP: &str = "read the guest's console";
/// Bytes that are kept, and that an expression can match across.
const KEPT: usize = 64 << 10;
/// Bytes that are read at once.
const PIECE: usize = 4096;
/// Bytes of its end that an answer tells.
const TOLD: usize = 4 << 10;

/// The console.
#[derive(Debug)]
pub(super) struct Console {
    /// None once the guest is gone.
    terminal: Option<File>,
    text: Vec<u8>,
}

impl Console {
    /// Opens the host's end of it. What the guest writes before that is lost.
    pub(super) fn open(path: &Path) -> Result<Console> {
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let terminal = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
        Ok(Console { terminal: Some(terminal.map_err(|e| Error::io(STEP, path, e))?), text: Vec::new() })
    }

    /// Reads what is there already, as much as is kept.
    pub(super) fn drain(&mut self) -> Result<()> {
        for _ in 0..KEPT / PIECE {
            if !self.read(Duration::ZERO)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits so long for more, and reads that. True if there was more.
    pub(super) fn read(&mut self, limit: Duration) -> Result<bool> {
        let Some(terminal) = &self.terminal else {
            std::thread::sleep(limit);
            return Ok(false);
        };
        let io = |e: Errno| Error::io(STEP, "the terminal", e);
        let limit = Timespec::try_from(limit).map_err(|e| Error::new(Code::Internal, STEP, e))?;
        match poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            polled => polled.map_err(io)?,
        };
        let mut piece = [0; PIECE];
        match rustix::io::read(terminal, &mut piece) {
            // QEMU has closed its end
            Ok(0) | Err(Errno::IO) => self.terminal = None,
            Err(Errno::AGAIN | Errno::INTR) => {}
            read => {
                self.keep(&piece[..read.map_err(io)?]);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn keep(&mut self, more: &[u8]) {
        self.text.extend_from_slice(more);
        let superfluous = self.text.len().saturating_sub(KEPT);
        self.text.drain(..superfluous);
    }

    /// Does what the guest has written match?
    pub(super) fn shows(&self, expression: &Regex) -> bool {
        expression.is_match(&String::from_utf8_lossy(&self.text))
    }

    /// The end of what the guest has written, without what a terminal would heed.
    pub(super) fn end(&self) -> String {
        let end = &self.text[self.text.len().saturating_sub(TOLD)..];
        let lines = String::from_utf8_lossy(end);
        let is_shown = |c: &char| !c.is_control() || *c == '\n';
        lines.replace("\r\n", "\n").chars().filter(is_shown).collect::<String>().trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_across_pieces_and_the_end_is_kept() {
        let mut console = Console { terminal: None, text: Vec::new() };
        let login = Regex::new("(?m)^host login:").unwrap();
        console.keep(&vec![b'x'; KEPT]);
        console.keep(b"\r\n\x1b[2Jnoise\r\nhost lo");
        assert!(!console.shows(&login));
        console.keep(b"gin: ");
        assert!(console.shows(&login));
        assert_eq!(console.text.len(), KEPT);
        assert!(console.end().ends_with("x\n[2Jnoise\nhost login:"), "{}", console.end());
    }
}
