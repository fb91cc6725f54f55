//! Graphs: nodes with dependencies, made by the app or captured from streams, and executable graphs made of them.
//!
//! All of it is virtual: nodes own their parameters as bytes, so a graph can be run, or built again on a real driver, at
//! any time and never binds the process to a context.
mod attr;
mod capture;
mod dot;
mod exec;
mod node;
mod rules;
mod user;

pub use capture::{is_idle, Capture, Info, CAPTURES};
pub use exec::{Exec, ExecNode, GraphLaunch, Mismatch};
pub use node::{kind, Edge, Node, Port, Work};
pub use user::Released;

use crate::handle::Kind;
use crate::runtime::{Map, State};
use std::collections::BTreeMap;
use zerogpu_abi::*;

/// References to user objects: object and count.
type Refs = Vec<(usize, u64)>;

/// All graphs and captures.
#[derive(Default)]
pub struct Graphs {
    graphs: Map<Graph>,
    nodes: Map<Node>,
    execs: Map<Exec>,
    /// By id; none is used twice.
    captures: BTreeMap<u64, Capture>,
    last_capture: u64,
    users: Map<user::UserObject>,
    released: Released,
}

/// A graph.
#[derive(Default)]
pub struct Graph {
    /// Its nodes, in the order of being added.
    pub nodes: Vec<usize>,
    /// The node that owns it; None: the app does.
    parent: Option<usize>,
    refs: Refs,
}

impl Graphs {
    /// The graph of a handle.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none.
    pub fn graph(&self, graph: CUgraph) -> Res<&Graph> {
        self.graphs.get(&graph.0).ok_or(CUresult::INVALID_VALUE)
    }

    fn graph_mut(&mut self, graph: CUgraph) -> Res<&mut Graph> {
        self.graphs.get_mut(&graph.0).ok_or(CUresult::INVALID_VALUE)
    }

    /// The nodes of a graph that wait for nothing.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph.
    pub fn roots(&self, graph: CUgraph) -> Res<Vec<usize>> {
        let is_root = |n: &&usize| self.nodes.get(n).is_some_and(|n| n.deps.is_empty());
        Ok(self.graph(graph)?.nodes.iter().filter(is_root).copied().collect())
    }

    /// The node of a cloned graph that is the copy of `original`.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such node or graph, or no copy of it there.
    pub fn find_in_clone(&self, original: CUgraphNode, clone: CUgraph) -> Res<CUgraphNode> {
        self.node(original)?;
        let nodes = &self.graph(clone)?.nodes;
        let found = nodes.iter().find(|n| self.nodes.get(n).is_some_and(|n| n.origin == original.0));
        found.map(|&n| CUgraphNode(n)).ok_or(CUresult::INVALID_VALUE)
    }
}

impl State {
    /// Makes an empty graph.
    ///
    /// # Errors
    /// OUT_OF_MEMORY: no handle can be had.
    pub fn create_graph(&mut self) -> Res<CUgraph> {
        let h = self.handle(Kind::Graph)?;
        self.graphs.graphs.insert(h, Graph::default());
        Ok(CUgraph(h))
    }

    /// Ends a graph of the app's.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none, it is a node's own, or a capture adds to it.
    pub fn destroy_graph(&mut self, graph: CUgraph) -> Res {
        let owned = self.graphs.graph(graph)?.parent.is_some();
        if owned || self.graphs.is_captured_to(graph.0) {
            return Err(CUresult::INVALID_VALUE);
        }
        self.drop_graph(graph.0);
        Ok(())
    }

    /// Copies a graph with all that is in it.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph; OUT_OF_MEMORY: no handle can be had.
    pub fn clone_graph(&mut self, graph: CUgraph) -> Res<CUgraph> {
        self.copy_graph(graph.0).map(CUgraph)
    }

    fn drop_graph(&mut self, graph: usize) {
        let Some(g) = self.graphs.graphs.remove(&graph) else { return };
        for node in g.nodes {
            self.drop_node(node);
        }
        self.let_go(&g.refs);
        self.end(Kind::Graph, graph);
    }

    /// Copies a graph; the copy is the app's until a node takes it.
    fn copy_graph(&mut self, of: usize) -> Res<usize> {
        let refs = self.graphs.graph(CUgraph(of))?.refs.clone();
        let copy = self.create_graph()?;
        self.graphs.hold(&refs);
        self.graphs.graph_mut(copy)?.refs = refs;
        self.copy_nodes(of, copy.0).map(|()| copy.0).inspect_err(|_| self.drop_graph(copy.0))
    }

    fn copy_nodes(&mut self, of: usize, to: usize) -> Res {
        let nodes = self.graphs.graph(CUgraph(of))?.nodes.clone();
        let mut copies = Map::default();
        for &n in &nodes {
            let work = match self.graphs.node(CUgraphNode(n))?.work.clone() {
                Work::Child(g) => Work::Child(self.copy_graph(g)?),
                work => work,
            };
            let copy = self.add_owned(CUgraph(to), &[], work)?;
            self.graphs.node_mut(copy)?.origin = n;
            copies.insert(n, copy.0);
        }
        for (n, &copy) in &copies {
            let deps = self.graphs.node(CUgraphNode(*n))?.deps.clone();
            let deps = deps.into_iter().filter_map(|e| Some(Edge { from: *copies.get(&e.from)?, ..e })).collect();
            self.graphs.node_mut(CUgraphNode(copy))?.deps = deps;
        }
        Ok(())
    }
}
