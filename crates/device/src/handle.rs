//! Handles: addresses in a reserved range of ours, one every 64 bytes, that nothing ever dereferences.
//!
//! Whether a handle is ours, of which kind and alive is a range check and one atomic load, so a wild, freed or foreign
//! value is an error code and never a crash. A slot also caches the object's live twin in the driver below (used by
//! the shim): `twin` is valid only while `epoch` is the current claim's.
use crate::runtime::lacking;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;

/// What a handle stands for.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Library,
    Kernel,
    Function,
    Graph,
    Node,
    GraphExec,
    Pool,
    Array,
    Physical,
    Link,
    UserObject,
    LogListener,
}

/// Bytes of address space between two handles.
const STRIDE: usize = 64;
/// Handles that a process can hold: 16 Mi.
const CAPACITY: usize = 1 << 24;

/// What a slot knows; shared by all threads, read without a lock.
pub struct Slot {
    kind: AtomicU32,
    /// The claim (epoch) in which `twin` was made; 0: never.
    epoch: AtomicU32,
    twin: AtomicU64,
    /// Free for the object's kind: events keep the epoch of their last record here, streams whether they capture, contexts
    /// whether they may be used.
    pub aux: AtomicU64,
}

struct Table {
    base: usize,
    slots: &'static [Slot],
}

static TABLE: OnceLock<Option<Table>> = OnceLock::new();

fn table() -> Option<&'static Table> {
    TABLE.get_or_init(|| map_table().map_err(lacking("2 GiB of addresses")).ok()).as_ref()
}

fn map_table() -> std::io::Result<Table> {
    let reserve = |len: usize, prot: i32| {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of anybody.
        let p = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0)
        };
        if p == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(p as usize)
    };
    let base = reserve(CAPACITY * STRIDE, libc::PROT_NONE)?;
    let slots = reserve(CAPACITY * size_of::<Slot>(), libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the mapping is CAPACITY zeroed slots, never unmapped; all-zero bits are valid atomics.
    let slots = unsafe { std::slice::from_raw_parts(slots as *const Slot, CAPACITY) };
    Ok(Table { base, slots })
}

/// The slot of a handle that is ours (alive or not).
#[inline(always)]
pub fn slot(handle: usize) -> Option<&'static Slot> {
    let t = table()?;
    let off = handle.wrapping_sub(t.base);
    if off >= CAPACITY * STRIDE || off % STRIDE != 0 {
        return None;
    }
    Some(&t.slots[off / STRIDE])
}

/// Whether `handle` is a living object of this kind.
#[inline]
pub fn is(handle: usize, kind: Kind) -> bool {
    slot(handle).is_some_and(|s| s.kind.load(Ordering::Acquire) == kind as u32)
}

/// The kind of a living handle, as a number of [`Kind`]; None: not ours or dead.
pub fn kind_of(handle: usize) -> Option<u32> {
    slot(handle).map(|s| s.kind.load(Ordering::Acquire)).filter(|&k| k != 0)
}

/// The live twin made in claim `epoch`. It may be voided meanwhile by another thread: the caller then still has the old
/// one, so what it stands for has to live until nobody can be using it.
#[inline(always)]
pub fn twin(handle: usize, kind: Kind, epoch: u32) -> Option<u64> {
    let s = slot(handle)?;
    if s.kind.load(Ordering::Acquire) != kind as u32 || s.epoch.load(Ordering::Acquire) != epoch {
        return None;
    }
    // none: the handle is being given to another object at this moment
    Some(s.twin.load(Ordering::Relaxed)).filter(|&twin| twin != 0)
}

/// Remembers the live twin of a handle for claim `epoch`.
pub fn set_twin(handle: usize, epoch: u32, twin: u64) {
    if let Some(s) = slot(handle) {
        s.twin.store(twin, Ordering::Relaxed);
        s.epoch.store(epoch, Ordering::Release);
    }
}

/// Has the live twin of a handle looked up anew. The twin itself stays in the slot: a thread that has just read the epoch
/// must not find a hole behind it.
pub fn void_twin(handle: usize) {
    if let Some(s) = slot(handle) {
        s.epoch.store(0, Ordering::Release);
    }
}

