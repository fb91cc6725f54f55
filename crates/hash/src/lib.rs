//! placeholder
/// chunk
pub const CHUNK: usize = 2 << 20;
