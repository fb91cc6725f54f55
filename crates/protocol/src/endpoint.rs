//! The broker's end of a connection: never blocks, and bounds what it keeps for a client that does not read.
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::connection::{count, open};
use crate::error::Error;
use crate::hello::{decode_hello, encode_answer, Versions, VERSIONS};
use crate::message::{Answer, Hello, Reason, Refused, ToBroker, ToClient};
use crate::packet::{send, Packet, ALL_FDS};
use crate::wire::encode;

/// A client's connection. After any error the connection is to be dropped.
#[derive(Debug)]
pub struct Endpoint {
    socket: OwnedFd,
    queue: VecDeque<Packet>,
    limit: usize,
    /// Bytes of what is kept.
    kept: usize,
    bytes: Vec<u8>,
}

impl Endpoint {
    /// How many packets wait for a client, unless told otherwise, before it counts as slow.
    pub const QUEUE: usize = 256;

    /// Bytes that wait for a client before it counts as slow.
    pub const BYTES: usize = 8 << 20;

    /// The end of an accepted socket, that keeps up to `limit` packets, of [`Endpoint::BYTES`] together, when the socket is full.
    pub fn new(socket: OwnedFd, limit: usize) -> Self {
        Endpoint { socket, queue: VecDeque::new(), limit, kept: 0, bytes: Vec::new() }
    }

    /// The client's first message, if it is there, with the descriptor of its backing if it is a Space. A client that
    /// speaks no common version is answered here. `buffer` lends its memory, and has what else came of descriptors, also after an
    /// error: closing them may take as long as their owner likes.
    ///
    /// # Errors
    /// [`Error::Mismatch`] once that is answered, [`Error::Malformed`], [`Error::Closed`] or [`Error::Io`]; or as for
    /// [`Endpoint::answer`].
    pub fn recv_hello(&mut self, buffer: &mut Packet) -> Result<Option<(Versions, Hello, Option<OwnedFd>)>, Error> {
        if !self.next(buffer)? {
            return Ok(None);
        }
        match decode_hello(&buffer.bytes, VERSIONS)? {
            (theirs, Ok(hello)) => {
                count(&hello, buffer.fds.len())?;
                Ok(Some((theirs, hello, buffer.fds.pop())))
            }
            (_, Err(mismatch)) => {
                let text = mismatch.at_broker();
                self.answer(&Answer::Refused(Refused { reason: Reason::Version, text: text.clone() }))?;
                Err(Error::Mismatch(mismatch, text))
            }
        }
    }

    /// Answers the hello.
    ///
    /// # Errors
    /// [`Error::Malformed`] if its text has more than [`TEXT_BYTES`](crate::TEXT_BYTES), [`Error::Slow`],
    /// [`Error::Closed`] or [`Error::Io`].
    pub fn answer(&mut self, answer: &Answer) -> Result<(), Error> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let result = encode_answer(answer, VERSIONS, &mut bytes)
            .map_err(Error::from)
            .and_then(|()| self.send_bytes(&bytes, &[] as &[OwnedFd]));
        self.bytes = bytes;
        result
    }

    /// From here on the client can send no descriptors, where the kernel has a word for that (Linux 6.16).
    pub fn refuse_descriptors(&self) {
        const SO_PASSRIGHTS: libc::c_int = 83;
        let no: libc::c_int = 0;
        // SAFETY: reads a number. An older kernel refuses, and messages with descriptors go on being errors.
        unsafe {
            let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const no).cast(), size);
        }
    }

    /// The next message, if one is there. One with descriptors is an error. `buffer` lends its memory, and has them then: closing
    /// a stranger's descriptor may block.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Closed`], or [`Error::Io`], also for a packet with descriptors (`InvalidData`).
    pub fn recv(&mut self, buffer: &mut Packet) -> Result<Option<ToBroker>, Error> {
        if !self.next(buffer)? {
            return Ok(None);
        }
        if !buffer.fds.is_empty() {
            let what = "a packet has more descriptors than are allowed there";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
        }
        open(buffer).map(|(message, _)| Some(message))
    }

    /// Sends a message, or keeps it until [`flush`](Endpoint::flush) if the socket is full. [`Error::Slow`] if too
    /// many, or too many bytes, are kept already. Descriptors are duplicated only if the message must be kept.
    ///
    /// # Errors
    /// [`Error::Malformed`] if a value is beyond its limit or the descriptors are too few or too many, [`Error::Slow`],
    /// [`Error::Closed`] or [`Error::Io`].
    pub fn send(&mut self, message: &ToClient, fds: &[impl AsFd]) -> Result<(), Error> {
        count(message, fds.len())?;
        let mut bytes = std::mem::take(&mut self.bytes);
        let result = encode(message, &mut bytes).map_err(Error::from).and_then(|()| self.send_bytes(&bytes, fds));
        self.bytes = bytes;
        result
    }

    /// Sends what is kept, as far as the socket takes it: to be called when it is writable.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Io`].
    pub fn flush(&mut self) -> Result<(), Error> {
        while let Some(packet) = self.queue.front() {
            match packet.send(&self.socket) {
                Ok(()) => {
                    self.kept = self.kept.saturating_sub(packet.bytes.len());
                    self.queue.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Ends the connection, and forgets what is kept; the descriptor stays open, and of no use.
    pub fn hang_up(&mut self) {
        self.queue.clear();
        self.kept = 0;
        // SAFETY: a descriptor of ours. A peer that is gone already has ended it.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Ends the connection, and gives the descriptor to be closed where that may take its time: what the client has sent and
    /// nobody has read is closed with it, the descriptors of a stranger as well.
    pub fn into_socket(mut self) -> OwnedFd {
        self.hang_up();
        self.socket
    }

    /// How many packets are kept. If it isn't zero, the loop should wait for the socket to be writable.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// All descriptors are taken: the kernel closes those that are not in the thread that receives.
    fn next(&mut self, buffer: &mut Packet) -> Result<bool, Error> {
        match buffer.recv_any(&self.socket, ALL_FDS) {
            Ok(true) => Ok(true),
            Ok(false) => Err(Error::Closed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn send_bytes(&mut self, bytes: &[u8], fds: &[impl AsFd]) -> Result<(), Error> {
        if self.queue.is_empty() {
            match send(self.socket.as_fd(), bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Ok(result?),
            }
        }
        if self.queue.len() >= self.limit || self.kept + bytes.len() > Self::BYTES {
            return Err(Error::Slow(self.queue.len()));
        }
        let fds = fds.iter().map(|fd| fd.as_fd().try_clone_to_owned()).collect::<io::Result<_>>()?;
        self.queue.push_back(Packet { bytes: bytes.to_vec(), fds });
        self.kept += bytes.len();
        Ok(())
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
