//! What the kernel and the C library do for the trace. All `unsafe` of this crate is here, in `map` and in `api`.
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC: the same clock in all processes of a machine.
#[inline]
pub fn now() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec to write to; this clock always exists, so the call can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::gettid() as u32 }
}

/// The user as whom this process opens files.
pub fn user() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// The name of the calling thread, ended by a zero.
pub fn thread_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, the last of them 0.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// Sleeps while `word` holds `value`, until it is woken or `timeout` has passed. May return at any time: check again.
pub fn sleep_while(word: &AtomicU32, value: u32, timeout: Option<Duration>) {
    let time = timeout
        .map(|t| libc::timespec { tv_sec: t.as_secs() as _, tv_nsec: libc::c_long::from(t.subsec_nanos() as i32) });
    let time = time.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: the word is a valid, aligned u32 for the whole call, and the time is null or a valid timespec.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, value, time) };
}

/// Wakes every thread that sleeps on `word`.
pub fn wake(word: &AtomicU32) {
    // SAFETY: waking only looks the address up; the word is valid.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
}

/// Starts a thread that runs `body` with all signals blocked, so that neither the program's handlers nor a SIGPIPE of the
/// trace's own output run there. `pthread_create`, because std's `spawn` leaves a destructor on the calling thread.
pub fn spawn(body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    extern "C" fn run(body: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: `body` is the pointer made by `Box::into_raw` below; this thread is its only owner.
        let body = unsafe { Box::from_raw(body.cast::<Box<dyn FnOnce() + Send>>()) };
        // SAFETY: PR_SET_NAME reads a string that ends within 16 bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"zerogpu-trace".as_ptr()) };
        body();
        std::ptr::null_mut()
    }
    let body = Box::into_raw(Box::new(body));
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: each object is initialised by the first call that gets it and lives until the last; `run` takes the body
    // over if, and only if, the thread was made.
    let error = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        let error = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run, body.cast());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        error
    };
    if error == 0 {
        return Ok(());
    }
    // SAFETY: no thread was made, so the body is still ours.
    drop(unsafe { Box::from_raw(body) });
    Err(io::Error::from_raw_os_error(error))
}

/// Has `child` run in every child that `fork` makes. `child` may only touch atomics.
pub fn on_fork(child: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the handler is a function of this library; the C library forgets it when the library is unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(child)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Takes the exclusive POSIX lock of a file: it ends with the process (or its first close of the file) and is not
/// inherited. Ok(Some(pid)): that process has it.
pub fn lock(file: &File) -> io::Result<Option<u32>> {
    let whole =
        || libc::flock { l_type: libc::F_WRLCK as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the descriptor is open and the kernel only reads the struct.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &whole()) } == 0 {
        return Ok(None);
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
        return Err(error);
    }
    let mut holder = whole();
    // SAFETY: the descriptor is open and `holder` is a valid flock to write to.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut holder) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // released in between, or held in another pid namespace: held by someone, the number is unknown
    Ok(Some(holder.l_pid.max(0) as u32))
}

/// Gives `file` its full size on disk now, so that no later store into its mapping can fail.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Writes to descriptor 2, past std's locks.
pub fn stderr(bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the buffer is valid for reading `rest.len()` bytes.
        let n = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(n) {
            Ok(n) => rest = &rest[n..],
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => wait_writable(2)?,
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// Waits until a descriptor that the program made non-blocking takes bytes again.
fn wait_writable(fd: i32) -> io::Result<()> {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd.
    match unsafe { libc::poll(&mut poll, 1, -1) } {
        -1 if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
