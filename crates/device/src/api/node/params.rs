//! The C structs of node parameters, turned into what a node does and back.
use crate::api::copy::copy_3d;
use crate::handle;
use crate::objects::graph::Work;
use crate::op::{Copy, Direction, Fill, HostCall, Op, Owned, OwnedLaunch, Params as LaunchParams};
use crate::runtime::{lock, State};
use zerogpu_abi::*;

/// A struct of node parameters.
pub(super) trait Params: Sized + std::marker::Copy {
    /// What a node with these parameters does. The state must not be locked. Pointers inside are as cuda.h asks.
    unsafe fn work(&self) -> Res<Work>;
    /// The parameters of a node. Another kind of node: INVALID_VALUE.
    fn of(st: &mut State, node: CUgraphNode) -> Res<Self>;
}

impl Params for CUDA_KERNEL_NODE_PARAMS {
    unsafe fn work(&self) -> Res<Work> {
        let func = if self.func.0 != 0 { self.func.0 } else { self.kern.0 };
        // cuda.h: ignored if func is set; NULL is the current one
        if self.func.0 == 0 && self.ctx.0 != 0 {
            usable(self.ctx)?;
        }
        let params = if self.kernelParams.is_null() && !self.extra.is_null() {
            LaunchParams::Extra(self.extra)
        } else {
            LaunchParams::Pointers(self.kernelParams)
        };
        let params = lock()?.pack_params(func, &params)?;
        Ok(Work::Command(Owned::Launch(OwnedLaunch {
            func,
            grid: [self.gridDimX, self.gridDimY, self.gridDimZ],
            block: [self.blockDimX, self.blockDimY, self.blockDimZ],
            shared: self.sharedMemBytes,
            params,
            attrs: Vec::new(),
            cooperative: false,
        })))
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        let pointers = st.param_pointers(node)?;
        let kernelParams = if pointers.is_empty() { std::ptr::null_mut() } else { pointers.as_ptr() as *mut _ };
        let l = st.graphs.node(node)?.work.launch().ok_or(CUresult::INVALID_VALUE)?;
        let (mut func, mut kern) = (CUfunction(l.func), CUkernel::NULL);
        if handle::is(l.func, handle::Kind::Kernel) {
            (func, kern) = (CUfunction::NULL, CUkernel(l.func));
        }
        let ([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ]) = (l.grid, l.block);
        let (sharedMemBytes, extra, ctx) = (l.shared, std::ptr::null_mut(), CUcontext::NULL);
        Ok(Self {
            func,
            gridDimX,
            gridDimY,
            gridDimZ,
            blockDimX,
            blockDimY,
            blockDimZ,
            sharedMemBytes,
            kernelParams,
            extra,
            kern,
            ctx,
        })
    }
}

impl Params for CUDA_KERNEL_NODE_PARAMS_v1 {
    unsafe fn work(&self) -> Res<Work> {
        CUDA_KERNEL_NODE_PARAMS {
            func: self.func,
            gridDimX: self.gridDimX,
            gridDimY: self.gridDimY,
            gridDimZ: self.gridDimZ,
            blockDimX: self.blockDimX,
            blockDimY: self.blockDimY,
            blockDimZ: self.blockDimZ,
            sharedMemBytes: self.sharedMemBytes,
            kernelParams: self.kernelParams,
            extra: self.extra,
            kern: CUkernel::NULL,
            ctx: CUcontext::NULL,
        }
        .work()
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        let p = CUDA_KERNEL_NODE_PARAMS::of(st, node)?;
        Ok(Self {
            // a kernel's handle is good wherever a function's is
            func: if p.func.0 != 0 { p.func } else { CUfunction(p.kern.0) },
            gridDimX: p.gridDimX,
            gridDimY: p.gridDimY,
            gridDimZ: p.gridDimZ,
            blockDimX: p.blockDimX,
            blockDimY: p.blockDimY,
            blockDimZ: p.blockDimZ,
            sharedMemBytes: p.sharedMemBytes,
            kernelParams: p.kernelParams,
            extra: p.extra,
        })
    }
}

