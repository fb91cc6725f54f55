//! placeholder
use crate::Driver;
use zerogpu_abi::*;
/// Placeholder.
pub struct Hasher;
impl Hasher {
    /// Placeholder.
    pub fn new(_: &Driver) -> Res<Hasher> { Err(CUresult::NOT_SUPPORTED) }
    /// Placeholder.
    pub fn hash(&self, _: &Driver, _: u64, _: u64) -> Res<Vec<[u64; 2]>> { Err(CUresult::NOT_SUPPORTED) }
}
