//! Nodes, what they do, and the edges between them.
use super::Graphs;
use crate::handle::Kind;
use crate::op::{Copy, HostCall, Op, Owned, OwnedLaunch};
use crate::runtime::State;
use zerogpu_abi::*;

/// CUgraphNodeType (cuda.h of CUDA 13.0), as far as there are such nodes here.
pub mod kind {
    /// A launch.
    pub const KERNEL: u32 = 0;
    /// A copy.
    pub const MEMCPY: u32 = 1;
    /// A memset.
    pub const MEMSET: u32 = 2;
    /// A host function.
    pub const HOST: u32 = 3;
    /// A graph of its own.
    pub const GRAPH: u32 = 4;
    /// Nothing: it only orders others.
    pub const EMPTY: u32 = 5;
    /// A wait for an event.
    pub const WAIT_EVENT: u32 = 6;
    /// The record of an event.
    pub const EVENT_RECORD: u32 = 7;
    /// Writes to memory, or waits for it.
    pub const BATCH_MEM_OP: u32 = 12;
}

/// What a node does.
#[derive(Clone)]
pub enum Work {
    /// Nothing: it only orders others.
    Empty,
    /// Runs a graph: the node's own copy, or, before the node is made, the graph to copy.
    Child(usize),
    /// Runs a command.
    Command(Owned),
    /// A copy that the app described by a struct, which it may ask for again.
    Described(Copy, Box<CUDA_MEMCPY3D>),
}

// SAFETY: the raw pointers inside are values that the app passed; nothing here follows them.
unsafe impl Send for Work {}

impl Work {
    /// The work of a command that names nothing borrowed.
    pub fn plain(op: Op<'static>) -> Self {
        Work::Command(Owned::Plain(op))
    }

    /// CUgraphNodeType.
    pub fn kind(&self) -> u32 {
        match self {
            Work::Empty => kind::EMPTY,
            Work::Child(_) => kind::GRAPH,
            Work::Described(..) => kind::MEMCPY,
            Work::Command(owned) => match owned.as_op() {
                Op::Launch(_) => kind::KERNEL,
                Op::Copy(_) => kind::MEMCPY,
                Op::Fill(_) => kind::MEMSET,
                Op::Host(_) => kind::HOST,
                Op::Record(_) => kind::EVENT_RECORD,
                Op::Wait(_) => kind::WAIT_EVENT,
                Op::Write(_) | Op::Await(_) => kind::BATCH_MEM_OP,
                Op::Graph(_) => kind::GRAPH,
            },
        }
    }

    /// The command; None for an empty node or a graph.
    pub fn op(&self) -> Option<Op<'_>> {
        match self {
            Work::Empty | Work::Child(_) => None,
            Work::Command(owned) => Some(owned.as_op()),
            Work::Described(copy, _) => Some(Op::Copy(*copy)),
        }
    }

    /// The command, owning what it names.
    pub fn owned(&self) -> Option<Owned> {
        match self {
            Work::Empty | Work::Child(_) => None,
            Work::Command(owned) => Some(owned.clone()),
            Work::Described(copy, _) => Some(Owned::Plain(Op::Copy(*copy))),
        }
    }

    /// The launch of a kernel node.
    pub fn launch(&self) -> Option<&OwnedLaunch> {
        match self {
            Work::Command(Owned::Launch(l)) => Some(l),
            _ => None,
        }
    }

    /// The launch of a kernel node, to be changed.
    pub fn launch_mut(&mut self) -> Option<&mut OwnedLaunch> {
        match self {
            Work::Command(Owned::Launch(l)) => Some(l),
            _ => None,
        }
    }

    /// Takes another node's parameters. Attributes of a kernel node stay, as they are set by calls of their own.
    ///
    /// # Errors
    /// INVALID_VALUE: the other is of another kind.
    pub fn set(&mut self, mut new: Work) -> Res {
        if self.kind() != new.kind() {
            return Err(CUresult::INVALID_VALUE);
        }
        if let (Some(old), Some(new)) = (self.launch_mut(), new.launch_mut()) {
            new.attrs = std::mem::take(&mut old.attrs);
            new.cooperative = old.cooperative;
        }
        *self = new;
        Ok(())
    }
}

/// When a dependency counts as met (CUgraphEdgeData); all zeros: when all is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Port {
    /// What of the upstream node is waited for; only kernel nodes have ports, 1 and 2.
    pub from: u8,
    /// CUgraphDependencyType.
    pub kind: u8,
}

impl Port {
    /// Reads the C struct.
    ///
    /// # Errors
    /// INVALID_VALUE: what CUDA 13.0 does not define.
    pub fn new(d: &CUgraphEdgeData) -> Res<Self> {
        let good = d.from_port <= 2 && d.to_port == 0 && d.kind <= 1 && d.reserved == [0; 5];
        if good {
            Ok(Self { from: d.from_port, kind: d.kind })
        } else {
            Err(CUresult::INVALID_VALUE)
        }
    }

