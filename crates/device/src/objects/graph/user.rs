//! User objects: resources of the app that live as long as a graph that needs them.
use super::{Graphs, Refs};
use crate::handle::Kind;
use crate::runtime::State;
use std::ffi::c_void;
use zerogpu_abi::*;

/// CU_USER_OBJECT_NO_DESTRUCTOR_SYNC, the one flag there is; it must be given.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// cuda.h: counts are nonzero and not larger than INT_MAX.
const COUNTS: std::ops::RangeInclusive<u32> = 1..=i32::MAX as u32;

/// A resource with a destructor.
pub struct UserObject {
    data: usize,
    destroy: CUhostFn,
    /// References that the app holds.
    own: u64,
    /// References that the app, graphs and executable graphs hold.
    all: u64,
}

/// Destructors that are due; to be run without the state's lock.
#[derive(Default)]
pub struct Released(Vec<(CUhostFn, usize)>);

impl Released {
    /// Calls the destructors. No lock may be held.
    pub fn run(self) {
        for (destroy, data) in self.0 {
            if let Some(destroy) = destroy {
                // SAFETY: the app gave this function for this data, and the last reference has gone.
                unsafe { destroy(data as *mut c_void) };
            }
        }
    }
}

fn checked(count: u32) -> Res<u64> {
    if COUNTS.contains(&count) {
        Ok(count as u64)
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

impl Graphs {
    fn user(&mut self, object: CUuserObject) -> Res<&mut UserObject> {
        self.users.get_mut(&object.0).ok_or(CUresult::INVALID_VALUE)
    }

    /// Takes the destructors that are due.
    pub fn take_released(&mut self) -> Released {
        std::mem::take(&mut self.released)
    }

    /// Adds one more holder of the same references.
    pub(super) fn hold(&mut self, refs: &Refs) {
        for (object, count) in refs {
            if let Some(u) = self.users.get_mut(object) {
                u.all += count;
            }
        }
    }
}

impl State {
    /// Makes a user object with `count` references of the app's.
    ///
    /// # Errors
    /// INVALID_VALUE: the count is not from 1 to INT_MAX, there is no destructor, or other flags than
    /// CU_USER_OBJECT_NO_DESTRUCTOR_SYNC; OUT_OF_MEMORY: no handle can be had.
    pub fn create_user_object(
        &mut self,
        data: *mut c_void,
        destroy: CUhostFn,
        count: u32,
        flags: u32,
    ) -> Res<CUuserObject> {
        let n = checked(count)?;
        if destroy.is_none() || flags != NO_DESTRUCTOR_SYNC {
            return Err(CUresult::INVALID_VALUE);
        }
        let h = self.handle(Kind::UserObject)?;
        self.graphs.users.insert(h, UserObject { data: data as usize, destroy, own: n, all: n });
        Ok(CUuserObject(h))
    }

    /// Adds references of the app's.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none, or the count is not from 1 to INT_MAX.
    pub fn retain_user_object(&mut self, object: CUuserObject, count: u32) -> Res {
        let n = checked(count)?;
        let u = self.graphs.user(object)?;
        u.own += n;
        u.all += n;
        Ok(())
    }

    /// Drops references of the app's.
    ///
    /// # Errors
    /// INVALID_VALUE: there is none, or the count is not from 1 to INT_MAX, or more than the app has.
    pub fn release_user_object(&mut self, object: CUuserObject, count: u32) -> Res {
        let n = checked(count)?;
        let u = self.graphs.user(object)?;
        u.own = u.own.checked_sub(n).ok_or(CUresult::INVALID_VALUE)?;
        self.let_go(&[(object.0, n)]);
        Ok(())
    }

    /// Gives a graph references: new ones, or (`moved`) the app's own.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph or object, the count is not from 1 to INT_MAX, or more are to move than
    /// the app has.
    pub fn graph_retain(&mut self, graph: CUgraph, object: CUuserObject, count: u32, moved: bool) -> Res {
        let n = checked(count)?;
        self.graphs.graph(graph)?;
        let u = self.graphs.user(object)?;
        if moved {
            u.own = u.own.checked_sub(n).ok_or(CUresult::INVALID_VALUE)?;
        } else {
            u.all += n;
        }
        let refs = &mut self.graphs.graph_mut(graph)?.refs;
        match refs.iter_mut().find(|(o, _)| *o == object.0) {
            Some((_, held)) => *held += n,
            None => refs.push((object.0, n)),
        }
        Ok(())
    }

    /// Drops references of a graph.
    ///
    /// # Errors
    /// INVALID_VALUE: there is no such graph or object, or the count is not from 1 to INT_MAX, or more than the graph
    /// has.
    pub fn graph_release(&mut self, graph: CUgraph, object: CUuserObject, count: u32) -> Res {
        let n = checked(count)?;
        self.graphs.user(object)?;
        let refs = &mut self.graphs.graph_mut(graph)?.refs;
        let held = refs.iter_mut().find(|(o, _)| *o == object.0).ok_or(CUresult::INVALID_VALUE)?;
        held.1 = held.1.checked_sub(n).ok_or(CUresult::INVALID_VALUE)?;
        refs.retain(|(_, held)| *held > 0);
        self.let_go(&[(object.0, n)]);
        Ok(())
    }

    /// Drops references; what nobody holds any more ends, its destructor due at [`Graphs::take_released`].
    pub(super) fn let_go(&mut self, refs: &[(usize, u64)]) {
        for &(object, count) in refs {
            let Some(u) = self.graphs.users.get_mut(&object) else { continue };
            u.all -= count;
            if u.all == 0 {
                self.graphs.released.0.push((u.destroy, u.data));
                self.graphs.users.remove(&object);
                self.end(Kind::UserObject, object);
            }
        }
    }
}
