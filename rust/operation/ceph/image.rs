//! An image in Ceph that several threads read and write at once, through its export.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Server;
use crate::engine::socket::Socket;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::nbd::{Connection, Ticket};

/// Bytes that one request makes zero, at most.
const ZEROES: u64 = 64 << 20;

/// An open image. Each request waits until the server answers it or ends: ending the server ends all requests.
#[derive(Debug)]
pub(in crate::operation) struct CephImage {
    socket: Arc<Socket>,
    name: String,
    size: u64,
    /// Connections that no thread uses.
    idle: Mutex<Vec<Connection>>,
    // the server runs as long as it has a client
    _first: Mutex<Connection>,
}

impl CephImage {
    pub(in crate::operation) fn open(server: &Server) -> Result<CephImage> {
        let (socket, name) = (server.socket(), server.name().to_owned());
        let first = connect(&socket, &name)?;
        Ok(CephImage { socket, name, size: first.size(), idle: Mutex::default(), _first: Mutex::new(first) })
    }

    /// Size of the image, in bytes.
    pub(in crate::operation) fn size(&self) -> u64 {
        self.size
    }

    pub(in crate::operation) fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.on_one(|connection| {
            let ticket = connection.read(at, buffer.len(), vec![0; buffer.len()].into())?;
            loop {
                if let Some(bytes) = connection.take(ticket)? {
                    buffer.copy_from_slice(&bytes);
                    return Ok(());
                }
                connection.poll(limits::CALLER_LOOK)?;
            }
        })
    }

    pub(in crate::operation) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.on_one(|connection| wait(connection, |connection| connection.write(at, bytes.into())))
    }

    /// Makes the first of `length` bytes zero, which then take no space. Returns how many.
    pub(in crate::operation) fn zero(&self, at: u64, length: u64) -> io::Result<u64> {
        let length = length.min(ZEROES);
        self.on_one(|connection| wait(connection, |connection| connection.zero(at, length)))?;
        Ok(length)
    }

    /// Makes all that was written durable.
    pub(in crate::operation) fn sync(&self) -> io::Result<()> {
        self.on_one(|connection| wait(connection, Connection::flush))
    }

    /// Runs a request on a connection that no other thread uses. A connection on which a request failed is not used again.
    fn on_one(&self, act: impl FnOnce(&mut Connection) -> Result<()>) -> io::Result<()> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let one = idle().pop();
        let done = one.map_or_else(|| connect(&self.socket, &self.name), Ok).and_then(|mut one| {
            act(&mut one)?;
            idle().push(one);
            Ok(())
        });
        done.map_err(|error| match error.code {
            Code::NoSpace => io::Error::from_raw_os_error(libc::ENOSPC),
            _ => io::Error::other(error.cause),
        })
    }
}

fn connect(socket: &Socket, name: &str) -> Result<Connection> {
    let until = Instant::now() + limits::CEPH;
    let late = || Error::new(Code::Timeout, "connect to the export", "qemu-nbd does not answer");
    let go_on = || if Instant::now() < until { Ok(()) } else { Err(late()) };
    Connection::open(socket.connect(go_on)?, name, &[], limits::CALLER_LOOK, go_on)
}

fn wait(connection: &mut Connection, ask: impl FnOnce(&mut Connection) -> Result<Ticket>) -> Result<()> {
    let ticket = ask(connection)?;
    while !connection.written(ticket)? {
        connection.poll(limits::CALLER_LOOK)?;
    }
    Ok(())
}
