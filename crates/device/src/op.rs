//! The commands of a stream as values: what is validated once, then run at once, captured in a graph, deferred, or
//! handed to a real driver.
use std::ffi::c_void;
use std::sync::Arc;
use zerogpu_abi::*;

/// A command.
#[derive(Clone, Copy)]
pub enum Op<'a> {
    /// Copies bytes.
    Copy(Copy),
    /// Sets bytes.
    Fill(Fill),
    /// Launches a kernel.
    Launch(Launch<'a>),
    /// Calls a host function in stream order.
    Host(HostCall),
    /// Records an event.
    Record(CUevent),
    /// Waits for an event.
    Wait(CUevent),
    /// Writes a value to device memory.
    Write(Value),
    /// Waits until a value in device memory compares as `flags` say.
    Await(Value),
    /// Launches an executable graph.
    Graph(CUgraphExec),
}

/// Which sides of a copy are device memory, as its function says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To device memory (HtoD).
    HostToDevice,
    /// From device memory (DtoH).
    DeviceToHost,
    /// Both sides are device memory (DtoD).
    DeviceToDevice,
    /// Neither is (cuMemcpy2D and 3D can say so).
    HostToHost,
    /// Told by the addresses (unified addressing).
    Unified,
}

/// One side of a copy: an address, bytes from row to row, and bytes from slice to slice.
#[derive(Clone, Copy, Debug)]
pub struct Plane {
    /// Its first byte.
    pub at: u64,
    /// Bytes from one row to the next.
    pub pitch: u64,
    /// Bytes from one slice to the next.
    pub slice: u64,
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// Where to.
    pub dst: Plane,
    /// Where from.
    pub src: Plane,
    /// Bytes of a row.
    pub width: u64,
    /// Rows of a slice.
    pub height: u64,
    /// Slices.
    pub depth: u64,
    /// Which sides are device memory.
    pub direction: Direction,
    /// Whether the call returns only when the copy is done.
    pub blocking: bool,
}

impl Copy {
    /// A copy of `len` contiguous bytes.
    pub fn linear(dst: u64, src: u64, len: u64, direction: Direction, blocking: bool) -> Self {
        let plane = |at| Plane { at, pitch: len, slice: len };
        Self { dst: plane(dst), src: plane(src), width: len, height: 1, depth: 1, direction, blocking }
    }

    /// Bytes that are copied.
    pub fn bytes(&self) -> u64 {
        self.width.saturating_mul(self.height).saturating_mul(self.depth)
    }

    /// Bytes from the first to the last byte of a side; None if that does not fit in an address.
    pub fn span(&self, side: &Plane) -> Option<u64> {
        if self.bytes() == 0 {
            return Some(0);
        }
        let rows = side.pitch.checked_mul(self.height - 1)?;
        let slices = side.slice.checked_mul(self.depth - 1)?;
        rows.checked_add(slices)?.checked_add(self.width)
    }

    /// Whether both sides are contiguous.
    pub fn is_linear(&self) -> bool {
        let flat = |p: &Plane| {
            (self.height <= 1 || p.pitch == self.width)
                && (self.depth <= 1 || p.slice == self.width.wrapping_mul(self.height))
        };
        flat(&self.dst) && flat(&self.src)
    }
}

/// A memset of `height` rows of `width` elements of 1, 2 or 4 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// Its first byte.
    pub dst: u64,
    /// Bytes from one row to the next.
    pub pitch: u64,
    /// What each element becomes; of a smaller one the low bytes count.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element: u32,
    /// Elements of a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
    /// Whether the call returns only when it is done.
    pub blocking: bool,
}

impl Fill {
    /// Bytes from the first to the last; None if that does not fit in an address.
    pub fn span(&self) -> Option<u64> {
        if self.width == 0 || self.height == 0 {
            return Some(0);
        }
        self.pitch.checked_mul(self.height - 1)?.checked_add(self.width.checked_mul(self.element as u64)?)
    }
}

/// A kernel launch.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// A CUfunction or a CUkernel.
    pub func: usize,
    /// Blocks, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// The kernel's parameters.
    pub params: Params<'a>,
    /// Attributes, as of cuLaunchKernelEx.
    pub attrs: &'a [CUlaunchAttribute],
    /// Whether its blocks wait for one another (cuLaunchCooperativeKernel).
    pub cooperative: bool,
}

/// Where the parameters of a launch are.
#[derive(Clone, Copy)]
pub enum Params<'a> {
    /// An array of pointers, one a parameter (NULL: the kernel has none).
    Pointers(*mut *mut c_void),
    /// The `extra` array of cuLaunchKernel.
    Extra(*mut *mut c_void),
    /// The packed bytes.
    Packed(&'a [u8]),
}

/// A host function call.
#[derive(Clone, Copy)]
pub enum HostCall {
    /// Of cuLaunchHostFunc.
    Func {
        /// The app's function.
        func: CUhostFn,
        /// What it is given.
        data: *mut c_void,
    },
    /// Of cuStreamAddCallback.
    Callback {
        /// The app's function.
        func: CUstreamCallback,
        /// What it is given.
        data: *mut c_void,
        /// The stream that it is told.
        stream: CUstream,
    },
}

/// A value written to or awaited in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// Where in device memory.
    pub at: u64,
    /// What is written, or compared with.
    pub value: u64,
    /// Whether it has 8 bytes; else 4.
    pub wide: bool,
    /// CUstreamWriteValue_flags or CUstreamWaitValue_flags.
    pub flags: u32,
}

