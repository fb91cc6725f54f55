//! The hot path: commands handed to a claimed GPU with live twins in place of our handles. The gate is held.

use super::live::{aside, known_stream};
use super::Engine;
use crate::fault::contained;
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;
use zerogpu_below::{ok, Driver};
use zerogpu_device::handle::Kind;
use zerogpu_device::memory::{ARENA_BYTES, GLOBAL_BYTES};
use zerogpu_device::objects::graph::GraphLaunch;
use zerogpu_device::objects::{CAPTURED, CAPTURES};
use zerogpu_device::op::{Copy, Direction, Fill, HostCall, Op, Plane, Value};
use zerogpu_device::runtime::{lock, Scope};
use zerogpu_device::{handle, host};

/// Where module variables have our addresses: the end of the arena.
pub(super) fn is_global(addr: u64) -> bool {
    let end = crate::start::ARENA + ARENA_BYTES;
    (end - GLOBAL_BYTES..end).contains(&addr)
}

impl Engine {
    /// Runs a command on the claimed GPU; None: something captures, so the device has to look first.
    #[inline(always)]
    pub(super) fn forward_live(&self, stream: CUstream, op: &Op) -> Option<Res> {
        if self.refuses(op) {
            return Some(Err(super::OVER));
        }
        if CAPTURES.load(Ordering::Relaxed) != 0 {
            return None;
        }
        Some(self.forward_to(stream, op))
    }

    /// The same whatever captures. Always in its caller's frame: the way of each launch.
    #[inline(always)]
    pub(super) fn forward_to(&self, stream: CUstream, op: &Op) -> Res {
        let epoch = self.bind()?;
        let Some(s) = known_stream(stream, epoch) else { return self.forward_to_other(stream, epoch, op) };
        match op {
            // the most frequent ones, without another function's frame
            Op::Launch(l) => self.launch(l, s, epoch),
            _ => self.forward_real(s, epoch, op),
        }
    }

    /// To a stream that has no twin yet, or while something is late.
    #[cold]
    #[inline(never)]
    fn forward_to_other(&self, stream: CUstream, epoch: u32, op: &Op) -> Res {
        self.forward_real(self.live_stream(stream, epoch)?, epoch, op)
    }

    /// Runs a command that had to wait while a GPU was claimed: to its end, on a stream of its own, since what the app
    /// has queued on its streams meanwhile waits for it. False: the bytes are back on the host.
    pub(super) fn run_late(&self, op: &Op) -> Res<bool> {
        let Some(_pass) = self.gate.enter() else {
            // a claim or a park in progress
            self.settle()?;
            return Ok(false);
        };
        let epoch = self.bind()?;
        aside(self.driver()?, |own| self.forward_real(own, epoch, op)).map(|()| true)
    }

    /// What is there where a command waits for a value since before the claim; None: a claim or a park is in progress. Seen
    /// from outside: a wait on the card would hold up all that is late, and what ends it may be among that.
    pub(super) fn look_late(&self, v: &Value) -> Res<Option<u64>> {
        let Some(_pass) = self.gate.enter_to_ask() else { return Ok(None) };
        self.bind()?;
        let (d, mut seen) = (self.driver()?, 0u64);
        let size = if v.wide { 8 } else { 4 };
        let at = self.address(v.at, size)?;
        let to = (&raw mut seen).cast();
        // SAFETY: `seen` has at least `size` bytes, and is written to until the stream has been waited for.
        aside(d, |own| ok(unsafe { (d.cuMemcpyDtoHAsync_v2)(to, at, size as usize, own) }))?;
        Ok(Some(seen))
    }

    #[inline]
    pub(super) fn forward_real(&self, s: CUstream, epoch: u32, op: &Op) -> Res {
        let d = self.driver()?;
        match op {
            Op::Launch(l) => self.launch(l, s, epoch),
            Op::Copy(c) => self.copy(c, s),
            Op::Fill(f) => self.fill(f, s),
            Op::Record(e) => {
                let real = self.live_event(*e, epoch)?;
                // SAFETY: live twins of this claim.
                ok(unsafe { (d.cuEventRecord)(real, s) })?;
                recorded(*e, epoch)
            }
            Op::Wait(e) => {
                if !recorded_now(e.0, epoch) {
                    return self.known_event(*e, s);
                }
                let real = self.live_event(*e, epoch)?;
                // SAFETY: live twins of this claim.
                ok(unsafe { (d.cuStreamWaitEvent)(s, real, 0) })
            }
            Op::Host(call) => self.host_call(call, s),
            Op::Write(v) => self.value(v, s, true),
            Op::Await(v) => self.value(v, s, false),
            Op::Graph(g) => {
                let launch = {
                    let mut st = lock()?;
                    let launch = st.exec_launch(*g)?;
                    st.hold_launch(&launch);
                    launch
                };
                let ran = launch.ops.iter().try_for_each(|op| self.forward_real(s, epoch, &op.as_op()));
                end_launch_behind(d, launch, s);
                ran
            }
        }
    }

