//! The driver's own checkpoint: takes everything of another process off its cards, its context too, and puts it back.
//!
//! From driver 570 on. A process can't do this to itself: it hangs (recorded). While a process is locked or checkpointed each
//! driver call of its own waits.
use crate::{ok, Driver};
use libloading::os::unix::Library;
use std::time::Duration;
use zerogpu_abi::*;

/// The functions, each as cuda.h of CUDA 13.0 declares it.
pub(crate) struct Calls {
    state: unsafe extern "C" fn(i32, *mut u32) -> CUresult,
    lock: unsafe extern "C" fn(i32, *mut CUcheckpointLockArgs) -> CUresult,
    checkpoint: unsafe extern "C" fn(i32, *mut CUcheckpointCheckpointArgs) -> CUresult,
    restore: unsafe extern "C" fn(i32, *mut CUcheckpointRestoreArgs) -> CUresult,
    unlock: unsafe extern "C" fn(i32, *mut CUcheckpointUnlockArgs) -> CUresult,
}

impl Calls {
    /// None: the library lacks one of them.
    pub(crate) fn load(library: &Library) -> Option<Calls> {
        // SAFETY: the declarations above are cuda.h's of the symbols of these names.
        unsafe {
            Some(Calls {
                state: *library.get(b"cuCheckpointProcessGetState\0").ok()?,
                lock: *library.get(b"cuCheckpointProcessLock\0").ok()?,
                checkpoint: *library.get(b"cuCheckpointProcessCheckpoint\0").ok()?,
                restore: *library.get(b"cuCheckpointProcessRestore\0").ok()?,
                unlock: *library.get(b"cuCheckpointProcessUnlock\0").ok()?,
            })
        }
    }
}

/// How far a process is checkpointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// Not at all.
    Running,
    /// Its driver calls wait.
    Locked,
    /// And nothing of it is on a card.
    Checkpointed,
    /// The driver has lost it: only its end frees what it had.
    Failed,
}

/// A step that failed, and the driver's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The function.
    pub call: &'static str,
    /// Its answer; [`CUresult::NOT_SUPPORTED`] where the driver has no such function.
    pub code: CUresult,
}

fn step(call: &'static str) -> impl Fn(CUresult) -> Failure {
    move |code| Failure { call, code }
}

impl Driver {
    /// How far a process is checkpointed.
    ///
    /// # Errors
    /// The driver's answer, also for a process that does not use it.
    pub fn process_state(&self, pid: i32) -> Result<ProcessState, Failure> {
        let call = step("cuCheckpointProcessGetState");
        let calls = self.checkpoint.as_ref().ok_or(call(CUresult::NOT_SUPPORTED))?;
        let mut state = 0;
        // SAFETY: writes one number.
        ok(unsafe { (calls.state)(pid, &mut state) }).map_err(call)?;
        Ok(match state {
            0 => ProcessState::Running,
            1 => ProcessState::Locked,
            2 => ProcessState::Checkpointed,
            _ => ProcessState::Failed,
        })
    }

    /// Takes everything of a process off its cards, from whatever state it is in. On failure its calls go on, if the driver
    /// lets them.
    ///
    /// # Errors
    /// The step that failed. `patience`: how long calls that the process is in may take.
    pub fn checkpoint_process(&self, pid: i32, patience: Duration) -> Result<(), Failure> {
        let state = self.process_state(pid)?;
        let calls = self.checkpoint.as_ref().ok_or(step("cuCheckpointProcessLock")(CUresult::NOT_SUPPORTED))?;
        if state == ProcessState::Checkpointed {
            return Ok(());
        }
        if state != ProcessState::Locked {
            let timeout = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX).max(1);
            let mut args = CUcheckpointLockArgs { timeoutMs: timeout, reserved0: 0, reserved1: [0; 7] };
            // SAFETY: reads the arguments, which are as they have to be.
            ok(unsafe { (calls.lock)(pid, &mut args) }).map_err(step("cuCheckpointProcessLock"))?;
        }
        // SAFETY: no arguments.
        ok(unsafe { (calls.checkpoint)(pid, std::ptr::null_mut()) }).map_err(|code| {
            // SAFETY: as above. What the driver refuses here, the next restore finds.
            let _first_error_counts = unsafe { (calls.unlock)(pid, std::ptr::null_mut()) };
            step("cuCheckpointProcessCheckpoint")(code)
        })
    }

    /// Puts everything of a process back onto the cards where it was, and lets its calls go on, from whatever state it is in.
    ///
    /// # Errors
    /// The step that failed. [`ProcessState::Failed`] counts as a failed restore, with [`CUresult::ILLEGAL_STATE`].
    pub fn restore_process(&self, pid: i32) -> Result<(), Failure> {
        let state = self.process_state(pid)?;
        let restore = step("cuCheckpointProcessRestore");
        let calls = self.checkpoint.as_ref().ok_or(restore(CUresult::NOT_SUPPORTED))?;
        match state {
            ProcessState::Running => return Ok(()),
            ProcessState::Locked => {}
            // SAFETY: no arguments: onto the same cards.
            ProcessState::Checkpointed => ok(unsafe { (calls.restore)(pid, std::ptr::null_mut()) }).map_err(restore)?,
            ProcessState::Failed => return Err(restore(CUresult::ILLEGAL_STATE)),
        }
        // SAFETY: no arguments.
        ok(unsafe { (calls.unlock)(pid, std::ptr::null_mut()) }).map_err(step("cuCheckpointProcessUnlock"))
    }
}
