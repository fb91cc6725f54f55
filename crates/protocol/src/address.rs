//! The address of a socket in the file system.
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{io, mem};

use crate::packet::retry;

/// The address of a socket in the file system.
pub(crate) struct Address(libc::sockaddr_un);

impl Address {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: all zeroes is an address without a path.
        let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // The last byte stays zero. A first byte of zero would be another name space.
        if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
            let text = format!("{}: a socket's path has 1 to 107 bytes: choose another", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        for (to, from) in address.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        Ok(Address(address))
    }

    pub(crate) fn connect(&self, socket: &OwnedFd) -> io::Result<()> {
        // SAFETY: the address is ours and as long as it says.
        retry(|| unsafe { libc::connect(socket.as_raw_fd(), (&raw const self.0).cast(), Self::LENGTH) }).map(|_| ())
    }

    pub(crate) fn bind(&self, socket: &OwnedFd) -> io::Result<()> {
        // SAFETY: as above.
        retry(|| unsafe { libc::bind(socket.as_raw_fd(), (&raw const self.0).cast(), Self::LENGTH) }).map(|_| ())
    }

    const LENGTH: libc::socklen_t = mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
}
