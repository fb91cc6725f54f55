//! Packets, descriptors and both ends, over real sockets.
mod common;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, mem, ptr, thread};

use common::{hello, pair, readable, soon, Watched};
use zerogpu_protocol::*;

const NONE: &[OwnedFd] = &[];

fn ends() -> (Connection, Endpoint) {
    let (client, broker) = pair();
    (Connection::from_socket(client, Path::new("/path/broker.sock")), Endpoint::new(broker, 4))
}

fn kind(result: io::Result<bool>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

/// Sends as a stranger would, without our limits.
fn send_raw(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) {
    let mut control = [0u64; 256];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a header of zeroes is valid; what it then names is ours and long enough.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if !fds.is_empty() {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_LEN(4 * fds.len() as u32) as usize;
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = header.msg_controllen;
            for (i, fd) in fds.iter().enumerate() {
                libc::CMSG_DATA(message).cast::<i32>().add(i).write(fd.as_raw_fd());
            }
        }
        let sent = libc::sendmsg(socket.as_raw_fd(), &header, 0);
        assert_eq!(sent, bytes.len() as isize, "{}", io::Error::last_os_error());
    }
}

#[test]
fn a_packet_arrives_whole_with_its_descriptors() {
    let (a, b) = pair();
    let (mut watched, fd) = Watched::new();
    let fds = (0..PACKET_FDS).map(|_| fd.try_clone().unwrap()).collect();
    let bytes: Vec<u8> = (0..PACKET_BYTES).map(|i| i as u8).collect();
    let packet = Packet { bytes: bytes.clone(), fds };
    packet.send(&a).unwrap();
    drop((packet, fd));
    let mut packet = Packet::new();
    assert!(packet.recv(&b, PACKET_FDS).unwrap());
    assert_eq!(packet.bytes, bytes);
    assert_eq!(packet.fds.len(), PACKET_FDS);
    for fd in &packet.fds {
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
    }
    assert!(!watched.is_closed());
    // The next one takes its place.
    send(a.as_fd(), b"x", NONE).unwrap();
    assert!(packet.recv(&b, PACKET_FDS).unwrap());
    assert_eq!((&packet.bytes[..], packet.fds.len()), (&b"x"[..], 0));
    assert!(watched.is_closed());
    assert_eq!(kind(packet.recv(&b, 0)), io::ErrorKind::WouldBlock);
    drop(a);
    assert!(!packet.recv(&b, 0).unwrap());
}

#[test]
fn packets_that_may_not_be_sent() {
    let (a, _b) = pair();
    let refused = |bytes: &[u8], fds: &[OwnedFd]| send(a.as_fd(), bytes, fds).unwrap_err().kind();
    assert_eq!(refused(&[], NONE), io::ErrorKind::InvalidInput);
    assert_eq!(refused(&vec![0; PACKET_BYTES + 1], NONE), io::ErrorKind::InvalidInput);
    let fds: Vec<_> = (0..=PACKET_FDS).map(|_| a.try_clone().unwrap()).collect();
    assert_eq!(refused(&[0], &fds), io::ErrorKind::InvalidInput);
}

#[test]
fn a_packet_that_was_cut_is_an_error_and_leaves_no_descriptor() {
    let (a, b) = pair();
    let mut packet = Packet::new();
    for (bytes, sent, room) in [
        (PACKET_BYTES + 1, 1, PACKET_FDS), // MSG_TRUNC
        (1, PACKET_FDS + 1, PACKET_FDS),   // MSG_CTRUNC
        (1, 2, 1),
        (1, 1, 0),
        (0, 1, 1), // looks like the end
    ] {
        let (mut watched, fd) = Watched::new();
        let fds: Vec<_> = (0..sent).map(|_| fd.try_clone().unwrap()).collect();
        send_raw(a.as_fd(), &vec![0; bytes], &fds);
        drop((fd, fds));
        match packet.recv(&b, room) {
            Ok(more) => assert!(bytes == 0 && !more),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
        }
        assert!(packet.fds.is_empty() && packet.bytes.is_empty());
        assert!(watched.is_closed(), "{bytes} bytes, {sent} descriptors, room for {room}");
    }
    send(a.as_fd(), b"next", NONE).unwrap();
    assert!(packet.recv(&b, 1).unwrap(), "only the bad packet is lost");
    assert_eq!(packet.bytes, b"next");
}