    /// An event that this claim has not recorded is passed, if it exists; but for host functions before it.
    fn known_event(&self, e: CUevent, s: CUstream) -> Res {
        if handle::is(e.0, Kind::Event) && !host::pending() {
            return Ok(());
        }
        let ticket = lock()?.event(e)?.ticket;
        self.hold_back(s, ticket)
    }

    /// The real address of an address of ours.
    #[inline]
    pub(super) fn address(&self, at: u64, len: u64) -> Res<u64> {
        if is_global(at) {
            self.live_global(at, len)?.ok_or(CUresult::INVALID_VALUE)
        } else {
            Ok(at)
        }
    }

    fn copy(&self, c: &Copy, s: CUstream) -> Res {
        if c.bytes() == 0 {
            return Ok(());
        }
        let d = self.driver()?;
        let n = c.bytes() as usize;
        let (dst, src) = (self.address(c.dst.at, c.width)?, self.address(c.src.at, c.width)?);
        // SAFETY: the app's own addresses, as it gave them to the same function; the driver checks the device's.
        ok(unsafe {
            match (c.is_linear(), c.direction, c.blocking) {
                (true, Direction::HostToDevice, true) => (d.cuMemcpyHtoD_v2)(dst, src as *const c_void, n),
                (true, Direction::HostToDevice, false) => (d.cuMemcpyHtoDAsync_v2)(dst, src as *const c_void, n, s),
                (true, Direction::DeviceToHost, true) => (d.cuMemcpyDtoH_v2)(dst as *mut c_void, src, n),
                (true, Direction::DeviceToHost, false) => (d.cuMemcpyDtoHAsync_v2)(dst as *mut c_void, src, n, s),
                (true, Direction::DeviceToDevice, false) => (d.cuMemcpyDtoDAsync_v2)(dst, src, n, s),
                // not by unified addresses: what is no device address would be one of the host to it
                (true, Direction::DeviceToDevice, true) => {
                    ok((d.cuMemcpyDtoDAsync_v2)(dst, src, n, s))?;
                    (d.cuStreamSynchronize)(s)
                }
                (true, _, false) => (d.cuMemcpyAsync)(dst, src, n, s),
                (true, _, true) => {
                    ok((d.cuMemcpyAsync)(dst, src, n, s))?;
                    (d.cuStreamSynchronize)(s)
                }
                (false, ..) => {
                    let shaped = shaped(c, dst, src);
                    ok((d.cuMemcpy3DAsync_v2)(&shaped, s))?;
                    if c.blocking {
                        (d.cuStreamSynchronize)(s)
                    } else {
                        CUresult::SUCCESS
                    }
                }
            }
        })
    }

    fn fill(&self, f: &Fill, s: CUstream) -> Res {
        if f.span() == Some(0) {
            return Ok(());
        }
        let d = self.driver()?;
        let dst = self.address(f.dst, f.width * f.element as u64)?;
        let (w, h, pitch) = (f.width as usize, f.height as usize, f.pitch as usize);
        // SAFETY: the app's own addresses; the driver checks them.
        ok(unsafe {
            match (f.height, f.element) {
                (1, 1) => (d.cuMemsetD8Async)(dst, f.value as u8, w, s),
                (1, 2) => (d.cuMemsetD16Async)(dst, f.value as u16, w, s),
                (1, _) => (d.cuMemsetD32Async)(dst, f.value, w, s),
                (_, 1) => (d.cuMemsetD2D8Async)(dst, pitch, f.value as u8, w, h, s),
                (_, 2) => (d.cuMemsetD2D16Async)(dst, pitch, f.value as u16, w, h, s),
                _ => (d.cuMemsetD2D32Async)(dst, pitch, f.value, w, h, s),
            }
        })?;
        if f.blocking {
            // SAFETY: a live stream.
            ok(unsafe { (d.cuStreamSynchronize)(s) })
        } else {
            Ok(())
        }
    }

