//! What the test programs share.
#![allow(dead_code)] // each program uses a part

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use zerogpu_gate::Gate;

/// Four threads enter and leave while this one opens and closes the gate. Under a closed gate two words are made
/// unequal for a while; inside they must be equal. Each thread counts its entries; the gate must agree. One of the four
/// tries again at once when it is refused, the others wait for the next opening.
pub fn stress(gate: &'static Gate, rounds: u64) {
    let words = [const { AtomicU64::new(0) }; 2];
    let opened = (Mutex::new(0), Condvar::new());
    let visit = |patient: bool| {
        let (mut entries, mut last) = (0, 0);
        loop {
            let Some(_pass) = gate.enter() else {
                let round = opened.0.lock().unwrap();
                let seen = *round;
                if seen == u64::MAX {
                    return entries;
                }
                if patient {
                    drop(opened.1.wait_while(round, |round| *round == seen).unwrap());
                }
                continue;
            };
            let first = words[0].load(Ordering::Relaxed);
            let _nested = gate.enter().expect("already inside");
            linger(entries % 16);
            assert_eq!(first, words[1].load(Ordering::Relaxed), "inside while the gate was closed");
            assert!(first >= last, "the gate was opened before this thread saw what stands before that");
            last = first;
            entries += 2;
        }
    };
    let entries: u64 = thread::scope(|scope| {
        let visitors = [false, true, true, true].map(|patient| scope.spawn(move || visit(patient)));
        for round in 1..=rounds {
            gate.open();
            *opened.0.lock().unwrap() = round;
            opened.1.notify_all();
            if round % 8 == 0 {
                let passes = gate.passes();
                while gate.passes() == passes && !visitors.iter().all(|visitor| visitor.is_finished()) {
                    thread::yield_now();
                }
            }
            gate.close().unwrap();
            words[0].store(round, Ordering::Relaxed);
            linger(round % 32);
            words[1].store(round, Ordering::Relaxed);
        }
        *opened.0.lock().unwrap() = u64::MAX;
        opened.1.notify_all();
        visitors.map(|visitor| visitor.join().unwrap()).iter().sum()
    });
    assert_eq!(gate.passes(), entries);
    assert!(entries >= rounds / 8);
}

/// Some nanoseconds, so that what the threads do falls together in many ways.
fn linger(steps: u64) {
    for step in 0..steps {
        black_box(step);
    }
}

/// The kernel's number of this thread.
pub fn tid() -> i32 {
    // SAFETY: it has no arguments and can't fail.
    unsafe { libc::gettid() }
}

/// Whether a thread of this process sleeps; `false` if it has ended.
pub fn sleeps(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
    // "number (name) state ...": the name may hold anything, also parentheses.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
}

/// From here on the kernel refuses `membarrier` to every thread of this process, as some sandboxes do.
pub fn forbid_membarrier() {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let statement = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    // The first word of `struct seccomp_data` is the call's number.
    let mut filter = [
        statement(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        statement(BPF_JMP | BPF_JEQ | BPF_K, 1, libc::SYS_membarrier as u32),
        statement(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the program and its filter outlive the call, which copies them.
    assert_eq!(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &program) }, 0);
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) }, -1);
}