#[test]
fn a_space_is_welcomed_and_gets_its_slabs() {
    let (client, mut broker) = ends();
    let mut buffer = Packet::new();
    assert!(broker.recv_hello(&mut buffer).unwrap().is_none());
    let (mut backing, fd) = Watched::new();
    let welcome = thread::scope(|scope| {
        let client = &client;
        let introduced = scope.spawn(move || client.hello(&hello(Role::Space), Some(fd.as_fd()), soon()));
        readable(&broker);
        let (versions, name, fd) = broker.recv_hello(&mut buffer).unwrap().unwrap();
        assert_eq!((versions, name), (VERSIONS, hello(Role::Space)));
        broker.answer(&Answer::Welcome(Welcome { broker: 7, version: 1 })).unwrap();
        let welcome = introduced.join().unwrap().unwrap();
        assert!(fd.is_some() && !backing.is_closed());
        welcome
    });
    assert_eq!(welcome, Welcome { broker: 7, version: 1 });
    assert!(backing.is_closed());

    for (_, message) in common::to_broker() {
        client.send(&message, soon()).unwrap();
        assert_eq!(broker.recv(&mut buffer).unwrap(), Some(message));
    }
    assert_eq!(broker.recv(&mut buffer).unwrap(), None);
    assert!(client.try_recv(&mut buffer).unwrap().is_none());

    let (mut slab, fd) = Watched::new();
    let granted = ToClient::SlabFds { lease: 1, first: 0 };
    broker.send(&granted, &[fd.as_fd(), fd.as_fd()]).unwrap();
    drop(fd);
    let (message, fds) = client.recv(&mut buffer, soon()).unwrap();
    assert_eq!((message, fds.len()), (granted, 2));
    assert!(!slab.is_closed());
    drop(fds);
    assert!(slab.is_closed());
}

#[test]
fn descriptors_come_with_the_messages_that_have_them() {
    let (client, mut broker) = ends();
    let mut buffer = Packet::new();
    let (mut watched, fd) = Watched::new();
    let mut bytes = Vec::new();

    assert!(matches!(client.hello(&hello(Role::Space), None, soon()), Err(Error::Malformed(_))));
    assert!(matches!(client.hello(&hello(Role::Observer), Some(fd.as_fd()), soon()), Err(Error::Malformed(_))));
    for (role, fds) in [(Role::Space, 0), (Role::Observer, 1)] {
        encode_hello(&hello(role), VERSIONS, &mut bytes).unwrap();
        send(client.as_fd(), &bytes, &vec![fd.as_fd(); fds]).unwrap();
        assert!(matches!(broker.recv_hello(&mut buffer), Err(Error::Malformed(_))));
    }
    encode(&ToBroker::Status, &mut bytes).unwrap();
    send(client.as_fd(), &bytes, &[fd.as_fd()]).unwrap();
    assert!(matches!(broker.recv(&mut buffer), Err(Error::Io(_))));

    let grown = ToClient::Grown { lease: 1, slab: Range::new(0, CHUNK_BYTES) };
    assert!(matches!(broker.send(&grown, NONE), Err(Error::Malformed(_))));
    encode(&grown, &mut bytes).unwrap();
    send(broker.as_fd(), &bytes, &[fd.as_fd(), fd.as_fd()]).unwrap();
    assert!(matches!(client.recv(&mut buffer, soon()), Err(Error::Malformed(_))));
    drop(fd);
    assert!(watched.is_closed());
}

#[test]
fn a_client_of_another_version_gets_a_sentence() {
    let (client, mut broker) = ends();
    let mut bytes = Vec::new();
    encode_hello(&hello(Role::Observer), Versions { lowest: 8, highest: 9 }, &mut bytes).unwrap();
    send(client.as_fd(), &bytes, NONE).unwrap();
    let mut buffer = Packet::new();
    assert!(matches!(broker.recv_hello(&mut buffer), Err(Error::Mismatch(..))));
    drop(broker);
    assert!(buffer.recv(&client, 0).unwrap(), "the answer comes though the broker is gone");
    let answer = decode_answer(&buffer.bytes, VERSIONS).unwrap().unwrap();
    let Answer::Refused(Refused { reason: Reason::Version, text }) = answer else { panic!("{answer:?}") };
    assert!(text.contains("speaks protocol 8 to 9, the broker speaks 1 to 3"), "{text}");

    // And a client meets a broker of another version.
    let (client, broker) = ends();
    encode_answer(&common::answers()[0], Versions { lowest: 8, highest: 9 }, &mut bytes).unwrap();
    send(broker.as_fd(), &bytes, NONE).unwrap();
    let error = client.hello(&hello(Role::Observer), None, soon()).unwrap_err();
    assert!(error.to_string().contains("the broker on /path/broker.sock speaks 8 to 9"), "{error}");
}

#[test]
fn a_refusal_is_read_even_if_the_broker_has_closed() {
    let (client, mut broker) = ends();
    let refused = common::answers().remove(1);
    broker.answer(&refused).unwrap();
    drop(broker);
    let error = client.hello(&hello(Role::Observer), None, soon()).unwrap_err();
    assert!(matches!(error, Error::Refused(refusal) if Answer::Refused(refusal.clone()) == refused));
}

#[test]
fn a_broker_that_answers_nonsense() {
    for version in [0, 9] {
        let (client, mut broker) = ends();
        broker.answer(&Answer::Welcome(Welcome { broker: 7, version })).unwrap();
        assert!(matches!(client.hello(&hello(Role::Observer), None, soon()), Err(Error::Malformed(_))));
    }
    let (client, broker) = ends();
    send(broker.as_fd(), b"SSH-2.0-OpenSSH_9.6", NONE).unwrap();
    assert!(matches!(client.hello(&hello(Role::Observer), None, soon()), Err(Error::Malformed(_))));
}

