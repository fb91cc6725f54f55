//! One record for each thread and gate: how deep the thread is inside. Records are leaked and used again.

use crate::gate::Gate;
use crate::sys::{slot, AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::ptr;

/// `depth` and `entries` are written by its thread alone. The alignment keeps two threads off one pair of cache lines.
#[repr(align(128))]
pub(crate) struct Record {
    depth: AtomicU32,
    /// Whether a thread has it.
    owned: AtomicBool,
    entries: AtomicU64,
    gate: &'static Gate,
    /// The gate's record made before this one, or null.
    older: AtomicPtr<Record>,
    /// The thread's record for another gate, or null.
    sibling: AtomicPtr<Record>,
}

/// The records of a gate. They only become more.
pub(crate) struct Records {
    newest: AtomicPtr<Record>,
}

impl Record {
    /// The calling thread's record for this gate, made if there is none.
    #[inline]
    pub fn of_this_thread(gate: &'static Gate) -> &'static Record {
        match slot::get() {
            Some(record) if ptr::eq(record.gate, gate) => record,
            _ => Record::find_or_take(gate),
        }
    }

    /// The calling thread's record for this gate, if it has one.
    pub fn find(gate: &Gate) -> Option<&'static Record> {
        of_thread(slot::get()).find(|record| ptr::eq(record.gate, gate))
    }

    #[cold]
    fn find_or_take(gate: &'static Gate) -> &'static Record {
        Record::find(gate).unwrap_or_else(|| {
            let record = gate.records().take(gate);
            record.sibling.store(slot::get().map_or(ptr::null_mut(), pointer), Ordering::Relaxed);
            slot::set(record);
            record
        })
    }

    pub fn gate(&self) -> &'static Gate {
        self.gate
    }

    /// How many passes the thread holds. What it did before it left is visible to a thread that sees 0.
    pub fn depth(&self) -> u32 {
        self.depth.load(Ordering::Acquire)
    }

    /// One deeper; the depth before.
    #[inline]
    pub fn deepen(&self) -> u32 {
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth.wrapping_add(1), Ordering::Relaxed);
        depth
    }

    /// One less deep; the depth now.
    #[inline]
    pub fn rise(&self) -> u32 {
        let depth = self.depth.load(Ordering::Relaxed).wrapping_sub(1);
        self.depth.store(depth, Ordering::Release);
        depth
    }

    #[inline]
    pub fn count_entry(&self) {
        self.entries.store(self.entries.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// For a thread that is no more: whoever takes the record next starts outside.
    pub fn hand_back(&self) {
        self.depth.store(0, Ordering::Release);
        self.owned.store(false, Ordering::Release);
    }
}

impl Records {
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Records { newest: AtomicPtr::new(ptr::null_mut()) }
    }

    #[cfg(loom)]
    pub fn new() -> Self {
        Records { newest: AtomicPtr::new(ptr::null_mut()) }
    }

    pub fn iter(&self) -> impl Iterator<Item = &'static Record> {
        std::iter::successors(leaked(self.newest.load(Ordering::Acquire)), |record| {
            leaked(record.older.load(Ordering::Relaxed))
        })
    }

    /// A record that no thread has, or a new one.
    fn take(&self, gate: &'static Gate) -> &'static Record {
        let free = |record: &&Record| {
            !record.owned.load(Ordering::Relaxed)
                && record.owned.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        self.iter().find(free).unwrap_or_else(|| self.add(gate))
    }

    fn add(&self, gate: &'static Gate) -> &'static Record {
        let record: &'static Record = Box::leak(Box::new(Record {
            depth: AtomicU32::new(0),
            owned: AtomicBool::new(true),
            entries: AtomicU64::new(0),
            gate,
            older: AtomicPtr::new(ptr::null_mut()),
            sibling: AtomicPtr::new(ptr::null_mut()),
        }));
        let mut newest = self.newest.load(Ordering::Acquire);
        loop {
            record.older.store(newest, Ordering::Relaxed);
            match self.newest.compare_exchange(newest, pointer(record), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return record,
                Err(newer) => newest = newer,
            }
        }
    }
}

/// The thread with these records has ended. It may have died inside (`pthread_exit` in a callback), and a close may be
/// waiting for it.
pub(crate) fn thread_ended(records: Option<&'static Record>) {
    for record in of_thread(records) {
        record.hand_back();
        record.gate.left();
    }
}

/// A thread's records, from the first. Each is left behind before the caller sees it, and may be given away.
fn of_thread(first: Option<&'static Record>) -> impl Iterator<Item = &'static Record> {
    let mut next = first;
    std::iter::from_fn(move || {
        let record = next?;
        next = leaked(record.sibling.load(Ordering::Relaxed));
        Some(record)
    })
}

/// What this module's atomic pointers hold.
fn pointer(record: &'static Record) -> *mut Record {
    ptr::from_ref(record).cast_mut()
}

fn leaked(record: *mut Record) -> Option<&'static Record> {
    // SAFETY: the pointers are private to this module, which stores in them only null and what `pointer` made of a
    // reference that lives for ever; nothing is written through them.
    unsafe { record.as_ref() }
}
