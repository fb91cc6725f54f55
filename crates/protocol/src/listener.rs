//! The broker's listening socket: made here, or handed over by systemd.
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, io, process, ptr};

use crate::address::Address;
use crate::connection::seqpacket;
use crate::packet::retry;
use crate::peer::{option, set_nonblocking};
use crate::place::{make_folder, me, trust};

/// Connections that may wait to be accepted: 200 Spaces can begin at once.
const BACKLOG: libc::c_int = 1024;

/// The first descriptor that systemd passes.
const FIRST_PASSED: libc::c_int = 3;

/// A listening socket. Accepting does not block.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    file: Option<SocketFile>,
}

/// The file of a socket that we bound. Its lock keeps other brokers of this user off it as long as this one lives.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    _lock: File,
}

impl Listener {
    /// Listens on `path`, whose permissions become `mode`. Makes the folder if it is missing. A socket that a dead broker
    /// left there is replaced; a live one, or any other file, is an error. `path` with `.lock` appended is locked.
    ///
    /// # Errors
    /// `InvalidInput` if `path` has not 1 to 107 bytes, `PermissionDenied` if another user can change what it leads to,
    /// `AddrInUse` if a broker listens there, `AlreadyExists` if another file is there, else what the system says.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let address = Address::of(path)?;
        make_folder(path)?;
        trust(path)?;
        let lock = lock(path)?;
        remove_stale(path, &address)?;
        let socket = seqpacket()?;
        // Nobody can connect before `listen`, so that the permissions stand in time.
        address.bind(&socket).map_err(|error| at(path, &error))?;
        fs::set_permissions(path, Permissions::from_mode(mode & 0o777))?;
        let metadata = fs::symlink_metadata(path)?;
        let identity = (metadata.dev(), metadata.ino());
        set_nonblocking(socket.as_fd())?;
        // SAFETY: takes numbers.
        retry(|| unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        Ok(Listener { socket, file: Some(SocketFile { path: path.to_owned(), identity, _lock: lock }) })
    }

    /// The socket that systemd passed to this process, if it did. May be called once.
    ///
    /// # Errors
    /// `InvalidInput` if it passed several, and as for [`Listener::from_passed`].
    pub fn from_activation() -> io::Result<Option<Self>> {
        static TAKEN: AtomicBool = AtomicBool::new(false);

        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(process::id()) || TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        match number("LISTEN_FDS") {
            None | Some(0) => Ok(None),
            // SAFETY: systemd passed it to this process, and the flag above keeps a second owner off.
            Some(1) => Self::from_passed(unsafe { OwnedFd::from_raw_fd(valid(FIRST_PASSED)?) }).map(Some),
            Some(count) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("systemd passed {count} sockets: name one ListenSequentialPacket= in the socket unit"),
            )),
        }
    }

    /// A socket that listens already: from systemd, or from the broker before this one.
    ///
    /// # Errors
    /// `InvalidInput` if it is no listening Unix `SOCK_SEQPACKET` socket, else what the system says.
    pub fn from_passed(socket: OwnedFd) -> io::Result<Self> {
        let is =
            |name, value: libc::c_int| Ok::<_, io::Error>(option::<libc::c_int>(socket.as_fd(), name, -1)? == value);
        let right = is(libc::SO_DOMAIN, libc::AF_UNIX)?
            && is(libc::SO_TYPE, libc::SOCK_SEQPACKET)?
            && is(libc::SO_ACCEPTCONN, 1)?;
        if !right {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket that was passed is no listening Unix SOCK_SEQPACKET socket: use ListenSequentialPacket= in the \
                 socket unit",
            ));
        }
        // SAFETY: takes numbers.
        retry(|| unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
        set_nonblocking(socket.as_fd())?;
        Ok(Listener { socket, file: None })
    }

    /// The next connection; `None` if there is none now.
    ///
    /// # Errors
    /// What the system says, such as that no descriptor is left.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: asks for no address.
            let fd = unsafe { libc::accept4(self.socket.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) };
            if fd >= 0 {
                // SAFETY: it is new and nobody else's.
                return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                // The client is gone already: the next one.
                Some(libc::EINTR | libc::ECONNABORTED) => {}
                _ => return Err(error),
            }
        }
    }

    /// The socket, whose file stays when this process ends: for the broker after this one.
    ///
    /// # Errors
    /// What the system says, such as that no descriptor is left.
    pub fn into_socket(mut self) -> io::Result<OwnedFd> {
        self.file = None;
        self.socket.try_clone()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        // Not if somebody put another file in its place.
        if fs::symlink_metadata(&file.path).is_ok_and(|found| (found.dev(), found.ino()) == file.identity) {
            fs::remove_file(&file.path).ok();
        }
    }
}

/// Takes the lock that belongs to `path`. Looking whether a socket is dead and replacing it are two steps: without a
/// lock, two brokers that start at once could remove each other's.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(&name).map_err(|error| at(&name, &error))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != me() {
        let text = format!("{} is not a file of this user: remove it, or choose another socket", name.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    // SAFETY: takes numbers.
    match retry(|| unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(path)),
        Err(error) => Err(at(&name, &error)),
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &Address) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.file_type().is_socket() {
        let text = format!("{} is there and is no socket: remove it, or choose another socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let probe = seqpacket()?;
    set_nonblocking(probe.as_fd())?;
    match address.connect(&probe) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // A full backlog is a sign of life too.
        Ok(()) => Err(in_use(path)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(path)),
        Err(error) => Err(at(path, &error)),
    }
}

fn in_use(path: &Path) -> io::Error {
    let text = format!("a broker listens on {} already: stop it, or choose another socket", path.display());
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn valid(fd: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: takes numbers.
    retry(|| unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(|_| fd)
}
