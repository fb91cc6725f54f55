//! Fences of unequal cost: none on the side that runs often, `membarrier(2)` on the side that runs seldom.

use std::sync::atomic::{compiler_fence, fence, AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const WORKS: u8 = 1;
const REFUSED: u8 = 2;

/// Whether the kernel does `membarrier` for this process. Asked once: it must not change while a gate is open.
static MEMBARRIER: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Pairs with [`heavy_fence`] if `membarrier` works.
#[inline]
pub(crate) fn light_fence() {
    compiler_fence(Ordering::SeqCst);
}

/// Pairs with [`heavy_fence`] if `membarrier` does not work.
pub(crate) fn fence_without_membarrier() {
    if MEMBARRIER.load(Ordering::Acquire) != WORKS {
        fence(Ordering::SeqCst);
    }
}

/// A full fence, in this thread and, if `membarrier` works, in every other; or `errno` if it no longer works.
pub(crate) fn heavy_fence() -> Result<(), i32> {
    if MEMBARRIER.load(Ordering::Acquire) == WORKS {
        return membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    }
    fence(Ordering::SeqCst);
    Ok(())
}

/// Whether light fences pair with heavy ones. The first call registers the process with the kernel, and tries.
pub(crate) fn membarrier_works() -> bool {
    if MEMBARRIER.load(Ordering::Acquire) == UNKNOWN {
        let tried = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
            .and_then(|()| membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED));
        let found = if tried.is_ok() { WORKS } else { REFUSED };
        // The first thread to ask decides for all.
        let _ = MEMBARRIER.compare_exchange(UNKNOWN, found, Ordering::AcqRel, Ordering::Acquire);
    }
    MEMBARRIER.load(Ordering::Acquire) == WORKS
}

/// Ask again: in the child of a fork, about whose registration the manual is silent.
pub(crate) fn forget_membarrier() {
    MEMBARRIER.store(UNKNOWN, Ordering::Release);
}

/// <https://man7.org/linux/man-pages/man2/membarrier.2.html>; the error is `errno`.
fn membarrier(command: libc::c_int) -> Result<(), i32> {
    // SAFETY: three integers, no pointers; the call has no effect but the ordering of memory accesses.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if done == 0 {
        return Ok(());
    }
    // SAFETY: glibc's pointer to this thread's errno is always valid.
    Err(unsafe { *libc::__errno_location() })
}
