//! Stream capture.
use super::graph::{change, edges};
use super::*;
use crate::handle;
use crate::objects::graph::{self, Edge, Info, CAPTURES};
use crate::runtime::lock;
use crate::thread;
use std::sync::atomic::Ordering;
use zerogpu_abi::*;

/// CUstreamCaptureStatus.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

fn begin(stream: CUstream, mode: u32, to: Option<(CUgraph, Vec<Edge>)>) -> Res {
    change(|st| st.begin_capture(stream, mode, to))
}

pub unsafe fn cuStreamBeginCapture(hStream: CUstream) -> CUresult {
    answer(|| begin(hStream, 0, None))
}

pub unsafe fn cuStreamBeginCapture_v2(hStream: CUstream, mode: u32) -> CUresult {
    answer(|| begin(hStream, mode, None))
}

pub unsafe fn cuStreamBeginCaptureToGraph(
    hStream: CUstream,
    hGraph: CUgraph,
    dependencies: *const CUgraphNode,
    dependencyData: *const CUgraphEdgeData,
    numDependencies: usize,
    mode: u32,
) -> CUresult {
    answer(|| begin(hStream, mode, Some((hGraph, edges(dependencies, dependencyData, numDependencies)?))))
}

/// A capture that ends without a graph gives NULL besides the error (cuda.h).
pub unsafe fn cuStreamEndCapture(hStream: CUstream, phGraph: *mut CUgraph) -> CUresult {
    answer(|| {
        if phGraph.is_null() {
            // a driver looks at the stream first
            let capturing = lock()?.capture_info(hStream)?.is_some();
            return Err(if capturing { CUresult::INVALID_VALUE } else { CUresult::ILLEGAL_STATE });
        }
        let ended = change(|st| st.end_capture(hStream))?;
        out(phGraph, ended.unwrap_or(CUgraph::NULL))?;
        ended.map(|_| ())
    })
}

/// Whether the process captures nothing, for a stream that exists; no lock is taken.
#[inline]
pub(super) fn is_known_and_none_captures(stream: CUstream) -> Res<bool> {
    is_idle(stream)?;
    Ok(CAPTURES.load(Ordering::Acquire) == 0)
}

/// Whether a stream certainly takes part in no capture; no lock is taken. PyTorch asks before each allocation.
#[inline(always)]
fn is_idle(stream: CUstream) -> Res<bool> {
    let none = CAPTURES.load(Ordering::Acquire) == 0;
    match stream.0 {
        0..=2 if thread::current().0 == 0 => Err(CUresult::INVALID_CONTEXT),
        0..=2 => Ok(none),
        h if !handle::is(h, handle::Kind::Stream) => Err(CUresult::INVALID_HANDLE),
        _ => Ok(none || graph::is_idle(stream)),
    }
}

/// The stream's capture, if it takes part in one.
#[inline]
fn ask(stream: CUstream) -> Res<Option<Info>> {
    if is_idle(stream)? {
        Ok(None)
    } else {
        look(stream)
    }
}

#[cold]
fn look(stream: CUstream) -> Res<Option<Info>> {
    lock()?.capture_info(stream)
}

fn status(info: &Option<Info>) -> u32 {
    match info {
        None => NONE,
        Some(i) if i.active => ACTIVE,
        Some(_) => INVALIDATED,
    }
}

#[inline]
pub unsafe fn cuStreamIsCapturing(hStream: CUstream, captureStatus: *mut u32) -> CUresult {
    answer(|| {
        wanted(captureStatus)?;
        out(captureStatus, status(&ask(hStream)?))
    })
}

pub unsafe fn cuStreamGetCaptureInfo(hStream: CUstream, captureStatus_out: *mut u32, id_out: *mut u64) -> CUresult {
    use std::ptr::null_mut;
    let (graph, deps, ports, n) = (null_mut(), null_mut(), null_mut(), null_mut());
    cuStreamGetCaptureInfo_v3(hStream, captureStatus_out, id_out, graph, deps, ports, n)
}

pub unsafe fn cuStreamGetCaptureInfo_v2(
    hStream: CUstream,
    captureStatus_out: *mut u32,
    id_out: *mut u64,
    graph_out: *mut CUgraph,
    dependencies_out: *mut *const CUgraphNode,
    numDependencies_out: *mut usize,
) -> CUresult {
    let ports = std::ptr::null_mut();
    cuStreamGetCaptureInfo_v3(
        hStream,
        captureStatus_out,
        id_out,
        graph_out,
        dependencies_out,
        ports,
        numDependencies_out,
    )
}

pub unsafe fn cuStreamGetCaptureInfo_v3(
    hStream: CUstream,
    captureStatus_out: *mut u32,
    id_out: *mut u64,
    graph_out: *mut CUgraph,
    dependencies_out: *mut *const CUgraphNode,
    edgeData_out: *mut *const CUgraphEdgeData,
    numDependencies_out: *mut usize,
) -> CUresult {
    answer(|| {
        wanted(captureStatus_out)?;
        if !edgeData_out.is_null() {
            wanted(dependencies_out)?;
        }
        let info = ask(hStream)?;
        if let Some(i) = info.as_ref().filter(|i| i.active) {
            if !dependencies_out.is_null() && edgeData_out.is_null() && !i.plain {
                return Err(CUresult::LOSSY_QUERY);
            }
            out_opt(id_out, i.id);
            out_opt(graph_out, i.graph);
            out_opt(dependencies_out, i.nodes);
            out_opt(edgeData_out, i.ports);
            out_opt(numDependencies_out, i.len);
        }
        out(captureStatus_out, status(&info))
    })
}

pub unsafe fn cuStreamUpdateCaptureDependencies(
    hStream: CUstream,
    dependencies: *mut CUgraphNode,
    numDependencies: usize,
    flags: u32,
) -> CUresult {
    cuStreamUpdateCaptureDependencies_v2(hStream, dependencies, std::ptr::null(), numDependencies, flags)
}

pub unsafe fn cuStreamUpdateCaptureDependencies_v2(
    hStream: CUstream,
    dependencies: *mut CUgraphNode,
    dependencyData: *const CUgraphEdgeData,
    numDependencies: usize,
    flags: u32,
) -> CUresult {
    answer(|| {
        if flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        let edges = edges(dependencies, dependencyData, numDependencies)?;
        // CU_STREAM_SET_CAPTURE_DEPENDENCIES: 1
        change(|st| st.update_capture_deps(hStream, &edges, flags == 1))
    })
}

pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> CUresult {
    answer(|| {
        let new = input(mode)?;
        if new > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        out(mode, thread::exchange_capture_mode(new))
    })
}
