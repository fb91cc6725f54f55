//! A graph as DOT text.
use super::{kind, Graphs, Work};
use crate::op::Op;
use crate::runtime::State;
use std::fmt::Write;
use zerogpu_abi::*;

/// CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE.
const VERBOSE: u32 = 1;
/// Flags that ask for parameters: those of kernels, copies, memsets, host functions, events, value operations.
const PARAMS: u32 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 13;
/// CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES.
const HANDLES: u32 = 1 << 10;

impl State {
    /// A graph as DOT text; `flags` are CU_GRAPH_DEBUG_DOT_FLAGS_*.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph.
    pub fn dot(&self, graph: CUgraph, flags: u32) -> Res<String> {
        self.graphs.graph(graph)?;
        let mut out = String::from("digraph dot {\n");
        let mut clusters = 0;
        self.cluster(graph.0, flags, &mut clusters, &mut out);
        out.push_str("}\n");
        Ok(out)
    }

    fn cluster(&self, graph: usize, flags: u32, clusters: &mut usize, out: &mut String) {
        let Ok(g) = self.graphs.graph(CUgraph(graph)) else { return };
        let id = *clusters;
        *clusters += 1;
        // writing to a String can't fail
        let _ = writeln!(out, "subgraph cluster_{id} {{\nlabel=\"graph_{id}\" graph[style=\"dashed\"];");
        for (i, n) in g.nodes.iter().enumerate() {
            let Ok(node) = self.graphs.node(CUgraphNode(*n)) else { continue };
            let label = self.label(&node.work, flags, *n).replace('"', "\\\"");
            let _ = writeln!(out, "\"graph_{id}_node_{i}\"[shape=\"rectangle\" label=\"{i}\\n{label}\"];");
            if let Work::Child(inner) = node.work {
                self.cluster(inner, flags, clusters, out);
            }
        }
        for (i, n) in g.nodes.iter().enumerate() {
            for from in self.graphs.upstream_places(*n, &g.nodes) {
                let _ = writeln!(out, "\"graph_{id}_node_{from}\" -> \"graph_{id}_node_{i}\";");
            }
        }
        out.push_str("}\n");
    }

    fn label(&self, work: &Work, flags: u32, node: usize) -> String {
        let name = match work.kind() {
            kind::KERNEL => "KERNEL",
            kind::MEMCPY => "MEMCPY",
            kind::MEMSET => "MEMSET",
            kind::HOST => "HOST",
            kind::GRAPH => "CHILD_GRAPH",
            kind::EMPTY => "EMPTY",
            kind::WAIT_EVENT => "EVENT_WAIT",
            kind::EVENT_RECORD => "EVENT_RECORD",
            _ => "BATCH_MEM_OP",
        };
        let mut label = String::from(name);
        let op = work.op();
        match op {
            Some(Op::Launch(l)) => {
                let name = self.modules.launchable(l.func).map_or("?", |f| &f.kernel.name);
                let _ = write!(label, "\\n{name}");
            }
            Some(Op::Copy(c)) => {
                let _ = write!(label, "\\n{:?}", c.direction);
            }
            _ => {}
        }
        if flags & (VERBOSE | PARAMS) != 0 {
            if let Some(op) = &op {
                describe(op, &mut label);
            }
        }
        if flags & (VERBOSE | HANDLES) != 0 {
            let _ = write!(label, "\\nnode {node:#x}");
        }
        label
    }
}

fn describe(op: &Op, out: &mut String) {
    let _ = match op {
        Op::Launch(l) => write!(out, "\\n<<<{:?},{:?},{}>>>", l.grid, l.block, l.shared),
        Op::Copy(c) => {
            write!(out, "\\n{:#x} to {:#x}, {}x{}x{} bytes", c.src.at, c.dst.at, c.width, c.height, c.depth)
        }
        Op::Fill(f) => {
            write!(out, "\\n{:#x} at {:#x}, {}x{} of {} bytes", f.value, f.dst, f.width, f.height, f.element)
        }
        Op::Record(e) | Op::Wait(e) => write!(out, "\\nevent {:#x}", e.0),
        Op::Write(v) | Op::Await(v) => write!(out, "\\n{:#x} at {:#x}, flags {:#x}", v.value, v.at, v.flags),
        Op::Host(_) | Op::Graph(_) => Ok(()),
    };
}

impl Graphs {
    /// Places in `nodes` of what a node waits for.
    fn upstream_places(&self, node: usize, nodes: &[usize]) -> Vec<usize> {
        let deps = self.nodes.get(&node).map_or(&[][..], |n| &n.deps);
        deps.iter().filter_map(|e| nodes.iter().position(|n| *n == e.from)).collect()
    }
}