    /// Whether the whole upstream node is waited for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The C struct.
    pub fn data(&self) -> CUgraphEdgeData {
        CUgraphEdgeData { from_port: self.from, to_port: 0, kind: self.kind, reserved: [0; 5] }
    }
}

/// A dependency of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// The node waited for.
    pub from: usize,
    /// What of it is waited for.
    pub port: Port,
}

impl Edge {
    /// A dependency on all of a node.
    pub fn on(from: usize) -> Self {
        Self { from, port: Port::default() }
    }
}

/// A node of a graph.
pub struct Node {
    /// The graph it belongs to.
    pub graph: usize,
    /// What it does.
    pub work: Work,
    /// What it waits for, in the order of being added.
    pub deps: Vec<Edge>,
    /// The node that it is a copy of; 0: none.
    pub origin: usize,
    /// Addresses of a kernel's parameters inside `work`, once the app has asked for them.
    pub pointers: Box<[usize]>,
}

impl Graphs {
    /// The node of a handle.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none.
    pub fn node(&self, node: CUgraphNode) -> Res<&Node> {
        self.nodes.get(&node.0).ok_or(CUresult::INVALID_VALUE)
    }

    /// The node of a handle, to be changed.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none.
    pub fn node_mut(&mut self, node: CUgraphNode) -> Res<&mut Node> {
        self.nodes.get_mut(&node.0).ok_or(CUresult::INVALID_VALUE)
    }

    /// Changes what a node does.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such node, the work is of another kind, or it is a graph.
    pub fn set_node(&mut self, node: CUgraphNode, work: Work) -> Res {
        let n = self.node_mut(node)?;
        if let Work::Child(_) = work {
            return Err(CUresult::INVALID_VALUE);
        }
        n.work.set(work)?;
        n.pointers = Box::default();
        Ok(())
    }

