//! A target that remembers each write, so that it can be cut off anywhere, and that can fail at any.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use nasbackup::qcow2::{Source, Storage};

use crate::chains::Random;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write(u64, Vec<u8>),
    SetLength(u64),
    Sync,
}

/// The content of a file in memory, with all that was done to it.
pub(crate) struct Journal {
    state: Mutex<State>,
    /// How many changes succeed before each one, or only one, fails with this error number.
    fail: Mutex<Option<(usize, i32)>>,
    once: bool,
    /// Sharing and copying within the kernel are refused.
    plain: bool,
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    log: Vec<Op>,
}

impl Journal {
    pub(crate) fn new(content: Vec<u8>, plain: bool) -> Journal {
        Journal { state: State { content, log: Vec::new() }.into(), fail: None.into(), once: false, plain }
    }

    pub(crate) fn failing(self, after: usize, errno: i32) -> Journal {
        *self.fail.lock().unwrap() = Some((after, errno));
        self
    }

    pub(crate) fn failing_once(mut self, after: usize, errno: i32) -> Journal {
        self.once = true;
        self.failing(after, errno)
    }

    pub(crate) fn into_parts(self) -> (Vec<u8>, Vec<Op>) {
        let state = self.state.into_inner().unwrap();
        (state.content, state.log)
    }

    fn change(&self, op: Op) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let mut fail = self.fail.lock().unwrap();
        if let Some((after, errno)) = *fail
            && state.log.len() >= after
        {
            *fail = fail.filter(|_| !self.once);
            return Err(io::Error::from_raw_os_error(errno));
        }
        apply(&mut state.content, &op, |_| true);
        state.log.push(op);
        Ok(())
    }
}

impl Source for &Journal {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state.lock().unwrap();
        let rest = state.content.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().content.len() as u64)
    }
}

impl Storage for &Journal {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.change(Op::Write(offset, data.to_vec()))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(Op::SetLength(length))
    }

    fn sync(&self) -> io::Result<()> {
        self.change(Op::Sync)
    }

    fn give_back(&self, from: u64, length: u64) -> io::Result<()> {
        self.change(Op::Write(from, vec![0; length as usize]))
    }

    fn clone_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<()> {
        if self.plain {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let mut data = vec![0; length as usize];
        source.read_exact_at(&mut data, from)?;
        self.change(Op::Write(to, data))
    }

    fn copy_from(&self, to: u64, source: &File, from: u64, length: u64) -> io::Result<u64> {
        if self.plain {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        let mut data = vec![0; length.min(5000) as usize];
        let read = Source::read_at(source, &mut data, from)?;
        data.truncate(read);
        self.change(Op::Write(to, data))?;
        Ok(read as u64)
    }
}

/// Does `op` to `content`, of a write those sectors of which `reached` says so.
fn apply(content: &mut Vec<u8>, op: &Op, mut reached: impl FnMut(u64) -> bool) {
    match op {
        Op::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            let mut at = start;
            while at < end {
                let next = ((at / 512 + 1) * 512).min(end);
                if reached(at as u64 / 512) {
                    if content.len() < next {
                        content.resize(next, 0);
                    }
                    content[at..next].copy_from_slice(&data[at - start..next - start]);
                }
                at = next;
            }
        }
        Op::SetLength(length) => {
            if reached(u64::MAX) {
                content.resize(*length as usize, 0);
            }
        }
        Op::Sync => {}
    }
}

/// How much of what was not synced reaches the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    Nothing,
    Everything,
    /// Whole writes, one in two.
    Writes,
    /// Sectors of writes, one in two.
    Sectors,
}

/// What is on the disk when the power goes after the first `cut` operations.
pub(crate) fn crash(before: &[u8], log: &[Op], cut: usize, loss: Loss, random: &mut Random) -> Vec<u8> {
    let mut content = before.to_vec();
    let synced = log[..cut].iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |last| last + 1);
    for (index, op) in log[..cut].iter().enumerate() {
        let whole = random.chance(50);
        apply(&mut content, op, |_| match loss {
            _ if index < synced => true,
            Loss::Nothing => true,
            Loss::Everything => false,
            Loss::Writes => whole,
            Loss::Sectors => random.chance(50),
        });
    }
    content
}
