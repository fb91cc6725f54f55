//! Executes copies and fills on the host: planned under the state's lock, moved outside it, large ones by several threads.
use crate::memory::backing::Filler;
use crate::memory::{Memory, Segment};
use crate::op::{Copy, Fill, Plane};
use crate::thread;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use zerogpu_abi::{CUresult, Res};

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct we pass; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Bytes from which a move is worth a second thread.
const PARALLEL: u64 = 16 << 20;
/// Bytes from which it is worth asking whether the destination has memory.
const FILL: u64 = 256 << 10;
/// Bytes between two such questions.
const STRIDE: usize = 4 << 20;
/// Threads of a move at most: memory bandwidth is saturated by few.
const THREADS: u64 = 4;

/// Moves and fills of host memory, ready to be done.
pub enum Plan {
    /// Nothing to do.
    Nothing,
    /// Contiguous pieces: (to, from, bytes), and what fills the backing where it has no memory yet.
    Moves(Vec<(usize, usize, u64)>, Option<Filler>),
    /// Rows at fixed distances. They are found as they are moved: a plan is made under the lock, and there may be millions.
    Rows {
        /// What is written.
        dst: Rows,
        /// What is read.
        src: Rows,
        /// Bytes a row, rows a slice, slices.
        shape: [u64; 3],
    },
    /// Rows to fill: bytes a row, rows, the element repeated in them, and its size.
    Fills(Rows, [u64; 2], [u8; 4], usize),
}

/// Rows at fixed distances in memory that may be in several places on the host.
pub struct Rows {
    /// From the first byte to the last.
    places: Vec<Segment>,
    /// Bytes from row to row, and from slice to slice.
    pitch: u64,
    slice: u64,
}

impl Rows {
    /// Calls `piece(host, bytes)` for each piece of a row, in order.
    fn row(&self, y: u64, z: u64, width: u64, mut piece: impl FnMut(usize, u64)) {
        let (mut off, mut left) = (z * self.slice + y * self.pitch, width);
        for place in &self.places {
            if left == 0 {
                return;
            }
            if off >= place.len {
                off -= place.len;
                continue;
            }
            let n = left.min(place.len - off);
            piece(place.host + off as usize, n);
            (off, left) = (0, left - n);
        }
    }

    /// A row's pieces.
    fn pieces(&self, y: u64, z: u64, width: u64, into: &mut Vec<Segment>) {
        into.clear();
        self.row(y, z, width, |host, len| into.push(Segment { host, len }));
    }

    /// Notes in the memory that all of it is going to be written.
    fn mark(&self, memory: &Memory) {
        self.places.iter().for_each(|s| memory.mark(s.host, s.len));
    }
}

/// Plans a copy, and notes in the memory what it is going to write.
///
/// # Errors
/// INVALID_VALUE: a side goes beyond the last address.
pub fn plan_copy(memory: &Memory, c: &Copy) -> Res<Plan> {
    let plan = copy_plan(memory, c)?;
    match &plan {
        Plan::Moves(moves, _) => moves.iter().for_each(|&(to, _, len)| memory.mark(to, len)),
        Plan::Rows { dst, .. } => dst.mark(memory),
        Plan::Nothing | Plan::Fills(..) => {}
    }
    Ok(plan)
}

fn copy_plan(memory: &Memory, c: &Copy) -> Res<Plan> {
    if c.bytes() == 0 {
        return Ok(Plan::Nothing);
    }
    if c.is_linear() {
        let (dst, src) = (memory.segments(c.dst.at, c.bytes())?, memory.segments(c.src.at, c.bytes())?);
        return Ok(Plan::Moves(zip(&dst, &src), memory.filler()));
    }
    let rows = |p: &Plane| -> Res<Rows> {
        let span = c.span(p).ok_or(CUresult::INVALID_VALUE)?;
        Ok(Rows { places: memory.segments(p.at, span)?, pitch: p.pitch, slice: p.slice })
    };
    Ok(Plan::Rows { dst: rows(&c.dst)?, src: rows(&c.src)?, shape: [c.width, c.height, c.depth] })
}

/// Plans a fill, and notes in the memory what it is going to write.
///
/// # Errors
/// INVALID_VALUE: it goes beyond the last address.
pub fn plan_fill(memory: &Memory, f: &Fill) -> Res<Plan> {
    // of a fill without rows nothing says that a row's bytes can be counted
    if f.width == 0 || f.height == 0 {
        return Ok(Plan::Nothing);
    }
    let row = f.width * f.element as u64;
    let shape = if f.pitch == row { [row * f.height, 1] } else { [row, f.height] };
    let span = f.span().ok_or(CUresult::INVALID_VALUE)?;
    let rows = Rows { places: memory.segments(f.dst, span)?, pitch: f.pitch, slice: 0 };
    rows.mark(memory);
    Ok(Plan::Fills(rows, shape, f.value.to_le_bytes(), f.element as usize))
}

