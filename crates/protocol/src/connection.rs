//! A client's end: blocking, with deadlines.
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, mem};

use crate::address::Address;
use crate::error::Error;
use crate::hello::{decode_answer, encode_hello, VERSIONS};
use crate::limits::PACKET_FDS;
use crate::message::{Answer, Hello, ToBroker, ToClient, Welcome};
use crate::packet::{retry, send, Packet};
use crate::wire::{decode, encode, Malformed, Message};

/// A connection to a broker. Threads may share it: each call sends or receives a whole packet. `None` as a deadline
/// waits for ever.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    path: PathBuf,
}

impl Connection {
    /// Connects to the broker that listens on `path`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], or [`Error::Io`], as where nobody listens or `path` has not 1 to 107 bytes.
    pub fn connect(path: &Path, deadline: Option<Instant>) -> Result<Self, Error> {
        let address = Address::of(path)?;
        let socket = seqpacket()?;
        loop {
            // Connecting waits while the broker's backlog is full, as long as this option allows.
            set_send_timeout(&socket, remaining(deadline)?)?;
            match address.connect(&socket) {
                Ok(()) => return Ok(Connection { socket, path: path.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && deadline.is_some() => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
    }

    /// A connection over a socket that is connected already.
    pub fn from_socket(socket: OwnedFd, path: &Path) -> Self {
        Connection { socket, path: path.to_owned() }
    }

    /// Where the broker listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Introduces this process, with the descriptor of its backing if it is a Space, and waits for the broker's answer.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Mismatch`], [`Error::Malformed`] for the hello or its answer, [`Error::TimedOut`],
    /// [`Error::Closed`] or [`Error::Io`].
    pub fn hello(
        &self,
        hello: &Hello,
        backing: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> Result<Welcome, Error> {
        let mut packet = Packet::new();
        encode_hello(hello, VERSIONS, &mut packet.bytes)?;
        count(hello, backing.iter().len())?;
        // A broker that refuses may have closed already; its answer lies in the socket all the same.
        match self.send_bytes(&packet.bytes, backing.as_slice(), deadline) {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => return Err(error),
        }
        self.recv_packet(&mut packet, 0, deadline)?;
        match decode_answer(&packet.bytes, VERSIONS)? {
            Ok(Answer::Refused(refused)) => Err(Error::Refused(refused)),
            Ok(Answer::Welcome(welcome)) if (VERSIONS.lowest..=VERSIONS.highest).contains(&welcome.version) => {
                Ok(welcome)
            }
            Ok(Answer::Welcome(_)) => Err(Malformed("it names a version that this side does not speak").into()),
            Err(mismatch) => Err(Error::Mismatch(mismatch, mismatch.at_client(&self.path))),
        }
    }

    /// Sends a message; waits while the socket is full.
    ///
    /// # Errors
    /// [`Error::Malformed`] if a value is beyond its limit, [`Error::TimedOut`], [`Error::Closed`] or [`Error::Io`];
    /// nothing was sent then.
    pub fn send(&self, message: &ToBroker, deadline: Option<Instant>) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(64);
        encode(message, &mut bytes)?;
        self.send_bytes(&bytes, &[] as &[OwnedFd], deadline)
    }

    /// Waits for the next message, with its descriptors. `buffer` only lends its memory.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::TimedOut`], [`Error::Closed`] or [`Error::Io`].
    pub fn recv(&self, buffer: &mut Packet, deadline: Option<Instant>) -> Result<(ToClient, Vec<OwnedFd>), Error> {
        self.recv_packet(buffer, PACKET_FDS, deadline)?;
        open(buffer)
    }

    /// The next message if it is there.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Closed`] or [`Error::Io`].
    pub fn try_recv(&self, buffer: &mut Packet) -> Result<Option<(ToClient, Vec<OwnedFd>)>, Error> {
        match buffer.recv(&self.socket, PACKET_FDS) {
            Ok(true) => open(buffer).map(Some),
            Ok(false) => Err(Error::Closed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn send_bytes(&self, bytes: &[u8], fds: &[impl AsFd], deadline: Option<Instant>) -> Result<(), Error> {
        loop {
            match send(self.socket.as_fd(), bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.socket.as_fd(), libc::POLLOUT, deadline)?
                }
                result => return Ok(result?),
            }
        }
    }

    fn recv_packet(&self, packet: &mut Packet, room: usize, deadline: Option<Instant>) -> Result<(), Error> {
        loop {
            match packet.recv(&self.socket, room) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Error::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.socket.as_fd(), libc::POLLIN, deadline)?
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A new socket of our kind.
pub(crate) fn seqpacket() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The message of a received packet; its descriptors go along.
pub(crate) fn open<M: Message>(packet: &mut Packet) -> Result<(M, Vec<OwnedFd>), Error> {
    let fds = mem::take(&mut packet.fds);
    let message = decode(&packet.bytes)?;
    count(&message, fds.len())?;
    Ok((message, fds))
}

/// Whether a message goes with so many descriptors.
pub(crate) fn count<M: Message>(message: &M, fds: usize) -> Result<(), Malformed> {
    if message.fds().contains(&fds) {
        Ok(())
    } else {
        Err(Malformed("it comes with the wrong number of descriptors"))
    }
}

fn remaining(deadline: Option<Instant>) -> Result<Option<Duration>, Error> {
    match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        Some(Duration::ZERO) => Err(Error::TimedOut),
        left => Ok(left),
    }
}

fn set_send_timeout(socket: &OwnedFd, left: Option<Duration>) -> io::Result<()> {
    // Zero would be for ever.
    let left = left.map_or(Duration::ZERO, |left| left.max(Duration::from_micros(1)));
    let time = libc::timeval {
        tv_sec: left.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_usec: left.subsec_micros() as libc::suseconds_t,
    };
    crate::peer::set_option(socket.as_fd(), libc::SO_SNDTIMEO, &time)
}

/// Waits until the socket has one of `events`, or its other side is gone.
fn wait(socket: BorrowedFd<'_>, events: libc::c_short, deadline: Option<Instant>) -> Result<(), Error> {
    loop {
        // Rounded up: a wait that ends too early would spin.
        let left = remaining(deadline)?;
        let millis = left.map_or(-1, |left| left.as_micros().div_ceil(1000).min(i32::MAX as u128) as libc::c_int);
        let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
        // SAFETY: one entry, which is ours.
        if retry(|| unsafe { libc::poll(&mut entry, 1, millis) })? > 0 {
            return Ok(());
        }
    }
}