#[test]
fn what_is_kept_is_bounded_in_bytes() {
    let (_client, broker) = pair();
    let mut broker = Endpoint::new(broker, usize::MAX);
    let report = ToClient::Report { json: "x".repeat(REPORT_BYTES), more: true };
    let slow = (0..10_000).find_map(|_| broker.send(&report, NONE).err());
    assert!(matches!(slow, Some(Error::Slow(_))), "{slow:?}");
    assert!((broker.queued() - 1) * REPORT_BYTES <= Endpoint::BYTES, "{} are kept", broker.queued());
}

#[test]
fn a_client_that_does_not_read_is_slow() {
    let (client, mut broker) = ends();
    let (mut watched, fd) = Watched::new();
    let message = |first| ToClient::SlabFds { lease: 1, first };
    let mut sent = 0;
    let waiting = loop {
        match broker.send(&message(sent), &[fd.as_fd()]) {
            Ok(()) => sent += 1,
            Err(Error::Slow(waiting)) => break waiting,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((waiting, broker.queued()), (4, 4));
    broker.flush().unwrap();
    assert_eq!(broker.queued(), 4, "nothing was read meanwhile");
    drop(fd);

    let mut buffer = Packet::new();
    for first in 0..sent {
        let (received, fds) = client.recv(&mut buffer, soon()).unwrap();
        assert_eq!((received, fds.len()), (message(first), 1), "in order, with descriptors");
        broker.flush().unwrap();
    }
    assert_eq!(broker.queued(), 0);
    assert!(watched.is_closed());
}

#[test]
fn a_full_socket_makes_a_client_wait() {
    let (client, broker) = pair();
    let client = Connection::from_socket(client, Path::new("/path"));
    let short = || Some(Instant::now() + Duration::from_millis(20));
    let mut sent = 0;
    while client.send(&ToBroker::Cancel { id: sent }, short()).is_ok() {
        sent += 1;
    }
    let begin = Instant::now();
    assert!(matches!(client.send(&ToBroker::Status, short()), Err(Error::TimedOut)));
    assert!(begin.elapsed() >= Duration::from_millis(20));
    thread::scope(|scope| {
        let last = scope.spawn(|| client.send(&ToBroker::Status, soon()));
        let mut broker = Endpoint::new(broker, 0);
        let mut buffer = Packet::new();
        for id in 0..sent {
            readable(&broker);
            assert_eq!(broker.recv(&mut buffer).unwrap(), Some(ToBroker::Cancel { id }));
        }
        readable(&broker);
        assert_eq!(broker.recv(&mut buffer).unwrap(), Some(ToBroker::Status));
        last.join().unwrap().unwrap();
    });
}

#[test]
fn a_deadline_ends_a_wait() {
    let (client, mut broker) = ends();
    let mut buffer = Packet::new();
    let begin = Instant::now();
    let deadline = Some(begin + Duration::from_millis(30));
    assert!(matches!(client.recv(&mut buffer, deadline), Err(Error::TimedOut)));
    assert!(begin.elapsed() >= Duration::from_millis(30));
    // What is there is given even after the deadline.
    broker.send(&ToClient::Reserved { bytes: 1 }, NONE).unwrap();
    client.recv(&mut buffer, deadline).unwrap();
}

#[test]
fn the_end_of_either_side_is_seen() {
    let (client, mut broker) = ends();
    let mut buffer = Packet::new();
    client.send(&ToBroker::Drained { lease: 1 }, soon()).unwrap();
    drop(client);
    assert_eq!(broker.recv(&mut buffer).unwrap(), Some(ToBroker::Drained { lease: 1 }), "what was sent before comes");
    assert!(matches!(broker.recv(&mut buffer), Err(Error::Closed)));
    assert!(matches!(broker.send(&ToClient::Reserved { bytes: 1 }, NONE), Err(Error::Closed)), "and no SIGPIPE");

    let (client, broker) = ends();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.recv(&mut Packet::new(), soon()));
        drop(broker);
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
    });
    assert!(matches!(client.send(&ToBroker::Status, soon()), Err(Error::Closed)));
    assert!(matches!(client.try_recv(&mut buffer), Err(Error::Closed)));
}

#[test]
fn signals_do_not_disturb() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    static THREAD: AtomicU64 = AtomicU64::new(0);
    extern "C" fn note(_: libc::c_int) {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler only counts; without SA_RESTART it interrupts.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = note as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
    let (client, mut broker) = ends();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            // SAFETY: asks for a number.
            THREAD.store(unsafe { libc::gettid() } as u64, Ordering::SeqCst);
            client.recv(&mut Packet::new(), soon())
        });
        for round in 1..=10 {
            let asleep = || {
                let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", THREAD.load(Ordering::SeqCst)));
                stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")))
            };
            while !asleep() {
                thread::yield_now();
            }
            let thread = THREAD.load(Ordering::SeqCst) as libc::pid_t;
            // SAFETY: takes numbers; the thread lives, since its scope does.
            assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) }, 0);
            while SEEN.load(Ordering::SeqCst) < round {
                thread::yield_now();
            }
        }
        broker.send(&ToClient::Reserved { bytes: 1 }, NONE).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap().0, ToClient::Reserved { bytes: 1 });
    });
}