    /// Fails unless `from` are distinct nodes of the graph whose ports exist.
    pub(super) fn check_edges(&self, graph: usize, edges: &[Edge]) -> Res {
        let mut seen = std::collections::HashSet::with_capacity(edges.len());
        for e in edges {
            let node = self.node(CUgraphNode(e.from))?;
            let port_exists = e.port.is_default() || node.work.kind() == kind::KERNEL;
            if node.graph != graph || !seen.insert(e.from) || !port_exists {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        Ok(())
    }

    /// Adds dependencies (upstream edge, downstream node), all or none. A cycle is found only at instantiation, as on a
    /// driver.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph, an end is no node of it, or has no such port; a dependency exists, is
    /// named twice, or is a node's on itself.
    pub fn add_edges(&mut self, graph: CUgraph, edges: &[(Edge, usize)]) -> Res {
        self.graph(graph)?;
        let mut seen = std::collections::HashSet::with_capacity(edges.len());
        for (e, to) in edges {
            self.check_edges(graph.0, &[*e])?;
            let node = self.node(CUgraphNode(*to))?;
            let exists = node.deps.iter().any(|d| d.from == e.from) || !seen.insert((e.from, *to));
            if node.graph != graph.0 || e.from == *to || exists {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        for (e, to) in edges {
            self.node_mut(CUgraphNode(*to))?.deps.push(*e);
        }
        Ok(())
    }

    /// Removes dependencies, all or none.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph, one does not exist in it, or is named twice.
    pub fn remove_edges(&mut self, graph: CUgraph, edges: &[(Edge, usize)]) -> Res {
        self.graph(graph)?;
        let mut seen = std::collections::HashSet::with_capacity(edges.len());
        for (e, to) in edges {
            let node = self.node(CUgraphNode(*to))?;
            if node.graph != graph.0 || !node.deps.contains(e) || !seen.insert((e.from, *to)) {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        for (e, to) in edges {
            self.node_mut(CUgraphNode(*to))?.deps.retain(|d| d != e);
        }
        Ok(())
    }

    /// All dependencies of a graph: upstream edge and downstream node, by downstream node.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph.
    pub fn edges(&self, graph: CUgraph) -> Res<Vec<(Edge, usize)>> {
        let of = |&to: &usize| self.nodes.get(&to).into_iter().flat_map(move |n| n.deps.iter().map(move |&e| (e, to)));
        Ok(self.graph(graph)?.nodes.iter().flat_map(of).collect())
    }

    /// The nodes that wait for a node; `from` of each edge is the waiting node.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such node.
    pub fn dependents(&self, node: CUgraphNode) -> Res<Vec<Edge>> {
        let all = self.edges(CUgraph(self.node(node)?.graph))?;
        Ok(all.into_iter().filter(|(e, _)| e.from == node.0).map(|(e, to)| Edge { from: to, ..e }).collect())
    }
}

impl State {
    /// Adds a node. Work that is a graph is copied into the node.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph; a dependency is on what is no node of it, is named twice, or by a port
    /// that the node lacks; or the work is the graph itself, or one that does not exist. OUT_OF_MEMORY: no handle can be
    /// had.
    pub fn add_node(&mut self, graph: CUgraph, deps: &[Edge], work: Work) -> Res<CUgraphNode> {
        self.graphs.graph(graph)?;
        self.graphs.check_edges(graph.0, deps)?;
        let work = match work {
            Work::Child(of) if of == graph.0 => return Err(CUresult::INVALID_VALUE),
            Work::Child(of) => Work::Child(self.copy_graph(of)?),
            work => work,
        };
        self.add_owned(graph, deps, work)
    }

    /// Adds a node that owns its graph, if its work is one; dependencies are as they should be.
    pub(super) fn add_owned(&mut self, graph: CUgraph, deps: &[Edge], work: Work) -> Res<CUgraphNode> {
        let child = if let Work::Child(g) = work { Some(g) } else { None };
        let node = self.insert_node(graph.0, work);
        if let Some(g) = child {
            match node {
                Ok(n) => self.graphs.graph_mut(CUgraph(g))?.parent = Some(n),
                Err(_) => self.drop_graph(g),
            }
        }
        let node = CUgraphNode(node?);
        self.graphs.node_mut(node)?.deps = deps.to_vec();
        Ok(node)
    }

    fn insert_node(&mut self, graph: usize, work: Work) -> Res<usize> {
        let h = self.handle(Kind::Node)?;
        self.graphs.nodes.insert(h, Node { graph, work, deps: Vec::new(), origin: 0, pointers: Box::default() });
        self.graphs.graph_mut(CUgraph(graph))?.nodes.push(h);
        Ok(h)
    }

    /// Removes a node and its edges.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none, or a capture adds to its graph (cuda.h).
    pub fn destroy_node(&mut self, node: CUgraphNode) -> Res {
        let graph = self.graphs.node(node)?.graph;
        if self.graphs.is_captured_to(graph) {
            return Err(CUresult::INVALID_VALUE);
        }
        self.remove_node(node.0);
        Ok(())
    }

    fn remove_node(&mut self, node: usize) {
        let Some(graph) = self.graphs.nodes.get(&node).map(|n| n.graph) else { return };
        if let Some(g) = self.graphs.graphs.get_mut(&graph) {
            g.nodes.retain(|&n| n != node);
            for n in g.nodes.clone() {
                if let Some(n) = self.graphs.nodes.get_mut(&n) {
                    n.deps.retain(|e| e.from != node);
                }
            }
        }
        self.drop_node(node);
    }

    /// Ends a node whose graph no longer lists it.
    pub(super) fn drop_node(&mut self, node: usize) {
        if let Some(Node { work: Work::Child(graph), .. }) = self.graphs.nodes.remove(&node) {
            self.drop_graph(graph);
        }
        self.end(Kind::Node, node);
    }

    /// Addresses of the parameters of a kernel node inside the node; valid until they are set or the node ends.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such node, or it is no kernel node; INVALID_HANDLE: its kernel was unloaded.
    pub fn param_pointers(&mut self, node: CUgraphNode) -> Res<&[usize]> {
        let launch = self.graphs.node(node)?.work.launch().ok_or(CUresult::INVALID_VALUE)?;
        let kernel = self.modules.launchable(launch.func).ok_or(CUresult::INVALID_HANDLE)?.kernel.clone();
        let n = self.graphs.node_mut(node)?;
        let launch = n.work.launch().ok_or(CUresult::INVALID_VALUE)?;
        let base = launch.params.as_ptr() as usize;
        // the app may have those of an earlier call still
        if n.pointers.is_empty() {
            n.pointers = kernel.params.iter().map(|p| base + p.offset as usize).collect();
        }
        Ok(&n.pointers)
    }
}

/// The command of a node that a stream's command becomes; None: it becomes no plain node (see `capture`).
pub(super) fn static_op(op: &Op) -> Option<Op<'static>> {
    Some(match *op {
        Op::Copy(c) => Op::Copy(c),
        Op::Fill(f) => Op::Fill(f),
        Op::Host(h @ HostCall::Func { .. }) => Op::Host(h),
        Op::Write(v) => Op::Write(v),
        Op::Await(v) => Op::Await(v),
        Op::Record(e) => Op::Record(e),
        Op::Wait(e) => Op::Wait(e),
        Op::Launch(_) | Op::Graph(_) | Op::Host(HostCall::Callback { .. }) => return None,
    })
}
