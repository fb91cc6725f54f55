//! Where every command of a stream passes: validated once, then captured, forwarded or run.
use crate::memory::Memory;
use crate::objects::{device, StreamKind};
use crate::op::{Copy, Direction, Fill, Launch, Op, Plane};
use crate::runtime::{backend, config, lock, ready, Run, State};
use zerogpu_abi::*;

/// Submits a command to a stream.
///
/// # Errors
/// Those of [`ready`], [`State::current`], [`State::stream`] and [`State::validate`]; INVALID_HANDLE: an event of
/// another context than the stream's is recorded; in captures those of [`State::capture_op`], [`State::capture_wait`]
/// and [`State::legacy_in_capture`]; what the backend answers.
#[inline]
pub fn submit(stream: CUstream, op: &Op) -> Res {
    ready()?;
    match backend()?.forward(stream, op) {
        Some(r) => r,
        None => submit_here(stream, op),
    }
}

/// What the backend did not forward. Apart, so that what is forwarded pays nothing for it.
#[cold]
#[inline(never)]
fn submit_here(stream: CUstream, op: &Op) -> Res {
    let backend = backend()?;
    loop {
        let mut st = lock()?;
        let ctx = st.current()?;
        let s = st.stream(stream)?;
        st.validate(op)?;
        let (captures, kind) =
            st.streams.get(&s).map(|s| (s.capture.is_some(), s.kind)).ok_or(CUresult::INVALID_HANDLE)?;
        if let Op::Record(e) = op {
            st.recordable(s, *e)?;
        }
        if captures {
            return st.capture_op(s, op);
        }
        if let Op::Wait(event) = op {
            if st.capture_wait(s, *event)? {
                return Ok(());
            }
        }
        if kind == StreamKind::Legacy {
            st.legacy_in_capture(ctx)?;
        }
        match backend.run(st, s, op) {
            Run::Done(r) => return r,
            Run::Again => {}
        }
        if let Some(r) = backend.forward(stream, op) {
            return r;
        }
    }
}

/// CU_LAUNCH_ATTRIBUTE_COOPERATIVE.
const COOPERATIVE: u32 = 2;
/// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT, _LAUNCH_COMPLETION_EVENT: their first word is an event.
const WITH_EVENT: [u32; 2] = [7, 12];

impl State {
    /// What a driver checks before it takes a command.
    ///
    /// # Errors
    /// INVALID_VALUE: memory that it may not use or that is not aligned, a pitch shorter than a row, dimensions or
    /// shared memory beyond what the card or the kernel can have, no such graph; INVALID_HANDLE: there is no such event
    /// or kernel; LAUNCH_OUT_OF_RESOURCES: more threads than the kernel can have; COOPERATIVE_LAUNCH_TOO_LARGE: the
    /// card does not hold all blocks at once.
    pub fn validate(&mut self, op: &Op) -> Res {
        match op {
            Op::Copy(c) => check_copy(&self.memory, c),
            Op::Fill(f) => check_fill(&self.memory, f),
            Op::Launch(l) => self.check_launch(l),
            Op::Record(e) | Op::Wait(e) => self.event(*e).map(|_| ()),
            Op::Write(v) | Op::Await(v) => {
                let size = if v.wide { 8 } else { 4 };
                let write = matches!(op, Op::Write(_));
                let good = v.at % size == 0 && self.memory.reaches(v.at, size, write);
                if good {
                    Ok(())
                } else {
                    Err(CUresult::INVALID_VALUE)
                }
            }
            Op::Graph(g) => self.exec_ops(*g).map(|_| ()),
            Op::Host(_) => Ok(()),
        }
    }

    fn check_launch(&mut self, l: &Launch) -> Res {
        for a in l.attrs.iter().filter(|a| WITH_EVENT.contains(&a.id)) {
            self.event(CUevent(a.value.words[0] as usize))?;
        }
        let f = self.modules.launchable(l.func).ok_or(CUresult::INVALID_HANDLE)?;
        let attr = |n| config().ok().and_then(|c| c.profile.attribute(n)).unwrap_or(0) as u32;
        let threads = l.block.iter().try_fold(1u32, |n, &b| n.checked_mul(b)).unwrap_or(u32::MAX);
        let block_fits = (0..3).all(|i| l.block[i] >= 1 && l.block[i] <= attr(2 + i as i32));
        let grid_fits = (0..3).all(|i| l.grid[i] >= 1 && l.grid[i] <= attr(5 + i as i32));
        if !block_fits || !grid_fits || threads > attr(1) {
            return Err(CUresult::INVALID_VALUE);
        }
        if l.shared > f.max_dynamic_shared {
            return Err(CUresult::INVALID_VALUE);
        }
        if threads > f.kernel.max_threads {
            return Err(CUresult::LAUNCH_OUT_OF_RESOURCES);
        }
        // all blocks of a cooperative grid are on the card at once; how many fit is a guess for code that is PTX
        let cooperative = l.cooperative || l.attrs.iter().any(|a| a.id == COOPERATIVE && a.value.words[0] as u32 != 0);
        if cooperative && !f.kernel.estimated {
            let d = device()?;
            let each = d.active_blocks(&f.kernel, f.occupancy(), threads, l.shared as u64) as u64;
            let blocks: u64 = l.grid.iter().map(|&n| n as u64).fold(1, u64::saturating_mul);
            if blocks > each * d.multiprocessors as u64 {
                return Err(CUresult::COOPERATIVE_LAUNCH_TOO_LARGE);
            }
        }
        Ok(())
    }
}

/// Whether a side of a copy is what its function says; contiguous from first to last byte.
fn check_side(m: &Memory, c: &Copy, p: &Plane, device: Option<bool>, write: bool) -> Res {
    let span = c.span(p).ok_or(CUresult::INVALID_VALUE)?;
    if c.height > 1 && p.pitch < c.width {
        return Err(CUresult::INVALID_VALUE);
    }
    let known = m.find(p.at).is_some() || m.is_device_space(p.at);
    let good = match device {
        Some(true) => m.reaches(p.at, span, write),
        // a host side may be any memory of the process, but not unmapped device addresses
        Some(false) => p.at != 0 && (!known || m.reaches(p.at, span, write)),
        None => p.at != 0 && (!known || m.reaches(p.at, span, write)),
    };
    if good {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

fn check_copy(m: &Memory, c: &Copy) -> Res {
    if c.bytes() == 0 {
        return Ok(());
    }
    let (dst, src) = match c.direction {
        Direction::HostToDevice => (Some(true), Some(false)),
        Direction::DeviceToHost => (Some(false), Some(true)),
        Direction::DeviceToDevice => (Some(true), Some(true)),
        Direction::HostToHost => (Some(false), Some(false)),
        Direction::Unified => (None, None),
    };
    check_side(m, c, &c.dst, dst, true)?;
    check_side(m, c, &c.src, src, false)
}

fn check_fill(m: &Memory, f: &Fill) -> Res {
    let span = f.span().ok_or(CUresult::INVALID_VALUE)?;
    if f.dst % f.element as u64 != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if span == 0 {
        return Ok(());
    }
    let row = f.width * f.element as u64;
    if f.height > 1 && (f.pitch < row || f.pitch % f.element as u64 != 0) {
        return Err(CUresult::INVALID_VALUE);
    }
    if m.reaches(f.dst, span, true) {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}
