//! The files of physical memory that other processes may have.
use super::GRANULE;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// The bytes of a shareable physical handle: a memfd whose size can't change, named for its device.
pub struct SharedFile {
    fd: OwnedFd,
    len: u64,
}

/// What the names of such files begin with; the device's ordinal follows.
const SHARED_NAME: &str = "zerogpu-physical-";
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

impl SharedFile {
    /// A new file of `len` bytes.
    ///
    /// # Errors
    /// What the system says, such as that no descriptor is left.
    pub fn new(len: u64, device: u32) -> std::io::Result<Self> {
        let name = std::ffi::CString::new(format!("{SHARED_NAME}{device}"))?;
        let failed = std::io::Error::last_os_error;
        // SAFETY: the name is a C string; the descriptor that comes back is ours alone.
        unsafe {
            let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            if fd < 0 {
                return Err(failed());
            }
            let fd = OwnedFd::from_raw_fd(fd);
            if libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) != 0 {
                return Err(failed());
            }
            if libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) != 0 {
                return Err(failed());
            }
            Ok(Self { fd, len })
        }
    }

    /// The file behind a descriptor of anyone's, and its device. None if it is not such a file, of whole granules; the
    /// descriptor stays the caller's.
    pub fn adopt(fd: RawFd) -> Option<(Self, u32)> {
        // SAFETY: any number may be asked about; a descriptor that comes back is ours alone.
        let (own, seals) = unsafe {
            let own = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
            if own < 0 {
                return None;
            }
            (OwnedFd::from_raw_fd(own), libc::fcntl(own, libc::F_GET_SEALS))
        };
        let name = std::fs::read_link(format!("/proc/self/fd/{}", own.as_raw_fd())).ok()?;
        let name = name.to_str()?.strip_prefix("/memfd:")?.strip_prefix(SHARED_NAME)?;
        let device = name.split(' ').next()?.parse().ok()?;
        let file = std::fs::File::from(own);
        let len = file.metadata().ok()?.len();
        let sized = seals >= 0 && seals & SEALS == SEALS && len > 0 && len % GRANULE == 0;
        let good = sized && seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) == 0;
        good.then(|| (Self { fd: file.into(), len }, device))
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a handle has at least a granule.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The descriptor, for as long as this lives.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Another descriptor of the file, for the app.
    ///
    /// # Errors
    /// What the system says, such as that no descriptor is left.
    pub fn export(&self) -> std::io::Result<RawFd> {
        self.fd.try_clone().map(IntoRawFd::into_raw_fd)
    }
}