/// What `aux` of a module's handle holds once it has ended, until the handle is given to another object.
const ENDED_MODULE: u64 = u64::from_le_bytes(*b"unloaded");

/// Whether a handle's last object was a module, which has ended.
pub fn has_been_module(handle: usize) -> bool {
    kind_of(handle).is_none() && slot(handle).is_some_and(|s| s.aux.load(Ordering::Relaxed) == ENDED_MODULE)
}

/// Notes that a handle's object was a module, and has ended. The state's lock must be held.
pub fn set_has_been_module(handle: usize) {
    if let Some(s) = slot(handle) {
        s.aux.store(ENDED_MODULE, Ordering::Relaxed);
    }
}

/// Hands out handles. Freed ones are used again as late as possible, so that a stale one is seen for what it is.
#[derive(Default)]
pub struct Allocator {
    next: usize,
    freed: std::collections::VecDeque<usize>,
}

/// Freed handles that rest before the first of them is used again.
const RESTING: usize = 1 << 16;

impl Allocator {
    /// A new handle of this kind; None: all are in use, or the address space could not be reserved.
    pub fn make(&mut self, kind: Kind) -> Option<usize> {
        let t = table()?;
        let index = if self.freed.len() > RESTING || self.next == CAPACITY {
            self.freed.pop_front()?
        } else {
            self.next += 1;
            self.next - 1
        };
        let s = &t.slots[index];
        s.epoch.store(0, Ordering::Relaxed);
        s.twin.store(0, Ordering::Relaxed);
        s.aux.store(0, Ordering::Relaxed);
        s.kind.store(kind as u32, Ordering::Release);
        Some(t.base + index * STRIDE)
    }

    /// Ends a handle's life.
    pub fn drop(&mut self, handle: usize) {
        if let (Some(t), Some(s)) = (table(), slot(handle)) {
            if s.kind.swap(0, Ordering::AcqRel) != 0 {
                self.freed.push_back((handle - t.base) / STRIDE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_only_while_it_lives() {
        let mut a = Allocator::default();
        let h = a.make(Kind::Stream).unwrap();
        assert!(is(h, Kind::Stream) && !is(h, Kind::Event));
        assert!(!is(h + 1, Kind::Stream) && !is(0, Kind::Stream) && !is(usize::MAX, Kind::Stream));
        a.drop(h);
        assert!(!is(h, Kind::Stream));
        assert_ne!(a.make(Kind::Stream).unwrap(), h, "a freed handle rests");
    }

    #[test]
    fn a_twin_belongs_to_one_claim() {
        let mut a = Allocator::default();
        let h = a.make(Kind::Event).unwrap();
        set_twin(h, 3, 77);
        assert_eq!(twin(h, Kind::Event, 3), Some(77));
        assert_eq!(twin(h, Kind::Event, 4), None);
        assert_eq!(twin(h, Kind::Stream, 3), None);
        void_twin(h);
        assert_eq!(twin(h, Kind::Event, 3), None);
        assert_eq!(slot(h).unwrap().twin.load(Ordering::Relaxed), 77, "for who is about to read it");
        set_twin(h, 3, 0);
        assert_eq!(twin(h, Kind::Event, 3), None, "nothing is no twin");
    }

    #[test]
    fn a_twin_that_another_thread_voids_is_there_or_not() {
        // more threads than cores: one is seen that was stopped between its two looks
        const READERS: usize = 16;
        const TIME: std::time::Duration = std::time::Duration::from_secs(1);
        let h = Allocator::default().make(Kind::Function).unwrap();
        let (over, start) = (std::sync::atomic::AtomicBool::new(false), std::time::Instant::now());
        std::thread::scope(|scope| {
            let read = || {
                let mut odd = 0;
                while !over.load(Ordering::Relaxed) {
                    odd += twin(h, Kind::Function, 3).is_some_and(|twin| twin != 77) as usize;
                }
                odd
            };
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
            while start.elapsed() < TIME {
                for _ in 0..1000 {
                    set_twin(h, 3, 77);
                    void_twin(h);
                }
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>(), 0);
        });
    }
}