/// A command that owns what it names, for graphs and for deferred work.
#[derive(Clone)]
pub enum Owned {
    /// Anything that holds no borrowed parameters.
    Plain(Op<'static>),
    /// A launch with its parameter bytes.
    Launch(OwnedLaunch),
    /// A copy to the device whose source bytes were taken when it was recorded.
    Upload {
        /// The copy, of `bytes`; `src.at` is an offset of 0.
        copy: Copy,
        /// The source bytes, row after row.
        bytes: Arc<Vec<u8>>,
    },
}

// SAFETY: the raw pointers inside are values that the app passed and that only the app's own rules govern; nothing is
// reached through them but what the driver API lets any thread reach.
unsafe impl Send for Owned {}
// SAFETY: as above; a shared command can only be read.
unsafe impl Sync for Owned {}

/// A launch with its parameter bytes; the rest is as in [`Launch`].
#[derive(Clone)]
pub struct OwnedLaunch {
    /// A CUfunction or a CUkernel.
    pub func: usize,
    /// Blocks, in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// The kernel's parameters, packed.
    pub params: Vec<u8>,
    /// Attributes, as of cuLaunchKernelEx.
    pub attrs: Vec<CUlaunchAttribute>,
    /// Whether its blocks wait for one another.
    pub cooperative: bool,
}

impl OwnedLaunch {
    /// The same launch, borrowing its bytes.
    pub fn as_launch(&self) -> Launch<'_> {
        Launch {
            func: self.func,
            grid: self.grid,
            block: self.block,
            shared: self.shared,
            params: Params::Packed(&self.params),
            attrs: &self.attrs,
            cooperative: self.cooperative,
        }
    }
}

impl Owned {
    /// A copy from host memory, whose bytes are taken now: its rows, and not what is between them. None: they are more than `most`.
    ///
    /// # Safety
    /// The source's rows are memory that may be read.
    pub unsafe fn upload(copy: &Copy, most: u64) -> Option<Owned> {
        let (plane, width) = (copy.src, copy.width as usize);
        copy.span(&plane)?;
        let mut bytes = Vec::with_capacity(usize::try_from(copy.bytes()).ok().filter(|&n| n as u64 <= most)?);
        let slices = if copy.bytes() == 0 { 0 } else { copy.depth };
        for row in
            (0..slices).flat_map(|slice| (0..copy.height).map(move |row| slice * plane.slice + row * plane.pitch))
        {
            // SAFETY: a row of the source, by the caller's promise; the span has shown that its address is one.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts((plane.at + row) as *const u8, width) });
        }
        let src = Plane { at: 0, pitch: copy.width, slice: copy.width.wrapping_mul(copy.height) };
        Some(Owned::Upload { copy: Copy { src, ..*copy }, bytes: Arc::new(bytes) })
    }

    /// The command itself.
    pub fn as_op(&self) -> Op<'_> {
        match self {
            Owned::Plain(op) => *op,
            Owned::Launch(l) => Op::Launch(l.as_launch()),
            Owned::Upload { copy, bytes } => {
                let mut copy = *copy;
                copy.src.at = bytes.as_ptr() as u64;
                Op::Copy(copy)
            }
        }
    }

    /// Bytes of memory that the recorded command holds.
    pub fn weight(&self) -> u64 {
        let own = match self {
            Owned::Plain(_) => 0,
            Owned::Launch(l) => l.params.len() + size_of_val(&l.attrs[..]),
            Owned::Upload { bytes, .. } => bytes.len(),
        };
        (size_of::<Self>() + own) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_pitched_memory_only_the_rows_are_taken() {
        let matrix: Vec<u8> = (0..=255).collect();
        // two slices of three rows of four bytes, from the second row of a matrix of eight bytes a row
        let src = Plane { at: matrix[8..].as_ptr() as u64, pitch: 8, slice: 40 };
        let dst = Plane { at: 1 << 40, pitch: 16, slice: 48 };
        let copy =
            Copy { dst, src, width: 4, height: 3, depth: 2, direction: Direction::HostToDevice, blocking: false };
        // SAFETY: all of it is within the matrix.
        let upload = |most| unsafe { Owned::upload(&copy, most) };
        assert!(upload(23).is_none());
        let taken = upload(24).expect("there is room");
        let Owned::Upload { bytes, .. } = &taken else { panic!("it is an upload") };
        let rows: Vec<u8> = [8, 16, 24, 48, 56, 64].into_iter().flat_map(|first| first..first + 4).collect();
        assert_eq!(**bytes, rows);
        let Op::Copy(run) = taken.as_op() else { panic!("it is a copy") };
        assert_eq!((run.src.at, run.src.pitch, run.src.slice), (bytes.as_ptr() as u64, 4, 12));
        assert_eq!((run.dst.pitch, run.dst.slice, run.bytes()), (16, 48, 24));
    }

    #[test]
    fn of_nothing_nothing_is_read() {
        let copy = Copy::linear(1 << 40, 0, 0, Direction::HostToDevice, false);
        // SAFETY: no row is read.
        let taken = unsafe { Owned::upload(&copy, 0) };
        assert!(taken.is_some_and(|taken| taken.weight() == size_of::<Owned>() as u64));
    }
}
