//! What a human is told: errors and warnings on stderr, once each, and everything in the trace.
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use zerogpu_device::thread::unsignalled;
use zerogpu_trace::{message, on, Message};

/// Messages printed so far. Beyond [`MOST`] they are forgotten, and told once more: some have numbers in them, and would be new
/// for ever.
static PRINTED: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// The last of them, for `zerogpu_state`.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// The last sentence that [`error`] was given.
pub fn last_error() -> Option<String> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// One sentence with a remedy, on stderr (once), in the trace, and in the state.
pub fn error(text: &str) {
    message(Message::Warning, text);
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_string());
    // a stderr that can't be written is no reason to fail a call; the trace has the sentence
    if first(text) && !write(&format!("zerogpu: {text}\n")) {
        forget(text);
    }
}

/// So many are remembered.
const MOST: usize = 1000;

/// Whether a text is new; from now on it is not.
fn first(text: &str) -> bool {
    let mut printed = PRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    let printed = printed.get_or_insert_with(HashSet::new);
    if printed.len() >= MOST {
        printed.clear();
    }
    printed.insert(text.to_string())
}

/// A text that was not told is told when there is another reason to.
fn forget(text: &str) {
    if let Some(printed) = PRINTED.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        printed.remove(text);
    }
}

/// How long a reader of stderr that does not read may hold up a caller, who may have locks: milliseconds.
const PATIENCE: libc::c_int = 100;

/// Writes to stderr, if it takes it: a program whose stderr is a pipe that nobody reads must not stop for it, and one
/// whose reader is gone must not die of SIGPIPE.
fn write(line: &str) -> bool {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one descriptor, ours to fill.
    let ready = unsafe { libc::poll(&mut stderr, 1, PATIENCE) } == 1 && stderr.revents == libc::POLLOUT;
    ready && send(line)
}

/// The write itself. The signal of a reader that leaves just now is this thread's own: it is blocked, and taken here.
fn send(line: &str) -> bool {
    unsignalled(|| {
        // SAFETY: our bytes.
        let written = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
        if written < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPIPE) {
            take_pipe_signal();
        }
        written > 0
    })
}

fn take_pipe_signal() {
    let mut set = std::mem::MaybeUninit::uninit();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is ours and is filled before it is used.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &now);
    }
}

/// Why something happened; in the trace only.
pub fn explain(text: &str) {
    if on() {
        message(Message::Explain, text);
    }
}

/// As [`explain`], but each text once.
pub fn explain_once(text: &str) {
    if first(text) {
        explain(text);
    }
}

/// Words of the bitmap of functions that were named.
const WORDS: usize = 16;
static NAMED: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// A function that zerogpu does not have was called; named once.
pub fn unsupported(id: usize, name: &str) {
    let bit = 1 << (id % 64);
    if NAMED[id / 64 % WORDS].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        message(
            Message::Unsupported,
            &format!("{name} is not supported by zerogpu: answered CUDA_ERROR_NOT_SUPPORTED"),
        );
    }
}

/// Bytes of a reason, its NUL included; a longer one is cut.
const LONGEST: usize = 1024;

thread_local! {
    /// The thread's last failure, for `zerogpu_reason`. No destructor: it is asked for while a thread ends, too.
    static REASON: [Cell<u8>; LONGEST] = const { [const { Cell::new(0) }; LONGEST] };
}

/// Keeps the reason of a failed call of the region interface.
pub fn set_reason(text: &str) {
    REASON.with(|reason| {
        let bytes = text.bytes().take(LONGEST - 1).chain([0]);
        reason.iter().zip(bytes).for_each(|(to, byte)| to.set(byte));
    });
}

/// The calling thread's last reason; valid until its next one.
pub fn reason() -> *const std::ffi::c_char {
    REASON.with(|reason| reason.as_ptr().cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason as a thread's last destructors see it.
    static SEEN: Mutex<Option<String>> = Mutex::new(None);

    extern "C" fn at_the_end(_: *mut libc::c_void) {
        set_reason("at the end");
        // SAFETY: a C string of this thread.
        let text = unsafe { std::ffi::CStr::from_ptr(reason()) };
        *SEEN.lock().unwrap() = Some(text.to_string_lossy().into_owned());
    }

    #[test]
    fn a_thread_has_a_reason_to_its_end() {
        std::thread::spawn(|| {
            set_reason("before");
            let mut key = 0;
            // SAFETY: a new key, whose destructor is a function of this program.
            unsafe {
                assert_eq!(libc::pthread_key_create(&mut key, Some(at_the_end)), 0);
                assert_eq!(libc::pthread_setspecific(key, std::ptr::dangling()), 0);
            }
        })
        .join()
        .unwrap();
        assert_eq!(SEEN.lock().unwrap().as_deref(), Some("at the end"));
    }

    /// Runs `body` in a child of fork, whose stderr is the pipe end `stderr`; how the child ended.
    fn in_child(stderr: libc::c_int, body: fn() -> bool) -> libc::c_int {
        let mut status = 0;
        // SAFETY: the child makes a few system calls and leaves by _exit, or is killed after a while.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::alarm(20);
                libc::dup2(stderr, libc::STDERR_FILENO);
                libc::_exit(i32::from(body()));
            }
            libc::waitpid(child, &mut status, 0);
        }
        status
    }

    #[test]
    fn a_stderr_that_takes_nothing_holds_nobody_up() {
        let mut ends = [0; 2];
        // SAFETY: two descriptors, ours.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        assert_eq!(in_child(ends[1], || !write("it is written")), 0);
        let full = || {
            // SAFETY: plain calls; the pipe is filled to its end.
            unsafe {
                libc::fcntl(libc::STDERR_FILENO, libc::F_SETFL, libc::O_NONBLOCK);
                while libc::write(libc::STDERR_FILENO, [0u8; 4096].as_ptr().cast(), 4096) > 0 {}
                libc::fcntl(libc::STDERR_FILENO, libc::F_SETFL, 0);
            }
            write("nobody reads this")
        };
        assert_eq!(in_child(ends[1], full), 0, "a full pipe");
        // SAFETY: our reader's end.
        unsafe { libc::close(ends[0]) };
        assert_eq!(in_child(ends[1], || write("nobody is there")), 0, "a pipe without a reader");
        assert_eq!(in_child(ends[1], || send("the reader left after we looked")), 0);
    }
}
