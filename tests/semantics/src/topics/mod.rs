//! The topics: each a body of checks that runs in a process of its own.
use crate::check::Check;
use crate::driver::Driver;
use crate::rows;

/// Where a topic may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On every driver.
    Any,
    /// Only on ours: a real driver may dereference what the topic passes.
    Ours,
}

/// A body of checks.
pub struct Topic {
    /// Its name on the command line and in test names.
    pub name: &'static str,
    /// Where it may run.
    pub scope: Scope,
    /// Runs it.
    pub run: fn(&'static Driver, &mut Check),
}

const fn any(name: &'static str, run: fn(&'static Driver, &mut Check)) -> Topic {
    Topic { name, scope: Scope::Any, run }
}

/// All topics.
pub const TOPICS: &[Topic] = &[any("rows_cubin", |d, t| rows::cubin(d, t)), any("rows_ptx", |d, t| rows::ptx(d, t))];