/// Cuts two lists of pieces of the same total length at each other's borders.
fn zip(dst: &[Segment], src: &[Segment]) -> Vec<(usize, usize, u64)> {
    let mut moves = Vec::with_capacity(dst.len() + src.len() - 1);
    each(dst, src, |to, from, len| moves.push((to, from, len)));
    moves
}

/// Calls `piece(to, from, bytes)` for those pieces.
fn each(dst: &[Segment], src: &[Segment], mut piece: impl FnMut(usize, usize, u64)) {
    let (mut d, mut s) = (dst.iter().copied(), src.iter().copied());
    let (mut a, mut b) = (d.next(), s.next());
    while let (Some(x), Some(y)) = (a, b) {
        let n = x.len.min(y.len);
        piece(x.host, y.host, n);
        let rest = |p: Segment| Segment { host: p.host + n as usize, len: p.len - n };
        a = if x.len == n { d.next() } else { Some(rest(x)) };
        b = if y.len == n { s.next() } else { Some(rest(y)) };
    }
}

/// Plans that are being done, and how many threads wait for there to be none.
static MOVING: AtomicUsize = AtomicUsize::new(0);
static WAITING: AtomicUsize = AtomicUsize::new(0);
static STILL: Mutex<()> = Mutex::new(());
static STOPPED: Condvar = Condvar::new();

/// A plan that is being done. Made under the lock of the state it was planned in and kept while the bytes move, so that
/// whoever holds that lock and calls [`settle`] finds every planned byte in its place.
pub struct Moving(());

impl Moving {
    /// Counts one more. The state's lock must be held.
    pub fn begin() -> Self {
        MOVING.fetch_add(1, Ordering::SeqCst);
        Moving(())
    }
}

/// Whether no plan is being done. The state's lock must be held: none begins meanwhile.
pub fn is_still() -> bool {
    MOVING.load(Ordering::SeqCst) == 0
}

impl Drop for Moving {
    fn drop(&mut self) {
        // sequentially consistent with `settle`: either it sees the zero, or this sees that it waits
        if MOVING.fetch_sub(1, Ordering::SeqCst) == 1 && WAITING.load(Ordering::SeqCst) != 0 {
            drop(STILL.lock().unwrap_or_else(PoisonError::into_inner));
            STOPPED.notify_all();
        }
    }
}

/// Waits until the bytes of every plan made so far have moved. The caller holds the state's lock, so none is added; those
/// that move take no lock to end.
pub fn settle() {
    WAITING.fetch_add(1, Ordering::SeqCst);
    let mut still = STILL.lock().unwrap_or_else(PoisonError::into_inner);
    while MOVING.load(Ordering::SeqCst) != 0 {
        still = STOPPED.wait(still).unwrap_or_else(PoisonError::into_inner);
    }
    WAITING.fetch_sub(1, Ordering::SeqCst);
}

/// Does a plan. The app vouches for its own memory, and for not freeing device memory that a copy still uses, as it
/// must with any driver; our backing stays mapped for the life of the process.
pub fn run(plan: &Plan) {
    match plan {
        Plan::Nothing => {}
        Plan::Moves(moves, filler) => {
            for &(to, from, len) in moves {
                move_bytes(to, from, len, filler.as_ref());
            }
        }
        Plan::Rows { dst, src, shape: [width, height, depth] } => {
            let (mut to, mut from) = (Vec::new(), Vec::new());
            for z in 0..*depth {
                for y in 0..*height {
                    dst.pieces(y, z, *width, &mut to);
                    src.pieces(y, z, *width, &mut from);
                    each(&to, &from, |to, from, len| move_piece(to, from, len as usize));
                }
            }
        }
        Plan::Fills(rows, [width, height], value, element) => {
            for y in 0..*height {
                rows.row(y, 0, *width, |to, len| {
                    split(len, |off, n| fill_piece(to + off as usize, n as usize, *value, *element));
                });
            }
        }
    }
}

fn move_bytes(to: usize, from: usize, len: u64, filler: Option<&Filler>) {
    let apart = to.abs_diff(from) as u64 >= len;
    if apart {
        let filler = filler.filter(|_| len >= FILL);
        split(len, |off, n| match filler {
            Some(filler) => fill_or_move(to + off as usize, from + off as usize, n as usize, filler),
            None => move_piece(to + off as usize, from + off as usize, n as usize),
        });
    } else {
        move_piece(to, from, len as usize);
    }
}

