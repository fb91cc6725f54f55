//! The driver's checkpoint of another process: its calls wait, and what it has is taken off the cards and put back.
//!
//! States, order and errors are those that cuda.h of CUDA 13.0 documents. Bytes need not be moved: they lie in the process's
//! own host memory anyway. Two things differ, and are told or refused: the driver hangs when a process names itself, and
//! can restore to other cards. A process that has not used a card yet is not known here.
use crate::card::start;
use std::time::Duration;
use zerogpu_abi::*;
use zerogpu_cards::{Cannot, Slot, State};
use zerogpu_device::runtime::{backend, ready};

/// CU_PROCESS_STATE_RUNNING, _LOCKED and _CHECKPOINTED. No process comes to _FAILED here.
fn number(state: State) -> u32 {
    match state {
        State::Running => 0,
        State::Shut => 1,
        State::Aside => 2,
    }
}

fn refused(name: &'static str) -> impl Fn(Cannot) -> CUresult {
    move |why| match why {
        Cannot::Gone => CUresult::INVALID_VALUE,
        Cannot::State(_) => CUresult::ILLEGAL_STATE,
        Cannot::Busy => CUresult::NOT_READY,
        Cannot::Full => CUresult::OUT_OF_MEMORY,
        // the driver says so too of memory that processes share
        Cannot::Shared => CUresult::NOT_SUPPORTED,
        Cannot::Itself => {
            if let Ok(b) = backend() {
                b.tell(&format!("{name} of the calling process itself: there the driver hangs"));
            }
            CUresult::NOT_SUPPORTED
        }
    }
}

/// Does something with the process `pid`, if the rest of the arguments is good.
fn order(name: &'static str, pid: i32, good: bool, act: impl FnOnce(&Slot, u32) -> Result<(), Cannot>) -> CUresult {
    let ordered = || {
        ready()?;
        let pid = u32::try_from(pid).ok().filter(|&pid| pid != 0 && good).ok_or(CUresult::INVALID_VALUE)?;
        act(start().slot()?, pid).map_err(refused(name))
    };
    code(ordered())
}

pub unsafe fn cuCheckpointProcessGetState(pid: i32, state: *mut u32) -> CUresult {
    order("cuCheckpointProcessGetState", pid, !state.is_null(), |slot, pid| {
        state.write(number(slot.state_of(pid)?));
        Ok(())
    })
}

pub unsafe fn cuCheckpointProcessLock(pid: i32, args: *mut CUcheckpointLockArgs) -> CUresult {
    let args = args.as_ref();
    let good = args.is_none_or(|a| a.reserved0 == 0 && a.reserved1 == [0; 7]);
    let patience = args.filter(|a| a.timeoutMs > 0).map(|a| Duration::from_millis(u64::from(a.timeoutMs)));
    order("cuCheckpointProcessLock", pid, good, |slot, pid| slot.shut(pid, patience))
}

pub unsafe fn cuCheckpointProcessCheckpoint(pid: i32, args: *mut CUcheckpointCheckpointArgs) -> CUresult {
    let good = args.as_ref().is_none_or(|a| a.reserved == [0; 8]);
    order("cuCheckpointProcessCheckpoint", pid, good, Slot::put_aside)
}

/// Only to the cards that the process had.
pub unsafe fn cuCheckpointProcessRestore(pid: i32, args: *mut CUcheckpointRestoreArgs) -> CUresult {
    let args = args.as_ref();
    if args.is_some_and(|a| a.gpuPairsCount > 0) {
        return CUresult::NOT_SUPPORTED;
    }
    let good = args.is_none_or(|a| a.reserved == [0; 44] && a.reserved1 == 0);
    order("cuCheckpointProcessRestore", pid, good, Slot::bring_back)
}

pub unsafe fn cuCheckpointProcessUnlock(pid: i32, args: *mut CUcheckpointUnlockArgs) -> CUresult {
    let good = args.as_ref().is_none_or(|a| a.reserved == [0; 8]);
    order("cuCheckpointProcessUnlock", pid, good, Slot::open)
}
