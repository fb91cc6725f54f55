//! The kernels that softcuda runs: those of which there is a twin in Rust. It never pretends to run any other.
use zerogpu_abi::*;
use zerogpu_device::host::Work;
use zerogpu_device::memory::{Memory, Segment};
use zerogpu_hash::{hash_chunk, CHUNK, HASH_CHUNKS, WRITE_BYTES};

/// Checks a launch's addresses and gives what is to be done with the bytes there.
pub type Twin = fn(&Params, &Reach) -> Res<Work>;

const TWINS: [(&str, Twin); 2] = [(HASH_CHUNKS, hash_chunks), (WRITE_BYTES, write_bytes)];

/// The twin of a kernel.
pub fn find(kernel: &str) -> Option<Twin> {
    TWINS.iter().find(|(name, _)| *name == kernel).map(|(_, twin)| *twin)
}

/// The parameter bytes of a launch.
pub struct Params(pub Vec<u8>);

impl Params {
    /// The `n`-th parameter of a kernel that has 64-bit parameters only.
    fn word(&self, n: usize) -> Res<u64> {
        let bytes = self.0.get(n * 8..).and_then(|rest| rest.first_chunk());
        bytes.map(|b| u64::from_le_bytes(*b)).ok_or(CUresult::INVALID_VALUE)
    }
}

/// The memory that a kernel on one device reaches.
pub struct Reach<'a> {
    pub memory: &'a Memory,
    pub device: CUdevice,
}

impl Reach<'_> {
    /// Where the bytes are; an address that the device can't reach in this way is what it is on a card.
    fn bytes(&self, at: u64, len: u64, align: u64, write: bool) -> Res<Piece> {
        if at % align != 0 {
            return Err(CUresult::MISALIGNED_ADDRESS);
        }
        if len == 0 {
            return Ok(Piece(Vec::new()));
        }
        if !self.memory.reaches(at, len, write) {
            return Err(CUresult::ILLEGAL_ADDRESS);
        }
        let mut next = at;
        while next < at + len {
            let r = self.memory.find(next).ok_or(CUresult::ILLEGAL_ADDRESS)?;
            let foreign = r.is_device() && r.device != self.device;
            if foreign {
                return Err(CUresult::ILLEGAL_ADDRESS);
            }
            next = r.base + r.size;
        }
        let segments = self.memory.segments(at, len)?;
        if write {
            segments.iter().for_each(|s| self.memory.mark(s.host, s.len));
        }
        Ok(Piece(segments))
    }
}

/// Bytes of device memory, checked; they may lie in several places.
struct Piece(Vec<Segment>);

impl Piece {
    fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.iter().map(|s| s.len as usize).sum());
        for s in &self.0 {
            // SAFETY: the backing of device memory stays mapped for the life of the process; the app must not free what
            // a kernel reads, as with any driver.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(s.host as *const u8, s.len as usize) });
        }
        bytes
    }

    fn write(&self, bytes: &[u8]) {
        let mut rest = bytes;
        for s in &self.0 {
            let (now, later) = rest.split_at(rest.len().min(s.len as usize));
            // SAFETY: as in `read`; the segment has at least `now.len()` bytes.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), s.host as *mut u8, now.len()) };
            rest = later;
        }
    }
}

/// `zerogpu_hash_chunks(src, bytes, out)`.
fn hash_chunks(p: &Params, reach: &Reach) -> Res<Work> {
    let (src, bytes, out) = (p.word(0)?, p.word(1)?, p.word(2)?);
    // the whole range first: a wild length must not make us list its chunks
    reach.bytes(src, bytes, 16, false)?;
    let starts = (0..bytes).step_by(CHUNK);
    let chunks: Vec<Piece> =
        starts.map(|at| reach.bytes(src + at, (CHUNK as u64).min(bytes - at), 1, false)).collect::<Res<_>>()?;
    let out = reach.bytes(out, chunks.len() as u64 * 16, 8, true)?;
    Ok(Box::new(move || {
        let words = chunks.iter().flat_map(|chunk| hash_chunk(&chunk.read()));
        out.write(&words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
    }))
}

/// `zerogpu_write_bytes(dst, bytes, seed)`.
fn write_bytes(p: &Params, reach: &Reach) -> Res<Work> {
    let (dst, bytes, seed) = (p.word(0)?, p.word(1)?, p.word(2)?);
    let piece = reach.bytes(dst, bytes, 8, true)?;
    Ok(Box::new(move || {
        let mut bytes = piece.read();
        zerogpu_hash::write_bytes(&mut bytes, seed);
        piece.write(&bytes);
    }))
}
