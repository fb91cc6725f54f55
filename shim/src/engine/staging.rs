//! Moves bytes in bulk between the host backing and a claimed card.
//!
//! Solo mode pins what it copies: pieces of 64 MiB are registered one ahead of the copy that uses them, so that pinning and
//! copying overlap. No copy crosses a registration. Where the kernel or a limit refuses to pin, the piece is copied
//! pageable: slower, the same bytes.
use super::live::{ok, twice};
use crate::driver::Driver;
use std::collections::VecDeque;
use zerogpu_abi::*;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Host backing to card.
    In,
    /// Card to host backing.
    Out,
}

/// Bytes of a piece.
const PIECE: u64 = 64 << 20;
/// Pieces that are pinned at once.
const AHEAD: usize = 3;

/// Copies ranges (device address, host address, bytes), and returns when all bytes have arrived. Returns the number of
/// bytes. The real context must be current.
pub fn copy(d: &Driver, way: Way, ranges: &[(u64, u64, u64)]) -> Res<u64> {
    let mut stream = CUstream::NULL;
    // SAFETY: writes the new stream.
    ok(unsafe { (d.cuStreamCreateWithPriority)(&mut stream, 1, 0) })?;
    let mut pipe = Pipe { d, stream, pinned: VecDeque::new() };
    let moved = pipe.run(way, ranges);
    let done = pipe.finish();
    let moved = moved?;
    done?;
    Ok(moved)
}

struct Pipe<'a> {
    d: &'a Driver,
    stream: CUstream,
    /// Pieces that are registered: host address, and whether it really is.
    pinned: VecDeque<(u64, bool, CUevent)>,
}

impl Pipe<'_> {
    fn run(&mut self, way: Way, ranges: &[(u64, u64, u64)]) -> Res<u64> {
        let mut moved = 0;
        for &(device, host, len) in ranges {
            let mut at = 0;
            while at < len {
                let n = (len - at).min(PIECE);
                self.piece(way, device + at, host + at, n)?;
                at += n;
            }
            moved += len;
        }
        Ok(moved)
    }

    fn piece(&mut self, way: Way, device: u64, host: u64, n: u64) -> Res {
        while self.pinned.len() >= AHEAD {
            self.retire()?;
        }
        let d = self.d;
        // SAFETY: a range of the backing, which stays mapped; registered until `retire`.
        let pinned = unsafe { (d.cuMemHostRegister_v2)(host as *mut _, n as usize, 0) }.ok();
        let mut event = CUevent::NULL;
        // SAFETY: the device range is mapped, the host range is the backing behind it; the event is timing-free.
        let queued = unsafe {
            let copied = match way {
                Way::In => (d.cuMemcpyHtoDAsync_v2)(device, host as *const _, n as usize, self.stream),
                Way::Out => (d.cuMemcpyDtoHAsync_v2)(host as *mut _, device, n as usize, self.stream),
            };
            ok(copied)
                .and_then(|()| ok((d.cuEventCreate)(&mut event, 2)))
                .and_then(|()| ok((d.cuEventRecord)(event, self.stream)))
        };
        self.pinned.push_back((host, pinned, event));
        queued
    }

    /// Waits for the oldest piece and unpins it.
    fn retire(&mut self) -> Res {
        let Some(&(host, pinned, event)) = self.pinned.front() else { return Ok(()) };
        let d = self.d;
        // SAFETY: an event and a registration of ours; the copy that used it is over once the event has passed.
        unsafe {
            if event.0 != 0 {
                ok((d.cuEventSynchronize)(event))?;
                twice(|| (d.cuEventDestroy_v2)(event))?;
            }
            self.pinned.pop_front();
            if pinned {
                twice(|| (d.cuMemHostUnregister)(host as *mut _))
            } else {
                Ok(())
            }
        }
    }

    /// Waits for everything, whatever went wrong before; nothing stays pinned.
    fn finish(&mut self) -> Res {
        let d = self.d;
        // SAFETY: our own stream.
        let drained = unsafe { twice(|| (d.cuStreamSynchronize)(self.stream)) };
        let mut result = drained;
        for (host, pinned, event) in std::mem::take(&mut self.pinned) {
            // SAFETY: an event and a registration of ours. The stream is drained, or failed for good: nothing copies, so
            // each is given back whatever became of the others.
            let ended = unsafe {
                let event = if event.0 != 0 { twice(|| (d.cuEventDestroy_v2)(event)) } else { Ok(()) };
                let pin = if pinned { twice(|| (d.cuMemHostUnregister)(host as *mut _)) } else { Ok(()) };
                event.and(pin)
            };
            result = result.and(ended);
        }
        // SAFETY: our own stream, drained.
        result.and(unsafe { twice(|| (d.cuStreamDestroy_v2)(self.stream)) })
    }
}
