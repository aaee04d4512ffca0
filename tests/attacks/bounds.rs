//! What others send, or have put on the NAS, takes no more than its bounds.

#[path = "../support/hostile_nbd.rs"]
mod hostile_nbd;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nasbackup::error::{Code, Error, Result};
use nasbackup::nbd::{ALLOCATION, Connection, DIRTY};

use crate::support::{Disk, Guest, Nas, Story, take};
use hostile_nbd::{Client, DATA, DONE, NONE, Request, SIZE, STATUS, Server, extents};

const TICK: Duration = Duration::from_millis(20);
const BITMAP: &str = "qemu:dirty-bitmap:backup-vda";
/// More than what waits in a socket, and less than what an attack sends.
const FEW: u64 = 16 << 20;

fn connect(server: &Server) -> Result<Connection> {
    let socket = UnixStream::connect(server.socket()).unwrap();
    Connection::open(socket.into(), "vda", &[ALLOCATION, BITMAP], TICK, || Ok(()))
}

/// Asks what the export holds, and gives up after so many looks: that is what a bound is there to come before.
fn ask(connection: &mut Connection) -> Result<()> {
    let looks = Cell::new(0);
    let go_on = || {
        looks.set(looks.get() + 1);
        if looks.get() < 5_000_000 { Ok(()) } else { Err(Error::new(Code::Timeout, "ask", "there is no end")) }
    };
    connection.status(0, SIZE, TICK, go_on).map(drop)
}

/// What the question to a server ends with that answers it so; and that it took few bytes.
fn asked_of(answer: fn(&mut Client, u64) -> io::Result<()>) -> Error {
    let server = Server::start(move |client: &mut Client, request: Request| {
        assert_eq!((request.kind, request.length), (7, SIZE as u32));
        answer(client, request.cookie)
    });
    let mut connection = connect(&server).unwrap();
    let error = ask(&mut connection).expect_err("an answer is refused");
    // it is not read any more, whatever is asked
    assert_eq!(connection.poll(TICK).unwrap_err(), error);
    assert_eq!(connection.settle(TICK, || Ok(())).unwrap_err(), error);
    assert!(connection.read(0, 512, vec![0; 512].into()).is_err());
    drop(connection);
    assert!(server.end() < FEW, "{error}");
    error
}

