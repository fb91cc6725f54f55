//! The gate with real threads, one after another and many at once.
#![allow(unexpected_cfgs)] // `loom`
#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use support::{sleeps, stress, tid};
use zerogpu_gate::{CloseError, Gate};

#[test]
fn it_lets_in_while_it_is_open() {
    static GATE: Gate = Gate::new();
    assert!(GATE.enter().is_none());
    GATE.open();
    assert!(!GATE.is_inside());
    let pass = GATE.enter().unwrap();
    assert!(GATE.is_inside());
    drop(pass);
    assert!(!GATE.is_inside());
    assert_eq!(GATE.close(), Ok(()));
    assert!(GATE.enter().is_none());
    assert_eq!(GATE.passes(), 1);
}

#[test]
fn opening_and_closing_twice_is_as_once() {
    static GATE: Gate = Gate::new();
    assert_eq!(GATE.close(), Ok(()));
    GATE.open();
    GATE.open();
    assert!(GATE.enter().is_some());
    assert_eq!(GATE.close(), Ok(()));
    assert_eq!(GATE.close(), Ok(()));
    assert!(GATE.enter().is_none());
}

#[test]
fn passes_may_end_in_any_order() {
    static GATE: Gate = Gate::new();
    GATE.open();
    let outer = GATE.enter().unwrap();
    let inner = GATE.enter().unwrap();
    drop(outer);
    assert!(GATE.is_inside());
    drop(inner);
    assert!(!GATE.is_inside());
    assert_eq!(GATE.passes(), 2);
}

#[test]
fn a_thread_inside_can_not_close() {
    static GATE: Gate = Gate::new();
    GATE.open();
    let pass = GATE.enter().unwrap();
    assert_eq!(GATE.close(), Err(CloseError::Inside));
    drop(pass);
    assert!(GATE.enter().is_some(), "it is still open");
}

/// The close sleeps while a thread is inside, that thread can enter again and no other can, and the close ends when it
/// leaves.
#[test]
fn a_thread_inside_holds_the_close_back() {
    static GATE: Gate = Gate::new();
    static LEFT: AtomicBool = AtomicBool::new(false);
    GATE.open();
    let pass = GATE.enter().unwrap();
    let (tell, told) = mpsc::channel();
    let closer = thread::spawn(move || {
        tell.send(tid()).unwrap();
        let closed = GATE.close();
        (closed, LEFT.load(Ordering::Relaxed))
    });
    let closer_tid = told.recv().unwrap();
    while thread::spawn(|| GATE.enter().is_some()).join().unwrap() {}
    let begin = Instant::now();
    while !sleeps(closer_tid) {
        assert!(!closer.is_finished(), "it did not wait");
        assert!(begin.elapsed() < Duration::from_secs(60), "it waits, but does not sleep");
        thread::yield_now();
    }
    drop(GATE.enter().expect("this thread is inside"));
    assert!(GATE.is_inside());
    LEFT.store(true, Ordering::Relaxed);
    drop(pass);
    assert_eq!(closer.join().unwrap(), (Ok(()), true));
    assert!(GATE.enter().is_none());
}

#[test]
fn opening_ends_a_close_that_waits() {
    static GATE: Gate = Gate::new();
    GATE.open();
    let pass = GATE.enter().unwrap();
    let closer = thread::spawn(|| GATE.close());
    while thread::spawn(|| GATE.enter().is_some()).join().unwrap() {}
    GATE.open();
    assert_eq!(closer.join().unwrap(), Err(CloseError::Reopened));
    drop(pass);
}

#[test]
fn a_callback_enters_a_closed_gate() {
    static GATE: Gate = Gate::new();
    let pass = GATE.enter_callback();
    assert!(GATE.is_inside());
    assert!(GATE.enter().is_some());
    drop(pass);
    assert!(GATE.enter().is_none());
}

#[test]
fn a_thread_that_ended_inside_is_not_waited_for() {
    static GATE: Gate = Gate::new();
    GATE.open();
    thread::spawn(|| std::mem::forget(GATE.enter().unwrap())).join().unwrap();
    assert_eq!(GATE.close(), Ok(()));
}

#[test]
fn many_threads_pass_while_it_is_opened_and_closed() {
    static GATE: Gate = Gate::new();
    stress(&GATE, 10_000);
}
