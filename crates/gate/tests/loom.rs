//! Models of the gate: loom runs each through every order of events that a few preemptions can make. A deadlock (a lost
//! wake-up) fails a model, and so does touching a [`Guarded`] value without its rule. How to run them: see the crate.
#![allow(unexpected_cfgs)] // `loom`
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use std::sync::{Mutex, PoisonError};
use zerogpu_gate::{set_membarrier, CloseError, Gate};

/// Shared by those inside, or owned by the one that closed the gate. Loom fails the model when both happen at once, or
/// one after the other without being ordered.
struct Guarded(UnsafeCell<u32>);

// SAFETY: loom checks each access.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn share(&self) {
        self.0.with(|_| thread::yield_now());
    }

    fn own(&self) {
        self.0.with_mut(|_| ());
    }
}

struct World {
    gate: Gate,
    value: Guarded,
}

impl World {
    /// Passes if let in.
    fn visit(&'static self) {
        if let Some(_pass) = self.gate.enter() {
            self.value.share();
        }
    }
}

/// Runs the model with and without `membarrier`; its world begins with a closed gate.
fn model(preemptions: usize, model: fn(&'static World)) {
    // What `set_membarrier` sets is shared by the tests of this process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for membarrier in [true, false] {
        set_membarrier(membarrier);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            model(Box::leak(Box::new(World { gate: Gate::new(), value: Guarded(UnsafeCell::new(0)) })));
        });
    }
}

fn spawn(world: &'static World, body: fn(&'static World)) -> JoinHandle<()> {
    thread::spawn(move || body(world))
}

/// Returns once a thread has been refused.
fn wait_until_closing(world: &'static World) {
    let refused = spawn(world, |world| {
        while world.gate.enter().is_some() {
            thread::yield_now();
        }
    });
    refused.join().unwrap();
}

#[test]
fn nobody_is_inside_after_close() {
    model(4, |world| {
        world.gate.open();
        let visitor = spawn(world, World::visit);
        world.gate.close().unwrap();
        world.value.own();
        visitor.join().unwrap();
    });
}

/// Unlike a first visit's, its record is known to all before the gate is closed. Main visits, since it does not end: a
/// thread's end also wakes a close.
#[test]
fn a_second_visit_is_kept_out_as_well() {
    model(3, |world| {
        world.gate.open();
        let closer = spawn(world, |world| {
            world.gate.close().unwrap();
            world.value.own();
        });
        world.visit();
        world.visit();
        closer.join().unwrap();
    });
}

#[test]
fn a_thread_inside_enters_a_closing_gate() {
    model(3, |world| {
        world.gate.open();
        let visitor = spawn(world, |world| {
            if let Some(outer) = world.gate.enter() {
                let inner = world.gate.enter().expect("already inside");
                drop(outer);
                world.value.share();
                assert!(world.gate.is_inside());
                assert_eq!(world.gate.close(), Err(CloseError::Inside));
                drop(inner);
            }
            assert!(!world.gate.is_inside());
        });
        world.gate.close().unwrap();
        world.value.own();
        visitor.join().unwrap();
    });
}

#[test]
fn what_stands_before_open_is_seen_inside() {
    model(2, |world| {
        let visitor = spawn(world, |world| {
            world.visit();
            world.visit();
        });
        for _ in 0..2 {
            world.value.own();
            world.gate.open();
            world.gate.close().unwrap();
        }
        world.value.own();
        visitor.join().unwrap();
    });
}

#[test]
fn both_of_two_closes_wait() {
    model(2, |world| {
        world.gate.open();
        let closer = spawn(world, |world| {
            world.gate.close().unwrap();
            world.value.share();
        });
        let visitor = spawn(world, |world| {
            if let Some(_pass) = world.gate.enter() {
                world.value.own();
            }
        });
        world.gate.close().unwrap();
        world.value.share();
        closer.join().unwrap();
        visitor.join().unwrap();
    });
}

#[test]
fn a_close_ends_when_the_gate_is_opened() {
    model(2, |world| {
        world.gate.open();
        let visitor = spawn(world, World::visit);
        let closer = spawn(world, |world| {
            assert!(matches!(world.gate.close(), Ok(()) | Err(CloseError::Reopened)));
        });
        world.gate.open();
        closer.join().unwrap();
        world.gate.close().unwrap();
        world.value.own();
        visitor.join().unwrap();
    });
}

/// The visitor stays until the close has failed: it must not have to leave for that.
#[test]
fn opening_wakes_a_close_that_waits() {
    model(2, |world| {
        world.gate.open();
        let pass = world.gate.enter().unwrap();
        let closer = spawn(world, |world| {
            assert_eq!(world.gate.close(), Err(CloseError::Reopened));
        });
        wait_until_closing(world);
        world.gate.open();
        closer.join().unwrap();
        drop(pass);
    });
}

/// The first close sleeps until main leaves, which is after main has opened the gate. By then main may have begun a second
/// close, and the visitor may be inside without the first close ever having looked at it.
#[test]
fn a_close_is_not_deceived_by_a_later_one() {
    model(1, |world| {
        world.gate.open();
        let pass = world.gate.enter().unwrap();
        let closer = spawn(world, |world| {
            if world.gate.close().is_ok() {
                world.value.own();
            }
        });
        wait_until_closing(world);
        world.gate.open();
        let visitor = spawn(world, World::visit);
        drop(pass);
        world.gate.close().unwrap();
        closer.join().unwrap();
        visitor.join().unwrap();
    });
}

#[test]
fn a_callback_enters_a_closed_gate_and_its_leaving_is_noticed() {
    model(3, |world| {
        let callback = spawn(world, |world| {
            let _pass = world.gate.enter_callback();
            assert!(world.gate.enter().is_some());
        });
        world.gate.open();
        world.gate.close().unwrap();
        callback.join().unwrap();
        assert_eq!(world.gate.passes(), 2);
    });
}

#[test]
fn a_thread_that_dies_inside_has_left() {
    model(3, |world| {
        world.gate.open();
        let visitor = spawn(world, |world| {
            if let Some(pass) = world.gate.enter() {
                world.value.share();
                std::mem::forget(pass);
            }
        });
        world.gate.close().unwrap();
        world.value.own();
        visitor.join().unwrap();
    });
}

/// The second has a record of its own, or takes the one of the first.
#[test]
fn nobody_of_two_is_inside_after_close() {
    model(2, |world| {
        world.gate.open();
        let first = spawn(world, World::visit);
        let second = spawn(world, World::visit);
        world.gate.close().unwrap();
        world.value.own();
        first.join().unwrap();
        second.join().unwrap();
    });
}
