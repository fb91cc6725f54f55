/*
 * zerogpu.h: the C interface of the shim, for language hooks.
 *
 * A *region* is a span of time in which the process may hold a GPU. It is opened and closed with the calls below; the
 * Python hook (shim/python/spaces) does so around each call of a function that is marked `@spaces.GPU`.
 *
 *   - A region belongs to the process: while one is open, the work of every thread is inside.
 *   - Regions nest and overlap. When the last one ends the device is parked: memory goes to host RAM, the context is
 *     released, nothing of the process stays on the card.
 *   - Opening a region is cheap and claims nothing. A GPU is claimed at the first operation that needs one.
 *
 * The symbols are exported by the preloaded libcuda.so.1. A hook finds them with dlsym(RTLD_DEFAULT, ...), so it needs
 * no setting, and is without effect in a process that has no shim. All calls may be made from any thread and are safe
 * with one another; none may be made from a signal handler or from a CUDA host callback. A call may block (a claim in
 * progress elsewhere, a park): release your interpreter's lock around it. In a child made by fork() the regions of
 * the parent are unknown, and if the parent had called cuInit, zerogpu_region_begin() fails.
 */
#ifndef ZEROGPU_H
#define ZEROGPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Opens a region with a deadline `seconds` from now; `seconds` must be above zero, and INFINITY means no deadline.
 *
 * Returns the region's number: never zero, never given out twice in a process, and using all 64 bits. Zero means that
 * no region was opened; zerogpu_reason() says why (a duration that is not above zero, a forked child, a device that could
 * not start). That no GPU could be had, and why, is told by zerogpu_region_end().
 *
 * A region ends by itself when the thread that opened it ends, unless zerogpu_region_movable() was called for it.
 *
 * Once the latest deadline of the open regions has passed, launches, copies, memsets and waits of every thread fail
 * with CUDA_ERROR_LAUNCH_TIMEOUT (702) until those regions have ended; calls that only free, destroy or query go on
 * succeeding. The region stays open until zerogpu_region_end().
 */
uint64_t zerogpu_region_begin(double seconds);

/*
 * Claims a GPU for an open region now, before the first operation that needs one, and waits for it: for hooks whose calls must
 * not wait inside such an operation, as that of an event loop. A process that has made no context yet has nothing to claim for.
 *
 * Returns 0, or nonzero if no such region is open or no GPU could be had; zerogpu_reason() says why. Where the region ends
 * meanwhile, and was the last, the wait ends. An error of work that was deferred until now is told later, as that of any work that
 * runs asynchronously.
 */
int zerogpu_region_claim(uint64_t region);

/*
 * Ends a region, from any thread. If it was the last one open, the device is parked before the call returns; a thread
 * that waits in a broker's queue for a GPU to use in it waits no longer: its call is answered with
 * CUDA_ERROR_DEVICE_UNAVAILABLE (46).
 *
 * Returns 0, or nonzero if no such region is open (it has ended, its thread has ended, or the process is a fork of the
 * one that opened it); then nothing has changed. After 0, zerogpu_reason() says why the last attempt to claim a GPU in
 * the regions open until now failed, if it did: what to tell the user whose call ended with a CUDA error. A park that
 * fails is not an error of this call: bytes are kept, and zerogpu_state() and the trace say what is left on the card
 * and why.
 */
int zerogpu_region_end(uint64_t region);

/*
 * Says that the region does not belong to the thread that opened it: it stays open when that thread ends. For work
 * that is resumed on other threads (generators, coroutines). Returns 0, or nonzero if no such region is open.
 */
int zerogpu_region_movable(uint64_t region);

/*
 * Says that nothing runs in the region for now (`rests` is 1: a generator between two steps), or that it goes on (0). A
 * region that rests at its deadline ends there, since whoever is to go on may never do so: later GPU work is not refused for
 * it, zerogpu_region_expired() answers 1, and zerogpu_region_end() 0. Returns 0, or nonzero if no such region is open.
 */
int zerogpu_region_rests(uint64_t region, int rests);

/* Returns 1 once the deadline of this open region has passed, else 0 (also for a region that is not open). */
int zerogpu_region_expired(uint64_t region);

/*
 * Has the process's main thread, if it waits in a broker's queue for a GPU, wait no longer: its call is answered with
 * CUDA_ERROR_DEVICE_UNAVAILABLE (46). For hooks of interpreters, which act on a signal (Ctrl-C) only when the call that waits has
 * come back. What other threads wait for, and a claim of another thread that the main thread waits for, goes on. Returns 0,
 * or nonzero if the main thread makes no claim.
 */
int zerogpu_stop_waiting(void);

/*
 * Writes the state of the virtual device as JSON text (UTF-8) with a terminating NUL into `buf`, cut to `n` bytes in
 * all; `buf` may be null if `n` is 0. Returns the length of the whole text without its NUL, as snprintf does: the text
 * is complete if the result is less than `n`.
 *
 * In a process that has opened no region and called no CUDA function yet, and in the child that a process forked after
 * cuInit, the text is "{}". Keys that hooks and tests
 * may rely on (others may be added; times in milliseconds, sizes in bytes):
 *   "level"          "parked", "claimed", or "lost" once the device has failed for good
 *   "regions"        number of open regions
 *   "claims"         claims since the process started, borrows among them
 *   "parks"          parks since the process started
 *   "borrows"        claims made for work outside any region
 *   "last_claim_ms"  duration of the latest claim, null before the first
 *   "last_park_ms"   duration of the latest park, null before the first
 *   "deferred"       number of commands that wait for the next claim
 *   "deferred_bytes" what they take of host memory
 *   "bytes"          device memory in use, as cuMemGetInfo counts it
 *   "waiting"        while a claim waits for a GPU of the broker: an object with "place" (1 is next), "of" (how many
 *                    wait) and "seconds" (how long still, about), each null where it is not known; else null
 *   "bound_by"       list of texts: each object that binds the process to its context, [] if none
 *   "left"           list of texts: what the last park could not give back to the card (it is tried again), [] if nothing
 *   "last_error"     the last sentence that was told on standard error, null before the first
 */
int zerogpu_state(char *buf, size_t n);

/*
 * Why the calling thread's last zerogpu_region_begin(), zerogpu_region_claim() or zerogpu_region_end() failed, or why the region that it ended
 * had no GPU; "" if neither. UTF-8, one line. Valid until the thread's next call of one of them. Never null.
 */
const char *zerogpu_reason(void);

#ifdef __cplusplus
}
#endif

#endif
