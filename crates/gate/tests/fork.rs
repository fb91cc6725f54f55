//! The child of a fork. A program of its own: the child has only the thread that forked.
#![allow(unexpected_cfgs)] // `loom`
#![cfg(not(loom))]

use std::sync::mpsc;
use std::thread;
use zerogpu_gate::Gate;

/// Forks; in the child it runs the check, whose answer is what this returns in the parent.
fn in_child(check: fn() -> bool) -> bool {
    // SAFETY: the child runs the check, which uses the gate only, and ends without any of the parent's clean-up.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: it only sets a clock; a child that waits for ever is killed after so many seconds.
            unsafe { libc::alarm(60) };
            let code = i32::from(!check());
            // SAFETY: it only ends the process.
            unsafe { libc::_exit(code) }
        }
        child => {
            assert!(child > 0);
            let mut status = -1;
            // SAFETY: the child is this thread's to wait for, and `status` is written.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

static GATE: Gate = Gate::new();

/// One test, since all of it is about this one process.
#[test]
fn a_child_has_a_closed_gate_and_no_other_threads() {
    GATE.open();
    let (entered, has_entered) = mpsc::channel();
    let (leave, may_leave) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let _pass = GATE.enter().unwrap();
        entered.send(()).unwrap();
        may_leave.recv().unwrap();
    });
    has_entered.recv().unwrap();

    let outside = || {
        let open = GATE.enter().is_some();
        GATE.after_fork_in_child();
        let closed = GATE.enter().is_none();
        GATE.open();
        let opened = GATE.enter().is_some();
        // It would wait for ever for the thread that the child does not have.
        open && closed && opened && GATE.close().is_ok() && GATE.enter().is_none()
    };
    assert!(in_child(outside));

    let inside = || {
        GATE.after_fork_in_child();
        let again = GATE.enter().is_some();
        again && GATE.is_inside()
    };
    let pass = GATE.enter().unwrap();
    assert!(in_child(inside));
    drop(pass);

    // Forked while another thread waits for the gate to close.
    let closer = thread::spawn(|| GATE.close());
    while thread::spawn(|| GATE.enter().is_some()).join().unwrap() {}
    let closing = || {
        GATE.after_fork_in_child();
        let closed = GATE.enter().is_none();
        GATE.open();
        closed && GATE.enter().is_some() && GATE.close().is_ok()
    };
    assert!(in_child(closing));

    leave.send(()).unwrap();
    other.join().unwrap();
    assert_eq!(closer.join().unwrap(), Ok(()), "the parent has noticed nothing of its children");
    assert!(GATE.enter().is_none());
}