    fn value(&self, v: &Value, s: CUstream, write: bool) -> Res {
        let d = self.driver()?;
        let at = self.address(v.at, if v.wide { 8 } else { 4 })?;
        // SAFETY: the app's own address; the driver checks it.
        ok(unsafe {
            match (write, v.wide) {
                (true, true) => (d.cuStreamWriteValue64_v2)(s, at, v.value, v.flags),
                (true, false) => (d.cuStreamWriteValue32_v2)(s, at, v.value as u32, v.flags),
                (false, true) => (d.cuStreamWaitValue64_v2)(s, at, v.value, v.flags),
                (false, false) => (d.cuStreamWaitValue32_v2)(s, at, v.value as u32, v.flags),
            }
        })
    }

    fn host_call(&self, call: &HostCall, s: CUstream) -> Res {
        let d = self.driver()?;
        // SAFETY: the app's function with its data, or ours with a box that it frees.
        ok(unsafe {
            match *call {
                HostCall::Func { func, data } => {
                    let boxed = Box::into_raw(Box::new((func, data)));
                    let queued = (d.cuLaunchHostFunc)(s, Some(call_func), boxed.cast());
                    if !queued.ok() {
                        drop(Box::from_raw(boxed));
                    }
                    queued
                }
                HostCall::Callback { func, data, stream } => {
                    let boxed = Box::into_raw(Box::new((func, data, stream)));
                    let queued = (d.cuLaunchHostFunc)(s, Some(call_back), boxed.cast());
                    if !queued.ok() {
                        drop(Box::from_raw(boxed));
                    }
                    queued
                }
            }
        })
    }

    /// Waits for real work, or asks about it.
    pub(super) fn wait_live(&self, scope: Scope, wait: bool) -> Res {
        if wait && self.regions.is_over() {
            return Err(super::OVER);
        }
        self.sync_live(scope, wait)?;
        // late work has failed, maybe just now
        self.owed()
    }

    /// The same, whatever the time and what is owed.
    pub(super) fn sync_live(&self, scope: Scope, wait: bool) -> Res {
        let epoch = self.bind()?;
        let d = self.driver()?;
        if scope == Scope::Context && host::pending() {
            if !wait {
                return Err(CUresult::NOT_READY);
            }
            host::drain();
        }
        // SAFETY: live twins of this claim.
        ok(unsafe {
            match scope {
                Scope::Context if wait => (d.cuCtxSynchronize)(),
                Scope::Context => (d.cuStreamQuery)(CU_STREAM_LEGACY),
                Scope::Stream(s) => {
                    let s = self.live_stream(s, epoch)?;
                    if wait {
                        (d.cuStreamSynchronize)(s)
                    } else {
                        (d.cuStreamQuery)(s)
                    }
                }
                Scope::Event(e) if recorded_now(e, epoch) => {
                    let e = self.live_event(CUevent(e), epoch)?;
                    if wait {
                        (d.cuEventSynchronize)(e)
                    } else {
                        (d.cuEventQuery)(e)
                    }
                }
                Scope::Event(_) => return host::wait(scope, wait),
            }
        })
    }

    /// Milliseconds between two events recorded in this claim; None: one is older, and its time is kept by the device.
    pub(super) fn elapsed_live(&self, start: usize, end: usize) -> Option<Res<f32>> {
        let epoch = self.bind().ok()?;
        let now = |e| recorded_now(e, epoch);
        if !now(start) && !now(end) {
            return None;
        }
        if now(start) && now(end) {
            return Some(self.elapsed_real(start, end, epoch));
        }
        let ms = || {
            for e in [start, end] {
                if now(e) {
                    self.note_time(e, epoch)?;
                }
            }
            lock()?.elapsed(CUevent(start), CUevent(end), u64::MAX)
        };
        Some(ms())
    }

    /// Both were recorded in this claim: the driver knows better than two offsets, which lose digits as a claim ages.
    fn elapsed_real(&self, start: usize, end: usize, epoch: u32) -> Res<f32> {
        let (start, end) = (self.live_event(CUevent(start), epoch)?, self.live_event(CUevent(end), epoch)?);
        let mut ms = 0f32;
        // SAFETY: live twins of this claim.
        ok(unsafe { (self.driver()?.cuEventElapsedTime)(&mut ms, start, end) })?;
        Ok(ms)
    }

    /// Keeps a recorded event's time with the event.
    pub(super) fn note_time(&self, e: usize, epoch: u32) -> Res {
        let real = self.live_event(CUevent(e), epoch)?;
        let d = self.driver()?;
        let timed = lock()?.event(CUevent(e))?.timed();
        // SAFETY: live twins of this claim.
        ok(unsafe { (d.cuEventQuery)(real) })?;
        let clock = super::locked(&self.live).clock;
        let at = match clock {
            Some(clock) if timed => clock.time_of(d, real)?,
            _ => zerogpu_device::exec::now(),
        };
        lock()?.event(CUevent(e))?.done_at = Some(at);
        Ok(())
    }
}