/// Calls `piece(offset, bytes)` for the parts of a length, on several threads if it is large.
fn split(len: u64, piece: impl Fn(u64, u64) + Sync) {
    let threads = if len < PARALLEL { 1 } else { cores().min(THREADS) };
    let part = (len / threads).next_multiple_of(4096).max(1);
    std::thread::scope(|scope| {
        let piece = &piece;
        let mut off = 0;
        while len - off > part {
            let at = off;
            let job = move || piece(at, part);
            // no thread to be had: the work is done here
            let helper = thread::unsignalled(|| std::thread::Builder::new().spawn_scoped(scope, job).is_ok());
            if !helper {
                job();
            }
            off += part;
        }
        piece(off, len - off);
    });
}

/// Moves in strides, each filled where there is no memory, copied elsewhere.
fn fill_or_move(to: usize, from: usize, len: usize, filler: &Filler) {
    for at in (0..len).step_by(STRIDE) {
        let n = STRIDE.min(len - at);
        // SAFETY: see `run`; a page of the app's that can't be read is left to the copy, which faults as any would.
        let filled = unsafe { filler.fill(to + at, from + at, n) };
        move_piece(to + at + filled, from + at + filled, n - filled);
    }
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

fn move_piece(to: usize, from: usize, len: usize) {
    // SAFETY: see `run`; `copy` allows overlap.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) }
}

fn fill_piece(to: usize, len: usize, value: [u8; 4], element: usize) {
    if value[..element].iter().all(|&b| b == value[0]) {
        // SAFETY: see `run`.
        return unsafe { std::ptr::write_bytes(to as *mut u8, value[0], len) };
    }
    for at in (0..len).step_by(element) {
        // SAFETY: see `run`; `at + element <= len`, since lengths are whole elements.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), (to + at) as *mut u8, element) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_both_lists_borders() {
        let s = |host, len| Segment { host, len };
        assert_eq!(zip(&[s(0, 10), s(100, 5)], &[s(50, 4), s(70, 11)]), [(0, 50, 4), (4, 70, 6), (100, 76, 5)]);
    }

    #[test]
    fn a_large_move_on_several_threads_moves_every_byte() {
        let from: Vec<u8> = (0..(PARALLEL as usize + 12345)).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut to = vec![0u8; from.len()];
        run(&Plan::Moves(vec![(to.as_mut_ptr() as usize, from.as_ptr() as usize, from.len() as u64)], None));
        assert!(from == to);
    }

    #[test]
    fn helpers_of_a_move_take_no_signal() {
        let caller = std::thread::current().id();
        split(4 * PARALLEL, |_, _| {
            let mut mask = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: asks for the calling thread's mask.
            let blocked = unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr());
                libc::sigismember(mask.as_ptr(), libc::SIGINT) == 1
            };
            assert_eq!(blocked, std::thread::current().id() != caller);
        });
    }

    #[test]
    fn settling_waits_for_bytes_that_move() {
        let seen = AtomicUsize::new(0);
        let moving = Moving::begin();
        std::thread::scope(|s| {
            s.spawn(|| {
                settle();
                assert_eq!(seen.load(Ordering::SeqCst), 1);
            });
            while WAITING.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            seen.store(1, Ordering::SeqCst);
            drop(moving);
        });
    }

    /// A copy of another thread would write into the next one's memory.
    #[test]
    fn freed_memory_keeps_its_bytes_while_bytes_move() {
        use crate::memory::{Layout, RegionKind, GRANULE};
        let mut memory = Memory::new(Layout::default(), 1);
        let ctx = zerogpu_abi::CUcontext::NULL;
        let at = memory.alloc(0, GRANULE, RegionKind::Device, ctx, &mut |_| Ok(())).unwrap();
        let host = memory.arena_host(at).unwrap();
        // SAFETY: the allocation's own byte, and the backing's after it.
        let byte = move || unsafe { &*(host as *const std::sync::atomic::AtomicU8) };
        byte().store(7, Ordering::SeqCst);
        let moving = Moving::begin();
        std::thread::scope(|s| {
            let freed = s.spawn(|| memory.free(at, &mut |_| Ok(())));
            while WAITING.load(Ordering::SeqCst) == 0 && !freed.is_finished() {
                std::thread::yield_now();
            }
            assert_eq!(byte().load(Ordering::SeqCst), 7);
            drop(moving);
            assert_eq!(freed.join().unwrap(), Ok(()));
        });
        assert_eq!(byte().load(Ordering::SeqCst), 0);
    }

    #[test]
    fn memory_that_is_there_and_memory_that_is_not_get_the_same_bytes() {
        let backing = crate::memory::backing::Backing::new(64 << 20).unwrap();
        let (to, len) = (backing.at(4096 + 10), (9 << 20) + 77);
        let byte = |i: usize| (i * 7 + i / 251) as u8;
        let from: Vec<u8> = (0..len).map(byte).collect();
        // a neighbour's bytes in the first page, and memory in the middle
        for there in [4096, 6 << 20] {
            // SAFETY: inside the mapping, nobody else's.
            unsafe { (backing.at(there) as *mut u8).write(99) };
        }
        run(&Plan::Moves(vec![(to, from.as_ptr() as usize, len as u64)], Some(backing.filler(64 << 20))));
        // SAFETY: the range just written, of this test's own mapping.
        let (before, got) =
            unsafe { (*(backing.at(4096) as *const u8), std::slice::from_raw_parts(to as *const u8, len + 1)) };
        assert!(before == 99 && got[..len] == from[..] && got[len] == 0);
    }

    #[test]
    fn only_memory_that_is_not_there_is_filled() {
        let backing = crate::memory::backing::Backing::new(1 << 20).unwrap();
        let from = [7u8; 8192];
        // SAFETY: inside the mapping, nobody else's; the source is 8192 bytes.
        unsafe {
            assert_eq!(backing.filler(64 << 20).fill(backing.at(0), from.as_ptr() as usize, 8192), 8192);
            assert_eq!(
                backing.filler(64 << 20).fill(backing.at(0), from.as_ptr() as usize, 8192),
                0,
                "it is there now"
            );
            assert_eq!(
                backing.filler(64 << 20).fill(from.as_ptr() as usize, from.as_ptr() as usize, 8192),
                0,
                "not the backing's"
            );
            assert_eq!(backing.filler(64 << 20).fill(backing.at(65536), 16, 4096), 0, "the source can't be read");
        }
    }

    #[test]
    fn overlapping_moves_are_like_memmove() {
        let mut v: Vec<u8> = (0..100).collect();
        let p = v.as_mut_ptr() as usize;
        run(&Plan::Moves(vec![(p + 10, p, 50)], None));
        assert_eq!(v[10..60], (0..50).collect::<Vec<u8>>()[..]);
    }

    #[test]
    fn a_fill_repeats_its_element() {
        let mut v = [0u16; 9];
        let places = vec![Segment { host: v.as_mut_ptr() as usize, len: 16 }];
        run(&Plan::Fills(Rows { places, pitch: 16, slice: 0 }, [16, 1], 0x1234u32.to_le_bytes(), 2));
        assert_eq!(v, [0x1234, 0x1234, 0x1234, 0x1234, 0x1234, 0x1234, 0x1234, 0x1234, 0]);
    }

    /// Two rows of 6 bytes, 8 apart, over places of 5, 4 and 20 bytes.
    #[test]
    fn rows_lie_over_the_borders_of_places() {
        let mut to = [[0u8; 20]; 3];
        let places = |v: &mut [[u8; 20]; 3]| {
            v.iter_mut().zip([5, 4, 20]).map(|(v, len)| Segment { host: v.as_mut_ptr() as usize, len }).collect()
        };
        let from: Vec<u8> = (1..=14).collect();
        let src = vec![Segment { host: from.as_ptr() as usize, len: 14 }];
        let rows = |places, pitch| Rows { places, pitch, slice: 0 };
        run(&Plan::Rows { dst: rows(places(&mut to), 8), src: rows(src, 8), shape: [6, 2, 1] });
        assert_eq!((&to[0][..6], &to[1][..5]), (&[1, 2, 3, 4, 5, 0][..], &[6, 0, 0, 9, 0][..]));
        assert_eq!(to[2][..6], [10, 11, 12, 13, 14, 0]);
        run(&Plan::Fills(rows(places(&mut to), 8), [6, 2], [9; 4], 1));
        assert_eq!((&to[0][..6], &to[1][..5]), (&[9, 9, 9, 9, 9, 0][..], &[9, 0, 0, 9, 0][..]));
        assert_eq!(to[2][..6], [9, 9, 9, 9, 9, 0]);
    }

    /// A plan is made under the lock: what it costs must not grow with the rows.
    #[test]
    fn a_plan_has_no_entry_a_row() {
        use crate::memory::{Layout, RegionKind};
        let mut memory = Memory::new(Layout::default(), 1);
        let ctx = zerogpu_abi::CUcontext::NULL;
        let at = memory.alloc(0, 1 << 30, RegionKind::Device, ctx, &mut |_| Ok(())).unwrap();
        let (element, width, height) = (1, 1, 1 << 27);
        let fill = Fill { dst: at, pitch: 8, value: 0, element, width, height, blocking: true };
        let Ok(Plan::Fills(rows, shape, ..)) = plan_fill(&memory, &fill) else { panic!("a fill") };
        assert_eq!((rows.places.len(), shape), (1, [1, height]));
    }
}
