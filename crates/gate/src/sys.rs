//! What the gate needs of the system. `model.rs` is this module's twin under loom.

mod event;
mod fence;
pub(crate) mod slot;

pub(crate) use event::Event;
pub(crate) use fence::{fence_without_membarrier, forget_membarrier, heavy_fence, light_fence, membarrier_works};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
