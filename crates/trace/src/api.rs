//! The process's one trace, as the shim uses it.
use crate::record::{Launch, Message, Span};
use crate::settings::Settings;
use crate::tracer::{Tracer, Who};
use crate::{symbols, sys, Error};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

/// Whether calls are recorded. The only thing that is looked at while tracing is off.
static ON: AtomicBool = AtomicBool::new(false);
/// The trace; null before `start`, after `finish`, after a failure and in a forked child. Never freed once set.
static TRACER: AtomicPtr<Tracer> = AtomicPtr::new(null_mut());
/// Whether `start` has been called.
static STARTED: AtomicBool = AtomicBool::new(false);
/// One bit per function: whether its calls are recorded.
static WANTED: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];

/// How long `finish` waits for the writer.
const FINISH: Duration = Duration::from_secs(5);

thread_local! {
    // plain cells: no destructor, no allocation
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static DEPTH: Cell<u8> = const { Cell::new(0) };
}

/// Whether there is a trace: one relaxed load.
#[inline(always)]
pub fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether calls of function `id` are recorded; false at the cost of [`on`] while tracing is off.
#[inline(always)]
pub fn records(id: u32) -> bool {
    on() && wanted(id)
}

#[cold]
fn wanted(id: u32) -> bool {
    WANTED.get(id as usize / 64).is_some_and(|w| w.load(Ordering::Relaxed) >> (id % 64) & 1 != 0)
}

/// Starts the trace that `settings` (the value of `ZEROGPU_TRACE`) asks for. True: tracing is on. Meant for the first
/// driver call; reads and writes files and starts a thread.
///
/// # Errors
/// The settings can't be understood, a file can't be made, or the trace was started before. Tracing stays off.
pub fn start(settings: &str) -> Result<bool, Error> {
    if STARTED.swap(true, Ordering::SeqCst) {
        return Err(Error::Started);
    }
    let Some(parsed) = Settings::parse(settings, std::process::id())? else { return Ok(false) };
    for (id, function) in symbols::functions().iter().enumerate() {
        if parsed.wants(&function.name) {
            WANTED[id / 64].fetch_or(1 << (id % 64), Ordering::Relaxed);
        }
    }
    sys::on_fork(forked).map_err(|cause| Error::Thread { cause })?;
    let tracer = Tracer::start(&parsed, settings, turn_off)?;
    // never freed: other threads may be recording at any time
    TRACER.store(Box::leak(Box::new(tracer)), Ordering::Release);
    ON.store(true, Ordering::Release);
    Ok(true)
}

/// In a child made by `fork` the trace is off: it has no writer, and the ring is the parent's.
extern "C" fn forked() {
    turn_off();
}

fn turn_off() {
    ON.store(false, Ordering::SeqCst);
    TRACER.store(null_mut(), Ordering::SeqCst);
}

/// Ends the trace: nothing more is recorded, the output is completed and the ring deleted. Waits at most 5 seconds; if
/// the writer needs longer, the ring stays for [`crate::recover()`]. May be called from `atexit`, more than once, and in a
/// forked child (where it does nothing). False: the writer needed longer.
pub fn finish() -> bool {
    let tracer = tracer();
    turn_off();
    match tracer {
        Some(t) => t.finish(FINISH),
        None => true,
    }
}

#[inline]
fn tracer() -> Option<&'static Tracer> {
    // SAFETY: null, or a `Tracer` leaked by `start`.
    unsafe { TRACER.load(Ordering::Acquire).as_ref() }
}

/// The current time in nanoseconds, for `start_ns` and `end_ns`.
#[inline]
pub fn now() -> u64 {
    sys::now()
}

/// A recorded call begins: what this thread records until [`call`] is nested in it. Gives the current time.
#[inline]
pub fn enter() -> u64 {
    DEPTH.with(|d| d.set(d.get().saturating_add(1)));
    sys::now()
}

/// A call that began with [`enter`] has ended. `args` are its arguments as [`raw`] makes them, `bytes` what it moved, set or
/// allocated; 0 where the arguments say so themselves (`ByteCount`, `bytesize`, the sizes of memsets).
#[inline]
pub fn call(id: u32, args: &[u64], start_ns: u64, end_ns: u64, result: u32, bytes: u64) {
    DEPTH.with(|d| d.set(d.get().saturating_sub(1)));
    if let Some((t, who)) = tracer_and_who() {
        t.call(who, id, args, start_ns, end_ns, result, bytes);
    }
}

