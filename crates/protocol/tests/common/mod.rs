//! One or more of each message, and sockets for tests.
#![allow(dead_code)] // each test file uses some of it

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use zerogpu_protocol::*;

const MIB: u64 = 1 << 20;

/// Soon enough for a test that hangs, late enough for a busy machine.
pub fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(30))
}

pub fn hello(role: Role) -> Hello {
    Hello { name: "demo".into(), vram: 80 << 30, cc: (9, 0), role, holds: None }
}

pub fn holding_hello() -> Hello {
    let holds =
        Holding { card: [0xa5; 16], broker: 0x0123_4567_89ab_cdef, lease: 7, seconds_left: 12.5, bytes: 3 << 30 };
    Hello { holds: Some(holds), ..hello(Role::Space) }
}

pub fn answers() -> Vec<Answer> {
    vec![
        Answer::Welcome(Welcome { broker: 0xfeed_beef_0bad_cafe, version: 3 }),
        Answer::Refused(Refused { reason: Reason::Quota, text: "10 of 10 Spaces are here: end one".into() }),
    ]
}

/// Each message to the broker, under the name of its seed.
pub fn to_broker() -> Vec<(&'static str, ToBroker)> {
    let slab = Range::new(256 * MIB, 64 * MIB);
    let slabs = vec![Range::new(0, 256 * MIB), slab];
    vec![
        (
            "slabs",
            ToBroker::Slabs {
                lease: 300,
                slabs: slabs.clone(),
                dirty: vec![Range::new(2 * MIB, 4 * MIB)],
                more: false,
            },
        ),
        ("slabs-more", ToBroker::Slabs { lease: 300, slabs: vec![], dirty: slabs.clone(), more: true }),
        ("claim", ToBroker::Claim { id: 1, seconds: 60.0, wait_seconds: 0.0, borrowed: false, bytes: 16 << 30 }),
        ("cancel", ToBroker::Cancel { id: 1 }),
        ("extend", ToBroker::Extend { lease: 300, seconds: 30.0 }),
        ("grow", ToBroker::Grow { lease: 300, slab }),
        ("shrink", ToBroker::Shrink { lease: 300, slabs }),
        ("drained", ToBroker::Drained { lease: 300 }),
        ("released", ToBroker::Released { lease: u64::MAX }),
        ("forget", ToBroker::Forget { range: Range::new(4 * MIB, 4 << 30) }),
        ("reserve", ToBroker::Reserve { bytes: 16 << 30 }),
        ("status", ToBroker::Status),
        ("bound", ToBroker::Bound { card: [0xa5; 16], by: "what a slot made".into() }),
        (
            "prefetch",
            ToBroker::Prefetch {
                seconds: 60.0,
                slabs: vec![slab],
                dirty: vec![Range::new(256 * MIB, 2 * MIB)],
                more: false,
            },
        ),
        ("take-back", ToBroker::TakeBack { pid: 4711 }),
    ]
}

/// Each message to a client, under the name of its seed.
pub fn to_client() -> Vec<(&'static str, ToClient)> {
    let (id, lease) = (1, 300);
    let slab = Range::new(256 * MIB, 64 * MIB);
    let text = || "a sentence: with a remedy — ü".to_owned();
    vec![
        ("queued", ToClient::Queued { id, position: 2, of: 5, seconds: Some(12.25) }),
        ("queued-unknown", ToClient::Queued { id, position: 1, of: 1, seconds: None }),
        ("granted", ToClient::Granted { id, lease, card: [0x5a; 16], seconds: 60.0 }),
        ("slab-fds", ToClient::SlabFds { lease, first: 64 }),
        ("ready", ToClient::Ready { lease, bytes: 1 << 30, warm: 15 << 30, micros: 20_000 }),
        ("denied", ToClient::Denied { id, reason: Reason::Busy, text: text() }),
        ("extended", ToClient::Extended { lease, seconds: 30.0 }),
        ("grown", ToClient::Grown { lease, slab }),
        ("not-grown", ToClient::NotGrown { lease, slab, text: text() }),
        ("home", ToClient::Home { lease, bytes: 2 * MIB, unchanged: 16 << 30, micros: 5_500 }),
        ("revoked", ToClient::Revoked { lease, text: text(), grace: 10.0 }),
        ("forgotten", ToClient::Forgotten { range: Range::new(4 * MIB, 4 << 30) }),
        ("reserved", ToClient::Reserved { bytes: 16 << 30 }),
        ("not-reserved", ToClient::NotReserved { bytes: 16 << 30, text: text() }),
        ("report", ToClient::Report { json: "{\"cards\":[".into(), more: true }),
        ("closing", ToClient::Closing { reason: Reason::Restart, text: text() }),
        ("taken-back", ToClient::TakenBack { done: true, text: text() }),
    ]
}

/// Each sample as a packet.
pub fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut buffer = Vec::new();
        write(&mut buffer);
        buffer
    };
    let hellos =
        [("hello", hello(Role::Space)), ("hello-observer", hello(Role::Observer)), ("hello-holds", holding_hello())];
    let mut all = Vec::new();
    all.extend(hellos.iter().map(|(name, one)| (*name, bytes(&|to| encode_hello(one, VERSIONS, to).unwrap()))));
    for (name, one) in ["answer-welcome", "answer-refused"].into_iter().zip(answers()) {
        all.push((name, bytes(&|to| encode_answer(&one, VERSIONS, to).unwrap())));
    }
    all.extend(to_broker().iter().map(|(name, one)| (*name, bytes(&|to| encode(one, to).unwrap()))));
    all.extend(to_client().iter().map(|(name, one)| (*name, bytes(&|to| encode(one, to).unwrap()))));
    all
}

/// Two connected sockets.
pub fn pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    let result =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: they are new.
    unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
}

/// A descriptor to pass, and a way to see whether all copies of it are closed.
pub struct Watched(io::PipeReader);

impl Watched {
    pub fn new() -> (Self, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
        (Watched(reader), writer.into())
    }

    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(0) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until `fd` can be read, or its other side is gone.
pub fn readable(fd: impl AsFd) {
    let mut entry = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which is ours.
    assert_eq!(unsafe { libc::poll(&mut entry, 1, 30_000) }, 1);
}
