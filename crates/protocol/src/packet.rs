//! One packet of a SEQPACKET socket, with the file descriptors that travel with it.
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{io, mem, ptr};

use crate::limits::{PACKET_BYTES, PACKET_FDS};

/// Descriptors that the kernel lets travel with one packet (SCM_MAX_FD).
pub(crate) const ALL_FDS: usize = 253;

/// Room for the control message that carries [`ALL_FDS`] descriptors, aligned as the kernel wants it.
type Control = [u64; 2 + ALL_FDS.div_ceil(2)];

// The header is two words long, and two descriptors fill one.
const _: () = assert!(mem::size_of::<libc::cmsghdr>() == 16 && PACKET_FDS <= ALL_FDS);

/// Bytes and the descriptors that came, or will go, with them. Can be received into again and again.
#[derive(Debug, Default)]
pub struct Packet {
    /// The message.
    pub bytes: Vec<u8>,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// An empty one.
    pub const fn new() -> Self {
        Packet { bytes: Vec::new(), fds: Vec::new() }
    }

    /// Sends it without waiting: `WouldBlock` if the socket is full.
    ///
    /// # Errors
    /// As for [`send()`].
    pub fn send(&self, socket: impl AsFd) -> io::Result<()> {
        send(socket.as_fd(), &self.bytes, &self.fds)
    }

    /// Receives the next packet in place of this one without waiting, with up to `room` descriptors: `WouldBlock` if
    /// there is none, `false` if the other side is gone. A packet that has more bytes or descriptors than allowed is
    /// `InvalidData`. It is consumed, and the descriptors in excess never become this process's.
    ///
    /// # Errors
    /// `WouldBlock` or `InvalidData`, as above, else what the system says.
    pub fn recv(&mut self, socket: impl AsFd, room: usize) -> io::Result<bool> {
        let received = self.recv_any(socket, room.min(PACKET_FDS));
        if !matches!(received, Ok(true)) {
            self.fds.clear();
        }
        received
    }

    /// The same, but whatever came of descriptors stays here, also where it is an error: closing those of a stranger may take
    /// as long as its owner likes.
    pub(crate) fn recv_any(&mut self, socket: impl AsFd, room: usize) -> io::Result<bool> {
        self.bytes.clear();
        self.fds.clear();
        self.bytes.reserve_exact(PACKET_BYTES);
        let mut control: Control = [0; 2 + ALL_FDS.div_ceil(2)];
        let mut part = libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: PACKET_BYTES };
        let mut header = header(&mut part);
        if room > 0 {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = control_len(room.min(ALL_FDS));
        }
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: the header names memory of ours that is as long as it says, for the call's duration.
        let length = retry(|| unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut header, flags) })?;
        // SAFETY: the kernel has filled the control buffer as far as the header now says. Each descriptor in it is new.
        unsafe { take_fds(&header, &mut self.fds) };
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            let what = if header.msg_flags & libc::MSG_TRUNC != 0 {
                "a packet is longer than 64 KiB"
            } else {
                "a packet has more descriptors than are allowed there"
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        // SAFETY: the kernel has written that many bytes, and there is room for them.
        unsafe { self.bytes.set_len(length.min(PACKET_BYTES)) };
        Ok(length > 0)
    }
}

/// Sends a packet without waiting: `WouldBlock` if the socket is full.
///
/// # Errors
/// `WouldBlock`, `InvalidInput` if it has not 1 byte to 64 KiB, or more than 64 descriptors, else what the system says.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[impl AsFd]) -> io::Result<()> {
    if bytes.is_empty() || bytes.len() > PACKET_BYTES || fds.len() > PACKET_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a packet has 1 byte to 64 KiB and up to 64 descriptors",
        ));
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = header(&mut part);
    let mut control: Control = [0; 2 + ALL_FDS.div_ceil(2)];
    if !fds.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control_len(fds.len());
        // SAFETY: the buffer begins with room for a header and that many descriptors, and is aligned for both.
        unsafe {
            let message = control.as_mut_ptr().cast::<libc::cmsghdr>();
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = control_len(fds.len());
            let data = libc::CMSG_DATA(message).cast::<RawFd>();
            for (i, fd) in fds.iter().enumerate() {
                data.add(i).write(fd.as_fd().as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the header names memory of ours that is as long as it says; sending only reads it.
    retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &header, flags) }).map(|_| ())
}

fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: all zeroes is a header that names nothing.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = ptr::from_mut(part);
    header.msg_iovlen = 1;
    header
}

/// Bytes of a control message with so many descriptors, without the padding that would make room for another.
fn control_len(fds: usize) -> usize {
    mem::size_of::<libc::cmsghdr>() + fds * mem::size_of::<RawFd>()
}

/// Makes the descriptors in a received header's control messages ours.
///
/// # Safety
/// The header is as `recvmsg` left it, and nobody else owns the descriptors.
unsafe fn take_fds(header: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the macros stay inside the control buffer, whose messages the kernel wrote.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let count = (*message).cmsg_len.saturating_sub(control_len(0)) / mem::size_of::<RawFd>();
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
}

/// Calls again as long as a signal interrupts.
pub(crate) fn retry<T: TryInto<usize>>(mut call: impl FnMut() -> T) -> io::Result<usize> {
    loop {
        if let Ok(result) = call().try_into() {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
