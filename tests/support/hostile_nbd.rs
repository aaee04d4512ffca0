//! An NBD server that shakes hands as QEMU does, and then answers as a test wants.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// What the exports' size is.
pub const SIZE: u64 = 64 << 20;

const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const CHUNK: u32 = 0x668e_33ef;

pub const DONE: u16 = 1;
pub const NONE: u16 = 0;
pub const DATA: u16 = 1;
pub const STATUS: u16 = 5;

/// A request of the client's.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub kind: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// A server of one client; its folder goes with it.
pub struct Server {
    folder: tempfile::TempDir,
    serving: Option<JoinHandle<Client>>,
}

impl Server {
    /// Answers each request by `answer`, until that fails.
    pub fn start(mut answer: impl FnMut(&mut Client, Request) -> io::Result<()> + Send + 'static) -> Server {
        Server::serve(move |client| {
            client.shake_hands(&mut |_, _| Ok(()))?;
            loop {
                let request = client.request()?;
                answer(client, request)?;
            }
        })
    }

    /// Does whatever `serve` does with the client that comes.
    pub fn serve(mut serve: impl FnMut(&mut Client) -> io::Result<()> + Send + 'static) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let serving = std::thread::spawn(move || {
            let mut client = Client { stream: listener.accept().unwrap().0, sent: 0, recorded: Vec::new() };
            _ = serve(&mut client);
            client
        });
        Server { folder, serving: Some(serving) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Waits until the client is gone; how many bytes it took.
    pub fn end(self) -> u64 {
        self.client().sent
    }

    /// Waits until the client is gone; the first of the bytes that it got.
    pub fn recorded(self) -> Vec<u8> {
        self.client().recorded
    }

    fn client(mut self) -> Client {
        self.serving.take().unwrap().join().unwrap()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The client.
pub struct Client {
    stream: UnixStream,
    sent: u64,
    recorded: Vec<u8>,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.sent += bytes.len() as u64;
        let room = (64_usize << 10).saturating_sub(self.recorded.len());
        self.recorded.extend(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.bytes()?))
    }

    pub fn request(&mut self) -> io::Result<Request> {
        let head: [u8; 6] = self.bytes()?;
        assert_eq!(head[..4], 0x2560_9513_u32.to_be_bytes());
        let kind = u16::from_be_bytes(self.bytes()?);
        let [cookie, offset] = [self.bytes()?, self.bytes()?].map(u64::from_be_bytes);
        Ok(Request { kind, cookie, offset, length: self.number()? })
    }

    /// One chunk of a structured reply.
    pub fn chunk(&mut self, flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap();
        let head =
            [&CHUNK.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &cookie.to_be_bytes()].concat();
        self.send(&[&head[..], &length.to_be_bytes(), payload].concat())
    }

    pub fn option_reply(&mut self, option: u32, kind: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap();
        let head = [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()].concat();
        self.send(&[&head[..], &length.to_be_bytes(), payload].concat())
    }

    /// The handshake; `before` may send more before an option is answered.
    pub fn shake_hands(&mut self, before: &mut dyn FnMut(&mut Client, u32) -> io::Result<()>) -> io::Result<()> {
        const ACK: u32 = 1;
        self.send(b"NBDMAGICIHAVEOPT\0\x03")?;
        self.number()?;
        loop {
            let _magic: [u8; 8] = self.bytes()?;
            let (option, length) = (self.number()?, self.number()?);
            let mut data = vec![0; length as usize];
            self.stream.read_exact(&mut data)?;
            before(self, option)?;
            match option {
                // GO: the export's size, and flags: it has some, read-only
                7 => {
                    self.option_reply(option, 3, &[&[0, 0][..], &SIZE.to_be_bytes(), &[0, 3]].concat())?;
                    return self.option_reply(option, ACK, &[]);
                }
                8 => self.option_reply(option, ACK, &[])?,
                // SET_META_CONTEXT: each that is asked for is there, numbered from 0 on
                10 => {
                    for (id, name) in (0_u32..).zip(asked(&data)) {
                        self.option_reply(option, 4, &[&id.to_be_bytes()[..], name].concat())?;
                    }
                    self.option_reply(option, ACK, &[])?;
                }
                _ => self.option_reply(option, 0x8000_0001, &[])?,
            }
        }
    }
}

/// The names in a SET_META_CONTEXT: behind the export's name and their number, each with its length before it.
fn asked(data: &[u8]) -> Vec<&[u8]> {
    let name = |at: usize| {
        let length = u32::from_be_bytes(data[at..at + 4].try_into().unwrap()) as usize;
        (&data[at + 4..at + 4 + length], at + 4 + length)
    };
    let mut at = name(0).1 + 4;
    let mut names = Vec::new();
    while at < data.len() {
        let (found, next) = name(at);
        names.push(found);
        at = next;
    }
    names
}

/// The payload of a chunk about extents of the context with this number: length and flags in turn.
pub fn extents(context: u32, numbers: &[u32]) -> Vec<u8> {
    std::iter::once(&context).chain(numbers).flat_map(|number| number.to_be_bytes()).collect()
}
