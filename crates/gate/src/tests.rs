//! What only the inside can show: how many records there are, and whose they are.

use crate::Gate;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Barrier;
use std::thread;

fn records(gate: &Gate) -> usize {
    gate.records().iter().count()
}

#[test]
fn threads_one_after_another_share_a_record() {
    static GATE: Gate = Gate::new();
    GATE.open();
    for _ in 0..100 {
        thread::spawn(|| drop(GATE.enter().unwrap())).join().unwrap();
    }
    assert_eq!(records(&GATE), 1);
    assert_eq!(GATE.passes(), 100);
}

#[test]
fn threads_at_once_have_a_record_each() {
    static GATE: Gate = Gate::new();
    static ALL_IN: Barrier = Barrier::new(8);
    GATE.open();
    for _ in 0..3 {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(|| {
                    let _pass = GATE.enter().unwrap();
                    ALL_IN.wait();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    assert_eq!(records(&GATE), 8);
    assert_eq!(GATE.passes(), 24);
    GATE.close().unwrap();
}

#[test]
fn a_thread_has_a_record_for_each_gate() {
    static GATES: [Gate; 3] = [const { Gate::new() }; 3];
    for gate in &GATES {
        gate.open();
    }
    for _ in 0..10 {
        let visit = || {
            let _first = GATES[0].enter().unwrap();
            let _last = GATES[2].enter().unwrap();
            assert_eq!([0, 1, 2].map(|gate| GATES[gate].is_inside()), [true, false, true]);
            drop(GATES[1].enter().unwrap());
            GATES[1].close().unwrap();
            GATES[1].open();
        };
        thread::spawn(visit).join().unwrap();
    }
    assert_eq!([0, 1, 2].map(|gate| records(&GATES[gate])), [1; 3]);
    assert_eq!([0, 1, 2].map(|gate| GATES[gate].passes()), [10; 3]);
}

/// As a library does whose own thread-end destructor calls the driver.
#[test]
fn a_thread_may_enter_while_it_ends() {
    static GATE: Gate = Gate::new();
    static ENTERED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn enter(_: *mut c_void) {
        drop(GATE.enter().unwrap());
        ENTERED.fetch_add(1, Ordering::Relaxed);
    }

    GATE.open();
    drop(GATE.enter()); // makes the gate's key first: its destructor runs before the other
    let mut key = 0;
    // SAFETY: `key` is written, and the destructor is a function of the right type.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(enter)) }, 0);
    for _ in 0..50 {
        thread::spawn(move || {
            drop(GATE.enter().unwrap());
            // SAFETY: the key exists; its destructor ignores the value.
            assert_eq!(unsafe { libc::pthread_setspecific(key, std::ptr::dangling()) }, 0);
        })
        .join()
        .unwrap();
    }
    assert_eq!(ENTERED.load(Ordering::Relaxed), 50);
    assert_eq!(records(&GATE), 2, "this thread's, and one for all others");
    GATE.close().unwrap();
}

/// Rust and C++ run these before the keys of pthread.
#[test]
fn a_thread_may_enter_in_a_thread_local_destructor() {
    static GATE: Gate = Gate::new();

    struct Late(Cell<u32>);

    impl Drop for Late {
        fn drop(&mut self) {
            drop(GATE.enter().unwrap());
        }
    }

    thread_local! {
        static LATE: Late = const { Late(Cell::new(0)) };
    }

    GATE.open();
    for _ in 0..50 {
        thread::spawn(|| {
            LATE.with(|late| late.0.set(1));
            drop(GATE.enter().unwrap());
        })
        .join()
        .unwrap();
    }
    assert_eq!(records(&GATE), 1);
    assert_eq!(GATE.passes(), 100);
}

#[test]
fn who_only_asks_is_inside_and_does_not_count() {
    static GATE: Gate = Gate::new();
    assert!(GATE.enter_to_ask().is_none(), "closed");
    GATE.open();
    let asks = GATE.enter_to_ask().unwrap();
    assert!(GATE.is_inside());
    assert_eq!((GATE.passes(), GATE.close()), (0, Err(crate::CloseError::Inside)));
    // work inside of it counts
    drop(GATE.enter().unwrap());
    drop(asks);
    assert_eq!((GATE.passes(), GATE.close()), (1, Ok(())));
}

#[test]
fn records_fill_no_line_together() {
    assert_eq!(std::mem::size_of::<crate::record::Record>(), 128);
    assert_eq!(std::mem::align_of::<crate::record::Record>(), 128);
}
