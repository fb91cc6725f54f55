//! Moves bytes in bulk between host backing and card: the one engine of shim and broker.
//!
//! Fast copies need page-locked memory. A broker pins a backing once and keeps it so ([`Pinning::Kept`]); a process on its
//! own pins what it copies, a few pieces ahead of the copy that uses them, so that pinning and copying overlap
//! ([`Pinning::Transient`]). No copy call crosses the border of a registration. Where the kernel or a limit refuses to pin,
//! the bytes are copied pageable: slower, the same bytes, and counted.
use crate::pins::{unregister, Pins, PIECE};
use crate::{ok, twice, Driver};
use std::collections::VecDeque;
use zerogpu_abi::*;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Host backing to card.
    In,
    /// Card to host backing.
    Out,
}

/// Bytes that go between a range of the card and the range of the host backing behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trip {
    /// Address on the card.
    pub device: u64,
    /// Address in this process.
    pub host: u64,
    /// Bytes.
    pub len: u64,
}

/// How host memory is page-locked for a copy.
pub enum Pinning<'a> {
    /// For the time of its copy. The host ranges must not be registered already, but for what the list has: registrations
    /// of earlier copies that the driver did not end. They are ended before anything is copied, since what was punched
    /// meanwhile has other pages; those of this copy that it does not end are added.
    Transient(&'a mut Leaked),
    /// For good: what a table lacks is added to it.
    Kept(&'a mut Pins),
}

/// Registrations that have done their work, and that the driver did not end: address and bytes. Nothing under them may be punched
/// or mapped anew.
#[derive(Default, Debug)]
pub struct Leaked(Vec<(u64, u64)>);

impl Leaked {
    /// Tries to end them. The context that they were made in, or one of the same card, must be current.
    ///
    /// # Errors
    /// The driver's first refusal to end one: it stays in the list.
    pub fn end(&mut self, d: &Driver) -> Res {
        self.end_within(d, 0, u64::MAX)
    }

    /// Tries to end those that have a byte of a range.
    ///
    /// # Errors
    /// As for [`Leaked::end`].
    pub fn end_within(&mut self, d: &Driver, host: u64, len: u64) -> Res {
        let mut result = Ok(());
        self.0.retain(|&(start, n)| {
            if !overlaps((start, n), (host, len)) {
                return true;
            }
            let ended = unregister(d, start);
            result = result.and(ended);
            ended.is_err()
        });
        result
    }

    /// Whether one has a byte of a range.
    pub fn touches(&self, host: u64, len: u64) -> bool {
        self.0.iter().any(|&one| overlaps(one, (host, len)))
    }

    /// Their context has ended, and they with it.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Whether two ranges, address and bytes, have a byte in common.
fn overlaps(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes of them that went the slow way, since the driver refused to page-lock them.
    pub pageable: u64,
    /// The first refusal.
    pub refused: Option<CUresult>,
}

impl Copied {
    fn add(&mut self, len: u64, refused: Option<CUresult>) {
        self.bytes += len;
        self.pageable += if refused.is_some() { len } else { 0 };
        self.refused = self.refused.or(refused);
    }
}

/// Pieces that are pinned at once for their own copies.
const AHEAD: usize = 3;

/// Copies, and returns when all bytes have arrived. After an error any of them may have arrived, and nothing is in flight.
/// A context of the card must be current, its ranges mapped, the host ranges mapped and used by nobody else.
///
/// # Errors
/// The driver's answer to the first call that failed. A refusal to page-lock is none: see [`Copied::refused`].
pub fn copy(d: &Driver, way: Way, trips: &[Trip], pinning: Pinning) -> Res<Copied> {
    copy_telling(d, way, trips, pinning, &mut || {})
}

/// The same. `gets_on` is called each time that a piece which is pinned for itself is on its way, or has arrived: a copy from or
/// to memory that can't be pinned may be over when it is queued.
///
/// # Errors
/// As [`copy`].
pub fn copy_telling(
    d: &Driver,
    way: Way,
    trips: &[Trip],
    mut pinning: Pinning,
    gets_on: &mut dyn FnMut(),
) -> Res<Copied> {
    if let Pinning::Transient(leaked) = &mut pinning {
        leaked.end(d)?;
    }
    let mut stream = CUstream::NULL;
    // SAFETY: writes the new stream; 1 is CU_STREAM_NON_BLOCKING.
    ok(unsafe { (d.cuStreamCreateWithPriority)(&mut stream, 1, 0) })?;
    let mut pipe = Pipe { d, way, stream, pinned: VecDeque::new(), copied: Copied::default(), gets_on };
    let queued = match &mut pinning {
        Pinning::Transient(_) => pipe.transient(trips),
        Pinning::Kept(pins) => pipe.kept(trips, pins),
    };
    let copied = pipe.copied;
    let done = pipe.finish();
    if let Pinning::Transient(leaked) = pinning {
        leaked.0.extend(pipe.pinned.iter().filter_map(|piece| piece.host.map(|host| (host, piece.len))));
    }
    queued.and(done).map(|()| copied)
}

struct Pipe<'a> {
    d: &'a Driver,
    way: Way,
    stream: CUstream,
    /// Pieces on their way that are pinned for it.
    pinned: VecDeque<Piece>,
    copied: Copied,
    /// Told of each step.
    gets_on: &'a mut dyn FnMut(),
}

/// A piece on its way.
struct Piece {
    /// Its address, while it is registered.
    host: Option<u64>,
    /// Bytes.
    len: u64,
    /// Passes when it has arrived; NULL where there is none.
    event: CUevent,
}

impl Pipe<'_> {
    fn kept(&mut self, trips: &[Trip], pins: &mut Pins) -> Res {
        for trip in trips {
            let mut at = 0;
            while at < trip.len {
                let part = pins.part(self.d, trip.host + at, trip.len - at);
                self.queue(trip.device + at, trip.host + at, part.len)?;
                self.copied.add(part.len, part.refused);
                at += part.len;
            }
        }
        Ok(())
    }

    fn transient(&mut self, trips: &[Trip]) -> Res {
        for trip in trips {
            let mut at = 0;
            while at < trip.len {
                let n = (trip.len - at).min(PIECE);
                self.piece(trip.device + at, trip.host + at, n)?;
                at += n;
            }
        }
        // one by one, so that each is told of
        while !self.pinned.is_empty() {
            self.retire()?;
        }
        Ok(())
    }

    fn piece(&mut self, device: u64, host: u64, n: u64) -> Res {
        while self.pinned.len() >= AHEAD {
            self.retire()?;
        }
        let d = self.d;
        // SAFETY: a range of the backing, which stays mapped; registered until its copy is over.
        let pinned = ok(unsafe { (d.cuMemHostRegister_v2)(host as *mut _, n as usize, 0) });
        let mut event = CUevent::NULL;
        let queued = self.queue(device, host, n).and_then(|()| {
            // SAFETY: writes the new event; 2 is CU_EVENT_DISABLE_TIMING.
            ok(unsafe { (d.cuEventCreate)(&mut event, 2) })?;
            // SAFETY: both are ours.
            ok(unsafe { (d.cuEventRecord)(event, self.stream) })
        });
        self.pinned.push_back(Piece { host: pinned.is_ok().then_some(host), len: n, event });
        self.copied.add(n, pinned.err());
        (self.gets_on)();
        queued
    }

    /// Queues one copy call.
    fn queue(&self, device: u64, host: u64, n: u64) -> Res {
        let (d, n) = (self.d, n as usize);
        // SAFETY: both ranges are mapped, as `copy` asks for, and lie in one registration or in none.
        ok(unsafe {
            match self.way {
                Way::In => (d.cuMemcpyHtoDAsync_v2)(device, host as *const _, n, self.stream),
                Way::Out => (d.cuMemcpyDtoHAsync_v2)(host as *mut _, device, n, self.stream),
            }
        })
    }

    /// Waits for the oldest piece and unpins it.
    fn retire(&mut self) -> Res {
        let d = self.d;
        let Some(piece) = self.pinned.front_mut() else { return Ok(()) };
        if piece.event.0 != 0 {
            // SAFETY: an event of ours.
            ok(unsafe { (d.cuEventSynchronize)(piece.event) })?;
        }
        // its copy is over
        piece.let_go(d)?;
        self.pinned.pop_front();
        (self.gets_on)();
        Ok(())
    }

    /// Waits for everything, whatever went wrong before; nothing stays pinned that the driver lets go.
    fn finish(&mut self) -> Res {
        let d = self.d;
        // SAFETY: our own stream.
        let mut result = unsafe { twice(|| (d.cuStreamSynchronize)(self.stream)) };
        // the stream is drained, or failed for good: nothing copies, so each is given back whatever became of the others
        for piece in &mut self.pinned {
            result = result.and(piece.let_go(d));
        }
        // SAFETY: our own stream, drained.
        result.and(unsafe { twice(|| (d.cuStreamDestroy_v2)(self.stream)) })
    }
}

impl Piece {
    /// Gives back what it holds; what was given back already is left alone.
    fn let_go(&mut self, d: &Driver) -> Res {
        let mut result = Ok(());
        if self.event.0 != 0 {
            // SAFETY: an event of ours, used no more.
            result = unsafe { twice(|| (d.cuEventDestroy_v2)(self.event)) };
            if result.is_ok() {
                self.event = CUevent::NULL;
            }
        }
        if let Some(host) = self.host {
            let unpinned = unregister(d, host);
            if unpinned.is_ok() {
                self.host = None;
            }
            result = result.and(unpinned);
        }
        result
    }
}
