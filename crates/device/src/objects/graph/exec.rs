//! Executable graphs: a graph's commands, in an order that respects their dependencies, with parameters of their own.
use super::{kind, Edge, Graphs, Refs, Work};
use crate::handle::Kind;
use crate::op::Owned;
use crate::runtime::{Map, State};
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use zerogpu_abi::*;

/// One command of an executable graph.
pub struct ExecNode {
    /// The command.
    pub op: Owned,
    /// What must be done before: indices in the list, all smaller than its own.
    pub deps: Vec<usize>,
}

/// An executable graph.
pub struct Exec {
    /// CUDA_GRAPH_INSTANTIATE_FLAG_* as given.
    pub flags: u64,
    tree: Tree,
    refs: Refs,
    /// Made when asked for, dropped when parameters change.
    nodes: OnceCell<Arc<[ExecNode]>>,
    ops: OnceCell<Arc<[Owned]>>,
}

/// A launch of an executable graph, independent of the graph.
#[derive(Clone)]
pub struct GraphLaunch {
    /// Its commands.
    pub ops: Arc<[Owned]>,
    refs: Refs,
}

impl GraphLaunch {
    /// Whether no user object lives for its sake.
    pub fn holds_nothing(&self) -> bool {
        self.refs.is_empty()
    }

    /// What is left of it when its commands have been given to somebody: what it holds.
    pub fn without_commands(self) -> Self {
        Self { ops: [].into(), ..self }
    }
}

/// The nodes of a graph in an order that respects their dependencies.
type Tree = Vec<Item>;

#[derive(Clone)]
struct Item {
    /// The node of the graph that this was instantiated from.
    origin: usize,
    /// Indices in the tree.
    deps: Vec<usize>,
    enabled: bool,
    part: Part,
}

#[derive(Clone)]
enum Part {
    Work(Work),
    Child(Tree),
}

impl Item {
    fn kind(&self) -> u32 {
        match &self.part {
            Part::Work(w) => w.kind(),
            Part::Child(_) => kind::GRAPH,
        }
    }
}

/// Why an executable graph can't take a graph's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// CUgraphExecUpdateResult.
    pub result: u32,
    /// The node of the graph, if one is at fault.
    pub node: CUgraphNode,
    /// Its dependency, if that is at fault.
    pub from: CUgraphNode,
}

/// CUgraphExecUpdateResult.
const TOPOLOGY_CHANGED: u32 = 2;
const NODE_TYPE_CHANGED: u32 = 3;
const PARAMETERS_CHANGED: u32 = 5;
const ATTRIBUTES_CHANGED: u32 = 8;

impl Mismatch {
    fn new(result: u32, node: usize, from: usize) -> Self {
        Self { result, node: CUgraphNode(node), from: CUgraphNode(from) }
    }
}

impl Graphs {
    /// The executable graph of a handle.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none.
    pub fn exec(&self, exec: CUgraphExec) -> Res<&Exec> {
        self.execs.get(&exec.0).ok_or(CUresult::INVALID_VALUE)
    }

    fn exec_mut(&mut self, exec: CUgraphExec) -> Res<&mut Exec> {
        self.execs.get_mut(&exec.0).ok_or(CUresult::INVALID_VALUE)
    }

    /// The nodes of a graph in order; among those that could come next, the one that was added first. A cycle: a node
    /// of it.
    fn plan(&self, graph: usize) -> Result<Tree, CUgraphNode> {
        let Some(g) = self.graphs.get(&graph) else { return Ok(Tree::new()) };
        let place: Map<usize> = g.nodes.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let deps = |n: usize| self.nodes.get(&n).into_iter().flat_map(|n| &n.deps).filter_map(|e| place.get(&e.from));
        let mut waiting: Vec<usize> = g.nodes.iter().map(|&n| deps(n).count()).collect();
        let mut waiters = vec![Vec::new(); g.nodes.len()];
        for (i, &n) in g.nodes.iter().enumerate() {
            deps(n).for_each(|&d| waiters[d].push(i));
        }
        let mut ready: BTreeSet<usize> = (0..g.nodes.len()).filter(|&i| waiting[i] == 0).collect();
        let (mut tree, mut index) = (Tree::with_capacity(g.nodes.len()), vec![0; g.nodes.len()]);
        while let Some(i) = ready.pop_first() {
            let origin = g.nodes[i];
            index[i] = tree.len();
            let part = match self.nodes.get(&origin).map(|n| &n.work) {
                Some(Work::Child(c)) => Part::Child(self.plan(*c)?),
                Some(work) => Part::Work(work.clone()),
                None => Part::Work(Work::Empty),
            };
            tree.push(Item { origin, deps: deps(origin).map(|&d| index[d]).collect(), enabled: true, part });
            for &w in &waiters[i] {
                waiting[w] -= 1;
                if waiting[w] == 0 {
                    ready.insert(w);
                }
            }
        }
        match waiting.iter().position(|&n| n > 0) {
            Some(i) => Err(CUgraphNode(g.nodes[i])),
            None => Ok(tree),
        }
    }

