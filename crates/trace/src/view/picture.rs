//! What is drawn, as the page's program gets it: columns of numbers. Times are nanoseconds since the start of the trace, each
//! column of starts holds differences; `u32`s named after a thing are positions in `strings`.
use crate::read::Facts;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// All of it.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Picture {
    pub title: String,
    pub facts: Facts,
    pub notes: Vec<String>,
    /// When the last record ended.
    pub end: u64,
    pub events: u64,
    pub functions: Vec<Function>,
    /// Names of the results that occur, but for success.
    pub results: BTreeMap<u32, String>,
    pub counters: Vec<Counter>,
    pub claims: Vec<Claim>,
    pub process: Vec<Row>,
    pub threads: Vec<Thread>,
    pub strings: Vec<String>,
}

/// A function that was called, and the sums of its calls.
#[derive(Debug, PartialEq, Serialize)]
pub struct Function {
    pub name: String,
    pub kind: Kind,
    /// Names of its parameters, separated by `, `.
    pub parameters: String,
    pub count: u64,
    pub errors: u64,
    pub time: u64,
    pub bytes: u64,
}

/// What a function is for: gives a call its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Copies from host to device.
    In,
    /// Copies from device to host.
    Out,
    /// Other copies, and memsets.
    Copy,
    Launch,
    Memory,
    /// Modules, libraries, kernels.
    Code,
    /// Waits for the device.
    Sync,
    Other,
}

impl Kind {
    pub fn of(function: &str) -> Self {
        let begins = |with: &[&str]| with.iter().any(|w| function.starts_with(w));
        if begins(&["cuMemcpyHto"]) {
            Kind::In
        } else if begins(&["cuMemcpyDtoH", "cuMemcpyAtoH"]) {
            Kind::Out
        } else if begins(&["cuMemcpy", "cuMemset"]) {
            Kind::Copy
        } else if begins(&["cuLaunch", "cuGraphLaunch"]) {
            Kind::Launch
        } else if begins(&["cuMem", "cuArray", "cuMipmappedArray"]) {
            Kind::Memory
        } else if begins(&["cuModule", "cuLibrary", "cuKernel", "cuFunc", "cuLink"]) {
            Kind::Code
        } else if function.contains("Synchronize") {
            Kind::Sync
        } else {
            Kind::Other
        }
    }
}

/// A value over time.
#[derive(Debug, PartialEq, Serialize)]
pub struct Counter {
    pub name: String,
    #[serde(serialize_with = "differences")]
    pub at: Vec<u64>,
    pub value: Vec<u64>,
}

/// A stretch of time for which a GPU was held, from the request on.
#[derive(Debug, PartialEq, Serialize)]
pub struct Claim {
    pub at: u64,
    /// In the broker's queue; no GPU is held then.
    pub wait: u64,
    /// Until the program could use it, the wait included.
    pub claim: u64,
    /// How long it could use it.
    pub claimed: u64,
    /// Until nothing was left on it; None: no park of it is in the trace.
    pub park: Option<u64>,
    pub why: u32,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Stretches of time of one sort, in as many lanes as overlap.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub lanes: Vec<Spans>,
}

/// Stretches of time that follow each other.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Spans {
    #[serde(serialize_with = "differences")]
    pub at: Vec<u64>,
    pub duration: Vec<u64>,
    pub kind: Vec<u32>,
    pub name: Vec<u32>,
    pub bytes: Vec<u64>,
    /// The thread that it began on; 0: of none.
    pub thread: Vec<u32>,
}

/// A thread's calls and marks.
#[derive(Debug, PartialEq, Serialize)]
pub struct Thread {
    pub number: u32,
    pub name: String,
    /// Calls by depth: those of a lane follow each other.
    pub lanes: Vec<Calls>,
    pub marks: Marks,
}

/// Calls that follow each other.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    #[serde(serialize_with = "differences")]
    pub at: Vec<u64>,
    pub duration: Vec<u64>,
    /// Position in `functions`.
    pub function: Vec<u32>,
    pub arguments: Vec<u32>,
    pub result: Vec<u32>,
    pub bytes: Vec<u64>,
}

/// Launches and messages.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Marks {
    #[serde(serialize_with = "differences")]
    pub at: Vec<u64>,
    /// How many calls it is within.
    pub depth: Vec<u8>,
    pub kind: Vec<u32>,
    /// The kernel, or the message.
    pub text: Vec<u32>,
    /// How a kernel was launched.
    pub detail: Vec<u32>,
}

/// What grows from record to record: shorter as differences.
fn differences<S: Serializer>(sorted: &[u64], s: S) -> Result<S::Ok, S::Error> {
    let mut last = 0;
    s.collect_seq(sorted.iter().map(|at| at - std::mem::replace(&mut last, *at)))
}
