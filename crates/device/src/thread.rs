//! What belongs to a thread: its stack of current contexts and its capture mode.
//!
//! Only `Cell`s without destructors: cudart's exit handlers call in after a thread's destructors have run.
use std::cell::Cell;
use zerogpu_abi::{CUcontext, CUresult, Res};

/// Contexts that a thread can have pushed.
const DEPTH: usize = 64;

/// One look-up finds all of it: a shared library pays for each thread-local it touches.
struct Stack {
    top: Cell<usize>,
    contexts: [Cell<usize>; DEPTH],
}

thread_local! {
    static STACK: Stack = const { Stack { top: Cell::new(0), contexts: [const { Cell::new(0) }; DEPTH] } };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(0) };
    static ID: Cell<u64> = const { Cell::new(0) };
}

/// The thread's current context; NULL if it has none.
#[inline]
pub fn current() -> CUcontext {
    STACK.with(|s| CUcontext(if s.top.get() == 0 { 0 } else { s.contexts[s.top.get() - 1].get() }))
}

/// Pushes a context.
///
/// # Errors
/// OUT_OF_MEMORY: 64 are pushed.
pub fn push(ctx: CUcontext) -> Res {
    STACK.with(|s| {
        let top = s.top.get();
        s.contexts.get(top).ok_or(CUresult::OUT_OF_MEMORY)?.set(ctx.0);
        s.top.set(top + 1);
        Ok(())
    })
}

/// Whether there is room to push.
pub fn has_room() -> bool {
    STACK.with(|s| s.top.get() < DEPTH)
}

/// Pops the current context.
///
/// # Errors
/// INVALID_CONTEXT: the stack is empty.
pub fn pop() -> Res<CUcontext> {
    STACK.with(|s| {
        let below = s.top.get().checked_sub(1).ok_or(CUresult::INVALID_CONTEXT)?;
        s.top.set(below);
        Ok(CUcontext(s.contexts[below].get()))
    })
}

/// Replaces the top of the stack; NULL pops it.
///
/// # Errors
/// None: it pushes only onto an empty stack.
pub fn set(ctx: CUcontext) -> Res {
    STACK.with(|s| {
        match (ctx.0, s.top.get()) {
            (0, 0) => {}
            (0, top) => s.top.set(top - 1),
            (_, 0) => return push(ctx),
            (_, top) => s.contexts[top - 1].set(ctx.0),
        }
        Ok(())
    })
}

/// Runs `body` with another context current.
///
/// # Errors
/// INVALID_CONTEXT: it is NULL, and `body` has not run; else what `body` answers.
pub fn within<T>(ctx: CUcontext, body: impl FnOnce() -> Res<T>) -> Res<T> {
    // to set NULL would pop, and to set it back replace the context below
    if ctx.0 == 0 {
        return Err(CUresult::INVALID_CONTEXT);
    }
    let before = current();
    set(ctx)?;
    let result = body();
    set(before).and(result)
}

/// Exchanges the thread's capture mode (0 global, 1 thread local, 2 relaxed).
pub fn exchange_capture_mode(mode: u32) -> u32 {
    CAPTURE_MODE.replace(mode)
}

/// The thread's capture mode.
pub fn capture_mode() -> u32 {
    CAPTURE_MODE.get()
}

/// A number of the calling thread, unique for the life of the process.
pub fn id() -> u64 {
    if ID.get() == 0 {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        ID.set(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
    ID.get()
}

/// Starts a thread of ours: named, and with every signal blocked.
///
/// # Errors
/// What the system says, such as that it has no room for another thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    unsignalled(|| std::thread::Builder::new().name(name.into()).spawn(body)).map(|_| ())
}

/// Runs `body` with every signal blocked. A thread that it starts keeps them blocked, since signals are the app's.
pub fn unsignalled<T>(body: impl FnOnce() -> T) -> T {
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are ours; sigfillset and pthread_sigmask write them. The mask is put back below.
    unsafe {
        let mut all = std::mem::MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    let result = body();
    // SAFETY: `old` is the mask that the first call stored.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    result
}