/// An event was recorded in this claim, and stands for no capture any more.
pub(super) fn recorded(e: CUevent, epoch: u32) -> Res {
    let before = handle::slot(e.0).map_or(0, |slot| slot.aux.swap(epoch as u64, Ordering::AcqRel));
    if before & CAPTURED != 0 {
        lock()?.event(e)?.captured = None;
    }
    Ok(())
}

/// Whether an event's last record was in this claim.
fn recorded_now(e: usize, epoch: u32) -> bool {
    handle::slot(e).is_some_and(|s| s.aux.load(Ordering::Acquire) == epoch as u64)
}

/// The app's host functions run inside the gate: a park waits for them, so a call that one of them makes (cuda.h forbids
/// it, programs do it) must not wait for the park.
unsafe extern "C" fn call_func(data: *mut c_void) {
    contained(|| {
        // SAFETY: the box that `host_call` made, freed here once.
        let (func, data) = *unsafe { Box::from_raw(data as *mut (CUhostFn, *mut c_void)) };
        let _pass = super::GATE.enter_callback();
        if let Some(f) = func {
            // SAFETY: the app's own function with its own data.
            unsafe { f(data) };
        }
    });
}

unsafe extern "C" fn call_back(data: *mut c_void) {
    contained(|| {
        // SAFETY: the box that `host_call` made, freed here once.
        let (func, data, stream) = *unsafe { Box::from_raw(data as *mut (CUstreamCallback, *mut c_void, CUstream)) };
        let _pass = super::GATE.enter_callback();
        if let Some(f) = func {
            // SAFETY: the app's own function with its own data.
            unsafe { f(stream, CUresult::SUCCESS, data) };
        }
    });
}

/// Ends a launch of a graph when the work that was queued for it is done.
fn end_launch_behind(d: &Driver, launch: GraphLaunch, s: CUstream) {
    if launch.holds_nothing() {
        return;
    }
    let boxed = Box::into_raw(Box::new(launch.without_commands())).cast();
    // SAFETY: a function of ours with a box that it frees, once: where it can't be queued the work is waited for instead.
    unsafe {
        if !(d.cuLaunchHostFunc)(s, Some(end_launch), boxed).ok() {
            let _work_that_failed_has_ended_too = (d.cuStreamSynchronize)(s);
            end_launch(boxed);
        }
    }
}

unsafe extern "C" fn end_launch(data: *mut c_void) {
    contained(|| {
        // SAFETY: the box that `end_launch_behind` made, freed here once.
        let launch = unsafe { Box::from_raw(data as *mut GraphLaunch) };
        let _pass = super::GATE.enter_callback();
        if let Err(e) = zerogpu_device::api::end_launch(&launch) {
            crate::report::explain(&format!("user objects of a graph live on (CUDA error {})", e.0));
        }
    });
}

/// A 2-D or 3-D copy as the driver takes it: addresses, pitches, heights. A device address stays one: as a unified one it
/// would be the host's if it is wild, and be read.
fn shaped(c: &Copy, dst: u64, src: u64) -> CUDA_MEMCPY3D {
    const DEVICE: u32 = 2;
    const UNIFIED: u32 = 4;
    let (to, from) = match c.direction {
        Direction::HostToDevice => (DEVICE, UNIFIED),
        Direction::DeviceToHost => (UNIFIED, DEVICE),
        Direction::DeviceToDevice => (DEVICE, DEVICE),
        Direction::HostToHost | Direction::Unified => (UNIFIED, UNIFIED),
    };
    let height = |p: &Plane| p.slice.checked_div(p.pitch).unwrap_or(0) as usize;
    CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: from,
        srcHost: std::ptr::null(),
        srcDevice: src,
        srcArray: CUarray::NULL,
        reserved0: std::ptr::null_mut(),
        srcPitch: c.src.pitch as usize,
        srcHeight: height(&c.src),
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: to,
        dstHost: std::ptr::null_mut(),
        dstDevice: dst,
        dstArray: CUarray::NULL,
        reserved1: std::ptr::null_mut(),
        dstPitch: c.dst.pitch as usize,
        dstHeight: height(&c.dst),
        WidthInBytes: c.width as usize,
        Height: c.height as usize,
        Depth: c.depth as usize,
    }
}
