//! What the app holds: one file per kind of object.
mod card;
mod context;
mod event;
pub mod graph;
mod module;
mod pool;
mod stream;

pub use card::{compute_capability, device};
pub use context::{is_active, usual_limits, Context};
pub use event::{is_plain, Event, CAPTURED};
pub use graph::{Capture, Graphs, CAPTURES};
pub use module::{Function, Modules, ADDRESSES_TOLD};
pub use pool::{Pool, Pools};
pub use stream::{Stream, StreamKind};
