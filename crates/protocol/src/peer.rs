//! Who is at the other side of a socket.
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, mem, ptr};

/// Who made a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Number of the process; zero if it can't be seen from here (another PID name space).
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// `SO_PEERPIDFD`: Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// Who made this connection.
///
/// # Errors
/// What the system says, as of a descriptor that is no socket.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let libc::ucred { pid, uid, gid } = option(socket, libc::SO_PEERCRED, libc::ucred { pid: 0, uid: 0, gid: 0 })?;
    Ok(Peer { pid, uid, gid })
}

/// A descriptor of the process that made this connection, which is readable when that has ended. Where the kernel is
/// older than 6.5 it is found by its number, which is another process's if it had ended before the call: then the connection
/// has ended too, which is an error here. Call it right after accepting.
///
/// # Errors
/// `NotConnected` if, on such a kernel, the connection has ended; else what the system says.
pub fn pidfd(socket: BorrowedFd<'_>, pid: i32) -> io::Result<OwnedFd> {
    match option::<libc::c_int>(socket, SO_PEERPIDFD, -1) {
        // SAFETY: the kernel made it for this call.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            let found = pidfd_open(pid)?;
            if ended(socket)? {
                return Err(io::ErrorKind::NotConnected.into());
            }
            Ok(found)
        }
        Err(error) => Err(error),
    }
}

/// Whether the other side has closed the connection.
fn ended(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry, which is ours.
    crate::packet::retry(|| unsafe { libc::poll(&mut entry, 1, 0) }).map(|_| entry.revents & libc::POLLHUP != 0)
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel made it for this call.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket option of the kernel's, as plain old data.
pub(crate) fn option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes. Callers pass integers and structures of integers.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, ptr::from_mut(&mut value).cast(), &mut length)
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a socket option.
pub(crate) fn set_option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads that many bytes.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, ptr::from_ref(value).cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes calls on it return at once.
pub(crate) fn set_nonblocking(socket: BorrowedFd<'_>) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: takes numbers.
    let flags = crate::packet::retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) })? as libc::c_int;
    // SAFETY: as above.
    crate::packet::retry(|| unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(|_| ())
}