#[test]
fn an_answer_about_extents_is_bounded() {
    type Row = (&'static str, fn(&mut Client, u64) -> io::Result<()>);
    let rows: [Row; 5] = [
        ("answers twice about", |client, cookie| {
            let chunk = extents(0, &[512, 0].repeat(8000));
            loop {
                client.chunk(0, STATUS, cookie, &chunk)?;
            }
        }),
        ("has 400000 numbers", |client, cookie| {
            client.chunk(0, STATUS, cookie, &extents(1, &[1, DIRTY].repeat(200_000)))
        }),
        ("has no length", |client, cookie| client.chunk(0, STATUS, cookie, &extents(1, &[512, 0, 0, DIRTY]))),
        ("goes on beyond the range", |client, cookie| client.chunk(0, STATUS, cookie, &extents(0, &[u32::MAX, 0]))),
        ("goes on beyond the range", |client, cookie| {
            client.chunk(DONE, STATUS, cookie, &extents(0, &[SIZE as u32, 0, 512, 0]))
        }),
    ];
    for (why, answer) in rows {
        let error = asked_of(answer);
        assert!(error.code == Code::JobFailed && error.cause.contains(why), "{why}: {error}");
    }
}

#[test]
fn a_context_that_was_not_asked_about_is_refused() {
    let server = Server::serve(|client| {
        client.shake_hands(&mut |client, option| match option {
            10 => client.option_reply(option, 4, b"\0\0\0\x09evil\n\xff"),
            _ => Ok(()),
        })?;
        let cookie = client.request()?.cookie;
        client.chunk(0, STATUS, cookie, &extents(9, &[512, 0]))
    });
    let error = ask(&mut connect(&server).unwrap()).unwrap_err();
    assert!(error.cause.contains("was not asked about"), "{error}");
}

#[test]
fn a_handshake_without_end_is_ended() {
    type More = fn(&mut Client, u32) -> io::Result<()>;
    // contexts, which libnbd would keep, and information, which it skips
    let rows: [(u32, More); 2] = [
        (10, |client, option| client.option_reply(option, 4, b"\0\0\0\x09another context")),
        (7, |client, option| client.option_reply(option, 3, &[0xff; 200])),
    ];
    for (at, more) in rows {
        let server = Server::serve(move |client| {
            client.shake_hands(&mut |client, option| {
                if option != at {
                    return Ok(());
                }
                loop {
                    more(client, option)?;
                }
            })
        });
        let error = connect(&server).unwrap_err();
        assert!(error.code == Code::JobFailed && error.cause.contains("handshake has no end"), "{at}: {error}");
        assert!(server.end() < FEW);
    }
}

#[test]
fn replies_that_complete_nothing_come_to_an_end() {
    // a context that was not negotiated, which libnbd skips: nobody is told of it
    let server = Server::start(|client, request| {
        loop {
            client.send(&[&NOTHING[..8], &request.cookie.to_be_bytes(), &NOTHING[16..]].concat().repeat(1000))?;
        }
    });
    let error = ask(&mut connect(&server).unwrap()).unwrap_err();
    assert!(error.cause.contains("complete no request"), "{error}");
}

/// Whoever may write on the NAS makes more names in a machine's folder than any backup would list.
#[test]
fn a_backup_goes_on_beside_more_names_than_are_listed() {
    let mut story = Story::new(Guest::stopped([Disk::new()]), Nas::folder());
    story.take_stopped("full");
    let instance = story.nas.at(&story.last().taken.disks[0].file).ancestors().nth(2).unwrap().to_owned();
    let make = |name: String| drop(File::create_new(instance.join(name)).unwrap());
    for n in 0..50_001 {
        make(format!(".partial-{n}"));
        make(format!("{n}"));
    }
    story.accept_with(story.stopped_request("incremental"), |request| {
        let taken = take(request);
        let left: Vec<_> =
            (0..50_001).map(|n| instance.join(format!(".partial-{n}"))).filter(|path| path.exists()).collect();
        assert_eq!(left.len(), 40_001, "the next one goes on with the rest");
        left.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        taken
    });
}

/// A chunk of 32 bytes about extents of context 77, which has no end of its reply.
const NOTHING: &[u8] = b"\x66\x8e\x33\xef\0\0\0\x05--cookie\0\0\0\x0c\0\0\0\x4d\0\0\x02\0\0\0\0\0";

#[test]
fn a_read_that_brings_less_than_was_asked_for_is_an_error() {
    type Row = (&'static str, fn(&mut Client, Request) -> io::Result<()>);
    let rows: [Row; 4] = [
        ("nothing", |client, request| client.chunk(DONE, NONE, request.cookie, &[])),
        ("half of it", |client, request| client.chunk(DONE, DATA, request.cookie, &[&[0; 8][..], &[1; 2048]].concat())),
        ("what lies before", |client, request| {
            let before = request.offset - 512;
            client.chunk(DONE, DATA, request.cookie, &[&before.to_be_bytes()[..], &[1; 4096]].concat())
        }),
        ("more than it", |client, request| {
            client.chunk(DONE, DATA, request.cookie, &[&request.offset.to_be_bytes()[..], &[1; 8192]].concat())
        }),
    ];
    for (what, answer) in rows {
        let server = Server::start(answer);
        let mut connection = connect(&server).unwrap();
        let ticket = connection.read(4096, 4096, vec![0; 4096].into()).unwrap();
        let error = loop {
            match connection.take(ticket).and_then(|taken| {
                assert!(taken.is_none(), "{what}");
                connection.poll(TICK)
            }) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, Code::JobFailed, "{what}: {error}");
    }
}
