//! What a human is told: errors and warnings on stderr, once each, and everything in the trace.
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::CString;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use zerogpu_trace::{message, on, Message};

/// Messages printed so far; a few hundred at most, since each text is fixed but for names.
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
    let mut printed = PRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    if printed.get_or_insert_with(HashSet::new).insert(text.to_string()) {
        // a closed stderr is no reason to fail a call; the trace has the sentence
        let _told = writeln!(std::io::stderr(), "zerogpu: {text}");
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
    let mut printed = PRINTED.lock().unwrap_or_else(PoisonError::into_inner);
    if printed.get_or_insert_with(HashSet::new).insert(text.to_string()) {
        drop(printed);
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

thread_local! {
    /// The thread's last failure, for `zerogpu_reason`. Only the hook's threads have one.
    static REASON: RefCell<CString> = RefCell::new(CString::default());
}

/// Keeps the reason of a failed call of the region interface.
pub fn set_reason(text: &str) {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // a thread that is ending has no reason to keep
    let _ = REASON.try_with(|r| *r.borrow_mut() = text);
}

/// The calling thread's last reason; valid until its next one.
pub fn reason() -> *const std::ffi::c_char {
    REASON.try_with(|r| r.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}
