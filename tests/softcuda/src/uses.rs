//! Which memory the work uses that is under way, for SOFTCUDA_STRICT_LOG: NVIDIA's driver does not wait for it where memory is
//! unmapped, or its access taken (580, recorded: a copy that runs then ends in a fault); softcuda waits, and says so.
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerogpu_device::exec::now;
use zerogpu_device::host;
use zerogpu_device::op::Op;
use zerogpu_device::runtime::State;

/// Work that may be under way.
#[derive(Default)]
pub struct Uses(Mutex<Table>);

#[derive(Default)]
struct Table {
    all: Vec<Use>,
    /// Names them.
    last: u64,
    /// So many are looked through for those that are over.
    full: usize,
}

struct Use {
    id: u64,
    /// Address and bytes.
    ranges: Vec<(u64, u64)>,
    /// The moment at which it is done, and what it waits behind. None: it is being submitted.
    end: Option<(u64, u64)>,
}

impl Use {
    fn is_over(&self) -> bool {
        self.end.is_some_and(|(until, ticket)| until <= now() && host::passed(ticket))
    }
}

impl Uses {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command is about to be submitted; what names it. None: it uses no memory that is known.
    pub fn begin(&self, state: &mut State, op: &Op) -> Option<u64> {
        let mut ranges = Vec::new();
        add(state, op, &mut ranges);
        if ranges.is_empty() {
            return None;
        }
        let mut table = self.table();
        if table.all.len() >= table.full {
            table.all.retain(|one| !one.is_over());
            table.full = 2 * table.all.len() + 64;
        }
        table.last += 1;
        let id = table.last;
        table.all.push(Use { id, ranges, end: None });
        Some(id)
    }

    /// It was submitted, and ends at a moment and behind a ticket; or it was refused.
    pub fn submitted(&self, id: u64, end: Option<(u64, u64)>) {
        let mut table = self.table();
        let Some(at) = table.all.iter().position(|one| one.id == id) else { return };
        table.all[at].end = end;
        if end.is_none() || table.all[at].is_over() {
            table.all.swap_remove(at);
        }
    }

    /// Whether work that is under way uses any byte of a range.
    pub fn any(&self, at: u64, len: u64) -> bool {
        let touches = |&(start, n): &(u64, u64)| start < at.saturating_add(len) && at < start.saturating_add(n);
        self.table().all.iter().any(|one| one.ranges.iter().any(touches) && !one.is_over())
    }
}

/// The memory that a command names; of a kernel, the regions of what may be addresses among its parameters.
fn add(state: &mut State, op: &Op, ranges: &mut Vec<(u64, u64)>) {
    match op {
        Op::Copy(c) => ranges.extend([&c.dst, &c.src].map(|side| (side.at, c.span(side).unwrap_or(0)))),
        Op::Fill(f) => ranges.push((f.dst, f.span().unwrap_or(0))),
        Op::Write(v) | Op::Await(v) => ranges.push((v.at, 4)),
        Op::Launch(l) => {
            let params = state.pack_params(l.func, &l.params).unwrap_or_default();
            let words = params.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
            ranges.extend(words.filter_map(|word| state.memory.find(word)).map(|r| (r.base, r.size)));
        }
        Op::Graph(g) => {
            for one in state.exec_ops(*g).iter().flat_map(|ops| ops.iter()) {
                add(state, &one.as_op(), ranges);
            }
        }
        Op::Host(_) | Op::Record(_) | Op::Wait(_) => {}
    }
}
