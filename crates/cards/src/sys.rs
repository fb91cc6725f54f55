//! The system calls that std lacks: byte locks, a shared mapping, a word at fork.

use crate::layout::{Table, LENGTH};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Takes the lock on one byte if no other process has it. Locks of the own process never stand in the way.
pub(crate) fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
    granted(set(file, libc::F_SETLK, libc::F_WRLCK, byte))
}

/// The same together with others who only read; turns this process's own lock on the byte into such a one.
pub(crate) fn try_lock_shared(file: &File, byte: u64) -> io::Result<bool> {
    granted(set(file, libc::F_SETLK, libc::F_RDLCK, byte))
}

fn granted(set: io::Result<()>) -> io::Result<bool> {
    match set {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the lock on one byte, waiting for another process to drop it.
pub(crate) fn lock(file: &File, byte: u64) -> io::Result<()> {
    wait(file, libc::F_WRLCK, byte)
}

/// The same together with others who only read; the file need not be open for writing.
pub(crate) fn lock_shared(file: &File, byte: u64) -> io::Result<()> {
    wait(file, libc::F_RDLCK, byte)
}

fn wait(file: &File, kind: libc::c_int, byte: u64) -> io::Result<()> {
    loop {
        match set(file, libc::F_SETLKW, kind, byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Drops the lock on one byte.
pub(crate) fn unlock(file: &File, byte: u64) -> io::Result<()> {
    set(file, libc::F_SETLK, libc::F_UNLCK, byte)
}

/// The other process that has the lock on one byte: its id as this process sees it, 0 if it can't be seen from here.
pub(crate) fn locked_by(file: &File, byte: u64) -> io::Result<Option<u32>> {
    let mut asked = flock(libc::F_WRLCK, byte);
    // SAFETY: F_GETLK reads and writes one `flock`, which lives on this stack; the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut asked) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let free = i32::from(asked.l_type) == libc::F_UNLCK;
    Ok((!free).then(|| u32::try_from(asked.l_pid).unwrap_or(0)))
}

fn set(file: &File, command: libc::c_int, kind: libc::c_int, byte: u64) -> io::Result<()> {
    let lock = flock(kind, byte);
    // SAFETY: the lock commands read one `flock`, which lives on this stack; the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn flock(kind: libc::c_int, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

/// Sleeps while the lower half of a word of the file is `value`, until somebody calls [`wake`], at most `patience`.
pub(crate) fn sleep_while(word: &AtomicU64, value: u64, patience: Duration) {
    let time = libc::timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    // SAFETY: the kernel reads the word's lower half, which stands first on this architecture, and the time. Whatever it
    // answers, the caller looks at the word again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value as u32, &raw const time) };
}

/// Wakes who sleeps on a word, in any process.
pub(crate) fn wake(word: &AtomicU64) {
    // SAFETY: the kernel uses the address of the word only to find the sleepers.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Maps the file for good.
pub(crate) fn map(file: &File) -> io::Result<&'static Table> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anyone.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, LENGTH = size_of::<Table>() bytes long and never unmapped; a Table is made of
    // atomics, for which any bits are valid and changes by other processes are allowed.
    Ok(unsafe { &*at.cast::<Table>() })
}

/// Has `child` called in each forked child from now on.
pub(crate) fn at_fork(child: unsafe extern "C" fn()) -> io::Result<()> {
    // SAFETY: `child` is a function of this library; the C library forgets it when the library is unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(child)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