/// Runs `body`, a driver function with the arguments `args` (as [`raw`] makes them), and records the call: [`enter`] and
/// [`call`] in one, kept out of line so that the untraced path stays free of it. `detail`, given number, arguments and
/// result, may record more of the call and gives its bytes; 0 where the arguments say so themselves.
#[cold]
#[inline(never)]
pub fn traced<const N: usize>(
    id: u32,
    args: [u64; N],
    body: impl FnOnce() -> u32,
    detail: fn(u32, &[u64], u32) -> u64,
) -> u32 {
    let start = enter();
    let result = body();
    let end = now();
    let bytes = detail(id, &args, result);
    call(id, &args, start, end, result, bytes);
    result
}

/// Records a launch made by function `id`, before that call ends.
pub fn launch(id: u32, launch: &Launch) {
    if let Some((t, who)) = tracer_and_who().filter(|_| wanted(id)) {
        t.launch(who, sys::now(), id, launch);
    }
}

/// Records a message.
pub fn message(kind: Message, text: &str) {
    if let Some((t, who)) = tracer_and_who() {
        t.message(who, sys::now(), kind, text);
    }
}

/// Records a stretch of time ([`now`] at its start and end), with the bytes it moved (0: none).
pub fn span(kind: Span, name: &str, start_ns: u64, end_ns: u64, bytes: u64) {
    if let Some((t, who)) = tracer_and_who() {
        t.span(who, kind, name, start_ns, end_ns, bytes);
    }
}

/// Records that `name` has `value` from now on.
pub fn counter(name: &str, value: u64) {
    if let Some((t, who)) = tracer_and_who() {
        t.counter(who, sys::now(), name, value);
    }
}

/// The low 8 bytes of an argument, zero-extended: what [`call`] takes, for any type that a driver function has.
///
/// # Safety
/// `T` has no padding in its first 8 bytes (no parameter type of the driver has).
#[inline(always)]
pub unsafe fn raw<T: Copy>(value: T) -> u64 {
    let mut word = [MaybeUninit::new(0u8); 8];
    let bytes = size_of::<T>().min(8);
    // SAFETY: both sides are valid for `bytes` bytes and apart; `T` has no padding there, by the caller's promise, so all 8 are initialised.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const value).cast(), word.as_mut_ptr(), bytes);
        std::mem::transmute::<[MaybeUninit<u8>; 8], u64>(word)
    }
}

#[inline]
fn tracer_and_who() -> Option<(&'static Tracer, Who)> {
    let tracer = tracer()?;
    let thread = match THREAD.get() {
        0 => introduce(tracer),
        known => known,
    };
    Some((tracer, Who { thread, depth: DEPTH.get() }))
}

/// The thread's first record.
#[cold]
fn introduce(tracer: &Tracer) -> u32 {
    let thread = sys::thread_id();
    THREAD.set(thread);
    let name = sys::thread_name();
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    tracer.thread(Who { thread, depth: 0 }, &String::from_utf8_lossy(name));
    thread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_has_its_bit() {
        assert!(symbols::functions().len() <= WANTED.len() * 64);
    }

    #[test]
    fn arguments_of_every_size_become_words() {
        // SAFETY: none of these has padding.
        unsafe {
            assert_eq!(raw(0xa5u8), 0xa5);
            assert_eq!(raw(0xffffu16), 0xffff);
            assert_eq!(raw(-1i32), 0xffff_ffff);
            assert_eq!(raw(1.5f32), u64::from(1.5f32.to_bits()));
            assert_eq!(raw(u64::MAX), u64::MAX);
            assert_eq!(raw(std::ptr::without_provenance::<u8>(0x7000_0000_0000)), 0x7000_0000_0000);
            assert_eq!(raw(None::<unsafe extern "C" fn()>), 0);
            assert_eq!(raw(zerogpu_abi::CUmemLocation { kind: 1, id: 2 }), 1 | 2 << 32);
            assert_eq!(raw(zerogpu_abi::CUipcMemHandle { reserved: [7; 64] }), 0x0707_0707_0707_0707);
        }
    }

    #[test]
    fn without_a_trace_nothing_happens() {
        assert!(!on() && !records(0));
        assert_eq!(traced(0, [1], || 42, |_, _, _| 0), 42);
        message(Message::Warning, "nobody hears this");
        assert!(finish());
    }
}