impl Params for CUDA_MEMCPY3D {
    unsafe fn work(&self) -> Res<Work> {
        Ok(Work::Described(copy_3d(self, false)?, Box::new(*self)))
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        let work = &st.graphs.node(node)?.work;
        match (work, work.op()) {
            (Work::Described(_, given), _) => Ok(**given),
            (_, Some(Op::Copy(c))) => Ok(describe(&c)),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
}

/// The struct of a copy that was captured. Captured copies of arrays are told by their addresses.
fn describe(c: &Copy) -> CUDA_MEMCPY3D {
    const HOST: u32 = 1;
    const DEVICE: u32 = 2;
    const UNIFIED: u32 = 4;
    let (dst, src) = match c.direction {
        Direction::HostToDevice => (DEVICE, HOST),
        Direction::DeviceToHost => (HOST, DEVICE),
        Direction::DeviceToDevice => (DEVICE, DEVICE),
        Direction::HostToHost => (HOST, HOST),
        Direction::Unified => (UNIFIED, UNIFIED),
    };
    let split = |kind, at| if kind == HOST { (at, 0) } else { (0, at) };
    let ((src_host, src_device), (dst_host, dst_device)) = (split(src, c.src.at), split(dst, c.dst.at));
    let rows = |slice: u64, pitch: u64| slice.checked_div(pitch).unwrap_or(0) as usize;
    CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: src,
        srcHost: src_host as *const _,
        srcDevice: src_device,
        srcArray: CUarray::NULL,
        reserved0: std::ptr::null_mut(),
        srcPitch: c.src.pitch as usize,
        srcHeight: rows(c.src.slice, c.src.pitch),
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: dst,
        dstHost: dst_host as *mut _,
        dstDevice: dst_device,
        dstArray: CUarray::NULL,
        reserved1: std::ptr::null_mut(),
        dstPitch: c.dst.pitch as usize,
        dstHeight: rows(c.dst.slice, c.dst.pitch),
        WidthInBytes: c.width as usize,
        Height: c.height as usize,
        Depth: c.depth as usize,
    }
}

impl Params for CUDA_MEMSET_NODE_PARAMS {
    unsafe fn work(&self) -> Res<Work> {
        if !matches!(self.elementSize, 1 | 2 | 4) {
            return Err(CUresult::INVALID_VALUE);
        }
        let (element, width, height) = (self.elementSize, self.width as u64, self.height as u64);
        // cuda.h: the pitch of a single row is not used
        let row = width.checked_mul(element as u64).ok_or(CUresult::INVALID_VALUE)?;
        let pitch = if height <= 1 { row } else { self.pitch as u64 };
        let fill = Fill { dst: self.dst, pitch, value: self.value, element, width, height, blocking: false };
        Ok(Work::plain(Op::Fill(fill)))
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        match st.graphs.node(node)?.work.op() {
            Some(Op::Fill(f)) => Ok(Self {
                dst: f.dst,
                pitch: f.pitch as usize,
                value: f.value,
                elementSize: f.element,
                width: f.width as usize,
                height: f.height as usize,
            }),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
}

impl Params for CUDA_HOST_NODE_PARAMS {
    unsafe fn work(&self) -> Res<Work> {
        if self.func.is_none() {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(Work::plain(Op::Host(HostCall::Func { func: self.func, data: self.userData })))
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        match st.graphs.node(node)?.work.op() {
            Some(Op::Host(HostCall::Func { func, data })) => Ok(Self { func, userData: data }),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
}

/// The event of a record node.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Record(pub CUevent);

impl Params for Record {
    unsafe fn work(&self) -> Res<Work> {
        Ok(Work::plain(Op::Record(self.0)))
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        match st.graphs.node(node)?.work.op() {
            Some(Op::Record(e)) => Ok(Self(e)),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
}

/// The event of a wait node.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Wait(pub CUevent);

impl Params for Wait {
    unsafe fn work(&self) -> Res<Work> {
        Ok(Work::plain(Op::Wait(self.0)))
    }

    fn of(st: &mut State, node: CUgraphNode) -> Res<Self> {
        match st.graphs.node(node)?.work.op() {
            Some(Op::Wait(e)) => Ok(Self(e)),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
}

/// Fails unless a context may be used by a node.
pub(super) fn usable(ctx: CUcontext) -> Res {
    lock()?.context(ctx).map(|_| ())
}

/// What a node of any kind does.
///
/// Kinds that we can't run again (allocations, external semaphores, conditional nodes): NOT_SUPPORTED.
pub(super) unsafe fn any(p: &CUgraphNodeParams) -> Res<Work> {
    use crate::objects::graph::kind;
    if p.reserved0 != [0; 3] || p.reserved2 != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    /// CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE.
    const MOVED: u32 = 1;
    /// Words of the union before the struct of a copy (flags and context), and before the context of a memset.
    const COPY: usize = 2;
    const MEMSET_CONTEXT: usize = 5;
    let event = CUevent(p.words[0] as usize);
    match p.kind {
        kind::KERNEL => part::<CUDA_KERNEL_NODE_PARAMS>(&p.words).work(),
        kind::MEMCPY => {
            if p.words[0] != 0 {
                return Err(CUresult::INVALID_VALUE);
            }
            usable(CUcontext(p.words[1] as usize))?;
            part::<CUDA_MEMCPY3D>(&p.words[COPY..]).work()
        }
        kind::MEMSET => {
            usable(CUcontext(p.words[MEMSET_CONTEXT] as usize))?;
            part::<CUDA_MEMSET_NODE_PARAMS>(&p.words).work()
        }
        kind::HOST => part::<CUDA_HOST_NODE_PARAMS>(&p.words).work(),
        kind::GRAPH => match p.words[1] as u32 {
            0 => Ok(Work::Child(p.words[0] as usize)),
            MOVED => Err(CUresult::NOT_SUPPORTED),
            _ => Err(CUresult::INVALID_VALUE),
        },
        kind::EMPTY => Ok(Work::Empty),
        kind::WAIT_EVENT => Wait(event).work(),
        kind::EVENT_RECORD => Record(event).work(),
        8..=13 => Err(CUresult::NOT_SUPPORTED),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// A struct at the start of a union.
unsafe fn part<T: Params>(words: &[u64]) -> T {
    assert!(size_of::<T>() <= size_of_val(words));
    // SAFETY: the words are that long and aligned, and every struct here is valid for any bits.
    words.as_ptr().cast::<T>().read()
}