    /// References to user objects of a graph and of the graphs in it.
    fn all_refs(&self, graph: usize) -> Refs {
        let Some(g) = self.graphs.get(&graph) else { return Refs::new() };
        let mut refs = g.refs.clone();
        for n in &g.nodes {
            if let Some(Work::Child(c)) = self.nodes.get(n).map(|n| &n.work) {
                refs.extend(self.all_refs(*c));
            }
        }
        refs
    }

    /// Changes the parameters of an executable graph's node, named by the node of the graph that it came from.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such executable graph, no such node in it, or the node is of another kind or a child
    /// graph.
    pub fn set_exec_node(&mut self, exec: CUgraphExec, node: CUgraphNode, work: Work) -> Res {
        let item = self.exec_item(exec, node)?;
        match &mut item.part {
            Part::Work(old) => old.set(work),
            Part::Child(_) => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Changes the parameters of a child graph's nodes to those of a graph of the same shape.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such executable graph, no such node in it, or it is no child graph; or there is no
    /// graph `child`, or it has a cycle or another shape.
    pub fn set_exec_child(&mut self, exec: CUgraphExec, node: CUgraphNode, child: CUgraph) -> Res {
        self.graph(child)?;
        let new = self.plan(child.0).map_err(|_| CUresult::INVALID_VALUE)?;
        match &mut self.exec_item(exec, node)?.part {
            Part::Child(old) => adopt(old, new).map_err(|_| CUresult::INVALID_VALUE),
            Part::Work(_) => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Whether a node runs; kernel, copy and memset nodes only.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such executable graph, no such node in it, or it is of another kind.
    pub fn is_enabled(&self, exec: CUgraphExec, node: CUgraphNode) -> Res<bool> {
        self.node(node)?;
        let item = find(&self.exec(exec)?.tree, node.0).ok_or(CUresult::INVALID_VALUE)?;
        if can_be_disabled(item) {
            Ok(item.enabled)
        } else {
            Err(CUresult::INVALID_VALUE)
        }
    }

    /// Makes a node run or not.
    ///
    /// # Errors
    /// As for [`Graphs::is_enabled`].
    pub fn set_enabled(&mut self, exec: CUgraphExec, node: CUgraphNode, enabled: bool) -> Res {
        self.is_enabled(exec, node)?;
        self.exec_item(exec, node)?.enabled = enabled;
        Ok(())
    }

    /// A node of an executable graph, to be changed.
    fn exec_item(&mut self, exec: CUgraphExec, node: CUgraphNode) -> Res<&mut Item> {
        self.node(node)?;
        let exec = self.exec_mut(exec)?;
        (exec.nodes, exec.ops) = (OnceCell::new(), OnceCell::new());
        find_mut(&mut exec.tree, node.0).ok_or(CUresult::INVALID_VALUE)
    }
}

fn can_be_disabled(item: &Item) -> bool {
    matches!(item.kind(), kind::KERNEL | kind::MEMCPY | kind::MEMSET)
}

fn find(tree: &Tree, origin: usize) -> Option<&Item> {
    tree.iter().find_map(|item| match &item.part {
        _ if item.origin == origin => Some(item),
        Part::Child(inner) => find(inner, origin),
        Part::Work(_) => None,
    })
}

fn find_mut(tree: &mut Tree, origin: usize) -> Option<&mut Item> {
    for item in tree {
        if item.origin == origin {
            return Some(item);
        }
        if let Part::Child(inner) = &mut item.part {
            if let Some(found) = find_mut(inner, origin) {
                return Some(found);
            }
        }
    }
    None
}

/// Fails unless both trees have the same shape and kinds of nodes.
fn compare(old: &Tree, new: &Tree) -> Result<(), Mismatch> {
    if old.len() != new.len() {
        return Err(Mismatch::new(TOPOLOGY_CHANGED, 0, 0));
    }
    for (a, b) in old.iter().zip(new) {
        if a.kind() != b.kind() {
            return Err(Mismatch::new(NODE_TYPE_CHANGED, b.origin, 0));
        }
        if a.deps.len() != b.deps.len() {
            return Err(Mismatch::new(TOPOLOGY_CHANGED, b.origin, 0));
        }
        if let Some(&d) = b.deps.iter().find(|d| !a.deps.contains(d)) {
            return Err(Mismatch::new(TOPOLOGY_CHANGED, b.origin, new[d].origin));
        }
        match (&a.part, &b.part) {
            (Part::Child(a), Part::Child(b)) => compare(a, b)?,
            (Part::Work(x), Part::Work(y)) => compare_work(x, y).map_err(|r| Mismatch::new(r, b.origin, 0))?,
            _ => return Err(Mismatch::new(NODE_TYPE_CHANGED, b.origin, 0)),
        }
    }
    Ok(())
}

/// cuda.h, cuGraphExecUpdate: a copy keeps its memory types, a cooperative kernel stays one.
fn compare_work(old: &Work, new: &Work) -> Result<(), u32> {
    use crate::op::Op;
    match (old.op(), new.op()) {
        (Some(Op::Copy(a)), Some(Op::Copy(b))) if a.direction != b.direction => Err(PARAMETERS_CHANGED),
        (Some(Op::Launch(a)), Some(Op::Launch(b))) if a.cooperative != b.cooperative => Err(ATTRIBUTES_CHANGED),
        _ => Ok(()),
    }
}

/// Takes the parameters of a tree of the same shape; all or nothing.
fn adopt(old: &mut Tree, new: Tree) -> Result<(), Mismatch> {
    compare(old, &new)?;
    fn take(old: &mut Tree, new: Tree) {
        for (a, b) in old.iter_mut().zip(new) {
            match (&mut a.part, b.part) {
                (Part::Child(a), Part::Child(b)) => take(a, b),
                (a, b) => *a = b,
            }
        }
    }
    take(old, new);
    Ok(())
}

/// Appends the commands of a tree that starts after `before`, and returns the commands it ends with.
fn flatten(tree: &Tree, before: &[usize], out: &mut Vec<ExecNode>) -> Vec<usize> {
    let union = |mut v: Vec<usize>| {
        v.sort_unstable();
        v.dedup();
        v
    };
    // an item that is no command is passed through: who waits for it waits for what it waits for
    let mut ends: Vec<Vec<usize>> = Vec::with_capacity(tree.len());
    let mut is_last = vec![true; tree.len()];
    for item in tree {
        let deps = match &item.deps[..] {
            [] => before.to_vec(),
            deps => union(deps.iter().flat_map(|&d| ends[d].iter().copied()).collect()),
        };
        item.deps.iter().for_each(|&d| is_last[d] = false);
        ends.push(match &item.part {
            Part::Child(inner) => flatten(inner, &deps, out),
            Part::Work(work) => match work.owned().filter(|_| item.enabled) {
                Some(op) => {
                    out.push(ExecNode { op, deps });
                    vec![out.len() - 1]
                }
                None => deps,
            },
        });
    }
    if tree.is_empty() {
        return before.to_vec();
    }
    union(ends.iter().zip(&is_last).filter(|(_, &last)| last).flat_map(|(e, _)| e.iter().copied()).collect())
}

impl State {
    /// Makes an executable graph.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph, a capture adds to it, or it has a cycle: then with a node of that;
    /// OUT_OF_MEMORY: no handle can be had.
    pub fn instantiate(&mut self, graph: CUgraph, flags: u64) -> Result<CUgraphExec, (CUresult, CUgraphNode)> {
        let refused = |e| (e, CUgraphNode::NULL);
        self.graphs.graph(graph).map_err(refused)?;
        if self.graphs.is_captured_to(graph.0) {
            return Err(refused(CUresult::INVALID_VALUE));
        }
        let tree = self.graphs.plan(graph.0).map_err(|node| (CUresult::INVALID_VALUE, node))?;
        let h = self.handle(Kind::GraphExec).map_err(refused)?;
        let refs = self.graphs.all_refs(graph.0);
        self.graphs.hold(&refs);
        let (nodes, ops) = (OnceCell::new(), OnceCell::new());
        self.graphs.execs.insert(h, Exec { flags, tree, refs, nodes, ops });
        Ok(CUgraphExec(h))
    }

    /// Ends an executable graph.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none.
    pub fn destroy_exec(&mut self, exec: CUgraphExec) -> Res {
        let e = self.graphs.execs.remove(&exec.0).ok_or(CUresult::INVALID_VALUE)?;
        self.let_go(&e.refs);
        self.end(Kind::GraphExec, exec.0);
        Ok(())
    }

    /// Takes the parameters of a graph of the same shape. Refused by the shape: inside.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph or executable graph, or the graph has a cycle.
    pub fn update_exec(&mut self, exec: CUgraphExec, graph: CUgraph) -> Res<Result<(), Mismatch>> {
        self.graphs.exec(exec)?;
        self.graphs.graph(graph)?;
        let new = self.graphs.plan(graph.0).map_err(|_| CUresult::INVALID_VALUE)?;
        let refs = self.graphs.all_refs(graph.0);
        let e = self.graphs.exec_mut(exec)?;
        if let Err(mismatch) = adopt(&mut e.tree, new) {
            return Ok(Err(mismatch));
        }
        (e.nodes, e.ops) = (OnceCell::new(), OnceCell::new());
        let old = std::mem::replace(&mut e.refs, refs.clone());
        self.graphs.hold(&refs);
        self.let_go(&old);
        Ok(Ok(()))
    }

    /// The commands of an executable graph with what each waits for, child graphs and empty nodes dissolved. The same
    /// list, by address, as long as nothing changes: a twin made of it is current while `Arc::ptr_eq` holds.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such executable graph.
    pub fn exec_nodes(&self, exec: CUgraphExec) -> Res<Arc<[ExecNode]>> {
        let e = self.graphs.exec(exec)?;
        let list = || {
            let mut out = Vec::new();
            flatten(&e.tree, &[], &mut out);
            out.into()
        };
        Ok(e.nodes.get_or_init(list).clone())
    }

    /// The commands of an executable graph, in an order that respects their dependencies.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such executable graph.
    pub fn exec_ops(&self, exec: CUgraphExec) -> Res<Arc<[Owned]>> {
        let e = self.graphs.exec(exec)?;
        if let Some(ops) = e.ops.get() {
            return Ok(ops.clone());
        }
        let nodes = self.exec_nodes(exec)?;
        Ok(e.ops.get_or_init(|| nodes.iter().map(|n| n.op.clone()).collect()).clone())
    }

    /// A launch of an executable graph that has to wait for its turn. It is as the graph is now, whatever becomes of it.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such executable graph.
    pub fn exec_launch(&self, exec: CUgraphExec) -> Res<GraphLaunch> {
        let ops = self.exec_ops(exec)?;
        Ok(GraphLaunch { ops, refs: self.graphs.exec(exec)?.refs.clone() })
    }

    /// User objects live until the launches that may use them have ended.
    pub fn hold_launch(&mut self, launch: &GraphLaunch) {
        self.graphs.hold(&launch.refs);
    }

    /// A launch has ended. Destructors may be due afterwards.
    pub fn release_launch(&mut self, launch: &GraphLaunch) {
        self.let_go(&launch.refs);
    }

    /// A graph with the nodes of an executable one as they are now, disabled ones as empty nodes.
    pub(super) fn graph_of_exec(&mut self, exec: CUgraphExec) -> Res<usize> {
        let e = self.graphs.exec(exec)?;
        let (tree, refs) = (e.tree.clone(), e.refs.clone());
        let graph = self.graph_of_tree(&tree)?;
        self.graphs.hold(&refs);
        self.graphs.graph_mut(CUgraph(graph))?.refs = refs;
        Ok(graph)
    }

    fn graph_of_tree(&mut self, tree: &Tree) -> Res<usize> {
        let graph = self.create_graph()?;
        self.fill_graph(graph, tree).map(|()| graph.0).inspect_err(|_| self.drop_graph(graph.0))
    }

    fn fill_graph(&mut self, graph: CUgraph, tree: &Tree) -> Res {
        let mut made: Vec<usize> = Vec::with_capacity(tree.len());
        for item in tree {
            let deps: Vec<Edge> = item.deps.iter().map(|&d| Edge::on(made[d])).collect();
            let work = match &item.part {
                Part::Child(inner) => Work::Child(self.graph_of_tree(inner)?),
                Part::Work(work) if item.enabled => work.clone(),
                Part::Work(_) => Work::Empty,
            };
            made.push(self.add_owned(graph, &deps, work)?.0);
        }
        Ok(())
    }
}
